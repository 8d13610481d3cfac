"""What checks the types of zfjax's functions while tests run: beartype, with jaxtyping's shapes and dtypes."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int where a float is asked for, as PEP 484 has it

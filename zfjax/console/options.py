"""Kinds of flags that several commands have, each with the values it accepts."""

import csv
import os
import reprlib

from absl import flags

from zfjax.console.errors import UserError
from zfjax.console.text import whole_number as parsed

MOST = 2**31 - 1  # of anything that is counted, since JAX counts in 32 bits

OF_ONNX = ("mean", "std", "pixel_max", "bgr", "class_names")  # flags for what an ONNX file does not say


def whole_number(
    values: flags.FlagValues, name: str, default: int | None, text: str, *, smallest: int = 0, largest: int = MOST
) -> None:
    """Define a flag whose value is a whole number from `smallest` to `largest`."""
    flags.DEFINE_integer(name, default, text, lower_bound=smallest, upper_bound=largest, flag_values=values)


def seed(values: flags.FlagValues, text: str) -> None:
    """Define --seed. JAX uses 32 bits of a seed, so of larger ones several would be the same."""
    whole_number(values, "seed", 0, text, largest=2**32 - 1)


def processes(values: flags.FlagValues) -> None:
    """Define --distributed, --coordinator, --processes and --process; `processes.place_of` reads them."""
    flags.DEFINE_bool("distributed", False, "One of many processes of a TPU pod or cluster.", flag_values=values)
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0; default what the cluster reports.", flag_values=values
    )
    whole_number(values, "processes", None, "How many processes; default what the cluster reports.", smallest=1)
    whole_number(values, "process", None, "Number of this process; default what the cluster reports.")


def preprocessing(values: flags.FlagValues) -> None:
    """Define --mean, --std, --pixel_max and --bgr; `weights.preprocessing.asked_for` reads them."""
    names(values, "mean", None, "Means of the net's channels, in its order; default 0.485,0.456,0.406.")
    names(values, "std", None, "Standard deviations of the channels; default 0.229,0.224,0.225.")
    flags.DEFINE_float(
        "pixel_max", None, "Value of white before the mean is subtracted; default 1.", flag_values=values
    )
    flags.DEFINE_bool(
        "bgr", None, "The net's channels are blue, green, red; default red, green, blue.", flag_values=values
    )


def names(values: flags.FlagValues, name: str, default: list[str] | None, text: str) -> None:
    """Define a flag whose value is a list of names."""
    flags.DEFINE(_Names(), name, default, text, values, flags.CsvListSerializer(","))


def files(values: flags.FlagValues, name: str, text: str) -> None:
    """Define a flag whose value is a list of files or folders."""
    flags.DEFINE(_Files(), name, [], text, values, flags.CsvListSerializer(","))


class _Names(flags.ListParser):
    """Names separated by commas; names with commas are in double quotes."""

    def __init__(self) -> None:
        super().__init__()
        self.syntactic_help = "names separated by commas, with double quotes around a name that has commas"

    def parse(self, argument: str | list[str]) -> list[str]:
        if isinstance(argument, list):
            return argument
        try:
            rows = list(csv.reader([argument], strict=True, skipinitialspace=True))
        except csv.Error as error:
            raise ValueError(str(error)) from error
        return [name.strip() for name in rows[0]] if rows else []


class _Files(_Names):
    """File names; if the whole value is the name of an existing file, it is that one file."""

    def parse(self, argument: str | list[str]) -> list[str]:
        if isinstance(argument, str) and os.path.lexists(os.path.expanduser(argument)):
            return [argument]
        return super().parse(argument)


def number_in(flag: str, word: str, expected: str, smallest: int = 0) -> int:
    """The number in a part of a flag's value. Raises a UserError if it isn't one, or is too small or too large."""
    try:
        number = parsed(word)
    except ValueError:
        number = -1
    if not smallest <= number <= MOST:
        raise UserError(f"--{flag}: expected {expected}, got {reprlib.repr(word)}")
    return number

"""See what a ConvNet sees: Zeiler & Fergus (2013) in JAX.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that `import zfjax` and the
commands' `--help` are quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Warnings that are shown every time, at the line that called zfjax."""

import sys
import warnings

# Packages that may be on the stack between the caller's line and the one that warns.
_BETWEEN = frozenset(("zfjax", "jax", "flax", "equinox", "jaxtyping", "beartype", "contextlib", "functools"))


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the innermost line outside zfjax and the libraries it is called through.

    By default Python shows the same text from the same line only once per process, so a loop over models would warn
    only about the first. Warning filters apply as usual.

    Args:
        text: the message.
        category: the warning class.
    """
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "__main__")
    # Python remembers what it has shown in the module's registry; a new registry has shown nothing.
    warnings.warn_explicit(text, category, frame.f_code.co_filename, frame.f_lineno, module, registry={})

"""Warnings that come each time there is reason for one, at the line that called zfjax."""

import sys
import warnings

# What may stand between the caller's line and the one that warns.
_BETWEEN = frozenset(("zfjax", "jax", "flax", "equinox", "contextlib", "functools"))


def warn(text: str, category: type[Warning]) -> None:
    """Warn at the first line outside of zfjax and what it is called through.

    Python shows the same text from the same line once in a process, so in a loop over models it would tell of the first
    alone. Filters hold as for any warning.

    Args:
        text: what to say.
        category: a class of warnings.
    """
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "__main__")
    # Python counts what it has shown in a registry of the module's; a fresh one has shown nothing.
    warnings.warn_explicit(text, category, frame.f_code.co_filename, frame.f_lineno, module, registry={})

"""Public names that were renamed: the old ones work for one more version, with a DeprecationWarning."""

import sys
import warnings
from collections.abc import Callable
from typing import Any


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """Make a module's `__getattr__` that answers to old names.

    Args:
        module: the module's `__name__`.
        names: old name = new name, both in that module.

    Returns:
        The function to assign to `__getattr__`. It raises an AttributeError for all other names.

    Warns:
        DeprecationWarning: at the line that asks for an old name.

    >>> __getattr__ = renamed("zfjax.ops", centre_switches="center_switches")
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is now called {names[name]}; the old name will be gone in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return __getattr__

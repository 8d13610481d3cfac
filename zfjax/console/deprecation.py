"""Public names that were renamed: the old ones work for one more version, with a DeprecationWarning."""

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """Make a `__getattr__` that lets a module answer to old names.

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


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function answer to old names of its keyword arguments.

    Args:
        names: old name = new name.

    Returns:
        A decorator. The decorated function raises a TypeError if both the old and the new name are given.

    Warns:
        DeprecationWarning: at the line that calls with an old name.
    """

    def decorate(fun: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(fun)
        def call(*args: P.args, **keywords: P.kwargs) -> R:
            for old in names.keys() & keywords.keys():
                new = names[old]
                if new in keywords:
                    raise TypeError(f"{fun.__name__}: {old} is the old name of {new}; expected one of the two")
                warnings.warn(
                    f"{fun.__name__}: {old} is now called {new}; the old name will be gone in the next version",
                    DeprecationWarning,
                    stacklevel=2,
                )
                keywords[new] = keywords.pop(old)
            return fun(*args, **keywords)

        return call

    return decorate


def grouped_arguments(*names: str, rest: tuple[str, ...]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function whose first argument is a tuple of what were its first arguments take them one by one, too.

    Args:
        names: the old first arguments.
        rest: those after them, old and new.

    Returns:
        A decorator. The decorated function takes as many arguments as there are names as the old ones.

    Warns:
        DeprecationWarning: at the line that calls with the old arguments.
    """

    def decorate(fun: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(fun)
        def call(*args: Any, **keywords: Any) -> R:
            if len(args) + len(keywords) < len(names) + len(rest):
                return fun(*args, **keywords)
            given = dict(zip((*names, *rest), args, strict=False)) | keywords
            old, new = ", ".join((*names, *rest)), ", ".join((f"({', '.join(names)})", *rest))
            warnings.warn(
                f"{fun.__name__}({old}) is now {fun.__name__}({new}); the old form will be gone in the next version",
                DeprecationWarning,
                stacklevel=2,
            )
            return fun(tuple(given.pop(name) for name in names), **given)

        return call

    return decorate

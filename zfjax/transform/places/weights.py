"""The arrays of weights that a function holds, and the names that say where."""

import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.tree_util import KeyPath, keystr
from jaxtyping import PyTree

from zfjax.transform.copies import ENOUGH, LIBRARIES, global_names, is_full

# Collections of Flax, markers of Haiku, what holds the array of a variable of NNX: no part of a module's name.
_OUTER = frozenset(("batch_stats", "params"))
_INNER = frozenset(("raw_value", "value"))


def paths(weights: PyTree) -> list[str]:
    """The name of each leaf of a pytree of weights, such as `block1/conv2/kernel`."""
    keyed, _ = jax.tree_util.tree_flatten_with_path(weights)
    return [_path(keys) for keys, _ in keyed]


class Held:
    """The arrays that a function holds, and the names that say where.

    They are searched as Python would find them: a module's own, the attributes of any object, those in what a function
    closes over, is bound to, has as arguments already, or reads from its own module.
    """

    def __init__(self, fun: Callable):
        self._names: dict[tuple, str] = {}
        self._numpy: list[tuple[str, np.ndarray]] = []
        for path, leaf in _within(fun, set()):
            self._names.setdefault(_identity(leaf), path)
            if isinstance(leaf, np.ndarray):
                self._numpy.append((path, leaf))

    def name_of(self, constant: Any) -> str | None:
        """The name of a constant of the function's jaxpr; None for what the function makes itself."""
        if name := self._names.get(_identity(constant)):
            return name
        if isinstance(constant, jax.Array):
            return None
        here = np.asarray(constant)  # JAX has narrowed an array of 64 bits
        wider = ((name, one) for name, one in self._numpy if one.shape == here.shape and one.dtype != here.dtype)
        return next((name for name, one in wider if np.array_equal(one.astype(here.dtype), here)), None)


def _identity(array: Any) -> tuple:
    """What is equal for the same array. JAX wraps those of NumPy anew each time; a function may have reshaped them."""
    if isinstance(array, jax.Array):
        return (id(array),)
    inside = np.asarray(array)
    return inside.__array_interface__["data"][0], inside.size, inside.dtype


def _within(value: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """The arrays that a value holds, by path; in a function those without a path by the name that they have there."""
    if isinstance(value, functools.partial | types.MethodType | types.FunctionType):
        if _is_new(value, seen):
            for name, part in _held_by(value).items():
                yield from ((path or name, leaf) for path, leaf in _within(part, seen))
        return
    nnx = sys.modules.get("flax.nnx")  # without it, there are no such modules
    if nnx is not None and isinstance(value, nnx.Module):
        value = nnx.state(value)
    elif isinstance(value, types.ModuleType | type):
        return
    for keys, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        at = _path(keys)
        if isinstance(leaf, jax.Array | np.ndarray):
            yield at, leaf
        elif _is_plain(leaf) and _is_new(leaf, seen):
            for name, part in vars(leaf).items():
                for path, array in _within(part, seen):
                    own = "" if path and name.startswith("_") else name.lstrip("_")  # a private container says nothing
                    yield "/".join(filter(None, (at, own, path))), array


def _held_by(fun: Any) -> dict[str, Any]:
    """What a function is bound to, has as arguments already, closes over or reads from its own module, by name."""
    if isinstance(fun, functools.partial):
        return {"func": fun.func, **{str(number): value for number, value in enumerate(fun.args)}, **fun.keywords}
    if isinstance(fun, types.MethodType):
        return {"": fun.__self__, "func": fun.__func__}
    cells = zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True)
    parts = {name: cell.cell_contents for name, cell in cells if is_full(cell)}
    if fun.__module__.split(".")[0] not in LIBRARIES:
        parts |= {name: fun.__globals__[name] for name in global_names(fun.__code__) if name in fun.__globals__}
    return parts


def _is_plain(value: Any) -> bool:
    """Whether a value is an object of a class of the user's own, which no library takes apart."""
    roots = {kind.__module__.split(".")[0] for kind in type(value).__mro__[:-1]}
    return hasattr(value, "__dict__") and not roots & LIBRARIES and not isinstance(value, types.ModuleType | type)


def _is_new(value: Any, seen: set[int]) -> bool:
    """Whether a value is met for the first time, among not too many."""
    if id(value) in seen or len(seen) > ENOUGH:
        return False
    seen.add(id(value))
    return True


def _path(keys: KeyPath) -> str:
    whole = keystr(keys, simple=True, separator="/").replace(".", "/")
    parts = [part for part in whole.split("/") if part not in ("", "~")]
    if len(parts) > 1 and parts[0] in _OUTER:
        parts = parts[1:]
    if len(parts) > 1 and parts[-1] in _INNER:
        parts = parts[:-1]
    return "/".join(parts)

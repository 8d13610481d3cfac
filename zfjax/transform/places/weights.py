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

from zfjax.transform.copies import LIBRARIES, global_names, is_full

# Collections of Flax, markers of Haiku, what holds the array of a variable of NNX: no part of a module's name.
_OUTER = frozenset(("batch_stats", "params"))
_INNER = frozenset(("raw_value", "value"))


def paths(weights: PyTree) -> list[str]:
    """The name of each leaf of a pytree of weights, such as `block1/conv2/kernel`."""
    keyed, _ = jax.tree_util.tree_flatten_with_path(weights)
    return [_path(keys) for keys, _ in keyed]


class Held:
    """The arrays that a function holds, and the names that say where.

    They are searched as Python would find them: a module's own, those in what a function closes over, is bound to, has
    as arguments already, or reads from its own module.
    """

    def __init__(self, fun: Callable):
        self._names: dict[tuple, str] = {}
        self._numpy: list[tuple[str, np.ndarray]] = []
        for name, value in _within(fun, set()):
            for path, leaf in _leaves(value):
                self._names.setdefault(_identity(leaf), path or name)
                if isinstance(leaf, np.ndarray):
                    self._numpy.append((path or name, leaf))

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
    if isinstance(array, jax.Array) or not hasattr(array, "__array__"):
        return (id(array),)
    inside = np.asarray(array)
    return inside.__array_interface__["data"][0], inside.size, inside.dtype


def _within(fun: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """What a function holds, by the name that it has there; what functions in it hold as well."""
    if id(fun) in seen:
        return
    seen.add(id(fun))
    parts: dict[str, Any] = {}
    if isinstance(fun, functools.partial):
        parts = {"func": fun.func, **{str(number): value for number, value in enumerate(fun.args)}, **fun.keywords}
    elif isinstance(fun, types.MethodType):
        parts = {"": fun.__self__, "func": fun.__func__}
    elif isinstance(fun, types.FunctionType):
        cells = zip(fun.__code__.co_freevars, fun.__closure__ or (), strict=True)
        parts = {name: cell.cell_contents for name, cell in cells if is_full(cell)}
        if fun.__module__.split(".")[0] not in LIBRARIES:
            parts |= {name: fun.__globals__[name] for name in global_names(fun.__code__) if name in fun.__globals__}
    else:
        yield "", fun
    for name, value in parts.items():
        if isinstance(value, functools.partial | types.MethodType | types.FunctionType):
            yield from _within(value, seen)
        else:
            yield name, value


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays in a value, with their paths."""
    nnx = sys.modules.get("flax.nnx")  # without it, there are no such modules
    if nnx is not None and isinstance(value, nnx.Module):
        value = nnx.state(value)
    elif isinstance(value, types.ModuleType | type):
        return
    for keys, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            yield _path(keys), leaf


def _path(keys: KeyPath) -> str:
    whole = keystr(keys, simple=True, separator="/").replace(".", "/")
    parts = [part for part in whole.split("/") if part not in ("", "~")]
    if len(parts) > 1 and parts[0] in _OUTER:
        parts = parts[1:]
    if len(parts) > 1 and parts[-1] in _INNER:
        parts = parts[:-1]
    return "/".join(parts)

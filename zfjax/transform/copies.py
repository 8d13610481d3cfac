"""Functions that hold Flax NNX modules, called with copies of them.

NNX lets no trace change what was there before it. Yet under `nnx.jit` a function writes to its modules even if nothing
changes, and `sow` always does. Where NNX then refuses, it has taken the modules apart already: they lack their layers.
"""

import copy
import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax

# What is not searched for modules: longer lists, which are data, and objects of libraries, or after so many objects.
MOST = 1000
LIBRARIES = frozenset(("builtins", "equinox", "flax", "haiku", "jax", "jaxlib", "numpy", "optax", "torch"))
ENOUGH = 10_000


def on_copies(fun: Callable, name: str) -> Callable:
    """A function that calls `fun` with copies of the NNX modules that it is, is bound to, closes over or reads.

    Args:
        fun: any function; without modules it is returned.
        name: what to call it in messages.

    Raises:
        ValueError: in the call, a module in training mode.
    """
    nnx = sys.modules.get("flax.nnx")  # without it, there are no such modules
    if nnx is None:
        return fun
    method = getattr(fun, "__call__", None)  # noqa: B004
    whole: Any = method if isinstance(method, types.MethodType) and not isinstance(fun, nnx.Module) else fun
    modules: list[Any] = []

    def found(module: Any) -> Any:
        modules.append(module)
        return module

    _Replaced(whole, nnx.Module, found)(whole)
    if not modules:
        return fun
    static, state = nnx.split(modules)
    leaves, tree = jax.tree.flatten(state)

    def call(*inputs: Any) -> Any:
        copies = nnx.merge(static, jax.tree.unflatten(tree, leaves))
        for _, part in nnx.iter_graph(copies):
            if isinstance(part, nnx.BatchNorm | nnx.Dropout) and _is_training(part):
                kind: Any = type(part)
                object.__setattr__(part, "__class__", _refusing(kind, name))
        of = {id(module): copied for module, copied in zip(modules, copies, strict=True)}
        return _Replaced(whole, nnx.Module, lambda module: of[id(module)])(whole)(*inputs)

    return call


def _is_training(module: Any) -> bool:
    if hasattr(module, "use_running_average"):
        return not module.use_running_average
    return module.rate > 0 and not module.deterministic


@functools.cache
def _refusing(kind: type, name: str) -> type:
    """The class of a module in training mode, which refuses to be called in it."""

    def called(self: Any, x: Any, *args: Any, **keywords: Any) -> Any:
        if any(args) or keywords.get("use_running_average") or keywords.get("deterministic"):
            return kind.__call__(self, x, *args, **keywords)
        raise ValueError(f"{name}: its {kind.__name__} is in training mode; call .eval() on the module first")

    return type(kind.__name__, (kind,), {"__call__": called})


class _Replaced:
    """Replace the modules in a function, and in what it holds: new functions and containers, where any changes."""

    def __init__(self, fun: Callable, kind: type, new: Callable[[Any], Any]):
        """`new` gives what replaces a module, an instance of `kind`."""
        self._home = getattr(_function_of(fun), "__globals__", None)
        self._kind = kind
        self._new = new
        self._done: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if id(value) not in self._done:
            if len(self._done) > ENOUGH:
                return value
            self._done[id(value)] = value  # for what holds itself
            self._done[id(value)] = self._replaced(value)
        return self._done[id(value)]

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, self._kind):
            return self._new(value)
        if type(value) in (list, tuple, dict) and len(value) > MOST:
            return value
        if type(value) in (list, tuple):
            parts = [self(part) for part in value]
            return type(value)(parts) if _differ(parts, value) else value
        if type(value) is dict:
            parts = [self(part) for part in value.values()]
            return dict(zip(value, parts, strict=True)) if _differ(parts, value.values()) else value
        if isinstance(value, functools.partial):
            parts = [self(value.func), self(value.args), self(value.keywords)]
            changed = _differ(parts, (value.func, value.args, value.keywords))
            return type(value)(parts[0], *parts[1], **parts[2]) if changed else value
        if isinstance(value, types.MethodType):
            parts = [self(value.__func__), self(value.__self__)]
            return types.MethodType(*parts) if _differ(parts, (value.__func__, value.__self__)) else value
        if isinstance(value, types.FunctionType):
            return self._function(value)
        return self._object(value)

    def _object(self, value: Any) -> Any:
        """A copy of an object, where an attribute changes."""
        kind = type(value)
        if kind.__module__.split(".")[0] in LIBRARIES or isinstance(value, type | types.ModuleType):
            return value
        slots = (name for one in kind.__mro__ for name in vars(one).get("__slots__", ()) if hasattr(value, name))
        old = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
        changed = {name: part for name in old if (part := self(old[name])) is not old[name]} if len(old) <= MOST else {}
        if not changed:
            return value
        new = copy.copy(value)
        for name, part in changed.items():
            object.__setattr__(new, name, part)
        return new

    def _function(self, fun: types.FunctionType) -> types.FunctionType:
        """What it closes over, its defaults and, in the module where the whole is defined, the globals it reads."""
        made: list[types.FunctionType] = []
        self._done[id(fun)] = lambda *args, **keywords: made[0](*args, **keywords)  # for what calls itself
        cells = fun.__closure__ or ()
        contents = [cell.cell_contents if is_full(cell) else None for cell in cells]
        parts = [self(part) for part in contents]
        defaults, keywords = self(fun.__defaults__), self(fun.__kwdefaults__)
        read = {}
        if fun.__globals__ is self._home:
            there = (key for key in global_names(fun.__code__) if key in fun.__globals__)
            read = {key: part for key in there if (part := self(fun.__globals__[key])) is not fun.__globals__[key]}
        new = fun
        if read or _differ([*parts, defaults, keywords], [*contents, fun.__defaults__, fun.__kwdefaults__]):
            closed = tuple(
                cell if part is old else types.CellType(part)
                for cell, old, part in zip(cells, contents, parts, strict=True)
            )
            names = fun.__globals__ | read if read else fun.__globals__
            new = types.FunctionType(fun.__code__, names, fun.__name__, defaults, closed)
            new.__kwdefaults__ = keywords
        made.append(new)
        return new


def _function_of(fun: Any) -> types.FunctionType | None:
    """The function of Python behind partials and methods, if there is one."""
    while isinstance(fun, functools.partial | types.MethodType):
        fun = fun.func if isinstance(fun, functools.partial) else fun.__func__
    return fun if isinstance(fun, types.FunctionType) else None


def _differ(new: Any, old: Any) -> bool:
    return any(one is not other for one, other in zip(new, old, strict=True))


def is_full(cell: types.CellType) -> bool:
    """Whether a variable that a function closes over has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def global_names(code: types.CodeType) -> Iterator[str]:
    """The globals that a function reads, itself or in functions defined inside."""
    yield from (one.argval for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL")
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from global_names(const)

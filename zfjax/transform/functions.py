"""Functions as arguments of compiled programs: no program answers with weights that a function no longer has.

`jax.jit` and its kin identify functions by identity, and never notice that what one closes over, or is a method of, has
changed since. Here a function is traced again at each call of a lens, once. The arrays it reads become arguments of the
program, and the program is looked up by its jaxpr (`programs.py`): new weights need no new program, nor does the same
closure defined again. Tracing takes about 30 ms for a ZFNet, 200 ms for a ResNet-50.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
from jax.tree_util import Partial, register_pytree_node_class
from jaxtyping import PyTree

from zfjax.ops.arguments import kept
from zfjax.transform import jaxprs, programs
from zfjax.transform.copies import on_copies


class Fixed:
    """A callable fully determined by its fields, which hash by value, so its programs are found without tracing."""


@register_pytree_node_class
class Live:
    """A function that may change between calls of a lens, as it is during one call; a pytree without leaves."""

    def __init__(self, fun: Callable, place: Callable[[PyTree], PyTree]):
        """`place` puts the arrays that the function reads on their devices."""
        self.fun = fun
        self.place = place
        self.traces: dict[tuple, programs.Trace] = {}
        self._read: dict[tuple, tuple[jex.ClosedJaxpr, PyTree]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Call the function, or evaluate what it was for such inputs when it was read."""
        found = self._read.get(self._key(inputs)) if self._read else None
        if found is None:
            return self.fun(*inputs)
        closed, out = found
        return jax.tree.unflatten(
            jax.tree.structure(out), jaxprs.evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(inputs))
        )

    def read(self, inputs: Sequence[PyTree]) -> tuple[jex.ClosedJaxpr, PyTree[jax.ShapeDtypeStruct]]:
        """Its jaxpr and output shapes for such inputs; it is traced the first time."""
        key = self._key(inputs)
        if key not in self._read:
            self._read[key] = jax.make_jaxpr(lambda *inputs: self.fun(*inputs), return_shape=True)(*inputs)
        return self._read[key]

    def _key(self, inputs: Sequence[PyTree]) -> tuple:
        leaves, tree = jax.tree.flatten(inputs)
        return tree, *map(jax.typeof, leaves)

    def tree_flatten(self) -> tuple[tuple[()], "Live"]:
        """No leaves, and the function itself."""
        return (), self

    @classmethod
    def tree_unflatten(cls, live: "Live", _: Sequence[Any]) -> "Live":
        """The function itself."""
        return live


def live(fun: Callable, place: Callable[[PyTree], PyTree] = lambda arrays: arrays, *, name: str = "fun") -> Any:
    """Wrap any function as a pytree that functions under `functions.jit` take as an argument.

    Args:
        fun: a closure, a module of Flax or Equinox, a method of one, or any other object that can be called. Partials
            of `Fixed`, such as `zfjax.layer(net, variables, "relu5")`, stay as they are.
        place: puts the arrays that the function holds or reads on the devices that need them, such as all of a mesh.
        name: what to call it in messages.

    Returns:
        The function, for one call of a lens; later changes to it would go unnoticed.

    Raises:
        TypeError: it cannot be called, or is a Flax Linen module without its variables.
        ValueError: when it is called, a Flax NNX module in training mode.
    """
    if isinstance(fun, Live):
        return fun
    if isinstance(fun, Partial) and isinstance(fun.func, Fixed):
        return place(jax.tree.map(kept, fun))
    if not callable(fun):
        raise TypeError(f"{name}: expected a function, got {type(fun).__name__}")
    linen = sys.modules.get("flax.linen")  # without it, there are no such modules
    if linen is not None and isinstance(fun, linen.Module) and fun.scope is None:
        raise TypeError(
            f"{name}: expected a function of images alone, got a Flax Linen module, which needs its variables:"
            " lambda x: module.apply(variables, x), or for a net of zfjax zfjax.layer(net, variables, name)"
        )
    return Live(on_copies(fun, name), place)


def jit(body: Callable) -> Callable:
    """`jax.jit` for a function whose arguments may hold functions from `live`. Keyword-only arguments are static."""
    parameters = inspect.signature(body).parameters.values()
    compiled = jax.jit(body, static_argnames=[one.name for one in parameters if one.kind is one.KEYWORD_ONLY])

    @functools.wraps(body)
    def call(*args: Any, **static: Any) -> Any:
        leaves, tree = jax.tree.flatten(args, is_leaf=_is_live)
        lives = [leaf for leaf in leaves if _is_live(leaf)]
        if not lives:
            return compiled(*args, **static)
        arrays = [leaf for leaf in leaves if not _is_live(leaf)]

        def run(*arrays: Any) -> Any:
            rest = iter(arrays)
            whole = [leaf if _is_live(leaf) else next(rest) for leaf in leaves]
            return body(*jax.tree.unflatten(tree, whole), **static)

        first, *others = lives
        key = body, tree, (*others,), (*map(jax.typeof, arrays),), (*static.items(),), is_traced(arrays)
        trace = first.traces.get(key) or programs.trace(run, arrays, first.place)
        if not is_traced(trace.consts):
            first.traces[key] = trace
        return trace(arrays)

    return call


def output_of(fun: Callable, *inputs: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """The output shapes of a function from `live`, given inputs or their shapes."""
    if isinstance(fun, Live):
        return fun.read(inputs)[1]
    if _holds_live(fun):
        return jax.eval_shape(lambda *inputs: fun(*inputs), *inputs)
    leaves, tree = jax.tree.flatten((fun, inputs))
    return _shapes(tree, tuple(map(jax.typeof, leaves)), jax.config.read("jax_enable_x64"))


def jaxpr_of(fun: Callable, *inputs: PyTree) -> jex.ClosedJaxpr:
    """The jaxpr of a function from `live`; its inputs are the leaves of the function, then those of `inputs`."""
    if isinstance(fun, Live):
        return fun.read(inputs)[0]
    if _holds_live(fun):
        return jax.make_jaxpr(lambda *inputs: fun(*inputs))(*inputs)
    return _call.trace(fun, *inputs).jaxpr  # traced once for all weights


def is_traced(tree: PyTree) -> bool:
    """Whether any leaf is a tracer, as inside a function that is being transformed or compiled."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


# JAX traces once for all weights too, but takes 3 ms to find that out for a ResNet-18: longer than a GPU for a lens.
@functools.lru_cache(maxsize=256)
def _shapes(tree: jax.tree_util.PyTreeDef, avals: tuple, _: bool) -> PyTree[jax.ShapeDtypeStruct]:
    fun, inputs = jax.tree.unflatten(tree, avals)
    return jax.eval_shape(_call, fun, *inputs)


@jax.jit
def _call(fun: Partial, *inputs: PyTree) -> PyTree:
    return fun(*inputs)


def _holds_live(fun: Callable) -> bool:
    return any(map(_is_live, jax.tree.leaves(fun, is_leaf=_is_live)))


def _is_live(node: Any) -> bool:
    return isinstance(node, Live)

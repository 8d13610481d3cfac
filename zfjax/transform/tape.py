"""The tape that a backprojection writes on the way up, played backward by `Projection`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass
from jaxtyping import PyTree

from zfjax.ops.arguments import described, is_array

Signal = jax.Array | np.ndarray


class Slot(NamedTuple):
    """A place where the signals to one value add up on the way down."""

    number: int
    shape: jax.ShapeDtypeStruct


class End(NamedTuple):
    """The structure of y or x: pytree, leaves, and their slots."""

    tree: jax.tree_util.PyTreeDef
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    slots: tuple[Slot | None, ...]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Step:
    """One piece of the tape: takes the signals at `above`, returns those at `below`."""

    pull: Callable[[list[Signal]], Sequence[Signal]]  # a pytree, with everything kept from the forward pass
    above: tuple[Slot, ...] = dataclasses.field(metadata={"static": True})
    below: tuple[Slot, ...] = dataclasses.field(metadata={"static": True})


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """The way down: `project(seed)` maps a signal shaped as y to one shaped as x.

    It is linear in the seed for `GRADIENT`, and scales with positive factors of the seed for `DECONVNET` and `GUIDED`.
    Leaves of y that are not floating-point ignore their seed; such leaves of x come back as `float0` zeros, as from
    `jax.vjp`.
    """

    steps: tuple[Step, ...]
    above: End = dataclasses.field(metadata={"static": True})
    below: End = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        y, x = (", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in end.leaves) for end in (self.above, self.below))
        return f"Projection(from {y} down to {x})"

    def __call__(self, seed: PyTree) -> PyTree:
        """Send `seed` down.

        Raises:
            ValueError: the seed's pytree structure, or a leaf's shape or dtype, differs from y's.
        """
        signals: dict[Slot, Signal] = {}
        for slot, leaf in zip(self.above.slots, _leaves_like(seed, self.above), strict=True):
            if slot:
                _add(signals, slot, leaf)
        for step in reversed(self.steps):
            arrived = [signals.pop(slot, None) for slot in step.above]
            if all(signal is None for signal in arrived):
                continue
            filled = [_or_zeros(signal, slot.shape) for slot, signal in zip(step.above, arrived, strict=True)]
            for slot, signal in zip(step.below, step.pull(filled), strict=True):
                _add(signals, slot, signal)
        ends = [
            np.zeros(leaf.shape, jax.dtypes.float0) if slot is None else _or_zeros(signals.get(slot), leaf)
            for slot, leaf in zip(self.below.slots, self.below.leaves, strict=True)
        ]
        return jax.tree.unflatten(self.below.tree, ends)


def _leaves_like(seed: PyTree, end: End) -> list[Any]:
    leaves, tree = jax.tree.flatten(seed)
    if tree != end.tree:
        raise ValueError(
            f"seed: expected a pytree like that of y, {end.tree}; got {tree}; put zeros where no signal starts"
        )
    for leaf, shape, slot in zip(leaves, end.leaves, end.slots, strict=True):
        if slot and not (is_array(leaf) and shape_of(leaf) == shape):
            raise ValueError(
                f"seed: expected {shape.dtype}{list(shape.shape)} like y, got {described(leaf)};"
                " for many seeds at once use jax.vmap(project)"
            )
    return list(map(as_array, leaves))


def _add(signals: dict[Slot, Signal], slot: Slot, signal: Signal) -> None:
    signals[slot] = signals[slot] + signal if slot in signals else signal


def _or_zeros(signal: Signal | None, shape: jax.ShapeDtypeStruct) -> Signal:
    return jnp.zeros(shape.shape, shape.dtype) if signal is None else signal


def as_array(value: Any) -> jax.Array | np.ndarray:
    """An array as it is; a number as JAX takes it."""
    return value if isinstance(value, jax.Array | np.ndarray) else jnp.asarray(value)


def shape_of(value: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array or a number."""
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))

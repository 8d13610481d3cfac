"""Long work in chunks: a loop that shows its progress, and inside another jitted function a loop on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Int, PyTree

from zfjax.console.progress import Progress
from zfjax.transform import functions


def even(count: int, batch_size: int) -> tuple[int, int]:
    """How many chunks of at most `batch_size`, and the size that spreads `count` over them most evenly."""
    chunks = -(-count // batch_size)
    return chunks, -(-count // max(1, chunks))


def numbers(chunk: Int[Array, ""], size: int) -> Int[Array, " size"]:
    """What is in a chunk. In the last one, numbers may lie beyond the end: gather them clipped, and drop them."""
    return chunk * jnp.int32(size) + jnp.arange(size, dtype=jnp.int32)


def walk(step: Partial, carry: PyTree, chunks: int, size: int, what: str) -> PyTree:
    """Does carry = step(carry, chunk) for each chunk in turn.

    Args:
        step: a pytree, in which functions are those of `functions.live`.
        carry: a pytree of arrays.
        chunks: how many.
        size: images in each, for the bar.
        what: the bar's name.
    """
    with Progress(what, chunks * size) as progress:
        for chunk in range(chunks):
            if functions.is_traced((step, carry)):
                rest = functools.partial(_in_loop, step)
                return jax.lax.fori_loop(jnp.int32(chunk), jnp.int32(chunks), rest, carry)
            # One chunk under way: the memory is that of one.
            carry = jax.block_until_ready(_step(step, carry, np.int32(chunk)))
            progress.advance(size)
    return carry


@functions.jit
def _step(step: Partial, carry: PyTree, chunk: Int[Array, ""]) -> PyTree:
    return step(carry, chunk)


def _in_loop(step: Partial, chunk: Int[Array, ""], carry: PyTree) -> PyTree:
    return step(carry, chunk)

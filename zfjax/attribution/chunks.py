"""Long work in chunks: a loop that shows its progress or, under tracing, a loop on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from zfjax.console.progress import Progress
from zfjax.ops.precision import widened
from zfjax.transform import functions


def even(count: int, batch_size: int) -> tuple[int, int]:
    """The number of chunks of at most `batch_size`, and the chunk size that spreads `count` most evenly."""
    chunks = -(-count // batch_size)
    return chunks, -(-count // max(1, chunks))


def numbers(chunk: Int[Array, ""], size: int) -> Int[Array, " size"]:
    """The numbers in a chunk. Those of the last one may run past the end: gather them clipped, then drop them."""
    return chunk * jnp.int32(size) + jnp.arange(size, dtype=jnp.int32)


def no_sums(like: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zeros for a carry that adds up what chunks find of these arrays, in float32 at least, and on their devices.

    Not a program: it would not look at them, and put the zeros on the first device.
    """
    return widened(jnp.zeros_like(like))


def taken(whole: PyTree, numbers: Int[Array, " size"]) -> PyTree:
    """The rows with these numbers; those past the end are the last."""
    return jax.tree.map(lambda part: jnp.asarray(part).at[numbers].get(mode="clip"), whole)


def put(whole: PyTree, numbers: Int[Array, " size"], rows: PyTree) -> PyTree:
    """The whole with other rows at these numbers; those past the end are dropped."""
    return jax.tree.map(lambda part, row: part.at[numbers].set(row, mode="drop"), whole, rows)


def walk(step: Partial, carry: PyTree, chunks: int, size: int, what: str) -> PyTree:
    """Run carry = step(carry, chunk) for each chunk in turn.

    Args:
        step: a pytree, in which functions are those of `functions.live`.
        carry: a pytree of arrays.
        chunks: number of chunks.
        size: images per chunk, for the progress bar.
        what: label of the progress bar.
    """
    with Progress(what, chunks * size) as progress:
        for chunk in range(chunks):
            if functions.is_traced((step, carry)):
                rest = functools.partial(_in_loop, step)
                return jax.lax.fori_loop(jnp.int32(chunk), jnp.int32(chunks), rest, carry)
            # One chunk is at work and one waits for its carry: devices need not wait for the host, nor hold more.
            carry, last = _step(step, carry, np.int32(chunk)), carry
            jax.block_until_ready(last)
            progress.advance(size)
    return jax.block_until_ready(carry)


@functions.jit
def _step(step: Partial, carry: PyTree, chunk: Int[Array, ""]) -> PyTree:
    return step(carry, chunk)


def _in_loop(step: Partial, chunk: Int[Array, ""], carry: PyTree) -> PyTree:
    return step(carry, chunk)

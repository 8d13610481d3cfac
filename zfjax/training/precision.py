"""The precision of products in float32, which TPUs and GPUs round unless they are told not to."""

import contextlib
from contextlib import AbstractContextManager

import jax


def matmul_precision(name: str) -> AbstractContextManager[None]:
    """Compute matrix products and convolutions in the block in a run's precision.

    It holds for what is traced in the block, derivatives included.

    Args:
        name: `config.matmul_precision`; empty for what JAX is set to.

    >>> with matmul_precision("highest"):
    ...     print(jax.config.jax_default_matmul_precision)
    highest
    """
    return jax.default_matmul_precision(name) if name else contextlib.nullcontext()

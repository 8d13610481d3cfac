"""What tells models apart: their programs and weights."""

import hashlib
import re

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.models.model import Model
from zfjax.transform import programs

_ADDRESS = re.compile(r"0x[0-9a-f]+")  # of functions, in a program's text


def digest_of(model: Model) -> bytes:
    """A hash of a model's program and weights, and of what it makes of pictures."""
    digest = hashlib.sha256()
    height, width, channels = model.image_shape
    for fun, shape, dtype in (
        (model.preprocess, (1, height, width, 3), jnp.uint8),
        (model.function, (1, height, width, channels), jnp.float32),
    ):
        # Another function each time: JAX keeps its traces by identity.
        trace = programs.trace(lambda x, fun=fun: fun(x), [jax.ShapeDtypeStruct(shape, dtype)])
        digest.update(_ADDRESS.sub("", str(trace.program.jaxpr)).encode())
        for array in trace.consts:
            digest.update(np.ascontiguousarray(array).data)
    return digest.digest()

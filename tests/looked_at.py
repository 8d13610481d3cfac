"""Models for `--model=looked_at.py:NAME` that are not zfjax's own."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp

sys.path.append(str(pathlib.Path(__file__).parent))

import zoo

import zfjax
from zfjax.weights import Preprocessing

PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZE = 48


@functools.cache
def own_net():
    """A tiny net and its variables."""
    net = zfjax.zfnet(3, width=0.05, image_size=SIZE)
    return net, jax.jit(net.init)(jax.random.key(3), jnp.zeros((1, SIZE, SIZE, 3)))


def foreign(classes=None):
    """The tiny net as a function that zfjax knows nothing of: same places, pictures less 120."""
    net, variables = own_net()
    return zfjax.Model(
        lambda images: net.apply(variables, images)[0],
        (1, SIZE, SIZE, 3),
        classes=classes,
        preprocess=lambda squares: squares.astype(jnp.float32) - 120.0,
    )


def named():
    """That function with names for its outputs, two of which are classes of `tiny_runs`."""
    return foreign(["Stripes", "dogs", "circles"])


def convnext():
    """A small ConvNeXt in NNX."""
    return zoo_model("nnx", "convnext")


def vit():
    """A small ViT in plain `jnp`."""
    return zoo_model("jnp", "vit")


def zoo_model(library, architecture):
    """A model of the zoo that knows what to make of pictures."""
    shape = (1, zoo.SIDE, zoo.SIDE, 3)
    fun, weights = zoo.build(library, architecture, jnp.zeros(shape))
    return zfjax.Model(fun, shape, weights=weights, preprocess=PREPROCESSING)

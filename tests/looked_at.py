"""Models for `--model=looked_at.py:NAME` that are not zfjax's own."""

import functools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(pathlib.Path(__file__).parent))

import zoo

import zfjax
from zfjax.models.edits import without
from zfjax.weights import Preprocessing

PREPROCESSING = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZE = 48


@functools.cache
def own_net(left_out=()):
    """A tiny net, perhaps without layers of these numbers, and its variables, drawn by NumPy: nothing is compiled."""
    net = without(zfjax.zfnet(3, width=0.05, image_size=SIZE), left_out)
    shapes = jax.eval_shape(net.init, jax.random.key(3), jnp.zeros((1, SIZE, SIZE, 3)))
    rng = np.random.default_rng(3)

    def drawn(leaf):
        scale = np.sqrt(2 / max(np.prod(leaf.shape[:-1]), 1)) if len(leaf.shape) > 1 else 0.1
        return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return net, jax.tree.map(drawn, shapes)


def small():
    """Two layers to probe, relu1 and mean1."""
    kernel, head = (np.random.default_rng(4).normal(size=shape).astype(np.float32) for shape in ((5, 5, 3, 6), (6, 3)))

    def fun(images):
        maps = jax.lax.conv_general_dilated(images, kernel, (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(maps).mean((1, 2)) @ head

    return zfjax.Model(fun, (1, SIZE, SIZE, 3), preprocess=PREPROCESSING)


def foreign(classes=None, left_out=()):
    """The tiny net as a function that zfjax knows nothing of: same places, pictures less 120."""
    net, variables = own_net(left_out)
    return zfjax.Model(
        lambda images: net.apply(variables, images)[0],
        (1, SIZE, SIZE, 3),
        classes=classes,
        preprocess=lambda squares: squares.astype(jnp.float32) - 120.0,
    )


def no_logits():
    """A model that gives maps."""
    return zfjax.Model(lambda images: images, (1, SIZE, SIZE, 3), preprocess=PREPROCESSING)


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
    return zoo.model(library, architecture, jnp.zeros((1, zoo.SIDE, zoo.SIDE, 3)), PREPROCESSING)

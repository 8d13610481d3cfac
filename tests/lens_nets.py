"""A residual net in plain JAX with a stride, and the same in float64 NumPy, for the tests of lenses."""

import jax
import numpy as np
from devices import tolerance
from jax.tree_util import Partial

CLASSES = 4


def draw(shape, seed, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


WEIGHTS = {
    "first": draw((3, 3, 3, 6), 1, 0.3),
    "second": draw((3, 3, 6, 6), 2, 0.2),
    "hidden": draw((6 * 4 * 5, 7), 3, 0.2),
    "last": draw((7, CLASSES), 4),
}
IMAGES = draw((3, 8, 10, 3), 5, 2.0)
TARGETS = np.array([2, 0, 3])


def features_of(weights, x, relu=jax.nn.relu):
    """[n, 8, 10, 3] -> [n, 4, 5, 6]: a convolution of stride 2, and a residual block."""
    x = relu(_conv(x, weights["first"], 2))
    return relu(x + _conv(x, weights["second"], 1))


def head_of(weights, maps, relu=jax.nn.relu):
    return relu(maps.reshape(maps.shape[0], -1) @ weights["hidden"]) @ weights["last"]


def logits_of(weights, x, relu=jax.nn.relu):
    return head_of(weights, features_of(weights, x, relu), relu)


def _conv(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


_ON_DEVICE = jax.device_put(WEIGHTS)
FEATURES = Partial(features_of, _ON_DEVICE)
HEAD = Partial(head_of, _ON_DEVICE)
NET = Partial(logits_of, _ON_DEVICE)


def numpy_features(x):
    x = np.maximum(_numpy_conv(np.asarray(x, np.float64), WEIGHTS["first"], 2), 0)
    return np.maximum(x + _numpy_conv(x, WEIGHTS["second"], 1), 0)


def numpy_head(maps):
    hidden = np.maximum(np.asarray(maps, np.float64).reshape(len(maps), -1) @ WEIGHTS["hidden"].astype(np.float64), 0)
    return hidden @ WEIGHTS["last"].astype(np.float64)


def numpy_logits(x):
    return numpy_head(numpy_features(x))


def _numpy_conv(x, kernel, stride):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel.astype(np.float64))


def slope(fun, inputs, targets, step=1e-6):
    """∂ fun(inputs)[i, targets[i]] / ∂ inputs[i] by central differences, in float64."""
    inputs = np.asarray(inputs, np.float64)
    gradient = np.zeros_like(inputs)
    for place in np.ndindex(inputs.shape[1:]):
        moved = np.zeros_like(inputs)
        moved[:, *place] = step
        rows = np.arange(len(inputs))
        gradient[:, *place] = (fun(inputs + moved) - fun(inputs - moved))[rows, targets] / (2 * step)
    return gradient


def assert_close(actual, expected, share=1e-5):
    """To a share of the largest value."""
    expected = np.asarray(expected)
    assert np.any(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance(share) * np.abs(expected).max())

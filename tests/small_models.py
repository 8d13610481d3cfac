"""Small nets of many libraries, each with its ReLU as an argument.

With `deconv_relu` or `guided_relu` in that place, plain `jax.vjp` follows the rule: an oracle that shares nothing with
the walk over jaxprs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import tolerance
from jax import lax

import zfjax
from zfjax.models import specs


@jax.custom_vjp
def deconv_relu(x):
    return jnp.maximum(x, 0)


deconv_relu.defvjp(lambda x: (jnp.maximum(x, 0), None), lambda _, g: (jnp.maximum(g, 0),))


@jax.custom_vjp
def guided_relu(x):
    return jnp.maximum(x, 0)


guided_relu.defvjp(
    lambda x: (jnp.maximum(x, 0), x > 0), lambda on, g: (jnp.where(on, jnp.maximum(g, 0), jnp.zeros_like(g)),)
)


class Model(NamedTuple):
    """`fun` is what users have; `oracle(relu)` the same net with another ReLU."""

    fun: Callable[[jax.Array], jax.Array]
    x: jax.Array
    oracle: Callable[..., Callable[[jax.Array], jax.Array]]


def normal(shape, seed=0, scale=1.0):
    # Put there as it is: `jnp.asarray` compiles a program for each shape.
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * scale)


def dense_seed(y, seed=7):
    """Random numbers, of both signs, in y's place."""
    return jax.tree.map(lambda leaf: normal(leaf.shape, seed).astype(leaf.dtype), y)


def randomized(variables: Any, seed=0) -> Any:
    """Random weights that keep signals at their size; biases and statistics that are not zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if not hasattr(leaf, "shape"):
            return leaf
        name = jax.tree_util.keystr(path)
        if leaf.ndim > 1:
            drawn = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            drawn = (
                rng.uniform(0.5, 1.5, leaf.shape) if "var" in name or "scale" in name else rng.normal(size=leaf.shape)
            )
        return jax.device_put(drawn.astype(np.float32).astype(leaf.dtype))

    return jax.tree_util.tree_map_with_path(draw, variables)


def close(got, expected, share=1e-6):
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 1e-4, "the signal vanished: nothing is compared"
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance(share) * scale)


@jax.custom_vjp
def lrn_passed_over(x):
    return _lrn(x)


lrn_passed_over.defvjp(lambda x: (_lrn(x), None), lambda _, g: (g,))


def _lrn(x):
    squares = jnp.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(5))
    return x / (2.0 + 1e-4 / 5 * total) ** 0.75


def _convnet_by_hand(net, params, relu):
    """A ConvNet written out in plain lax: XLA's own pooling, and contrast normalization passed over by a deconvnet."""
    lrn = lrn_passed_over if relu is deconv_relu else _lrn

    def fun(x):
        for layer in net.layers:
            match layer:
                case specs.Conv():
                    kernel, bias = params[layer.name]["kernel"], params[layer.name]["bias"]
                    dims = ("NHWC", "HWIO", "NHWC")
                    x = lax.conv_general_dilated(x, kernel, layer.strides, layer.padding, dimension_numbers=dims)
                    x = x + bias.reshape(1, 1, 1, -1)
                case specs.Dense():
                    weights, bias = params[layer.name]["kernel"], params[layer.name]["bias"]
                    x = jnp.einsum("ni,io->no", x.reshape(x.shape[0], -1), weights) + bias.reshape(1, -1)
                case specs.ReLU():
                    x = relu(x)
                case specs.MaxPool():
                    padding = ((0, 0), *layer.sliding(specs.Size(*x.shape[1:])).padding, (0, 0))
                    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, *layer.window, 1), (1, *layer.strides, 1), padding)
                case specs.LRN():
                    x = lrn(x)
        return x

    return fun


def _convnet(preset):
    net = preset(10, width=1 / 16, image_size=64)
    x = normal((2, 64, 64, 3), scale=60.0)
    params = randomized(jax.eval_shape(net.init, jax.random.key(0), x))["params"]
    fun = zfjax.layer(net, {"params": params}, "fc8")
    return Model(fun, x, functools.partial(_convnet_by_hand, net, params))


class Block(nn.Module):
    features: int
    relu: Callable
    train: bool = False

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=not self.train, use_fast_variance=False)
        y = self.relu(norm()(nn.Conv(self.features, (3, 3), use_bias=False)(x)))
        y = norm()(nn.Conv(self.features, (3, 3), use_bias=False)(y))
        return self.relu(x + y)


class ResNet(nn.Module):
    relu: Callable = nn.relu
    train: bool = False
    block: Callable = Block

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train, use_fast_variance=False)(nn.Conv(8, (5, 5), 2)(x))
        x = nn.max_pool(self.relu(x), (3, 3), (2, 2), "SAME")
        for _ in range(2):
            x = self.block(8, self.relu, self.train)(x)
        return nn.Dense(5)(x.mean(axis=(1, 2)))


def _linen(train=False, block=Block):
    x = normal((2, 17, 16, 3))
    variables = randomized(jax.eval_shape(ResNet(block=block).init, jax.random.key(0), x))

    def oracle(relu):
        net = ResNet(relu, train, block)
        return lambda x: net.apply(variables, x, mutable=["batch_stats"])[0]

    return Model(oracle(nn.relu), x, oracle)


def _nnx():
    from flax import nnx

    def weights(key, shape, dtype=np.float32):
        return normal(shape, len(shape), float(np.prod(shape[:-1])) ** -0.5)

    class CNN(nnx.Module):
        def __init__(self, relu):
            drawn = {"bias_init": weights, "rngs": nnx.Rngs(0)}
            self.relu = relu
            self.conv1 = nnx.Conv(3, 6, (3, 3), kernel_init=weights, **drawn)
            self.norm = nnx.BatchNorm(6, use_running_average=True, **drawn)
            self.conv2 = nnx.Conv(6, 8, (3, 3), strides=2, kernel_init=weights, **drawn)
            self.dense = nnx.Linear(32, 5, kernel_init=weights, **drawn)

        def __call__(self, x):
            x = nnx.max_pool(self.relu(self.norm(self.conv1(x))), (2, 2), (2, 2))
            x = nnx.max_pool(self.relu(self.conv2(x)), (2, 2), (1, 1))
            return self.dense(x.reshape(x.shape[0], -1))

    def oracle(relu):
        model = CNN(relu)
        return lambda x: model(x)

    return Model(oracle(nnx.relu), normal((2, 12, 12, 3)), oracle)


def _equinox():
    eqx = pytest.importorskip("equinox")

    def oracle(relu):
        def make(key):
            return eqx.nn.Sequential(
                [
                    eqx.nn.Conv2d(3, 6, 3, padding=1, key=key),
                    eqx.nn.Lambda(relu),
                    eqx.nn.MaxPool2d(3, 2, padding=1),
                    eqx.nn.ConvTranspose2d(6, 6, 2, stride=2, key=key),
                    eqx.nn.AvgPool2d(2, 1),
                    eqx.nn.Conv2d(6, 8, 3, groups=2, key=key),
                    eqx.nn.AdaptiveMaxPool2d(3),  # below the ReLU: without ties, which jnp.max shares among them
                    eqx.nn.Lambda(relu),
                    eqx.nn.Lambda(lambda x: x.reshape(-1)),
                    eqx.nn.Linear(72, 5, key=key),
                ]
            )

        return jax.vmap(randomized(eqx.filter_eval_shape(make, jax.random.key(0))))

    return Model(oracle(jax.nn.relu), normal((2, 3, 12, 12)), oracle)


def _haiku():
    hk = pytest.importorskip("haiku")

    def oracle(relu):
        def forward(x):
            x = hk.max_pool(relu(hk.Conv2D(6, 3)(x)), (2, 2, 1), (2, 2, 1), "VALID")
            x = hk.avg_pool(relu(hk.Conv2D(8, 3, stride=2)(x)), (2, 2, 1), 1, "SAME")
            return hk.Linear(5)(hk.Flatten()(relu(hk.DepthwiseConv2D(1, 3)(x))))

        net = hk.without_apply_rng(hk.transform(forward))
        variables = randomized(jax.eval_shape(net.init, jax.random.key(0), x))
        return lambda x: net.apply(variables, x)

    x = normal((2, 12, 12, 3))
    return Model(oracle(jax.nn.relu), x, oracle)


def _conv(x, features, seed, window=3, groups=1, padding="SAME", **params):
    kernel = normal((features, x.shape[1] // groups, window, window), seed)
    kernel = kernel * np.float32(np.sqrt(2 * groups / x.shape[1]) / window)
    y = lax.conv_general_dilated(x, kernel, (1, 1), padding, feature_group_count=groups, **params)
    return y + normal((1, features, 1, 1), seed + 100, 0.3)


def _plain():
    """Maps first, as in no layer library; branches, and every kind of convolution."""

    def oracle(relu):
        def fun(x):
            x = relu(_conv(x, 8, 1))
            wide = relu(_conv(x, 6, 2, groups=2, rhs_dilation=(2, 2)))
            deep = relu(_conv(x, 8, 3, groups=8))
            deep = lax.reduce_window(deep, 0.0, lax.add, (1, 1, 3, 3), (1, 1, 1, 1), "SAME") / 9
            x = jnp.concatenate([wide, deep, x[:, :2]], axis=1)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 3, 2), (1, 1, 2, 2), "SAME")
            x = relu(_conv(x, 6, 4, window=2, padding=((1, 1), (1, 1)), lhs_dilation=(2, 2)))
            return jnp.tanh(jnp.einsum("nchw,co->nowh", x, normal((6, 4), 5, 0.3)))

        return fun

    return Model(oracle(lambda x: jnp.maximum(x, 0)), normal((2, 3, 9, 8)), oracle)


def _scan():
    """Three blocks with one body."""
    kernels = normal((3, 6, 6, 3, 3), 3, 0.2)

    def oracle(relu):
        def block(x, kernel):
            return x + relu(lax.conv(x, kernel, (1, 1), "SAME")), None

        return lambda x: lax.scan(block, relu(_conv(x, 6, 1)), kernels)[0]

    return Model(oracle(jax.nn.relu), normal((2, 3, 8, 8)), oracle)


MODELS = {
    "zfnet": functools.partial(_convnet, zfjax.zfnet),
    "alexnet": functools.partial(_convnet, zfjax.alexnet),
    "linen": _linen,
    "linen on batch statistics": functools.partial(_linen, train=True),
    "linen under remat": functools.partial(_linen, block=nn.remat(Block)),
    "nnx": _nnx,
    "equinox": _equinox,
    "haiku": _haiku,
    "plain": _plain,
    "scan": _scan,
}

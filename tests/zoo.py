"""Six small architectures, each written in Linen, NNX, Equinox, Haiku and plain `jnp` from one description.

As ONNX files they are written in PyTorch, by goldens/make_onnx.py, with the weights that plain `jnp` has here. A
description calls `make.conv("name", x, …)` and its kin, which in each library create the layer at the first call, and
apply it afterwards. Weights are drawn by NumPy, since compiling the libraries' own initializers takes longer.
"""

import pathlib
import zlib

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import zfjax
from zfjax.weights.onnx.layout import Maps, first

CLASSES = 5
GOLDENS = pathlib.Path(__file__).parent / "goldens" / "onnx"


def draw(name, shape, scale=0.3):
    """Weights that depend on the name and shape alone."""
    rng = np.random.default_rng(zlib.crc32(f"{name}{shape}".encode()))
    with jax.ensure_compile_time_eval():  # an array also while a description is traced
        return jax.device_put(np.float32(rng.normal(0, scale, shape)))  # `jnp.asarray` compiles for each shape


def filled(shapes):
    """A pytree of shapes as one of weights."""

    def fill(keys, leaf):
        return draw(jax.tree_util.keystr(keys), leaf.shape) if hasattr(leaf, "shape") else leaf

    return jax.tree_util.tree_map_with_path(fill, shapes)


def _along(vector, x):
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Plain:
    """Plain `jnp` on a dict of dicts; layers of other libraries replace `conv`, `dense` and `norm`."""

    def __init__(self, weights):
        self.weights = weights

    def _get(self, name, **shapes):
        if name not in self.weights:
            self.weights[name] = {key: draw(name + key, shape) for key, shape in shapes.items()}
        return self.weights[name]

    def conv(self, name, x, features, size, stride=1, groups=1):
        at = self._get(name, kernel=(size, size, x.shape[-1] // groups, features), bias=(features,))
        dims = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, at["kernel"], (stride, stride), "SAME", dimension_numbers=dims, feature_group_count=groups
        )
        return y + at["bias"].reshape(1, 1, 1, -1)

    def dense(self, name, x, features):
        at = self._get(name, kernel=(x.shape[-1], features), bias=(features,))
        return x @ at["kernel"] + _along(at["bias"], x)

    def norm(self, name, x):
        at = self._get(name, scale=(x.shape[-1],), bias=(x.shape[-1],))
        centered = x - x.mean(-1, keepdims=True)
        scale, bias = _along(at["scale"], x), _along(at["bias"], x)
        return centered * jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * scale + bias

    def array(self, name, shape):
        if name not in self.weights:
            self.weights[name] = draw(name, shape)
        return self.weights[name]


class Linen(nn.Module):
    architecture: str

    def conv(self, name, x, features, size, stride=1, groups=1):
        return nn.Conv(features, (size, size), stride, feature_group_count=groups, name=name)(x)

    def dense(self, name, x, features):
        return nn.Dense(features, name=name)(x)

    def norm(self, name, x):
        return nn.LayerNorm(name=name)(x)

    def array(self, name, shape):
        return self.param(name, lambda key: draw(name, shape))

    @nn.compact
    def __call__(self, x):
        return ARCHITECTURES[self.architecture](self, x)


class Nnx(nnx.Module):
    def __init__(self, architecture, example):
        self.architecture = architecture
        for name, kind, arguments in recorded(architecture, example):
            setattr(self, name, self._build(kind, *arguments))

    def _build(self, kind, channels, *arguments):
        rngs = nnx.Rngs(0)
        match kind:
            case "conv":
                features, size, stride, groups = arguments
                return nnx.Conv(channels, features, (size, size), stride, feature_group_count=groups, rngs=rngs)
            case "dense":
                return nnx.Linear(channels, *arguments, rngs=rngs)
            case "norm":
                return nnx.LayerNorm(channels, rngs=rngs)
        return nnx.Param(jnp.zeros(channels))

    def conv(self, name, x, features, size, stride=1, groups=1):
        return getattr(self, name)(x)

    def dense(self, name, x, features):
        return getattr(self, name)(x)

    def norm(self, name, x):
        return getattr(self, name)(x)

    def array(self, name, shape):
        return getattr(self, name)[...]

    def __call__(self, x):
        return ARCHITECTURES[self.architecture](self, x)


def recorded(architecture, example):
    """The layers that an architecture asks for: name, kind, and arguments after the channels of its input."""
    calls = []

    class Recorder(Plain):
        def conv(self, name, x, features, size, stride=1, groups=1):
            calls.append((name, "conv", (x.shape[-1], features, size, stride, groups)))
            return super().conv(name, x, features, size, stride, groups)

        def dense(self, name, x, features):
            calls.append((name, "dense", (x.shape[-1], features)))
            return super().dense(name, x, features)

        def norm(self, name, x):
            calls.append((name, "norm", (x.shape[-1],)))
            return super().norm(name, x)

        def array(self, name, shape):
            calls.append((name, "array", (shape,)))
            return super().array(name, shape)

    jax.eval_shape(lambda x: ARCHITECTURES[architecture](Recorder({}), x), example)
    return calls


class Equinox(eqx.Module):
    """Equinox's layers take one image [C, H, W] or one vector, so that they are mapped here over positions."""

    parts: dict
    architecture: str = eqx.field(static=True)

    def _get(self, name, build):
        if name not in self.parts:
            self.parts[name] = filled(eqx.filter_eval_shape(build, jax.random.key(0)))
        return self.parts[name]

    def conv(self, name, x, features, size, stride=1, groups=1):
        def build(key):
            pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
            padding = [(int(before), int(after)) for before, after in pads]
            return eqx.nn.Conv2d(x.shape[-1], features, size, stride, padding, groups=groups, key=key)

        return jax.vmap(self._get(name, build))(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)

    def dense(self, name, x, features):
        layer = self._get(name, lambda key: eqx.nn.Linear(x.shape[-1], features, key=key))
        for _ in x.shape[:-1]:
            layer = jax.vmap(layer)
        return layer(x)

    def norm(self, name, x):
        layer = self._get(name, lambda key: eqx.nn.LayerNorm(x.shape[-1]))
        for _ in x.shape[:-1]:
            layer = jax.vmap(layer)
        return layer(x)

    def array(self, name, shape):
        return self._get(name, lambda key: draw(name, shape))

    def __call__(self, x):
        return ARCHITECTURES[self.architecture](self, x)


class Haiku:
    def conv(self, name, x, features, size, stride=1, groups=1):
        return hk.Conv2D(features, size, stride, feature_group_count=groups, name=name)(x)

    def dense(self, name, x, features):
        return hk.Linear(features, name=name)(x)

    def norm(self, name, x):
        return hk.LayerNorm(-1, True, True, name=name)(x)

    def array(self, name, shape):
        return hk.get_parameter(name, shape, init=lambda shape, dtype: draw(name, shape))


def chain(make, x):
    x = jax.nn.relu(make.conv("conv1", x, 8, 5, 2))
    x = nn.max_pool(x, (3, 3), (2, 2))
    x = jax.nn.relu(make.conv("conv2", x, 12, 3))
    x = make.dense("fc1", x.reshape(len(x), -1), 16)
    return make.dense("fc2", jax.nn.relu(x), CLASSES)


def residual(make, x):
    x = jax.nn.relu(make.conv("stem", x, 8, 3, 2))
    y = make.conv("block1_conv2", jax.nn.relu(make.conv("block1_conv1", x, 8, 3)), 8, 3)
    x = jax.nn.relu(x + y)
    y = make.conv("block2_conv2", jax.nn.relu(make.conv("block2_conv1", x, 12, 3, 2)), 12, 3)
    x = jax.nn.relu(make.conv("shortcut", x, 12, 1, 2) + y)
    return make.dense("head", x.mean((1, 2)), CLASSES)


def inception(make, x):
    x = jax.nn.relu(make.conv("stem", x, 8, 3, 2))
    narrow = jax.nn.relu(make.conv("narrow", x, 4, 1))
    wide = jax.nn.relu(make.conv("wide", jax.nn.relu(make.conv("squeeze", x, 4, 1)), 6, 5))
    pooled = make.conv("after_pool", nn.max_pool(x, (3, 3), (1, 1), "SAME"), 4, 1)
    x = jnp.concatenate([narrow, wide, pooled], -1)
    x = (
        jax.lax.reduce_window(
            jax.nn.relu(make.conv("mixed", x, 8, 3)), 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
        )
        / 4
    )
    return make.dense("head", x.mean((1, 2)), CLASSES)


def mobilenet(make, x):
    x = jax.nn.relu6(make.conv("stem", x, 8, 3, 2))
    x = jax.nn.relu6(make.conv("depthwise", x, 8, 3, 1, groups=8))
    x = x + make.conv("project", jax.nn.relu6(make.conv("expand", x, 16, 1)), 8, 1)
    gate = jax.nn.sigmoid(make.dense("excite", jax.nn.relu(make.dense("squeeze", x.mean((1, 2)), 4)), 8))
    x = x * gate[:, None, None, :]
    return make.dense("head", x.mean((1, 2)), CLASSES)


def convnext(make, x):
    x = make.norm("stem_norm", make.conv("stem", x, 8, 4, 4))
    y = make.norm("norm1", make.conv("depthwise", x, 8, 7, 1, groups=8))
    y = make.dense("narrow", jax.nn.gelu(make.dense("wide", y, 16)), 8)
    x = x + y * make.array("layer_scale", (1, 1, 1, 8))
    return make.dense("head", make.norm("head_norm", x.mean((1, 2))), CLASSES)


def vit(make, x):
    x = make.conv("patches", x, 8, 8, 8)
    x = x.reshape(len(x), -1, 8)
    token = jnp.broadcast_to(make.array("class_token", (1, 1, 8)), (len(x), 1, 8))
    x = jnp.concatenate([token, x], 1) + make.array("positions", (1, x.shape[1] + 1, 8))
    y = make.norm("norm1", x)
    query, key, value = (make.dense(name, y, 8) for name in ("query", "key", "value"))
    weights = jax.nn.softmax(query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(8)), -1)
    x = x + make.dense("out", weights @ value, 8)
    x = x + make.dense("narrow", jax.nn.gelu(make.dense("wide", make.norm("norm2", x), 16)), 8)
    return make.dense("head", make.norm("norm3", x)[:, 0], CLASSES)


class Tapped:
    """What a description makes of its layers, kept in `seen`; what `added` has for a layer is added to its output."""

    seen, added = {}, {}

    def __init__(self, make):
        self.make = make

    def __getattr__(self, kind):
        def layer(name, *arguments, **keywords):
            y = getattr(self.make, kind)(name, *arguments, **keywords)
            if kind == "array":
                return y
            if name in Tapped.added:
                y = y + Tapped.added[name]
            Tapped.seen[name] = y
            return y

        return layer


def tapped(architecture):
    return lambda make, x: architecture(Tapped(make), x)


def tapped_node(compute):
    """What computes a node of an ONNX file, so that the node's output is kept and added to likewise."""

    def computed(node, inputs):
        outputs = compute(node, inputs)
        if not isinstance(outputs[0], Maps | jax.Array):
            return outputs  # a shape
        name, y = node.name.strip("/"), outputs[0]
        is_last = isinstance(y, Maps) and y.ndim == 4
        seen = y.last if is_last else first(y)
        if name in Tapped.added:
            seen = seen + Tapped.added[name]
        Tapped.seen[name] = seen
        return (Maps(seen) if is_last else seen, *outputs[1:])

    return computed


ARCHITECTURES = {each.__name__: tapped(each) for each in (chain, residual, inception, mobilenet, convnext, vit)}
LIBRARIES = ("linen", "nnx", "equinox", "haiku", "jnp", "onnx")
SIDE = 24


def model(library, architecture, images, preprocess=None):
    """An architecture as a `zfjax.Model`."""
    if library == "onnx":
        return zfjax.from_onnx(GOLDENS / f"{architecture}.onnx", preprocess=preprocess)
    fun, weights = build(library, architecture, images)
    return zfjax.Model(fun, images, weights=weights, preprocess=preprocess)


def build(library, architecture, images):
    """A function of images, and its weights where it takes them as an argument, else None."""
    run = ARCHITECTURES[architecture]
    match library:
        case "linen":
            net = Linen(architecture)
            return net.apply, filled(jax.eval_shape(net.init, jax.random.key(0), images))
        case "nnx":
            graph, shapes = nnx.split(nnx.eval_shape(lambda: Nnx(architecture, images)))
            return nnx.merge(graph, filled(shapes)), None
        case "equinox":
            net = Equinox({}, architecture)
            jax.eval_shape(lambda x: net(x), images)
            return net, None
        case "haiku":
            net = hk.without_apply_rng(hk.transform(lambda x: run(Haiku(), x)))
            return net.apply, filled(jax.eval_shape(net.init, jax.random.key(0), images))
        case "jnp":
            weights = {}
            jax.eval_shape(lambda x: run(Plain(weights), x), images)
            return lambda weights, x: run(Plain(weights), x), weights
    raise ValueError(library)

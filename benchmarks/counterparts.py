"""What a JAX user would write for zfjax's programs: idiomatic Flax, or plain JAX."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import inputs
import jax
import jax.numpy as jnp
import optax
from compilers import placed
from jax.sharding import Mesh
from train_step import FlaxZFNet

import zfjax
from zfjax.data.crops import center_crop, fixed_crop, subtract_mean
from zfjax.data.pipeline import Batch

Call = tuple[Any, tuple[Any, ...]]  # a jitted function, and the shapes of its arguments on a mesh


def step(mesh: Mesh, images: int, dtype: str) -> Call:
    """A training step in Flax and Optax, with XLA's own pooling and its derivative."""
    net = FlaxZFNet(1.0, jnp.dtype(dtype))
    tx = optax.chain(optax.sgd(1e-2, momentum=0.9), zfjax.ops.renormalize_filters(0.1))
    params = inputs.variables(net, mesh)["params"]

    def step(params: Any, opt: Any, key: jax.Array, mean: jax.Array, batch: Batch) -> tuple[Any, Any, jax.Array]:
        crop_key, dropout_key = jax.random.split(key)
        x = fixed_crop(crop_key, subtract_mean(batch.image, mean), inputs.SIZE)

        def loss(params: Any) -> jax.Array:
            logits = net.apply({"params": params}, x, train=True, rngs={"dropout": dropout_key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.label).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    opt = placed(jax.eval_shape(tx.init, params), mesh)
    key = placed(jax.eval_shape(jax.random.key, 0), mesh)
    args = (params, opt, key, inputs.mean(mesh), inputs.squares(mesh, images))
    return jax.jit(step, donate_argnums=(0, 1)), args


def prediction(mesh: Mesh, images: int) -> Call:
    """Probabilities of center crops."""
    net = FlaxZFNet(1.0, jnp.dtype("float32"))

    def run(variables: Any, mean: jax.Array, squares: jax.Array) -> jax.Array:
        return jax.nn.softmax(net.apply(variables, center_crop(subtract_mean(squares, mean), inputs.SIZE)))

    return jax.jit(run), (inputs.variables(net, mesh), inputs.mean(mesh), inputs.squares(mesh, images).image)


def projection(mesh: Mesh, top: int, units: int) -> Call:
    """Down from some units by a ReLU whose derivative rectifies, and XLA's own derivative of max-pooling."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        y, pull = jax.vjp(lambda images: convolutional(params, images, top, rectified), images)
        return jax.vmap(lambda seed: pull(seed)[0])(jnp.stack([zfjax.strongest(y, unit) for unit in range(units)]))

    return jax.jit(run), (_kernels(mesh), inputs.images(mesh, 32))


def forward(mesh: Mesh, images: int) -> Call:
    """The forward pass up to relu5."""
    return jax.jit(lambda params, images: convolutional(params, images, 5)), (
        _kernels(mesh),
        inputs.images(mesh, images),
    )


def fields(mesh: Mesh, top: int) -> Call:
    """One unit for each image, on whole images."""

    def run(params: Any, images: jax.Array, units: jax.Array, cells: jax.Array) -> jax.Array:
        y, pull = jax.vjp(lambda images: convolutional(params, images, top, rectified), images)
        return pull(zfjax.seeds.at(y, units, tuple(cells.T)))[0]

    return jax.jit(run), (_kernels(mesh), inputs.images(mesh, 32), *inputs.units(mesh, 32))


def occlusion(mesh: Mesh, positions: int, window: int) -> Call:
    """Logits of one image with a square at some positions, each a whole image."""
    net = FlaxZFNet(1.0, jnp.dtype("float32"))

    def run(variables: Any, image: jax.Array, tops: jax.Array, lefts: jax.Array) -> jax.Array:
        def covered(top: jax.Array, left: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice(image, jnp.zeros((window, window, 3)), (top, left, 0))

        return net.apply(variables, jax.vmap(covered)(tops, lefts))

    place = placed(jax.ShapeDtypeStruct((positions,), jnp.int32), mesh)
    image = placed(jax.ShapeDtypeStruct((inputs.SIZE, inputs.SIZE, 3), jnp.float32), mesh)
    return jax.jit(run), (inputs.variables(net, mesh), image, place, place)


class FlaxResNet18(nn.Module):
    """ResNet-18 as a Flax user writes it, up to the maps below the mean."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps of images [N, H, W, 3]."""

        def convolved(x: jax.Array, features: int, kernel: int, stride: int) -> jax.Array:
            x = nn.Conv(features, (kernel, kernel), (stride, stride), kernel // 2, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(x)

        x = nn.relu(convolved(x, 64, 7, 2))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for features, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            for number in range(2):
                stride = stride if number == 0 else 1
                y = nn.relu(convolved(x, features, 3, stride))
                shortcut = x if x.shape[-1] == features else convolved(x, features, 1, stride)
                x = nn.relu(convolved(y, features, 3, 1) + shortcut)
        return x


def _resnet(mesh: Mesh) -> tuple[Any, Any, Any]:
    """A function of variables and images, one of variables and maps, and the variables' shapes."""
    net, dense = FlaxResNet18(), nn.Dense(inputs.CLASSES)
    variables = inputs.variables(net, mesh)
    mean = jax.ShapeDtypeStruct((1, 512), jnp.float32)
    head = placed(jax.eval_shape(dense.init, jax.random.key(0), mean), mesh)
    return (
        lambda both, images: net.apply(both[0], images),
        lambda both, maps: dense.apply(both[1], maps.mean(axis=(1, 2))),
        (variables, head),
    )


def cam(mesh: Mesh, target: int) -> Call:
    """Grad-CAM by `jax.grad` of the head."""
    maps_of, head, variables = _resnet(mesh)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        maps = maps_of(variables, images)
        weights = jax.grad(lambda maps: head(variables, maps)[:, target].sum())(maps).mean(axis=(1, 2), keepdims=True)
        return nn.relu((weights * maps).sum(axis=-1))

    return jax.jit(run), (variables, inputs.images(mesh, 32))


def gradient(mesh: Mesh, target: int) -> Call:
    """A class's logit by `jax.grad`."""
    maps_of, head, variables = _resnet(mesh)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        return jax.grad(lambda images: head(variables, maps_of(variables, images))[:, target].sum())(images)

    return jax.jit(run), (variables, inputs.images(mesh, 32))


def path(mesh: Mesh, target: int, steps: int) -> Call:
    """Integrated gradients of one image per chip by `jax.grad`, all steps at once."""
    maps_of, head, variables = _resnet(mesh)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        shares = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
        path = shares[:, None, None, None] * images
        grads = jax.grad(lambda path: head(variables, maps_of(variables, path))[:, target].sum())(path)
        return grads.mean(axis=0) * images[0]

    return jax.jit(run), (variables, inputs.images(mesh, 1))


# Fig. 3's convolutional layers in plain JAX: (filters, kernel, stride, padding).
CONVOLUTIONS = ((96, 7, 2, 1), (256, 5, 2, 0), (384, 3, 1, 1), (384, 3, 1, 1), (256, 3, 1, 1))


@jax.custom_vjp
def rectified(x: jax.Array) -> jax.Array:
    """A ReLU that rectifies signals on the way down, whatever x was."""
    return jax.nn.relu(x)


rectified.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, signal: (jax.nn.relu(signal),))


def convolutional(params: Any, x: jax.Array, top: int, relu: Callable = jax.nn.relu) -> jax.Array:
    """The activations of relu1 to relu5."""
    for number, ((_, _, stride, pad), (kernel, bias)) in enumerate(zip(CONVOLUTIONS, params, strict=True), start=1):
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = relu(x + bias)
        if number == top:
            return x
        if number <= 2:
            x = nn.max_pool(x, (3, 3), (2, 2), [(0, (side - 3) % 2) for side in x.shape[1:3]])
            x = contrast_normalized(x)
    return x


@jax.custom_vjp
def contrast_normalized(x: jax.Array) -> jax.Array:
    """Contrast normalization, which the deconvnet passes as a constant scale."""
    return x * _scale(x)


def _scale(x: jax.Array) -> jax.Array:
    squares = jax.lax.reduce_window(x**2, 0.0, jax.lax.add, (1, 1, 1, 5), (1, 1, 1, 1), [(0, 0)] * 3 + [(2, 2)])
    return (2.0 + 1e-4 / 5 * squares) ** -0.75


contrast_normalized.defvjp(lambda x: (x * _scale(x), _scale(x)), lambda scale, signal: (signal * scale,))


def _kernels(mesh: Mesh) -> Any:
    widths = (3, *(filters for filters, *_ in CONVOLUTIONS))
    shapes = [
        (
            jax.ShapeDtypeStruct((kernel, kernel, below, filters), jnp.float32),
            jax.ShapeDtypeStruct((filters,), jnp.float32),
        )
        for (filters, kernel, _, _), below in zip(CONVOLUTIONS, widths, strict=False)
    ]
    return placed(shapes, mesh)

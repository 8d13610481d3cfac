"""The programs that zfjax runs on an accelerator, each beside what a JAX user would write for the same.

All are of Fig. 3's net at full width and 224 px, or of ResNet-18; arguments are shapes, since nothing is run.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from compilers import placed
from jax.sharding import Mesh
from train_step import FlaxZFNet

import zfjax
from zfjax import attribution
from zfjax.data.crops import center_crop, fixed_crop, subtract_mean
from zfjax.data.pipeline import Batch
from zfjax.experiments import gallery
from zfjax.models import preset
from zfjax.models.cut import layers
from zfjax.models.fields import project_fields
from zfjax.training.config import paper
from zfjax.training.state import create_state
from zfjax.training.step import predict, train_step

SIZE, SQUARE, CLASSES = 224, 256, 1000
LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
Call = tuple[Any, tuple[Any, ...]]  # a jitted function, and the shapes of its arguments on a mesh


class Program(NamedTuple):
    """A program, and how many images it takes per chip; `dtype` is that of its activations."""

    name: str
    images: int
    dtype: str
    ours: Callable[[Mesh], Call]
    plain: Callable[[Mesh], Call] | None


def programs() -> list[Program]:
    """All of them, in the order of the table."""
    found = [
        Program(
            f"train_step, {dtype}, {images}",
            images,
            dtype,
            functools.partial(our_step, images=images, dtype=dtype),
            functools.partial(plain_step, images=images, dtype=dtype),
        )
        for dtype in ("bfloat16", "float32")
        for images in (256, 128)
    ]
    found.append(Program("predict, 256", 256, "float32", our_prediction, plain_prediction))
    for top, units in ((5, 1), (5, 16), (2, 1), (2, 16)):
        ours = functools.partial(our_projection, top=top, units=units)
        plain = functools.partial(plain_projection, top=top, units=units)
        found.append(Program(f"deconvnet from relu{top}, {units} units, 32", 32, "float32", ours, plain))
    return [
        *found,
        Program("gallery pass, 128", 128, "float32", our_gallery, plain_gallery),
        Program("projections on fields of relu5, 32", 32, "float32", our_fields, plain_fields),
        Program("Grad-CAM of ResNet-18, 32", 32, "float32", our_cam, None),
        Program("integrated gradients of ResNet-18, 32 steps", 32, "float32", our_path, plain_path),
    ]


def _squares(mesh: Mesh, images: int) -> Batch:
    rows = images * mesh.size
    shape = jax.ShapeDtypeStruct((rows, SQUARE, SQUARE, 3), jnp.uint8)
    label, mask = jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows,), jnp.float32)
    return placed(Batch(shape, label, mask), mesh, split=True)


def _images(mesh: Mesh, images: int) -> jax.ShapeDtypeStruct:
    shape = jax.ShapeDtypeStruct((images * mesh.size, SIZE, SIZE, 3), jnp.float32)
    return placed(shape, mesh, split=True)


def _mean(mesh: Mesh) -> jax.ShapeDtypeStruct:
    return placed(jax.ShapeDtypeStruct((SQUARE, SQUARE, 3), jnp.float32), mesh)


def _variables(net: nn.Module, mesh: Mesh) -> Any:
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    return placed(jax.eval_shape(net.init, jax.random.key(0), image), mesh)


# The training step.


def our_step(mesh: Mesh, images: int, dtype: str) -> Call:
    """What `python -m zfjax.train --config=configs/paper.py` runs."""
    config = paper()
    config.dtype, config.batch_size = dtype, images * mesh.size
    mean = np.zeros((SQUARE, SQUARE, 3), np.float32)
    state = jax.eval_shape(lambda: create_state(config, CLASSES, mean, 1000.0))
    return train_step, (placed(state, mesh), _squares(mesh, images))


def plain_step(mesh: Mesh, images: int, dtype: str) -> Call:
    """The same in idiomatic Flax and Optax, with XLA's own pooling and its derivative."""
    net = FlaxZFNet(1.0, jnp.dtype(dtype))
    tx = optax.chain(optax.sgd(1e-2, momentum=0.9), zfjax.ops.renormalize_filters(0.1))
    params = _variables(net, mesh)["params"]

    def step(params: Any, opt: Any, key: jax.Array, mean: jax.Array, batch: Batch) -> tuple[Any, Any, jax.Array]:
        crop_key, dropout_key = jax.random.split(key)
        x = fixed_crop(crop_key, subtract_mean(batch.image, mean), SIZE)

        def loss(params: Any) -> jax.Array:
            logits = net.apply({"params": params}, x, train=True, rngs={"dropout": dropout_key})
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.label).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    opt = placed(jax.eval_shape(tx.init, params), mesh)
    key = placed(jax.eval_shape(jax.random.key, 0), mesh)
    return jax.jit(step, donate_argnums=(0, 1)), (params, opt, key, _mean(mesh), _squares(mesh, images))


def our_prediction(mesh: Mesh) -> Call:
    """What `python -m zfjax.evaluate` runs."""
    net = zfjax.zfnet(CLASSES)
    run = jax.jit(functools.partial(predict, net))
    return run, (_variables(net, mesh), _mean(mesh), _squares(mesh, 256).image)


def plain_prediction(mesh: Mesh) -> Call:
    """The same in Flax."""
    net = FlaxZFNet(1.0, jnp.dtype("float32"))

    def run(variables: Any, mean: jax.Array, squares: jax.Array) -> jax.Array:
        return jax.nn.softmax(net.apply(variables, center_crop(subtract_mean(squares, mean), SIZE)))

    return jax.jit(run), (_variables(net, mesh), _mean(mesh), _squares(mesh, 256).image)


# Looking.


def our_projection(mesh: Mesh, top: int, units: int) -> Call:
    """One forward pass, and the strongest activations of some units down to pixels."""
    net = zfjax.zfnet(CLASSES)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        y, project = zfjax.deconvnet(zfjax.layer(net, variables, f"relu{top}"), images)
        return jax.vmap(project)(jnp.stack([zfjax.strongest(y, unit) for unit in range(units)]))

    return jax.jit(run), (_variables(net, mesh), _images(mesh, 32))


def plain_projection(mesh: Mesh, top: int, units: int) -> Call:
    """The same by a ReLU whose derivative rectifies, and XLA's own derivative of max-pooling."""

    def run(params: Any, images: jax.Array) -> jax.Array:
        y, pull = jax.vjp(lambda images: convolutional(params, images, top, rectified), images)
        return jax.vmap(lambda seed: pull(seed)[0])(jnp.stack([zfjax.strongest(y, unit) for unit in range(units)]))

    return jax.jit(run), (_kernels(mesh), _images(mesh, 32))


def our_gallery(mesh: Mesh) -> Call:
    """A batch's share of the pass that finds the nine strongest images of every map of five layers."""
    net = zfjax.zfnet(CLASSES)

    def run(variables: Any, images: jax.Array) -> Any:
        fun = layers(net, variables, LAYERS)
        top = gallery._nothing(jax.eval_shape(fun, images), 9, mesh)
        return gallery._merge(fun, top, images, jnp.arange(len(images), dtype=jnp.int32), mesh=mesh)

    return jax.jit(run), (_variables(net, mesh), _images(mesh, 128))


def plain_gallery(mesh: Mesh) -> Call:
    """The forward pass alone."""
    return jax.jit(lambda params, images: convolutional(params, images, 5)), (_kernels(mesh), _images(mesh, 128))


def _places(mesh: Mesh, images: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    rows = images * mesh.size
    units, cells = jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows, 2), jnp.int32)
    return placed(units, mesh, split=True), placed(cells, mesh, split=True)


def our_fields(mesh: Mesh) -> Call:
    """One unit of relu5 for each image, on its receptive field alone."""
    net = zfjax.zfnet(CLASSES)

    def run(variables: Any, images: jax.Array, units: jax.Array, cells: jax.Array) -> Any:
        return project_fields(zfjax.layer(net, variables, "relu5"), images, units, cells)

    return jax.jit(run), (_variables(net, mesh), _images(mesh, 32), *_places(mesh, 32))


def plain_fields(mesh: Mesh) -> Call:
    """The same on whole images, as in `plain_projection`."""

    def run(params: Any, images: jax.Array, units: jax.Array, cells: jax.Array) -> jax.Array:
        y, pull = jax.vjp(lambda images: convolutional(params, images, 5, rectified), images)
        return pull(zfjax.seeds.at(y, units, tuple(cells.T)))[0]

    return jax.jit(run), (_kernels(mesh), _images(mesh, 32), *_places(mesh, 32))


def our_cam(mesh: Mesh) -> Call:
    """Maps and head in one program."""
    net = preset("resnet18", CLASSES, image_size=SIZE)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        features, head = zfjax.split(net, variables, "stage4")
        return attribution.grad_cam(head, features(images), 3)

    return jax.jit(run), (_variables(net, mesh), _images(mesh, 32))


def our_path(mesh: Mesh) -> Call:
    """One image per chip, all steps at once."""
    net = preset("resnet18", CLASSES, image_size=SIZE)

    def run(variables: Any, images: jax.Array) -> Any:
        fun = zfjax.layer(net, variables, "fc")
        return attribution.integrated_gradients(fun, images, 3, n_steps=32, batch_size=32).attributions

    return jax.jit(run), (_variables(net, mesh), _images(mesh, 1))


def plain_path(mesh: Mesh) -> Call:
    """The same sum by `jax.grad`, with XLA's own derivative of the one max-pool."""
    net = preset("resnet18", CLASSES, image_size=SIZE)
    below = net.clone(layers=net.layers[:3])
    above = net.clone(layers=net.layers[4:])

    def logits(variables: Any, images: jax.Array) -> jax.Array:
        x = below.apply(variables, images)[0]
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return above.apply(variables, x)[0]

    def run(variables: Any, images: jax.Array) -> jax.Array:
        steps = (jnp.arange(32, dtype=jnp.float32) + 0.5) / 32
        path = steps[:, None, None, None] * images
        return jax.grad(lambda path: logits(variables, path)[:, 3].sum())(path).mean(axis=0) * images[0]

    return jax.jit(run), (_variables(net, mesh), _images(mesh, 1))


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

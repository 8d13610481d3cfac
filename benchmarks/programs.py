"""The programs that zfjax runs on an accelerator, each beside what a JAX user would write for the same.

All are of Fig. 3's net at full width and 224 px, or of ResNet-18, but for those of the notebooks, which are as they are
there. Arguments are shapes, since nothing is run.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import counterparts
import inputs
import jax
import jax.numpy as jnp
import numpy as np
from compilers import placed
from counterparts import Call
from jax.sharding import Mesh
from ml_collections import ConfigDict

import zfjax
from zfjax import attribution
from zfjax.attribution import sweeps
from zfjax.experiments import gallery
from zfjax.experiments.adn import inference, learning
from zfjax.experiments.adn.stack import PAPER, Stack
from zfjax.models import ConvNet, incremental, preset
from zfjax.models.cut import layers
from zfjax.models.fields import project_fields
from zfjax.models.specs import Size
from zfjax.training import config
from zfjax.training.scoring import Trained
from zfjax.training.state import create_state
from zfjax.training.step import predict, train_step

LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
CLASS = 3
RELEVANCE = ("EPSILON_PLUS", "EPSILON_GAMMA_BOX", "EPSILON_ALPHA2_BETA1")
STEPS = 30  # of integrated gradients: with both ends of the path, 32 images in one pass


class Program(NamedTuple):
    """A program, and how many images it takes per chip; `dtype` is that of its activations."""

    name: str
    images: int
    dtype: str
    ours: Callable[[Mesh], Call]
    plain: Callable[[Mesh], Call] | None = None


def programs() -> list[Program]:
    """All of them, in the order of the table."""
    return [*steps(), *looking(), *lenses(), *deconvolutional(), *notebooks()]


def steps() -> list[Program]:
    """The training step, and prediction."""
    found = [
        Program(
            f"train_step, {dtype}, {images}",
            images,
            dtype,
            functools.partial(our_step, recipe=_paper(dtype), classes=inputs.CLASSES, images=images),
            functools.partial(counterparts.step, images=images, dtype=dtype),
        )
        for dtype in ("bfloat16", "float32")
        for images in (256, 128)
    ]
    plain = functools.partial(counterparts.prediction, images=256)
    return [*found, Program("predict, 256", 256, "float32", our_prediction, plain)]


def looking() -> list[Program]:
    """What the paper does with a trained net."""
    found = [
        Program(
            f"deconvnet from relu{top}, {units} units, 32",
            32,
            "float32",
            functools.partial(our_projection, top=top, units=units),
            functools.partial(counterparts.projection, top=top, units=units),
        )
        for top, units in ((5, 1), (5, 16), (2, 1), (2, 16))
    ]
    net = zfjax.zfnet(inputs.CLASSES)
    ours = functools.partial(our_gallery, net=net, names=LAYERS, images=128)
    forward = functools.partial(counterparts.forward, images=128)
    found.append(Program("gallery pass, 128", 128, "float32", ours, forward))
    for top in (2, 5):
        ours, plain = (functools.partial(way, top=top) for way in (our_fields, counterparts.fields))
        found.append(Program(f"projections on fields of relu{top}, 32", 32, "float32", ours, plain))
    for window in (16, 48):
        sweep = Sweep(net, window, 8)
        positions = sweep.positions
        plain = functools.partial(counterparts.occlusion, positions=positions, window=window)
        name = f"occlusion by {window} px, {positions} positions"
        found.append(Program(name, positions, "float32", sweep.recompute, plain))
        found.append(Program(f"{name}: their indices", positions, "float32", sweep.reads))
    return found


def lenses() -> list[Program]:
    """Lenses on ResNet-18; relevance stands beside the gradient. MACO looks at Fig. 3's net."""
    net = preset("resnet18", inputs.CLASSES, image_size=inputs.SIZE)
    ours = functools.partial(our_path, net=net, steps=STEPS)
    plain = functools.partial(counterparts.path, target=CLASS, steps=STEPS)
    return [
        Program("Grad-CAM of ResNet-18, 32", 32, "float32", our_cam, functools.partial(counterparts.cam, target=CLASS)),
        Program(f"integrated gradients of ResNet-18, {STEPS} steps", 1, "float32", ours, plain),
        *(
            Program(
                f"relevance of ResNet-18 by {rules}, 32",
                32,
                "float32",
                functools.partial(our_relevance, rules=rules),
                functools.partial(counterparts.gradient, target=CLASS),
            )
            for rules in RELEVANCE
        ),
        *(
            Program(f"MACO: a step of {units} units", units, "float32", functools.partial(our_maco, units=units))
            for units in (1, 64)
        ),
    ]


def deconvolutional() -> list[Program]:
    """Of an Adaptive Deconvolutional Network, in layer 4, whose programs go through all layers below."""
    return [
        Program("ADN layer 4: an iteration, 32", 32, "float32", our_iteration),
        Program("ADN layer 4: filters' gradient, 32", 32, "float32", our_filters),
    ]


def notebooks() -> list[Program]:
    """The largest programs of each notebook in colab/, with its sizes."""
    small = config.default()
    net = zfjax.zfnet(10, width=small.width, image_size=small.image_size)
    resnet = config.default()
    resnet.net, resnet.width = "resnet18", 0.25
    lens = preset(resnet.net, 10, width=resnet.width, image_size=resnet.image_size)
    sweep = Sweep(net, round(net.image_size * 48 / 224), 4)

    def step(recipe: ConfigDict) -> Callable[[Mesh], Call]:
        return functools.partial(our_step, recipe=recipe, classes=10, images=recipe.batch_size)

    of_three = functools.partial(our_gallery, net=net, names=("relu1", "relu2", "relu5"), images=64)
    found = [
        ("1 to 3: train_step, 64", 64, step(small)),
        ("1: gallery pass, 64", 64, of_three),
        ("2: four units of relu5 at 256 px", 1, functools.partial(our_maps, net=net)),
        (f"3: occlusion, {sweep.positions} positions", sweep.positions, sweep.recompute),
        ("4: train_step of ResNet-18, 64", 64, step(resnet)),
        (f"4: integrated gradients, {STEPS} steps", 1, functools.partial(our_path, net=lens, steps=STEPS)),
    ]
    return [Program(f"notebook {name}", images, "float32", ours) for name, images, ours in found]


# The training step.


def _paper(dtype: str) -> ConfigDict:
    recipe = config.paper()
    recipe.dtype = dtype
    return recipe


def our_step(mesh: Mesh, recipe: ConfigDict, classes: int, images: int) -> Call:
    """What `python -m zfjax.train` runs; the paper's is that of `--config=configs/paper.py`."""
    batch = inputs.squares(mesh, images, recipe.image_size)
    mean = np.zeros(batch.image.shape[1:], np.float32)
    state = jax.eval_shape(lambda: create_state(recipe, classes, mean, 1000.0))
    return train_step, (placed(state, mesh), batch)


def our_prediction(mesh: Mesh) -> Call:
    """What `python -m zfjax.evaluate` runs."""
    net = zfjax.zfnet(inputs.CLASSES)
    model = Trained(net, inputs.variables(net, mesh), inputs.mean(mesh))
    return jax.jit(predict), (model.logits, model.views(ten_crop=False), inputs.squares(mesh, 256).image)


# Looking.


def our_projection(mesh: Mesh, top: int, units: int) -> Call:
    """One forward pass, and the strongest activations of some units down to pixels."""
    net = zfjax.zfnet(inputs.CLASSES)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        y, project = zfjax.deconvnet(zfjax.layer(net, variables, f"relu{top}"), images)
        return jax.vmap(project)(jnp.stack([zfjax.strongest(y, unit) for unit in range(units)]))

    return jax.jit(run), (inputs.variables(net, mesh), inputs.images(mesh, 32))


def our_maps(mesh: Mesh, net: ConvNet) -> Call:
    """A photograph of 256 px, and its four strongest maps of relu5 down to pixels, as in the second notebook."""

    def run(variables: Any, images: jax.Array) -> jax.Array:
        y, project = zfjax.deconvnet(zfjax.layer(net, variables, "relu5"), images)
        units = jnp.argsort(-y.max(axis=(0, 1, 2)))[:4]
        return jax.vmap(project)(jax.vmap(lambda unit: zfjax.seeds.whole_map(y, unit))(units))[:, 0]

    return jax.jit(run), (inputs.variables(net, mesh, net.image_size), inputs.images(mesh, 1, 256))


def our_gallery(mesh: Mesh, net: ConvNet, names: tuple[str, ...], images: int) -> Call:
    """A batch's share of the pass that finds the nine strongest images of every map of some layers."""

    def run(variables: Any, images: jax.Array) -> Any:
        fun = layers(net, variables, names)
        top = gallery._nothing(jax.eval_shape(fun, images), 9, mesh)
        return gallery._merge(fun, top, images, jnp.arange(len(images), dtype=jnp.int32), mesh=mesh)

    return jax.jit(run), (inputs.variables(net, mesh, net.image_size), inputs.images(mesh, images, net.image_size))


def our_fields(mesh: Mesh, top: int) -> Call:
    """One unit for each image, on its receptive field alone."""
    net = zfjax.zfnet(inputs.CLASSES)

    def run(variables: Any, images: jax.Array, units: jax.Array, cells: jax.Array) -> Any:
        return project_fields(zfjax.layer(net, variables, f"relu{top}"), images, units, cells)

    return jax.jit(run), (inputs.variables(net, mesh), inputs.images(mesh, 32), *inputs.units(mesh, 32))


class Sweep:
    """The two programs that each chunk of an occluder's positions goes through; the first pass, once, is left out."""

    def __init__(self, net: ConvNet, window: int, stride: int) -> None:
        self.net = net
        self.size = Size(net.image_size, net.image_size, 3)
        chunks = sweeps.grid(self.size[:2], (window, window), (stride, stride), 64).chunks
        self.positions = len(chunks[0].top)
        self.plan, changed = incremental.plan(net, (net.layers[-1].name,), self.size, chunks)
        self.chunk = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), changed[0])

    def reads(self, mesh: Mesh) -> Call:
        """Where the values of a chunk lie."""
        return jax.jit(functools.partial(incremental.reads, self.plan)), (placed(self.chunk, mesh),)

    def recompute(self, mesh: Mesh) -> Call:
        """What the net says at each position of a chunk."""
        clean = [jax.ShapeDtypeStruct(size, jnp.float32) for size in self.plan.sizes]
        variables = inputs.variables(self.net, mesh, self.net.image_size)
        reads = jax.eval_shape(functools.partial(incremental.reads, self.plan), self.chunk)
        rest = placed((clean, clean[0], reads), mesh)
        return jax.jit(functools.partial(incremental.recompute, self.plan)), (variables["params"], *rest)


# Adaptive Deconvolutional Networks.


def our_iteration(mesh: Mesh) -> Call:
    """One of ISTA, in which the switches of layers 1 to 3 are fixed."""
    stack, filters, batch = _adn(mesh)

    def run(filters: Any, batch: learning.Inferred) -> Any:
        ones = jnp.ones(len(batch.images))
        state = inference._State(batch.codes, batch.codes, ones, 0 * ones, jnp.inf * ones, 10 * ones)
        return inference._step(stack, filters, batch.switches, 1.0, batch.images, state, True, False).codes

    return jax.jit(run), (filters, batch)


def our_filters(mesh: Mesh) -> Call:
    """What one step of conjugate gradients takes of a batch."""
    stack, filters, batch = _adn(mesh)
    return jax.jit(lambda *given: learning._gradient(stack, *given, residual=False)), (filters, batch)


def _adn(mesh: Mesh) -> tuple[Stack, Any, learning.Inferred]:
    """The paper's four layers, on 32 images of 150 px for each chip."""
    stack, rows = Stack((150, 150), PAPER), 32 * mesh.size
    filters = tuple(jax.ShapeDtypeStruct(stack.kernel(number), jnp.float32) for number in range(1, 5))
    pooled = [(rows, *stack.pooled(number)) for number in range(5)]
    switches = [jax.ShapeDtypeStruct(shape, jnp.uint8) for shape in pooled]
    images, values = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (pooled[0], pooled[4]))
    batch = learning.Inferred(images, tuple(switches[1:4]), inference.Codes(values, switches[4]))
    return stack, placed(filters, mesh), placed(batch, mesh, split=True)


# Lenses.


def our_cam(mesh: Mesh) -> Call:
    """Maps and head in one program."""
    net = preset("resnet18", inputs.CLASSES, image_size=inputs.SIZE)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        features, head = zfjax.split(net, variables, "stage4")
        return attribution.grad_cam(head, features(images), CLASS)

    return jax.jit(run), (inputs.variables(net, mesh), inputs.images(mesh, 32))


def our_relevance(mesh: Mesh, rules: str) -> Call:
    """A class's logit shared out among the pixels."""
    net = preset("resnet18", inputs.CLASSES, image_size=inputs.SIZE)

    def run(variables: Any, images: jax.Array) -> jax.Array:
        fun = zfjax.layer(net, variables, "fc")
        return attribution.lrp(fun, images, CLASS, rules=getattr(zfjax.rules, rules)).attributions

    return jax.jit(run), (inputs.variables(net, mesh), inputs.images(mesh, 32))


def our_path(mesh: Mesh, net: ConvNet, steps: int) -> Call:
    """One image per chip, all steps at once."""

    def run(variables: Any, images: jax.Array) -> Any:
        fun = zfjax.layer(net, variables, "fc")
        found = attribution.integrated_gradients(fun, images, CLASS, n_steps=steps, batch_size=steps + 2)
        return found.attributions

    return jax.jit(run), (inputs.variables(net, mesh, net.image_size), inputs.images(mesh, 1, net.image_size))


def our_maco(mesh: Mesh, units: int) -> Call:
    """The first step, in which phases are drawn too; each unit takes four crops."""
    net = zfjax.zfnet(inputs.CLASSES)
    size = inputs.images(mesh, 1)
    colors = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    spectrum = placed(attribution.Spectrum(jax.ShapeDtypeStruct(size.shape[1:], size.dtype), colors), mesh)

    def run(variables: Any, spectrum: attribution.Spectrum) -> jax.Array:
        fun, numbers = zfjax.layer(net, variables, "relu5"), range(units)
        return attribution.maco(
            fun, numbers, jax.random.key(0), spectrum=spectrum, n_steps=1, batch_size=units
        ).pictures

    return jax.jit(run), (inputs.variables(net, mesh), spectrum)

"""The lenses that are compared, what they are given, and their maps as one number per pixel."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key

from zfjax import attribution
from zfjax.attribution.asked import Target
from zfjax.attribution.gradients import per_pixel
from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.models import Model
from zfjax.ops.windows import Pair
from zfjax.transform import rules


class Lens(NamedTuple):
    """A way to make maps: pixel maps [n, H, W, C], or region maps [n, H, W] or [n, h, w] as the layer's."""

    name: str
    title: str
    # `of(fun, images, target)` gives maps, or a tuple with `attributions`, as all in `zfjax.attribution` do. It gets
    # what it has arguments for: `key`, `batch_size`, `fill` and `baseline`, both what hides a part of an image,
    # `n_steps`, `n_samples`, `baselines`, which are other images to compare with, and the images' `numbers`.
    of: Callable[..., Any]
    at_cut: bool = False  # its fun is (features, head), as CAMs take it


@shown_by_shape
class Grid(NamedTuple):
    """Where the cells of a layer's maps lie: (height, width) in pixels, counted from the image's first pixel, 0."""

    offset: tuple[float, float]  # center of the first cell's receptive field
    stride: tuple[float, float]  # between neighboring cells


@shown_by_shape
class Options(NamedTuple):
    """What lenses get besides a function, images and a target."""

    key: Key[Array, ""]
    batch_size: int = 32  # pictures per pass through the net
    cover: float | Float[Array | np.ndarray, " channels"] = 0.0  # what hides a part of an image
    n_steps: int = 20  # of integrated gradients: its maps correlate by 0.9999 with those of 100 in the default run
    n_samples: int = 50  # of lenses that average over draws
    others: Float[Array | np.ndarray, "m height width channels"] | None = None  # images that some lenses compare with


@shown_by_shape
class Case(NamedTuple):
    """Images with one class each, and the model to explain."""

    fun: Partial  # from images to logits
    split: tuple[Partial, Partial]  # the same in two, at a layer
    grid: Grid  # of that layer's maps
    images: Float[Array, "n height width channels"]  # as the model takes them
    target: Int[Array, " n"]
    first: int  # the first image's number: each has its own random draws
    options: Options


def random_maps(
    fun: Any, images: Array, target: Array, *, key: Key[Array, ""], numbers: Int[Array, " n"]
) -> Float[Array, "n h w"]:
    """Noise, drawn for each image by its number."""
    size = images.shape[1:3]
    return jax.vmap(lambda number: jax.random.uniform(jax.random.fold_in(key, number), size))(numbers)


def center_gaussian(fun: Any, images: Array, target: Array) -> Float[Array, "n h w"]:
    """A Gaussian at the center, with a standard deviation of a quarter of each side."""
    n, height, width, _ = images.shape
    down, across = (np.exp(-0.5 * ((np.arange(side) + 0.5) / side - 0.5) ** 2 * 16) for side in (height, width))
    return jnp.asarray(np.tile(np.outer(down, across), (n, 1, 1)), jnp.float32)


def lrp_gamma_box(fun: Any, images: Array, target: Target) -> attribution.Relevance:
    """LRP by z^B at the first layer, γ at other convolutions, ε at dense layers."""
    return attribution.lrp(fun, images, target, rules=rules.EPSILON_GAMMA_BOX)


def lrp_alpha2_beta1(fun: Any, images: Array, target: Target) -> attribution.Relevance:
    """LRP by α = 2, β = 1 at convolutions, ε at dense layers."""
    return attribution.lrp(fun, images, target, rules=rules.EPSILON_ALPHA2_BETA1)


LENSES = (
    Lens("saliency", "saliency", attribution.saliency),
    Lens("gradient_times_input", "gradient × input", attribution.gradient_times_input),
    Lens("smooth_grad", "SmoothGrad", attribution.smooth_grad),
    Lens("integrated_gradients", "integrated gradients", attribution.integrated_gradients),
    Lens("guided_backprop", "guided backprop", attribution.guided_backprop),
    Lens("deconvnet", "deconvnet", attribution.deconvolution),
    Lens("grad_cam", "Grad-CAM", attribution.grad_cam, at_cut=True),
    Lens("grad_cam_plus_plus", "Grad-CAM++", attribution.grad_cam_plus_plus, at_cut=True),
    Lens("layer_cam", "Layer-CAM", attribution.layer_cam, at_cut=True),
    Lens("score_cam", "Score-CAM", attribution.score_cam, at_cut=True),
    Lens("guided_grad_cam", "Guided Grad-CAM", attribution.guided_grad_cam, at_cut=True),
    Lens("occlusion", "occlusion", attribution.occlusion),
)
MORE = (
    Lens("lrp", "LRP", attribution.lrp),
    Lens("lrp_gamma_box", "LRP, γ and z^B", lrp_gamma_box),
    Lens("lrp_alpha2_beta1", "LRP, α2β1", lrp_alpha2_beta1),
    Lens("deep_lift", "DeepLIFT", attribution.deep_lift),
    Lens("expected_gradients", "expected gradients", attribution.expected_gradients),
    Lens("gradient_shap", "Gradient SHAP", attribution.gradient_shap),
    Lens("hires_cam", "HiResCAM", attribution.hires_cam, at_cut=True),
    Lens("xgrad_cam", "XGrad-CAM", attribution.xgrad_cam, at_cut=True),
    Lens("finer_cam", "Finer-CAM", attribution.finer_cam, at_cut=True),
    Lens("ablation_cam", "Ablation-CAM", attribution.ablation_cam, at_cut=True),
    Lens("eigen_cam", "Eigen-CAM", attribution.eigen_cam, at_cut=True),
    Lens("eigen_grad_cam", "Eigen-Grad-CAM", attribution.eigen_grad_cam, at_cut=True),
)  # compared if they are named
OTHERS = 16  # images of a split that a lens is given to compare with, spread evenly
BASELINES = (
    Lens("random", "random map", random_maps),
    Lens("center", "center Gaussian", center_gaussian),
)  # these ignore the net


def highest_maps(model: Model) -> str:
    """The layer whose maps CAMs weight where none is named: the highest of those that figures show, with positions.

    In a ViT, whose tokens have none, the patches.

    Raises:
        UserError: there is none.
    """
    shown = [model.layers[name] for name in model.feature_layers]
    for place in [*model.layers.values(), *shown][::-1]:
        if len(place.shape) == 3 and place.offset is not None:
            return place.name
    raise UserError("the model has no maps for CAMs: expected activations of [height, width, maps] with positions")


def case_of(
    model: Model,
    layer_name: str,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Int[Array | np.ndarray, " n"],
    options: Options,
    *,
    first: int = 0,
) -> Case:
    """Build the input of the lenses.

    Args:
        model: a classifier.
        layer_name: the layer whose maps the CAMs weight.
        images: as the model takes them.
        target: one class per image.
        options: what lenses get besides.
        first: the first image's number.

    Raises:
        UserError: the model has no such layer, or the layer has no spatial positions.
    """
    place = model.place(layer_name)
    if place.offset is None or place.stride is None or len(place.shape) != 3:
        raise UserError(f"layer {layer_name}: CAMs need a layer with positions, below the first dense layer")
    grid, split = Grid(place.offset, place.stride), model.split(place.name)
    return Case(model.function, split, grid, jnp.asarray(images), jnp.asarray(target), first, options)


def answer_of(lens: Lens, case: Case) -> Any:
    """All that a lens gives: maps, or a tuple with `attributions` and what else there is, such as `error`."""
    return _bound(lens, case.options, case.first)(case.split if lens.at_cut else case.fun, case.images, case.target)


def maps_in(answer: Any) -> Float[Array | np.ndarray, "n ..."]:
    """The maps in what a lens gives."""
    return getattr(answer, "attributions", answer)


def maps_by(lens: Lens, case: Case) -> Float[Array | np.ndarray, "n ..."]:
    """The maps of a lens, as it gives them."""
    return maps_in(answer_of(lens, case))


def given_to(lens: Lens, options: Options, first: int = 0) -> Callable[[Any, Array, Target], Array | np.ndarray]:
    """A lens with the options that it takes: `lens(fun, images, target)` gives maps.

    Args:
        lens: one of `LENSES`, `MORE` or `BASELINES`, or your own.
        options: for the lens.
        first: the first image's number.

    Raises:
        ValueError: the options have no images for a lens that compares with others, or as the lens raises.
    """
    bound = _bound(lens, options, first)
    return lambda fun, images, target: maps_in(bound(fun, images, target))


def _bound(lens: Lens, options: Options, first: int) -> Callable[[Any, Array, Target], Any]:
    """A lens with the options that it takes: `lens(fun, images, target)` gives all that it does."""

    def of(fun: Any, images: Array, target: Target) -> Any:
        numbers = jnp.arange(first, first + len(images), dtype=jnp.int32)
        every = {
            "key": options.key,
            "batch_size": options.batch_size,
            "fill": options.cover,
            "baseline": options.cover,
            "n_steps": options.n_steps,
            "n_samples": options.n_samples,
            "baselines": options.others,
            "numbers": numbers,
        }
        if has_others(lens) and options.others is None:
            raise ValueError(f"{lens.name} compares with other images: expected them as Options(…, others=images)")
        taken = inspect.signature(lens.of).parameters
        return lens.of(fun, images, target, **{name: value for name, value in every.items() if name in taken})

    return of


def has_others(lens: Lens) -> bool:
    """Whether a lens compares with other images."""
    return "baselines" in inspect.signature(lens.of).parameters


def heat(case: Case, attributions: Float[Array | np.ndarray, "n ..."]) -> Float[np.ndarray, "n height width"]:
    """A lens's output as one number per pixel.

    A pixel map gives the largest absolute value over channels; a map of the layer's cells goes through `placed`; a map
    [n, H, W] of the images' size stays as it is.
    """
    if np.ndim(attributions) == 4:
        attributions = per_pixel(attributions)
    size = case.images.shape[1], case.images.shape[2]
    found = np.asarray(attributions, np.float32)
    return found if found.shape[1:] == size else placed(found, case.grid, size)


def placed(cells: Float[np.ndarray, "n h w"], grid: Grid, size: Pair) -> Float[np.ndarray, "n height width"]:
    """Maps at the size of the images: each cell becomes a tent at its field's center, one stride wide to each side.

    This is bilinear between cells and falls to 0 beyond the outermost. Stretching a map over the image instead
    (`zfjax.attribution.upsample`) misplaces the cells: ZFNet has five cells on 96 px, with fields centered at 20, 36,
    … 84, and stretching puts the first at 9.1.

    Args:
        cells: one number per cell.
        grid: where the cells lie.
        size: (height, width) in pixels.
    """
    down, across = tents((cells.shape[1], cells.shape[2]), grid, size)
    return down @ np.asarray(cells) @ across.T


def tents(shape: Pair, grid: Grid, size: Pair) -> tuple[Float[np.ndarray, "height h"], Float[np.ndarray, "width w"]]:
    """What `placed` multiplies maps of (height, width) cells by, from below and from the right."""
    found = []
    for count, offset, stride, length in zip(shape, *grid, size, strict=True):
        centers = offset + stride * np.arange(count)
        found.append(np.maximum(0, 1 - np.abs(np.arange(length)[:, None] - centers[None]) / stride).astype(np.float32))
    return found[0], found[1]

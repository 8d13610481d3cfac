"""MACO: activation maximization of which only the phases are free; magnitudes are those of real pictures.

A picture whose frequencies are as strong as in photographs cannot become the fine grain that a deep net also fires for.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.ascent import LINEAR_SHARE, Units, asked_units, uphill
from zfjax.attribution.asked import Fun, at_least_one, at_least_zero, check_batch, require_key
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import floats
from zfjax.transform import functions


@shown_by_shape
class Spectrum(NamedTuple):
    """How strong each frequency is in pictures, on axes of color on which they vary independently."""

    magnitude: Float[Array, "height width channels"]
    colors: Float[Array, "channels channels"]  # each row an axis


@shown_by_shape
class Maco(NamedTuple):
    """Pictures that units respond to, and where they do."""

    pictures: Float[Array, "k height width channels"]  # as the function takes them
    transparency: Float[Array, "k height width"]  # 0..1: how much each pixel mattered on the way, of the largest


def spectrum(images: Float[Array | np.ndarray, "n height width channels"]) -> Spectrum:
    """The mean magnitude of each frequency over pictures, such as a hundred of a run's.

    Raises:
        TypeError: images are not floating-point numbers.
        ValueError: they are not [n, H, W, C].

    Paper: Fel et al. 2023, section 3.1; the colors' axes as Olah et al. 2017.
    """
    images = floats("images", images)
    check_batch(images, "images")
    if images.ndim != 4:
        raise ValueError(f"images: expected [n, H, W, C], got {list(images.shape)}")
    return _spectrum(images.astype(jnp.float32))


@jax.jit
def _spectrum(images: Float[Array, "n h w c"]) -> Spectrum:
    flat = images.reshape(-1, images.shape[-1])
    flat -= flat.mean(axis=0, keepdims=True)
    _, axes = jnp.linalg.eigh(flat.T @ flat / jnp.float32(len(flat)))
    magnitude = jnp.abs(jnp.fft.fft2(images @ axes, axes=(1, 2))).mean(axis=0)
    return Spectrum(magnitude, axes.T)


def maco(
    fun: Fun,
    units: Units,
    key: PRNGKeyArray,
    *,
    spectrum: Spectrum,
    n_steps: int = 128,
    lr: float = 0.3,
    n_crops: int = 4,
    crop: tuple[float, float] = (0.7, 1.0),
    noise: float = 0.1,
    batch_size: int = 32,
) -> Maco:
    """Find pictures that units of a layer respond to most, by gradient ascent on the phases of their waves alone.

    Each step shows the net crops of random size and place, enlarged to the whole picture, with noise; a map counts by
    the sum of its cells, so what it looks for may come up in several places. Much of a picture is there only since its
    frequencies must be: `transparency` says which pixels the unit has to do with.

    Args:
        fun: from images to activations, as in `maximize`.
        units: as in `maximize`.
        key: draws phases, crops and noise. A unit's picture depends only on the key and the unit's number.
        spectrum: of pictures as `fun` takes them, from `spectrum(images)`; the result is as large as these.
        n_steps: steps of Nadam, at the rate `lr`.
        lr: in radians.
        n_crops: crops of each picture in each step.
        crop: smallest and largest side of a crop, as a share of the picture's.
        noise: standard deviation, as a share of the picture's own.
        batch_size: units at once; the net gets `n_crops` times as many pictures.

    Raises:
        ValueError: fun gives other activations, takes other pictures or has no such units; a number is out of range.

    Paper: Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained
    Optimization".

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> variables = net.init(jax.random.key(1), jnp.zeros((1, 64, 64, 3)))
    >>> photos = jax.random.normal(jax.random.key(2), (8, 64, 64, 3))
    >>> fun = zfjax.layer(net, variables, "relu3")
    >>> found = maco(fun, [0, 5], jax.random.key(0), spectrum=spectrum(photos), n_steps=2)
    >>> found.pictures.shape, found.transparency.shape
    ((2, 64, 64, 3), (2, 64, 64))
    """
    require_key(key)
    at_least_one(n_steps=n_steps, n_crops=n_crops, batch_size=batch_size)
    at_least_zero(lr=lr, noise=noise)
    if not 0 < crop[0] <= crop[1] <= 1:
        raise ValueError(f"crop: expected the smallest and largest side as shares, above 0 and at most 1, got {crop}")
    height, width, channels = spectrum.magnitude.shape
    fun, units = asked_units(functions.live(fun), units, (height, width), channels)
    count, rows = chunks.even(len(units), batch_size)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, units)
    numbers = (jnp.asarray(value, jnp.float32) for value in (lr, *crop, noise))
    step = Partial(_Step(n_steps, rows, n_crops), fun, spectrum, units, keys, _Strengths(*numbers))
    found = chunks.walk(step, _started(keys, spectrum.magnitude), count * n_steps, rows, "MACO")
    strongest = found.moved.max(axis=(1, 2), keepdims=True)
    shares = found.moved / jnp.where(strongest > 0, strongest, jnp.ones_like(strongest))
    return Maco(_pictures(found.phases, spectrum), shares)


class _Strengths(NamedTuple):
    lr: Float[Array, ""]
    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    noise: Float[Array, ""]


class _Climbed(NamedTuple):
    """The state of each unit's picture; leaves have one row per unit."""

    phases: Float[Array, "k height half_width channels"]
    nadam: optax.OptState
    moved: Float[Array, "k height width"]  # how large the gradient of each pixel was, summed over steps


@dataclasses.dataclass(frozen=True)
class _Step:
    """One step of one chunk of units; each chunk takes all its steps before the next begins."""

    steps: int
    rows: int
    crops: int

    def __call__(
        self,
        fun: Callable,
        spectrum: Spectrum,
        units: Array,
        keys: Array,  # [k], or [k, 2] of the old kind
        by: _Strengths,
        climbed: _Climbed,
        number: Array,
    ) -> _Climbed:
        rows, step = chunks.numbers(number // jnp.int32(self.steps), self.rows), number % jnp.int32(self.steps)
        here, units, keys = chunks.taken((climbed, units, keys), rows)
        pictures, pull = jax.vjp(lambda phases: _pictures(phases, spectrum), here.phases)

        # Drawn by unit and step; the first key is the first phases'.
        keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, step + 1), self.crops))(keys)
        places = jax.vmap(jax.vmap(lambda key: _place(key, by)))(keys)
        views, back = jax.vjp(lambda pictures: _crops(pictures, *places), pictures)
        draw = jax.vmap(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), pictures.shape[1:])))
        spread = by.noise * pictures.std(axis=(1, 2, 3)).reshape(-1, 1, 1, 1, 1)
        shown = (views + spread * draw(keys)).reshape(-1, *pictures.shape[1:])
        linear = step < jnp.int32(LINEAR_SHARE * self.steps)
        climb = uphill(fun, shown, jnp.repeat(units, self.crops), linear, center=False)
        (gradient,) = back(climb.reshape(views.shape))
        (downhill,) = pull(-gradient)

        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 step count with floats
            updates, nadam = jax.vmap(optax.nadam(by.lr).update)(downhill, here.nadam)
        found = _Climbed(here.phases + updates, nadam, here.moved + jnp.abs(gradient).sum(axis=-1))
        return chunks.put(climbed, rows, found)


def _place(key: PRNGKeyArray, by: _Strengths) -> tuple[Float[Array, ""], Float[Array, " 2"]]:
    """A crop's side as a share of the picture's, and where in the room left it begins, 0..1."""
    sides, corners = jax.random.split(key)
    side = by.smallest + (by.largest - by.smallest) * jax.random.uniform(sides)
    return side, jax.random.uniform(corners, (2,))


def _crops(
    pictures: Float[Array, "k height width c"], sides: Float[Array, "k crops"], corners: Float[Array, "k crops 2"]
) -> Float[Array, "k crops height width c"]:
    """Crops enlarged to the pictures' size."""
    lengths = jnp.asarray(pictures.shape[1:3], jnp.float32)

    def one(picture: Array, side: Array, corner: Array) -> Array:
        scale = jnp.full(2, 1 / side)
        moved = -corner * (1 - side) * lengths * scale
        return jax.image.scale_and_translate(picture, picture.shape, (0, 1), scale, moved, "linear", antialias=False)

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(pictures, sides, corners)


@jax.jit
def _started(keys: Array, magnitude: Float[Array, "height width c"]) -> _Climbed:
    height, width, channels = magnitude.shape
    shape = height, width // 2 + 1, channels

    def draw(key: PRNGKeyArray) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, 0), shape, minval=-jnp.pi, maxval=jnp.pi)

    phases = jax.vmap(draw)(keys)
    return _Climbed(phases, jax.vmap(optax.nadam(0.0).init)(phases), jnp.zeros((len(phases), height, width)))


@jax.jit
def _pictures(phases: Float[Array, "k height half_width c"], spectrum: Spectrum) -> Float[Array, "k height width c"]:
    size = spectrum.magnitude.shape[:2]
    strength = spectrum.magnitude[None, :, : size[1] // 2 + 1]
    waves = jax.lax.complex(strength * jnp.cos(phases), strength * jnp.sin(phases))
    return jnp.fft.irfft2(waves, size, axes=(1, 2)) @ spectrum.colors

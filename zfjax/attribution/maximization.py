"""Activation maximization: a picture that a unit fires for, found by climbing its gradient from noise."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.asked import at_least_one
from zfjax.console.deprecation import renamed_arguments
from zfjax.ops.windows import Pair, pair
from zfjax.transform import functions
from zfjax.transform.backprojection import backproject
from zfjax.transform.rules import Down, Equation, Rules

START = 0.08  # root mean square of the first noise, as a share of how far pixels reach
LINEAR_SHARE = 0.1  # of the steps


@runtime_checkable
class Basis(Protocol):
    """What pictures are made of. Adam moves all coefficients at one rate, so the basis says what comes easily.

    Coefficients drawn from the unit Gaussian make a picture of root mean square 1.
    """

    def shape(self, size: Pair, channels: int = 3) -> tuple[int, ...]:
        """Of the coefficients of a picture of (height, width)."""
        ...

    def picture(self, coefficients: Float[Array, "..."], size: Pair) -> Float[Array, "height width channels"]:
        """The picture that they make."""
        ...


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Each pixel by itself: fine grain comes as easily as large forms (Erhan 2009, Simonyan 2013)."""

    def shape(self, size: Pair, channels: int = 3) -> tuple[int, ...]:
        """The picture's own."""
        return (*size, channels)

    def picture(self, coefficients: Float[Array, "height width c"], size: Pair) -> Float[Array, "height width c"]:
        """The coefficients themselves."""
        return coefficients


@dataclasses.dataclass(frozen=True)
class Fourier:
    """Waves, weaker by 1 / frequency as in photographs: large forms come first (Olah et al. 2017)."""

    def shape(self, size: Pair, channels: int = 3) -> tuple[int, ...]:
        """Real and imaginary parts, and the half of the frequencies that a real picture has."""
        return (2, size[0], size[1] // 2 + 1, channels)

    def picture(
        self, coefficients: Float[Array, "2 height half_width c"], size: Pair
    ) -> Float[Array, "height width c"]:
        """The inverse transform."""
        scales = jnp.asarray(_one_over_frequency(size), coefficients.dtype)
        real, imaginary = coefficients * scales[None, :, :, None]
        return jnp.fft.irfft2(jax.lax.complex(real, imaginary), size, axes=(0, 1), norm="ortho")


PIXELS = Pixels()
FOURIER = Fourier()


@renamed_arguments(steps="n_steps")
def maximize(
    fun: Callable[[Float[Array, "n height width channels"]], Float[Array, "n *grid units"]],
    units: int | np.integer | Sequence[int] | Int[Array | np.ndarray, " k"],
    key: PRNGKeyArray,
    *,
    size: int | Pair,
    channels: int = 3,
    basis: Basis = FOURIER,
    n_steps: int = 150,
    lr: float = 0.03,
    l2: float = 0.6,
    tv: float = 0.3,
    jitter: int = 8,
    reach: float = 127.5,
    batch_size: int = 32,
) -> Float[Array, "k height width channels"]:
    """What some units of a layer fire for most: Adam climbs from noise, for all units at once.

    Each step goes along ∇a / rms(∇a) − `l2` · x − `tv` · ∇TV(x), where a is the unit's activation, ∇a its gradient by
    the picture x in −1..1, and TV the sum of |differences| of neighboring pixels. So `l2` and `tv` mean the same in
    every layer, however large its activations are. Of a map, a is the center cell: the picture fills what it sees.

    On noise most rectified units are silent, and a silent one has no gradient. So for the first tenth of the steps
    ReLUs let the signal down as if they were not there, much as in Lucid.

    Args:
        fun: from images to activations, [n, units] or [n, h, w, units], such as `zfjax.layer(net, variables, "relu5")`
            or, for classes, "fc8".
        units: which, one or [k].
        key: draws noise and jitter. A unit's picture depends on this and its number, not on the units beside it.
        size: pixels of the pictures, one number or (height, width).
        channels: of the pictures that `fun` takes; 1 for a net of gray pictures.
        basis: `FOURIER` or `PIXELS`.
        n_steps: of Adam.
        lr: how far a step goes, as a share of `reach`.
        l2: pulls pixels to 0, the mean.
        tv: smooths.
        jitter: pixels by which each step may shift the picture, round its edges.
        reach: pixels stay within ±reach, by reach · tanh(x); 127.5 where images are gray levels minus the mean.
        batch_size: units at once.

    Returns:
        Pictures as `fun` takes them, [k, H, W, channels]: add the mean to see them.

    Raises:
        ValueError: fun gives no activations [n, units] or [n, h, w, units], takes pictures of other channels, there are
            no such units, or a number is out of range.

    Paper: Erhan et al. 2009, "Visualizing Higher-Layer Features of a Deep Network"; Simonyan et al. 2013, section 2;
    the basis, jitter and their names Olah et al. 2017, "Feature Visualization".

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> variables = net.init(jax.random.key(1), jnp.zeros((1, 64, 64, 3)))
    >>> maximize(zfjax.layer(net, variables, "relu3"), [0, 5], jax.random.key(0), size=64, n_steps=2).shape
    (2, 64, 64, 3)
    """
    at_least_one(n_steps=n_steps, batch_size=batch_size, channels=channels)
    for name, value in {"lr": lr, "l2": l2, "tv": tv, "jitter": jitter, "reach": reach}.items():
        if value < 0:
            raise ValueError(f"{name}: expected 0 or more, got {value}")
    size = pair("size", size)
    fun, picture = functions.live(fun), functions.live(basis.picture, name="basis.picture")
    units = _checked_units(units, _activations(fun, size, channels))

    count, rows = chunks.even(len(units), batch_size)
    strengths = _Strengths(*(jnp.asarray(value, jnp.float32) for value in (lr, l2, tv, reach)))
    keys = jax.vmap(lambda unit: jax.random.fold_in(key, unit))(units)
    step = Partial(_Ascent(size, n_steps, rows, jitter), fun, picture, units, keys, strengths)
    started = _started(keys, shape=basis.shape(size, channels))
    climbed = chunks.walk(step, started, count * n_steps, rows, "Maximization")
    return _pictures(picture, climbed.coefficients, strengths.reach, size=size)


class _Strengths(NamedTuple):
    lr: Float[Array, ""]
    l2: Float[Array, ""]
    tv: Float[Array, ""]
    reach: Float[Array, ""]


class _Climbed(NamedTuple):
    """How far each unit's picture has come; leaves have one row a unit."""

    coefficients: Float[Array, "k ..."]
    adam: optax.OptState


@dataclasses.dataclass(frozen=True)
class _Ascent:
    """One step of one chunk of units; a chunk has all its steps in turn, then the next."""

    size: Pair
    steps: int
    rows: int
    jitter: int

    def __call__(
        self,
        fun: Callable,
        picture: Callable,
        units: Array,
        keys: Array,  # [k], or [k, 2] of the old kind
        by: _Strengths,
        climbed: _Climbed,
        number: Array,
    ) -> _Climbed:
        rows, step = chunks.numbers(number // jnp.int32(self.steps), self.rows), number % jnp.int32(self.steps)
        here, units, keys = jax.tree.map(lambda part: part.at[rows].get(mode="clip"), (climbed, units, keys))
        pictures, pull = jax.vjp(lambda rows: jnp.tanh(_unbounded(picture, rows, self.size)), here.coefficients)

        # Drawn by unit and step; the first key is the noise's.
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step + 1)
        span = (-self.jitter, self.jitter + 1)
        shifts = jax.vmap(lambda key: jax.random.randint(key, (2,), *span))(keys)
        linear = step < jnp.int32(LINEAR_SHARE * self.steps)
        uphill = _rolled(_uphill(fun, by.reach * _rolled(pictures, shifts), units, linear), -shifts)
        (downhill,) = pull(by.l2 * pictures + by.tv * _variation_gradient(pictures) - uphill)

        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 step count with floats
            updates, adam = jax.vmap(optax.adam(by.lr).update)(downhill, here.adam)
        found = _Climbed(here.coefficients + updates, adam)
        return jax.tree.map(lambda whole, part: whole.at[rows].set(part, mode="drop"), climbed, found)


def _unbounded(picture: Callable, coefficients: Float[Array, "k ..."], size: Pair) -> Float[Array, "k height width c"]:
    return jax.vmap(lambda row: picture(row, size))(coefficients)


def _uphill(fun: Callable, images: Array, units: Array, linear: Array) -> Array:
    """The gradient of each image's unit, of root mean square 1; with `linear`, as if there were no ReLUs."""

    def relu(equation: Equation, x: Array | np.ndarray) -> Down:
        passed = (x > 0) | linear
        return lambda signal: jnp.where(passed, signal, jnp.zeros_like(signal))

    activations, project = backproject(fun, images, Rules((("relu", relu),)))
    center = tuple(length // 2 for length in activations.shape[1:-1])
    ones = jnp.ones(len(units), activations.dtype)
    seed = jnp.zeros_like(activations).at[jnp.arange(len(units)), *center, units].set(ones)
    gradient = project(seed)
    size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
    return gradient / jnp.where(size > 0, size, jnp.ones_like(size))


def _rolled(images: Array, shifts: Int[Array, "k 2"]) -> Array:
    return jax.vmap(lambda image, shift: jnp.roll(image, shift, (0, 1)))(images, shifts)


def _variation_gradient(images: Array) -> Array:
    """Of the sum of |differences| of neighboring pixels."""

    def variation(images: Array) -> Array:
        return sum((jnp.abs(jnp.diff(images, axis=axis)).sum() for axis in (1, 2)), jnp.zeros((), images.dtype))

    return jax.grad(variation)(images)


@functools.partial(jax.jit, static_argnames="shape")
def _started(keys: Array, *, shape: tuple[int, ...]) -> _Climbed:
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape))
    noise = jnp.float32(START) * draw(keys)
    return _Climbed(noise, jax.vmap(optax.adam(0.0).init)(noise))


@functions.jit
def _pictures(picture: Callable, coefficients: Array, reach: Array, *, size: Pair) -> Array:
    return reach * jnp.tanh(_unbounded(picture, coefficients, size))


def _one_over_frequency(size: Pair) -> Float[np.ndarray, "height half_width"]:
    """Such that real and imaginary parts of variance 1 make a picture of variance 1, alike in all directions."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    scales = 1 / np.maximum(frequency, 1 / max(size))
    half = scales[:, : width // 2 + 1] / np.sqrt(2 * np.mean(scales**2))
    # Columns that are their own mirror images stand once in the spectrum, and half of what they hold is lost.
    half[:, [0, width // 2] if width % 2 == 0 else [0]] *= np.sqrt(2)
    return half


def _activations(fun: Callable, size: Pair, channels: int) -> jax.ShapeDtypeStruct:
    """The shape of what `fun` gives for one picture."""

    def of(channels: int) -> Any:
        return functions.output_of(fun, jax.ShapeDtypeStruct((1, *size, channels), jnp.float32))

    try:
        activations = of(channels)
    except Exception as error:  # of any library
        for other in (1, 3, 4):
            if other != channels and _works(of, other):
                raise ValueError(
                    f"channels: fun takes pictures of {other}, not of {channels}; say channels={other}"
                ) from error
        raise
    shape = getattr(activations, "shape", None)
    if shape is None or len(shape) not in (2, 4) or shape[0] != 1:
        got = type(activations).__name__ if shape is None else f"{list(shape)} of one image"
        raise ValueError(f"fun: expected activations [n, units] or [n, h, w, units], got {got}")
    return activations


def _works(function: Callable, *args: Any) -> bool:
    try:
        function(*args)
    except Exception:
        return False
    return True


def _checked_units(
    units: int | np.integer | Sequence[int] | Array | np.ndarray, activations: jax.ShapeDtypeStruct
) -> Int[Array, " k"]:
    shape = activations.shape
    found = units if isinstance(units, jax.Array) else np.asarray(units)
    if not jnp.issubdtype(found.dtype, jnp.integer) or found.ndim > 1 or not found.size:
        raise ValueError(f"units: expected numbers of units, one or [k], got {found.dtype}{list(found.shape)}")
    if not isinstance(found, jax.core.Tracer):
        wrong = [int(number) for number in np.atleast_1d(found) if not 0 <= number < shape[-1]]
        if wrong:
            raise ValueError(f"units: expected some of the {shape[-1]} units, 0 to {shape[-1] - 1}; got {wrong[0]}")
    return jnp.atleast_1d(jnp.asarray(found, jnp.int32))

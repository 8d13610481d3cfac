"""Activation maximization: a picture that a unit responds to, found by gradient ascent from noise."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.ascent import LINEAR_SHARE, Units, asked_units, uphill
from zfjax.attribution.asked import Fun, at_least_one, at_least_zero, require_key
from zfjax.attribution.bases import FOURIER, Basis
from zfjax.console.deprecation import renamed_arguments
from zfjax.ops.windows import Pair, pair
from zfjax.transform import functions

START = 0.08  # root mean square of the initial noise, as a share of `reach`


@renamed_arguments(steps="n_steps")
def maximize(
    fun: Fun,
    units: Units,
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
    """Find pictures that units of a layer respond to most, by gradient ascent from noise.

    Args:
        fun: from images to activations, [n, units] or [n, h, w, units], such as `model.layer("relu5")`.
        units: their numbers, one or [k]; or any function from what `fun` returns to one number per image, for which
            there is one picture.
        key: draws noise and jitter. A unit's picture depends only on the key and the unit's number.
        size: height and width of the pictures in pixels, one number or a pair.
        channels: of the pictures; 1 for a net of gray images.
        basis: `FOURIER` or `PIXELS`.
        n_steps: steps of Adam, at the rate `lr`.
        lr: a share of `reach`.
        l2: pulls pixels toward 0, the mean; as strongly in every layer, since gradients are scaled.
        tv: smooths, likewise.
        jitter: largest shift of the picture in each step, in pixels, wrapping around.
        reach: pixels stay within ±reach, by reach · tanh(x); 127.5 suits gray levels minus the mean.
        batch_size: units at once.

    Returns:
        Pictures as `fun` takes them, [k, H, W, channels]; add the mean to view them.

    Raises:
        ValueError: fun gives other activations, takes other channels or has no such units; a number is out of range.

    Paper: Erhan et al. 2009; Simonyan et al. 2013, section 2; the basis and jitter: Olah et al. 2017.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> variables = net.init(jax.random.key(1), jnp.zeros((1, 64, 64, 3)))
    >>> maximize(zfjax.layer(net, variables, "relu3"), [0, 5], jax.random.key(0), size=64, n_steps=2).shape
    (2, 64, 64, 3)
    """
    require_key(key)
    at_least_one(n_steps=n_steps, batch_size=batch_size, channels=channels)
    at_least_zero(lr=lr, l2=l2, tv=tv, jitter=jitter, reach=reach)
    size = pair("size", size)
    picture = functions.live(basis.picture, name="basis.picture")
    fun, units = asked_units(functions.live(fun), units, size, channels)
    count, rows = chunks.even(len(units), batch_size)
    strengths = _Strengths(*(jnp.asarray(value, jnp.float32) for value in (lr, l2, tv, reach)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, units)
    step = Partial(_Ascent(size, n_steps, rows, jitter), fun, picture, units, keys, strengths)
    begun = _started(keys, shape=basis.shape(size, channels))
    found = chunks.walk(step, begun, count * n_steps, rows, "Maximization").coefficients
    return _pictures(picture, found, strengths.reach, size=size)


class _Strengths(NamedTuple):
    lr: Float[Array, ""]
    l2: Float[Array, ""]
    tv: Float[Array, ""]
    reach: Float[Array, ""]


class _Climbed(NamedTuple):
    """The state of each unit's picture; leaves have one row per unit."""

    coefficients: Float[Array, "k ..."]
    adam: optax.OptState


@dataclasses.dataclass(frozen=True)
class _Ascent:
    """One step of one chunk of units; each chunk takes all its steps before the next begins.

    It goes along ∇a / rms(∇a) − `l2` · x − `tv` · ∇TV(x), where a is the unit's activation (a map's center cell), ∇a
    its gradient with respect to the picture x in −1..1, and TV the sum of |differences| of neighboring pixels.
    """

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
        here, units, keys = chunks.taken((climbed, units, keys), rows)
        pictures, pull = jax.vjp(lambda rows: jnp.tanh(_unbounded(picture, rows, self.size)), here.coefficients)

        # Drawn by unit and step; the first key is the noise's.
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step + 1)
        span = (-self.jitter, self.jitter + 1)
        shifts = jax.vmap(lambda key: jax.random.randint(key, (2,), *span))(keys)
        linear = step < jnp.int32(LINEAR_SHARE * self.steps)
        climb = _rolled(uphill(fun, by.reach * _rolled(pictures, shifts), units, linear, center=True), -shifts)
        (downhill,) = pull(by.l2 * pictures + by.tv * _variation_gradient(pictures) - climb)

        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 step count with floats
            updates, adam = jax.vmap(optax.adam(by.lr).update)(downhill, here.adam)
        found = _Climbed(here.coefficients + updates, adam)
        return chunks.put(climbed, rows, found)


def _unbounded(picture: Callable, coefficients: Float[Array, "k ..."], size: Pair) -> Float[Array, "k height width c"]:
    return jax.vmap(lambda row: picture(row, size))(coefficients)


def _rolled(images: Array, shifts: Int[Array, "k 2"]) -> Array:
    return jax.vmap(lambda image, shift: jnp.roll(image, shift, (0, 1)))(images, shifts)


def _variation_gradient(images: Array) -> Array:
    """The gradient of the sum of |differences| of neighboring pixels."""

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

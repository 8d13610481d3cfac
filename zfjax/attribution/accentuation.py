"""Feature accentuation: an image changed such that a unit responds more, and a lower layer sees little difference."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.ascent import asked_units, uphill
from zfjax.attribution.asked import Fun, Target, at_least_one, at_least_zero, check_batch, require_key
from zfjax.attribution.bases import FOURIER
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import floats
from zfjax.transform import functions


@shown_by_shape
class Accentuated(NamedTuple):
    """Images in which a unit responds more, and where they were changed for it."""

    images: Float[Array, "n height width channels"]
    transparency: Float[Array, "n height width"]  # 0..1: how far each pixel moved, of the farthest


def accentuate(
    fun: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    units: Target,
    lower: Fun,
    key: PRNGKeyArray,
    *,
    keep: float = 1.0,
    n_steps: int = 100,
    lr: float = 0.01,
    jitter: int = 4,
    reach: float = 127.5,
) -> Accentuated:
    """Change images by gradient ascent from themselves, so that what a unit fires for in them shows.

    The change is made of waves, weaker by 1 / frequency. Each step goes along ∇a / rms(∇a) − `keep` · ∇d / rms(∇d) ·
    d, where a is the unit's activation (the sum of a map's cells) and d the distance of the images in the lower layer,
    as a share of the norm there. So d cannot grow much beyond 1 / `keep`.

    Args:
        fun: from images to activations, as in `maximize`.
        images: as `fun` takes them.
        units: one for all images or one for each; or a function, as in `maximize`.
        lower: from images to the activations of a lower layer, such as `model.layer("relu2")`, in which images that
            look alike are close.
        key: draws the shifts.
        keep: how strongly the distance there is held small.
        n_steps: steps of Adam, at the rate `lr`.
        lr: a share of `reach`.
        jitter: largest shift of the images in each step, in pixels, wrapping around.
        reach: pixels move by at most ±reach, by reach · tanh(x).

    Raises:
        TypeError: images are not floating-point numbers.
        ValueError: fun gives other activations or has no such units, not one unit for each image, or a number is out of
            range.

    Paper: Hamblin et al. 2024, "Feature Accentuation: Revealing 'What' Features Respond to in Natural Images".

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    >>> variables = net.init(jax.random.key(1), images)
    >>> fun, lower = (zfjax.layer(net, variables, name) for name in ("relu3", "relu1"))
    >>> accentuate(fun, images, [0, 5], lower, jax.random.key(2), n_steps=2).images.shape
    (2, 64, 64, 3)
    """
    require_key(key)
    at_least_one(n_steps=n_steps)
    at_least_zero(keep=keep, lr=lr, jitter=jitter, reach=reach)
    images = floats("images", images)
    check_batch(images, "images")
    if images.ndim != 4:
        raise ValueError(f"images: expected [n, H, W, C], got {list(images.shape)}")
    n, height, width, channels = images.shape
    asked, numbers = asked_units(functions.live(fun), units, (height, width), channels)
    if len(numbers) not in (1, n):
        raise ValueError(f"units: expected one, or one for each of the {n} images, got {len(numbers)}")
    numbers = jnp.broadcast_to(numbers, (n,))
    strengths = _Strengths(*(jnp.asarray(value, jnp.float32) for value in (keep, lr, reach)))
    below = functions.live(lower, name="lower")
    step = Partial(_Step(jitter), asked, below, images, numbers, key, strengths)
    start = jnp.zeros((n, *FOURIER.shape((height, width), channels)), jnp.float32)
    begun = _Moved(start, jax.vmap(optax.adam(0.0).init)(start))
    found = chunks.walk(step, begun, n_steps, n, "Accentuation")
    change = _change(found.coefficients, images, strengths.reach)
    far = jnp.abs(change).sum(axis=-1)
    most = far.max(axis=(1, 2), keepdims=True)
    return Accentuated(images + change, far / jnp.where(most > 0, most, jnp.ones_like(most)))


class _Strengths(NamedTuple):
    keep: Float[Array, ""]
    lr: Float[Array, ""]
    reach: Float[Array, ""]


class _Moved(NamedTuple):
    coefficients: Float[Array, "n ..."]
    adam: optax.OptState


@dataclasses.dataclass(frozen=True)
class _Step:
    """One step of all images."""

    jitter: int

    def __call__(
        self,
        fun: Callable,
        lower: Callable,
        images: Array,
        units: Array,
        key: PRNGKeyArray,
        by: _Strengths,
        moved: _Moved,
        number: Int[Array, ""],
    ) -> _Moved:
        change, pull = jax.vjp(lambda found: _change(found, images, by.reach), moved.coefficients)
        shift = jax.random.randint(jax.random.fold_in(key, number), (2,), -self.jitter, self.jitter + 1)
        here, there = (jnp.roll(some, shift, (1, 2)) for some in (images, images + change))
        climb = uphill(fun, there, units, jnp.asarray(False), center=False)
        far, back = jax.vjp(lambda now: _distance(lower, here, now), there)
        (away,) = back(jnp.ones_like(far))
        size = jnp.sqrt(jnp.mean(away**2, axis=(1, 2, 3), keepdims=True))
        held = by.keep * far.reshape(-1, 1, 1, 1) * away / jnp.where(size > 0, size, jnp.ones_like(size))
        (downhill,) = pull(jnp.roll(held - climb, -shift, (1, 2)))
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies its int32 step count with floats
            updates, adam = jax.vmap(optax.adam(by.lr).update)(downhill, moved.adam)
        return _Moved(moved.coefficients + updates, adam)


def _change(coefficients: Float[Array, "n ..."], images: Array, reach: Float[Array, ""]) -> Array:
    size = images.shape[1], images.shape[2]
    return reach * jnp.tanh(jax.vmap(lambda row: FOURIER.picture(row, size))(coefficients))


def _distance(lower: Callable, images: Array, others: Array) -> Float[Array, " n"]:
    """How far others are from images in a lower layer, as a share of the norm there; 0 has a gradient of 0."""

    def squares(found: Any) -> Array:
        return sum((jnp.square(leaf.astype(jnp.float32)).reshape(len(images), -1).sum(axis=1) for leaf in found), zero)

    zero = jnp.zeros(len(images), jnp.float32)
    before, after = (jax.tree.leaves(lower(some)) for some in (images, others))
    apart = squares([one - other for one, other in zip(after, before, strict=True)])
    whole = squares(before)
    return jnp.sqrt(apart / jnp.where(whole > 0, whole, jnp.ones_like(whole)) + 1e-12)

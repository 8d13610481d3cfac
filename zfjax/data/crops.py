"""What happens to a batch on the device: mean subtraction, the paper's crops (§2) or random ones, flips.

All functions take images [n, height, width, channels] of any dtype and keep the dtype. They work under `jit` and with
the batch sharded over devices; each example's random draw depends on its position in the whole batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Key, Shaped, UInt8


def subtract_mean(
    images: UInt8[Array, "n height width c"], mean: Float32[Array, "height width c"]
) -> Float32[Array, "n height width c"]:
    """Subtract the training set's mean from images in 0..255, pixel by pixel; crop afterward."""
    return images.astype(jnp.float32) - mean[None]


def ten_crops(images: Shaped[Array | np.ndarray, "n height width c"], size: int) -> Shaped[Array, "10 n size size c"]:
    """The 10 sub-crops: top left, top right, bottom left, bottom right, center; then the same five flipped."""
    corners = [images[:, top : top + size, left : left + size] for top, left in _offsets(images.shape, size)]
    upright = jnp.stack(corners)
    return jnp.concatenate([upright, upright[:, :, :, ::-1]])


def center_crop(images: Shaped[Array | np.ndarray, "n height width c"], size: int) -> Shaped[Array, "n size size c"]:
    """The center of each picture."""
    top, left = _offsets(images.shape, size)[4]
    return jnp.asarray(images)[:, top : top + size, left : left + size]


def crops_of(
    images: Shaped[Array | np.ndarray, "n height width c"], size: int, ten: bool
) -> Shaped[Array, "crops n size size c"]:
    """The `ten_crops`, or the `center_crop` as the only one."""
    return ten_crops(images, size) if ten else center_crop(images, size)[None]


def fixed_crop(
    key: Key[Array, ""], images: Shaped[Array | np.ndarray, "n height width c"], size: int
) -> Shaped[Array, "n size size c"]:
    """One of `ten_crops` for each picture, drawn uniformly."""
    which = jax.random.randint(key, images.shape[:1], 0, 10)
    offsets = jnp.array(_offsets(images.shape, size), jnp.int32)[which % 5]
    return _flip(_crop(images, offsets, size), which >= 5)


def random_crop(
    key: Key[Array, ""], images: Shaped[Array | np.ndarray, "n height width c"], size: int
) -> Shaped[Array, "n size size c"]:
    """A crop from anywhere in each picture, flipped with probability 1/2."""
    n, height, width, _ = images.shape
    _offsets(images.shape, size)
    key_place, key_flip = jax.random.split(key)
    largest = jnp.array([height - size, width - size], jnp.int32)
    offsets = jax.random.randint(key_place, (n, 2), 0, largest[None] + 1)
    return _flip(_crop(images, offsets, size), jax.random.bernoulli(key_flip, shape=(n,)))


def _offsets(shape: tuple[int, ...], size: int) -> tuple[tuple[int, int], ...]:
    down, right = shape[1] - size, shape[2] - size
    if size < 1 or down < 0 or right < 0:
        raise ValueError(f"a crop of {size} px does not fit into images of {shape[1]}x{shape[2]}")
    return (0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)


def _crop(
    images: Shaped[Array | np.ndarray, "n height width c"], offsets: Int32[Array, "n 2"], size: int
) -> Shaped[Array, "n size size c"]:
    channels = images.shape[-1]

    def one(image: Array | np.ndarray, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (size, size, channels))

    return jax.vmap(one)(images, offsets)


def _flip(images: Shaped[Array | np.ndarray, "n h w c"], flipped: Shaped[Array, "n"]) -> Shaped[Array, "n h w c"]:
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)

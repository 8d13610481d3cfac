"""The colors of pixels by name, as one would call them."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

NAMES = ("black", "gray", "white", "red", "orange", "brown", "yellow", "green", "blue", "purple", "pink")
_DARK, _BRIGHT, _PALE = 48, 200, 1 / 6  # of 255; of 255; saturation
_HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (260, "blue"), (320, "purple"), (345, "pink"))


def color_numbers(pictures: UInt8[Array | np.ndarray, "*pixels 3"]) -> UInt8[Array, "*pixels"]:
    """The number of each pixel's color in `NAMES`, from 1.

    These are the eleven basic color terms of English (Berlin & Kay 1969), told apart by hue, saturation and value:
    brown is dark orange, pink pale red or purple.

    Args:
        pictures: RGB.

    >>> [NAMES[number - 1] for number in color_numbers(np.array([[200, 20, 30], [90, 50, 20], [0, 0, 0]], np.uint8))]
    ['red', 'brown', 'black']
    """
    rgb = jnp.asarray(pictures).astype(jnp.float32)
    red, green, blue = (rgb[..., channel] for channel in range(3))
    most, least = rgb.max(-1), rgb.min(-1)
    chroma = most - least
    safe = jnp.maximum(chroma, jnp.float32(1))
    turn = jnp.where(
        most == red,
        (green - blue) / safe,
        jnp.where(most == green, (blue - red) / safe + jnp.float32(2), (red - green) / safe + jnp.float32(4)),
    )
    hue = (turn * jnp.float32(60)) % jnp.float32(360)
    number = jnp.full(most.shape, _number("red"))  # above the last of the hues
    for end, name in reversed(_HUES):
        number = jnp.where(hue < jnp.float32(end), _number(name), number)
    is_pale = (chroma < most * jnp.float32(0.5)) & (most >= jnp.float32(_BRIGHT))
    number = jnp.where(is_pale & ((number == _number("red")) | (number == _number("purple"))), _number("pink"), number)
    number = jnp.where((number == _number("orange")) & (most < jnp.float32(160)), _number("brown"), number)
    plain = jnp.where(most >= jnp.float32(_BRIGHT), _number("white"), _number("gray"))
    number = jnp.where(chroma < most * jnp.float32(_PALE), plain, number)
    return jnp.where(most < jnp.float32(_DARK), _number("black"), number)


def _number(name: str) -> Array:
    return jnp.uint8(NAMES.index(name) + 1)

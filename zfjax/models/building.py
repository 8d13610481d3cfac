"""What the presets share: scaled numbers of maps, and a check that all windows fit the images."""

import reprlib

import numpy as np

from zfjax.console.errors import UserError
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import ImageTooSmall, Layer, Size


def scaled(features: int, width: float) -> int:
    """A number of maps or units at `width`. Raises a UserError if that is not positive, or absurdly large."""
    if not isinstance(width, int | float | np.number) or not 0 < width <= 1000:
        shown = f"{width:g}" if isinstance(width, int | float) else reprlib.repr(width)
        raise UserError(f"width={shown} must be positive and at most 1000")
    return max(1, round(features * width))


def fitted(layers: tuple[Layer, ...], image_size: int) -> ConvNet:
    """The net of these layers. Raises a UserError naming the layer whose window does not fit, or a wrong number."""
    classes = getattr(layers[-1], "features", None)
    if not isinstance(classes, int | np.integer) or not 1 <= classes < 2**31:
        raise UserError(f"num_classes={reprlib.repr(classes)} must be a whole number of at least 1")
    if not isinstance(image_size, int | np.integer):
        raise UserError(f"image_size={reprlib.repr(image_size)} must be a whole number of pixels")
    if not 1 <= image_size < 2**16:
        raise UserError(f"image_size={image_size} must be positive and below {2**16}")
    size = Size(image_size, image_size, 3)
    for layer in layers:
        try:
            size = layer.output(size)
        except ImageTooSmall as error:
            raise UserError(f"image_size={image_size} is too small for this net: {error}") from error
    return ConvNet(layers, image_size)

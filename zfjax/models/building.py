"""What the presets share: scaled numbers of maps, and a check that all windows fit the images."""

from zfjax.console.errors import UserError
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import ImageTooSmall, Layer, Size


def scaled(features: int, width: float) -> int:
    """A number of maps or units at `width`. Raises a UserError if that is not positive, or absurdly large."""
    if not 0 < width <= 1000:
        raise UserError(f"width={width:g} must be positive and at most 1000")
    return max(1, round(features * width))


def fitted(layers: tuple[Layer, ...], image_size: int) -> ConvNet:
    """The net of these layers. Raises a UserError naming the layer whose window does not fit."""
    if not 1 <= image_size < 2**16:
        raise UserError(f"image_size={image_size} must be positive and below {2**16}")
    size = Size(image_size, image_size, 3)
    for layer in layers:
        try:
            size = layer.output(size)
        except ImageTooSmall as error:
            raise UserError(f"image_size={image_size} is too small for this net: {error}") from error
    return ConvNet(layers, image_size)

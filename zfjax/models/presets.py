"""The nets of the paper and of the blog post, as layer tuples."""

from zfjax.errors import UserError
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import (
    LRN,
    Conv,
    Dense,
    Dropout,
    ImageTooSmall,
    Layer,
    MaxPool,
    ReLU,
    Size,
    output_size,
    same,
)


def zfnet(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The paper's net (Fig. 3): 7×7 filters of stride 2 below, contrast norm after pool1 and pool2.

    Pools hang over the bottom and right edge (Caffe's ceil mode), which is what 110 -> 55 and 26 -> 13 need.
    62.36 M parameters at 1000 classes.

    Args:
      num_classes: units of fc8.
      width: scales the maps of conv1-conv5 and the units of fc6 and fc7.
      image_size: height and width in pixels of the images.

    Raises:
      UserError: the windows of a layer do not fit; the layer is named.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2), ceil=True)

    layers = (
        Conv("conv1", _scaled(96, width), (7, 7), (2, 2), same(1)),
        ReLU("relu1"),
        pool("pool1"),
        LRN("norm1"),
        Conv("conv2", _scaled(256, width), (5, 5), (2, 2)),
        ReLU("relu2"),
        pool("pool2"),
        LRN("norm2"),
        *_conv3_to_conv5(width),
        pool("pool5"),
        *_classifier(num_classes, width),
    )
    return _checked(layers, image_size)


def zfnet_post(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The blog post's class: no contrast norm, pools padded by 1, dropout before fc6 and before fc7.

    The post prints conv5 as 5×5 with padding 1. That gives 13 -> 11 -> 5, so 6,400 features, and the class's own
    `view(-1, 256 * 6 * 6)` fails at 224 px. With 3×3, as here and in Fig. 3, it is 13 -> 6 and 9,216.

    Args and errors as in `zfnet`.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2), same(1))

    layers = (
        Conv("conv1", _scaled(96, width), (7, 7), (2, 2), same(1)),
        ReLU("relu1"),
        pool("pool1"),
        Conv("conv2", _scaled(256, width), (5, 5), (2, 2)),
        ReLU("relu2"),
        pool("pool2"),
        *_conv3_to_conv5(width),
        MaxPool("pool5", (3, 3), (2, 2)),
        Dropout("drop5"),
        Dense("fc6", _scaled(4096, width)),
        ReLU("relu6"),
        Dropout("drop6"),
        Dense("fc7", _scaled(4096, width)),
        ReLU("relu7"),
        Dense("fc8", num_classes),
    )
    return _checked(layers, image_size)


def alexnet(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The paper's replication of Krizhevsky et al. (2012): 11×11 filters of stride 4 below, dense connections.

    Contrast norm stands before pool1 and pool2, as in Krizhevsky's paper; conv1 is padded by 2 (224 -> 55).

    Args and errors as in `zfnet`.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2))

    layers = (
        Conv("conv1", _scaled(96, width), (11, 11), (4, 4), same(2)),
        ReLU("relu1"),
        LRN("norm1"),
        pool("pool1"),
        Conv("conv2", _scaled(256, width), (5, 5), padding=same(2)),
        ReLU("relu2"),
        LRN("norm2"),
        pool("pool2"),
        *_conv3_to_conv5(width),
        pool("pool5"),
        *_classifier(num_classes, width),
    )
    return _checked(layers, image_size)


PRESETS = {"zfnet": zfnet, "zfnet_post": zfnet_post, "alexnet": alexnet}


def preset(name: str, num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The net called `name`; arguments as in `zfnet`. Raises a UserError where there is none, or it does not fit."""
    if name not in PRESETS:
        raise UserError(f"unknown net {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name](num_classes, width=width, image_size=image_size)


def _conv3_to_conv5(width: float) -> tuple[Layer, ...]:
    return (
        Conv("conv3", _scaled(384, width), (3, 3), padding=same(1)),
        ReLU("relu3"),
        Conv("conv4", _scaled(384, width), (3, 3), padding=same(1)),
        ReLU("relu4"),
        Conv("conv5", _scaled(256, width), (3, 3), padding=same(1)),
        ReLU("relu5"),
    )


def _classifier(num_classes: int, width: float) -> tuple[Layer, ...]:
    return (
        Dense("fc6", _scaled(4096, width)),
        ReLU("relu6"),
        Dropout("drop6"),
        Dense("fc7", _scaled(4096, width)),
        ReLU("relu7"),
        Dropout("drop7"),
        Dense("fc8", num_classes),
    )


def _scaled(features: int, width: float) -> int:
    if width <= 0:
        raise UserError(f"width={width:g} must be positive")
    return max(1, round(features * width))


def _checked(layers: tuple[Layer, ...], image_size: int) -> ConvNet:
    if image_size < 1:
        raise UserError(f"image_size={image_size} must be positive")
    size = Size(image_size, image_size, 3)
    for layer in layers:
        try:
            size = output_size(layer, size)
        except ImageTooSmall as error:
            raise UserError(f"image_size={image_size} is too small for this net: {error}") from error
    return ConvNet(layers, image_size)

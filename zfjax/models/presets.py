"""The nets of the paper and the blog post, and others with published weights, as layer tuples."""

from zfjax.console.errors import UserError
from zfjax.models.building import fitted, scaled
from zfjax.models.convnet import ConvNet
from zfjax.models.resnets import resnet18, resnet34, resnet50
from zfjax.models.specs import LRN, Conv, Dense, Dropout, Layer, MaxPool, ReLU, same


def zfnet(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The paper's net (Fig. 3): 7×7 filters of stride 2 below, contrast norm after pool1 and pool2.

    Pools extend beyond the bottom and right edges (Caffe's ceil mode), as 110 -> 55 and 26 -> 13 require.
    62.36 M parameters at 1000 classes.

    Args:
        num_classes: units of fc8.
        width: scales the maps of conv1-conv5 and the units of fc6 and fc7.
        image_size: height and width in pixels of the images.

    Raises:
        UserError: a layer's window does not fit; the layer is named.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2), ceil=True)

    layers = (
        Conv("conv1", scaled(96, width), (7, 7), (2, 2), same(1)),
        ReLU("relu1"),
        pool("pool1"),
        LRN("norm1"),
        Conv("conv2", scaled(256, width), (5, 5), (2, 2)),
        ReLU("relu2"),
        pool("pool2"),
        LRN("norm2"),
        *_conv3_to_conv5(width),
        pool("pool5"),
        *_classifier(num_classes, width),
    )
    return fitted(layers, image_size)


def zfnet_post(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The blog post's class: no contrast norm, pools padded by 1, dropout before fc6 and before fc7.

    The post prints conv5 as 5×5 with padding 1. That gives 13 -> 11 -> 5, so 6,400 features, and the class's own
    `view(-1, 256 * 6 * 6)` fails at 224 px. With 3×3, as here and in Fig. 3, it is 13 -> 6 and 9,216.

    Args and errors as in `zfnet`.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2), same(1))

    layers = (
        Conv("conv1", scaled(96, width), (7, 7), (2, 2), same(1)),
        ReLU("relu1"),
        pool("pool1"),
        Conv("conv2", scaled(256, width), (5, 5), (2, 2)),
        ReLU("relu2"),
        pool("pool2"),
        *_conv3_to_conv5(width),
        MaxPool("pool5", (3, 3), (2, 2)),
        *_classifier_after_dropout(num_classes, width),
    )
    return fitted(layers, image_size)


def zfnet_pytorchcv(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The ZFNet of the package pytorchcv, which has weights for it trained on ImageNet.

    The paper's net but for one thing: contrast norm comes before pool1 and pool2, as in Krizhevsky's net.
    62.36 M parameters at 1000 classes.

    Args and errors as in `zfnet`.
    """
    return fitted(_norm_before_pool(num_classes, width, (384, 384, 256)), image_size)


def zfnetb_pytorchcv(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The larger ZFNet of pytorchcv: conv3 to conv5 have 512, 1024 and 512 maps, as in the best net of Table 2.

    107.63 M parameters at 1000 classes. Args and errors as in `zfnet`.
    """
    return fitted(_norm_before_pool(num_classes, width, (512, 1024, 512)), image_size)


def zfnet512(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """ZFNet-512 of the ONNX model zoo: 512 maps in conv3 to conv5, 1024 units in fc7, conv1 without padding.

    Contrast norm comes before pool1 and pool2. 87.25 M parameters at 1000 classes. The order and sizes of layers are
    those that the zoo's file is known to have; its constants of contrast norm, and how pool5 covers the edge (12 -> 6),
    are taken to be those of the other nets here.

    Args and errors as in `zfnet`.
    """
    return fitted(_norm_before_pool(num_classes, width, (512, 512, 512), conv1_padding=0, fc7=1024), image_size)


def alexnet(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The paper's replication of Krizhevsky et al. (2012): 11×11 filters of stride 4 below, dense connections.

    Contrast norm comes before pool1 and pool2, as in Krizhevsky's paper; conv1 is padded by 2 (224 -> 55).

    Args and errors as in `zfnet`.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2))

    layers = (
        Conv("conv1", scaled(96, width), (11, 11), (4, 4), same(2)),
        ReLU("relu1"),
        LRN("norm1"),
        pool("pool1"),
        Conv("conv2", scaled(256, width), (5, 5), padding=same(2)),
        ReLU("relu2"),
        LRN("norm2"),
        pool("pool2"),
        *_conv3_to_conv5(width),
        pool("pool5"),
        *_classifier(num_classes, width),
    )
    return fitted(layers, image_size)


def alexnet_torchvision(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The AlexNet of torchvision, from Krizhevsky (2014): fewer maps, no contrast norm, dropout before fc6 and fc7.

    61.10 M parameters at 1000 classes. Args and errors as in `zfnet`.
    """

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2))

    def conv(name: str, features: int) -> Conv:
        return Conv(name, scaled(features, width), (3, 3), padding=same(1))

    layers = (
        Conv("conv1", scaled(64, width), (11, 11), (4, 4), same(2)),
        ReLU("relu1"),
        pool("pool1"),
        Conv("conv2", scaled(192, width), (5, 5), padding=same(2)),
        ReLU("relu2"),
        pool("pool2"),
        conv("conv3", 384),
        ReLU("relu3"),
        conv("conv4", 256),
        ReLU("relu4"),
        conv("conv5", 256),
        ReLU("relu5"),
        pool("pool5"),
        *_classifier_after_dropout(num_classes, width),
    )
    return fitted(layers, image_size)


def vgg16(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """VGG-16 (Simonyan & Zisserman 2014): two or three 3×3 convolutions below each pool.

    138.36 M parameters at 1000 classes.
    Args and errors as in `zfnet`.
    """
    layers: list[Layer] = []
    for block, (convs, features) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1):
        for number in range(1, convs + 1):
            layers.append(Conv(f"conv{block}_{number}", scaled(features, width), (3, 3), padding=same(1)))
            layers.append(ReLU(f"relu{block}_{number}"))
        layers.append(MaxPool(f"pool{block}", (2, 2), (2, 2)))
    return fitted((*layers, *_classifier(num_classes, width)), image_size)


PRESETS = {
    "zfnet": zfnet,
    "zfnet_post": zfnet_post,
    "zfnet_pytorchcv": zfnet_pytorchcv,
    "zfnetb_pytorchcv": zfnetb_pytorchcv,
    "zfnet512": zfnet512,
    "alexnet": alexnet,
    "alexnet_torchvision": alexnet_torchvision,
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
}


def preset(name: str, num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """The net called `name`; arguments as in `zfnet`. Raises a UserError if there is none or it does not fit."""
    if name not in PRESETS:
        raise UserError(f"unknown net {name!r}; expected one of {', '.join(PRESETS)}")
    return PRESETS[name](num_classes, width=width, image_size=image_size)


def _norm_before_pool(
    num_classes: int, width: float, maps: tuple[int, int, int], conv1_padding: int = 1, fc7: int = 4096
) -> tuple[Layer, ...]:
    """The paper's layers with contrast norm below pool1 and pool2; `maps` are those of conv3, conv4 and conv5."""

    def pool(name: str) -> MaxPool:
        return MaxPool(name, (3, 3), (2, 2), ceil=True)

    return (
        Conv("conv1", scaled(96, width), (7, 7), (2, 2), same(conv1_padding)),
        ReLU("relu1"),
        LRN("norm1"),
        pool("pool1"),
        Conv("conv2", scaled(256, width), (5, 5), (2, 2)),
        ReLU("relu2"),
        LRN("norm2"),
        pool("pool2"),
        *_conv3_to_conv5(width, maps),
        pool("pool5"),
        *_classifier(num_classes, width, fc7),
    )


def _conv3_to_conv5(width: float, maps: tuple[int, int, int] = (384, 384, 256)) -> tuple[Layer, ...]:
    return (
        Conv("conv3", scaled(maps[0], width), (3, 3), padding=same(1)),
        ReLU("relu3"),
        Conv("conv4", scaled(maps[1], width), (3, 3), padding=same(1)),
        ReLU("relu4"),
        Conv("conv5", scaled(maps[2], width), (3, 3), padding=same(1)),
        ReLU("relu5"),
    )


def _classifier(num_classes: int, width: float, fc7: int = 4096) -> tuple[Layer, ...]:
    return (
        Dense("fc6", scaled(4096, width)),
        ReLU("relu6"),
        Dropout("drop6"),
        Dense("fc7", scaled(fc7, width)),
        ReLU("relu7"),
        Dropout("drop7"),
        Dense("fc8", num_classes),
    )


def _classifier_after_dropout(num_classes: int, width: float) -> tuple[Layer, ...]:
    return (
        Dropout("drop5"),
        Dense("fc6", scaled(4096, width)),
        ReLU("relu6"),
        Dropout("drop6"),
        Dense("fc7", scaled(4096, width)),
        ReLU("relu7"),
        Dense("fc8", num_classes),
    )

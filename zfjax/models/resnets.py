"""ResNets (He et al. 2015) as layer tuples, as torchvision builds them.

A stage's last block has the stage's name, stage1 to stage4; those before it are stage1_1, stage1_2 and so on. Layers in
a block are named after it: stage1_conv1, stage1_norm1, … and stage2_1_shortcut_conv.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from zfjax.models.building import fitted, scaled
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import BatchNorm, Conv, Dense, Layer, MaxPool, MeanPool, ReLU, Residual, same


def resnet18(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """ResNet-18: 11.69 M parameters at 1000 classes.

    Args:
        num_classes: units of fc.
        width: scales all numbers of maps.
        image_size: height and width in pixels of the images.

    Raises:
        UserError: width or image_size is not positive.
    """
    return _resnet(_basic, (2, 2, 2, 2), 1, num_classes, width, image_size)


def resnet34(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """ResNet-34: 21.80 M parameters at 1000 classes. Args and errors as in `resnet18`."""
    return _resnet(_basic, (3, 4, 6, 3), 1, num_classes, width, image_size)


def resnet50(num_classes: int, *, width: float = 1.0, image_size: int = 224) -> ConvNet:
    """ResNet-50: 25.56 M parameters at 1000 classes. Args and errors as in `resnet18`.

    In blocks that halve the map, the 3×3 convolution has the stride, as in torchvision; the paper has it a layer below.
    """
    return _resnet(_bottleneck, (3, 4, 6, 3), 4, num_classes, width, image_size)


@runtime_checkable
class _Body(Protocol):
    def __call__(self, name: str, features: int, stride: int) -> tuple[Layer, ...]: ...


def _resnet(
    body: _Body, blocks: Sequence[int], expansion: int, num_classes: int, width: float, image_size: int
) -> ConvNet:
    below = scaled(64, width)
    layers: list[Layer] = [
        *_conv_norm("conv1", "norm1", below, 7, 2),
        ReLU("relu1"),
        MaxPool("pool1", (3, 3), (2, 2), same(1)),
    ]
    for stage, count in enumerate(blocks, start=1):
        features = scaled(64 * 2 ** (stage - 1), width)
        for number in range(1, count + 1):
            name = f"stage{stage}" if number == count else f"stage{stage}_{number}"
            stride = 2 if stage > 1 and number == 1 else 1
            above, shortcut = expansion * features, tuple[Layer, ...]()
            if stride > 1 or above != below:
                shortcut = _conv_norm(f"{name}_shortcut_conv", f"{name}_shortcut_norm", above, 1, stride)
            layers.append(Residual(name, body(name, features, stride), shortcut))
            below = above
    return fitted((*layers, MeanPool("pool5"), Dense("fc", num_classes)), image_size)


def _basic(name: str, features: int, stride: int) -> tuple[Layer, ...]:
    return (
        *_conv_norm(f"{name}_conv1", f"{name}_norm1", features, 3, stride),
        ReLU(f"{name}_relu1"),
        *_conv_norm(f"{name}_conv2", f"{name}_norm2", features, 3, 1),
    )


def _bottleneck(name: str, features: int, stride: int) -> tuple[Layer, ...]:
    return (
        *_conv_norm(f"{name}_conv1", f"{name}_norm1", features, 1, 1),
        ReLU(f"{name}_relu1"),
        *_conv_norm(f"{name}_conv2", f"{name}_norm2", features, 3, stride),
        ReLU(f"{name}_relu2"),
        *_conv_norm(f"{name}_conv3", f"{name}_norm3", 4 * features, 1, 1),
    )


def _conv_norm(conv: str, norm: str, features: int, kernel: int, stride: int) -> tuple[Layer, ...]:
    padding = same((kernel - 1) // 2)
    return Conv(conv, features, (kernel, kernel), (stride, stride), padding, bias=False), BatchNorm(norm)

"""Edits of a net's layer tuple: layers removed or resized (Table 3)."""

import dataclasses
import re
from collections.abc import Collection, Mapping

from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import Conv, Dense, ImageTooSmall, Layer, MaxPool, PooledConv, ReLU
from zfjax.models.table import layer_table


def without(net: ConvNet, numbers: Collection[int]) -> ConvNet:
    """The net without the layers of these numbers, as the paper counts: 3 is conv3 and relu3, 7 is fc7 to drop7.

    Pools, norms and dropout go with the layer of the same number.

    Args:
        net: its layers are named by a word and a number, as in the presets.
        numbers: of layers below the last one, which is the net's output.

    Raises:
        UserError: the net has no such layer, it is the last, or the rest does not fit the net's images.

    Example:
        >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
        >>> [spec.name for spec in without(net, (1, 2, 3, 4, 7)).layers]
        ['conv5', 'relu5', 'pool5', 'fc6', 'relu6', 'drop6', 'fc8']
    """
    if not numbers:  # then the layers need not be numbered, as a ResNet's are not
        return net
    *below, last = dict.fromkeys(map(_numbered, net.layers))
    for number in numbers:
        if number == last:
            raise UserError(f"layer {number} is the net's output and cannot be left out")
        if number not in below:
            raise UserError(f"no layer {number} in the net; there are {', '.join(map(str, below))}")
    edited = net.clone(layers=tuple(layer for layer in net.layers if _numbered(layer) not in numbers))
    try:
        layer_table(edited)
    except ImageTooSmall as error:
        raise UserError(f"image_size={net.image_size} is too small without {sorted(numbers)}: {error}") from error
    return edited


def pooled_early(net: ConvNet) -> ConvNet:
    """The same function of the same weights, whose pools come before the ReLU and the bias right below them.

    The largest of a window stays the largest when a number is added or all are rectified, so the logits are the same to
    the last bit, and so are gradients, up to the order of sums. Training reads and writes the largest maps fewer times.
    It is not for looking: a pool's switches differ where all of a window is negative, and no layer has a map of relu1.

    Example:
        >>> [spec.name for spec in pooled_early(zfjax.zfnet(10)).layers][:6]
        ['pool1', 'relu1', 'norm1', 'pool2', 'relu2', 'norm2']
    """
    layers: list[Layer] = []
    for layer in net.layers:
        if not isinstance(layer, MaxPool):
            layers.append(layer)
            continue
        rectified = [layers.pop()] if layers and isinstance(layers[-1], ReLU) else []
        below = layers[-1] if layers else None
        if isinstance(below, Conv):
            layers[-1] = PooledConv(layer.name, below, layer)
        else:
            layers.append(layer)
        layers.extend(rectified)
    return net.clone(layers=tuple(layers))


def resized(net: ConvNet, features: Mapping[str, int]) -> ConvNet:
    """The net with a different number of maps or units in each layer that `features` names.

    Raises:
        UserError: the net has no such layer, the layer has no maps or units, or a number is not positive.

    Example:
        >>> net = resized(zfjax.zfnet(1000), {"fc6": 2048, "fc7": 2048})
        >>> sum(row.parameters for row in zfjax.layer_table(net))
        28848232
    """
    known = [layer.name for layer in net.layers if isinstance(layer, Conv | Dense)]
    for name, count in features.items():
        if name not in known:
            hint = did_you_mean(name, known) or ";"
            raise UserError(f"no layer {name!r} with maps or units in the net{hint} there are {', '.join(known)}")
        if count < 1:
            raise UserError(f"{name}: expected one map or unit or more, got {count}")
    layers = tuple(
        dataclasses.replace(layer, features=features[layer.name])
        if isinstance(layer, Conv | Dense) and layer.name in features
        else layer
        for layer in net.layers
    )
    return net.clone(layers=layers)


def layer_number(name: str) -> int | None:
    """The paper's number of a layer: 5 for relu5, None for relu5_1 and fc."""
    found = re.fullmatch(r"(?:conv|relu|pool|norm|drop|fc)(\d+)", name)
    return int(found[1]) if found else None


def layer_title(name: str) -> str:
    """A layer's name, preceded by the paper's number for it if it has one."""
    number = layer_number(name)
    return name if number is None else f"layer {number} ({name})"


def _numbered(layer: Layer) -> int:
    number = layer_number(layer.name)
    if number is None:
        raise UserError(f"layer {layer.name!r} has no number; expected a net with names like conv3 and relu3")
    return number

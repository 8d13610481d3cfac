"""Convert a net's weights between PyTorch's names and layouts and zfjax's.

Names follow from the net's layers. A torchvision net of plain layers is two `Sequential`s, `features` up to the last
maps and `classifier` above them, so a layer's number is its position; a ResNet's modules are named by stage and block,
and pytorchcv counts stages between pools.
"""

import itertools
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import brief, did_you_mean, shown_by_shape
from zfjax.models import ConvNet
from zfjax.models.specs import BatchNorm, Conv, Dense, Dropout, Layer, MaxPool, Residual, Size, weighted
from zfjax.weights.choice import COUNT, Tensors

FLOATS = ("float32", "float64", "float16", "bfloat16")
LARGEST = 1e18  # magnitude of a weight: the product of two larger ones overflows float32
SHOWN = 4  # wrong tensors that an error names; the others are counted

Modules = dict[str, str]  # a PyTorch module's name by the layer's


class Slot(NamedTuple):
    """Where one tensor of a state_dict belongs."""

    name: str  # in the state_dict, such as "features.0.weight"
    shape: tuple[int, ...]  # in the state_dict
    place: tuple[str, str, str]  # in the variables: collection, layer and leaf
    below: Size  # the layer's input


class Misfit(UserError):
    """The tensors do not fit the net."""


@shown_by_shape
class Model(NamedTuple):
    """A PyTorch model: zfjax's preset for it, and the names of its modules."""

    preset: str
    modules: Callable[[ConvNet, Tensors], Modules]
    relative: Callable[[Tensors], str] = lambda _: ""  # what only its relatives have, of these tensors


def from_torch(
    net: ConvNet, modules: Modules, tensors: Tensors, called: Mapping[str, str] | None = None
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Convert a state_dict to the net's variables, float32.

    Convolutions [out, in, h, w] become [h, w, in, out]. Dense layers [out, in] become [in, out], with rows in
    (height, width, channel) order instead of PyTorch's (channel, height, width).

    Args:
        net: the net; its preset is `MODELS[name].preset`.
        modules: the layers' names in PyTorch, by `MODELS[name].modules`.
        tensors: the state_dict, of any floating-point dtype.
        called: names to use in errors, for tensors that have another name in their file.

    Raises:
        Misfit: a UserError that names the tensors that are missing, unexpected, of another shape or not floats.
        UserError: tensors hold NaN, infinity, values too large to multiply in float32, or negative variances.
    """
    called = called or {}
    places = slots(net, modules)
    wrong = differences(places, tensors, called)
    if wrong:
        raise Misfit(f"the tensors do not fit: {_some(wrong)}")
    variables: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    wrong = []
    for slot in places:
        collection, layer, leaf = slot.place
        with np.errstate(over="ignore"):
            value = np.asarray(tensors[slot.name]).astype(np.float32)
        if fault := _fault(value, leaf):
            wrong.append(f"{brief(called.get(slot.name, slot.name))} {fault}")
        variables.setdefault(collection, {}).setdefault(layer, {})[leaf] = _from_torch(value, slot.below)
    if wrong:
        raise UserError(_some(wrong))
    return variables


def differences(places: Sequence[Slot], tensors: Tensors, called: Mapping[str, str]) -> list[str]:
    """What is missing, not expected, of another shape or not floats, by names in the file where `called` has them."""
    other, missing = [], []
    for slot in places:
        tensor, name = tensors.get(slot.name), brief(called.get(slot.name, slot.name))
        if tensor is None:
            missing.append(f"{name} {slot.shape} is missing")
        elif tensor.shape != slot.shape:
            other.append(f"{name} is {tensor.shape}, expected {slot.shape}")
        elif tensor.dtype.name not in FLOATS:
            other.append(f"{name} is {tensor.dtype.name}, expected floats")
    known = {slot.name for slot in places}
    extra = [
        f"{brief(called.get(name, name))} {tensor.shape} is not expected"
        for name, tensor in tensors.items()
        if name not in known and not name.endswith(COUNT)
    ]
    # Interleaved: a missing tensor says little without the one that is there instead.
    mixed = itertools.chain.from_iterable(itertools.zip_longest(other, missing, extra))
    return [line for line in mixed if line is not None]


def _some(lines: Sequence[str]) -> str:
    return "; ".join(lines[:SHOWN]) + (f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")


def _fault(value: np.ndarray, leaf: str) -> str:
    """Why these cannot be weights; empty if they can."""
    low, high = value.min(initial=0), value.max(initial=0)  # NaN if any value is
    if not np.isfinite([low, high]).all():
        wrong = value.size - np.count_nonzero(np.isfinite(value))
        return f"has {wrong} of {value.size} values that are NaN, infinite or beyond float32"
    if max(-low, high) > LARGEST:
        return f"has values as large as {max(-low, high):.2g}, which no net can multiply in float32"
    if leaf == "var" and low < 0:
        return "has negative values; expected variances"
    return ""


def to_torch(net: ConvNet, modules: Modules, variables: PyTree) -> dict[str, np.ndarray]:
    """Convert the net's variables to a state_dict, the inverse of `from_torch`; step counts of batch norms are 0."""
    tensors = {}
    for slot in slots(net, modules):
        collection, layer, leaf = slot.place
        tensors[slot.name] = _to_torch(np.asarray(variables[collection][layer][leaf]), slot.below)
        if leaf == "var":
            tensors[f"{modules[layer]}.{COUNT}"] = np.zeros((), np.int64)
    return tensors


def slots(net: ConvNet, modules: Modules) -> list[Slot]:
    """All tensors of a net, bottom layer first."""
    size = Size(net.image_size, net.image_size, 3)
    return [slot for layer, below in weighted(net.layers, size) for slot in _slots(layer, below, modules[layer.name])]


def names(known: Model, net: ConvNet, tensors: Tensors) -> set[str]:
    """A model's names for its tensors, given the tensors of a file."""
    return {slot.name for slot in slots(net, known.modules(net, tensors))}


def model(name: str) -> Model:
    """The model called `name`. Raises a UserError if there is none."""
    if name not in MODELS:
        hint = did_you_mean(name, list(MODELS)) or ";"
        raise UserError(f"unknown model {reprlib.repr(name)}{hint} there are {', '.join(MODELS)}")
    return MODELS[name]


def with_norms(net: ConvNet, modules: Modules, tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors, with norms where exporters have folded these into the convolutions below.

    Such a convolution has a bias, and its norm none of its tensors; the bias becomes that of a norm that does nothing
    else.
    """
    found = dict(tensors)
    layers = [layer for layer, _ in weighted(net.layers, Size(net.image_size, net.image_size, 3))]
    for conv, norm in itertools.pairwise(layers):
        bias = f"{modules[conv.name]}.bias"
        if not (isinstance(conv, Conv) and not conv.bias and isinstance(norm, BatchNorm) and bias in found):
            continue
        module = modules[norm.name]
        if not any(name.startswith(f"{module}.") for name in found):
            shift = found.pop(bias)
            values = {"weight": 1, "running_mean": 0, "running_var": 1 - norm.epsilon}
            found |= {f"{module}.{leaf}": np.full(shift.shape, value, np.float32) for leaf, value in values.items()}
            found[f"{module}.bias"] = shift
    return found


def count_outputs(net: ConvNet, modules: Modules, tensors: Tensors) -> int | None:
    """The number of classes of a state_dict's last layer; None if it has no such layer."""
    kernel = tensors.get(f"{modules[net.layers[-1].name]}.weight")
    return None if kernel is None or kernel.ndim != 2 else kernel.shape[0]


# PyTorch's name of each leaf of our layers, in the order of PyTorch's modules.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _slots(layer: Layer, below: Size, module: str) -> Iterator[Slot]:
    for collection, shapes in (("params", layer.parameters(below)), ("batch_stats", layer.statistics(below))):
        for leaf, shape in shapes.items():
            place = (collection, layer.name, leaf)
            yield Slot(f"{module}.{_LEAVES[leaf]}", _torch_shape(shape), place, below)


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[h, w, in, out] as [out, in, h, w], and [in, out] as [out, in]."""
    return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _from_torch(tensor: np.ndarray, below: Size) -> np.ndarray:
    match tensor.ndim:
        case 4:
            return tensor.transpose(2, 3, 1, 0)
        case 2:
            rows = tensor.reshape(-1, below.maps, below.height, below.width)
            return rows.transpose(2, 3, 1, 0).reshape(-1, len(tensor))
        case _:
            return tensor


def _to_torch(value: np.ndarray, below: Size) -> np.ndarray:
    match value.ndim:
        case 4:
            return value.transpose(3, 2, 0, 1)
        case 2:
            rows = value.reshape(below.height, below.width, below.maps, -1)
            return rows.transpose(3, 2, 0, 1).reshape(value.shape[1], -1)
        case _:
            return value


def _sequential(net: ConvNet, tensors: Tensors) -> Modules:
    """`features.N` below the first dense layer or its dropout, `classifier.N` from there on."""
    above = next(i for i, layer in enumerate(net.layers) if isinstance(layer, Dense | Dropout))
    return {
        layer.name: f"features.{place}" if place < above else f"classifier.{place - above}"
        for place, layer in enumerate(net.layers)
        if isinstance(layer, Conv | Dense)
    }


def _in_order(net: ConvNet, tensors: Tensors) -> Modules:
    """`_sequential`'s names or, if the tensors have others, those: conv kernels in order, then dense weights."""
    usual = _sequential(net, tensors)
    layers = [layer.name for layer in net.layers if isinstance(layer, Conv | Dense)]
    kernels = sorted((name for name in tensors if name.endswith(".weight")), key=_natural)
    found = [name.removesuffix(".weight") for rank in (4, 2) for name in kernels if tensors[name].ndim == rank]
    own = dict(zip(layers, found, strict=True)) if len(found) == len(layers) else usual
    return usual if set(usual.values()) & set(found) else own


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """A sort key that orders numbers in names by value: conv2 before conv10."""
    return [(part.isdecimal(), int(part[:18]) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name)]


def _residual(net: ConvNet, tensors: Tensors) -> Modules:
    """`layerS.B.convN`, `.bnN` and `.downsample.N` in blocks, counted from 0; `conv1`, `bn1` and `fc` outside."""
    modules = {}
    stages: dict[str, int] = {}  # blocks of each stage so far
    for layer in net.layers:
        if isinstance(layer, Residual):
            stage = layer.name.split("_")[0]
            block = f"{stage.replace('stage', 'layer')}.{stages.get(stage, 0)}"
            stages[stage] = stages.get(stage, 0) + 1
            for inner in layer.body:
                if isinstance(inner, Conv | BatchNorm):
                    name = inner.name.removeprefix(f"{layer.name}_").replace("norm", "bn")
                    modules[inner.name] = f"{block}.{name}"
            for place, inner in enumerate(layer.shortcut):
                modules[inner.name] = f"{block}.downsample.{place}"
        elif isinstance(layer, Conv | BatchNorm | Dense):
            modules[layer.name] = layer.name.replace("norm", "bn")
    return modules


def _relative(tensors: Tensors) -> str:
    if "layer4.0.conv1.weight" not in tensors:
        return ""
    ends = {
        ".downsample.1.weight": (lambda shape: len(shape) == 4, "shortcuts that pool"),
        ".conv2.weight": (lambda shape: len(shape) == 4 and shape[0] > shape[1], "convolutions in groups"),
    }
    found = ["a stem of several convolutions"] if "conv1.0.weight" in tensors else []
    for end, (tells, what) in ends.items():
        if any(name.endswith(end) and tells(tensor.shape) for name, tensor in tensors.items()):
            found.append(what)
    if any(".se." in name for name in tensors):
        found.append("squeeze-and-excite")
    if "bn1.weight" in tensors and "bn1.running_mean" not in tensors:
        found.append("norms without running averages")
    return ", ".join(found)


def _pytorchcv(net: ConvNet, tensors: Tensors) -> Modules:
    """`features.stageS.unitU.conv`, a pool ending each stage; above, `output.fcN.fc`, or `output.fcN` for the last."""
    modules: Modules = {}
    stage, unit, dense = 1, 0, 0
    for layer in net.layers:
        match layer:
            case Conv():
                unit += 1
                modules[layer.name] = f"features.stage{stage}.unit{unit}.conv"
            case MaxPool():
                stage, unit = stage + 1, 0
            case Dense():
                dense += 1
                modules[layer.name] = f"output.fc{dense}" if layer is net.layers[-1] else f"output.fc{dense}.fc"
    return modules


MODELS = {
    "alexnet": Model("alexnet_torchvision", _sequential),
    "vgg16": Model("vgg16", _sequential),
    "resnet18": Model("resnet18", _residual, _relative),
    "resnet34": Model("resnet34", _residual, _relative),
    "resnet50": Model("resnet50", _residual, _relative),
    "zfnet_post": Model("zfnet_post", _in_order),
    "zfnet_pytorchcv": Model("zfnet_pytorchcv", _pytorchcv),
    "zfnetb_pytorchcv": Model("zfnetb_pytorchcv", _pytorchcv),
    "zfnet512": Model("zfnet512", _in_order),
}

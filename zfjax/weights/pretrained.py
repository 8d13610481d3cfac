"""Load a file of PyTorch weights as a zfjax net, for notebooks and for `zfjax import-weights`."""

import collections
import contextlib
import functools
import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import first_line, listed, readable, shown_by_shape
from zfjax.models import ConvNet, preset
from zfjax.models.edits import resized
from zfjax.weights import layouts
from zfjax.weights.choice import choose
from zfjax.weights.files import METADATA, TensorFile, read, write
from zfjax.weights.onnx import parity
from zfjax.weights.onnx.weights import is_onnx, read_weights
from zfjax.weights.preprocessing import TORCHVISION, Preprocessing, fold, unfold


@shown_by_shape
class Loaded(NamedTuple):
    """A net with weights from a file, for images in RGB, 0..255, less `preprocessing.pixel_mean`."""

    net: ConvNet
    variables: PyTree  # NumPy arrays, float32; the preprocessing is folded into the first kernel
    preprocessing: Preprocessing  # what the net took originally
    modules: dict[str, str]  # the layers' names in the file
    notes: tuple[str, ...]  # what was done to the weights while loading, one sentence each

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return len(self.variables["params"][self.net.layers[-1].name]["bias"])


def load(
    source: str | os.PathLike[str],
    model: str,
    *,
    preprocessing: Preprocessing | None = None,
    width: float | None = None,
    image_size: int | None = None,
    key: str = "",
) -> Loaded:
    """Read the weights of a PyTorch model.

    Defaults come from the file if `save` wrote it, otherwise from torchvision.

    Args:
        source: a `.pth`, `.ckpt`, `.safetensors` or `.onnx` file: a state_dict, a training script's checkpoint, a whole
            module, an exported net.
        model: one of `MODELS`.
        preprocessing: what the model takes; default RGB in 0..1, normalized by ImageNet's mean and standard deviation.
        width: scales the numbers of maps and units; default 1.
        image_size: pixels; default 224.
        key: the prefix of one net in a file with several, such as "model" beside "model_ema", or "." for no prefix;
            default the averaged one.

    Raises:
        UserError: the file cannot be read, its tensors are not the model's, or they are unusable (such as NaN).
    """
    layouts.model(model)  # report a mistyped name before reading a large file
    name, file = os.fspath(source), opened(source)
    return from_file(file, name, model, preprocessing=preprocessing, width=width, image_size=image_size, key=key)


def opened(source: str | os.PathLike[str]) -> TensorFile:
    """A file of weights, PyTorch's, safetensors' or ONNX's.

    Raises:
        UserError: it cannot be read.
    """
    return read_weights(source) if is_onnx(source) else read(source)


def from_file(
    file: TensorFile,
    name: str,
    model: str,
    *,
    preprocessing: Preprocessing | None = None,
    width: float | None = None,
    image_size: int | None = None,
    key: str = "",
) -> Loaded:
    """`load` for a file that was already read; errors call it `name`."""
    known = layouts.model(model)
    said = usual(file)
    before = said.preprocessing if preprocessing is None else preprocessing
    width = said.width if width is None else width
    net = preset(known.preset, 1000, width=width, image_size=said.image_size if image_size is None else image_size)
    try:
        chosen = choose(file.tensors, functools.partial(layouts.names, known, net), key)
    except UserError as error:
        raise UserError(f"cannot take a {model} from {name}: {error}") from error
    unread = listed([f"{name} ({kind})" for name, kind in file.unread.items()])
    modules = known.modules(net, chosen.tensors)
    given = layouts.with_norms(net, modules, chosen.tensors)
    net = resized(net, {net.layers[-1].name: layouts.count_outputs(net, modules, chosen.tensors) or 1000})
    its_own = modules == known.modules(net, {})
    try:
        if not its_own and (other := _other_model(file.tensors, modules, width, net.image_size)):
            raise layouts.Misfit(f"its tensors are named as those of another net{other}")
        variables = layouts.from_torch(net, modules, given, chosen.called)
    except layouts.Misfit as error:
        if relative := known.relative(chosen.tensors):
            raise UserError(
                f"{name} is a relative of {model} that zfjax does not have, with {relative};"
                f" expected torchvision's {model}"
            ) from error
        beside = _other_model(file.tensors, modules, width, net.image_size) if its_own else ""
        if chosen.aside:
            beside += f"; it also has {listed(chosen.aside)}"
        if file.unread:
            beside += f"; no plain tensors: {unread}"
        if is_onnx(name):
            beside += f"; {as_it_is(name)}"
        raise UserError(f"{name} is not {model} at {net.image_size} px: {error}{beside}") from error
    except UserError as error:
        raise UserError(f"{name} has weights that cannot be used: {error}") from error
    notes = chosen.notes + _conversions(chosen.tensors)
    if chosen.aside:
        notes += (f"left aside what is not the net's: {listed(chosen.aside)}",)
    if unread:
        notes += (f"left aside what is no plain tensor: {unread}",)
    if len(given) > len(chosen.tensors):
        notes += ("its batch norms were folded into the convolutions below",)
    variables = folded(net, variables, before.checked())
    if is_onnx(name):
        _require_same(name, model, net, variables, before)
    return Loaded(net, variables, before, modules, notes)


def _require_same(path: str, model: str, net: ConvNet, variables: PyTree, before: Preprocessing) -> None:
    try:
        parity.require_same(path, net, variables, before)
    except UserError as error:
        raise UserError(f"{path} is not {model} at {net.image_size} px: {error}; {as_it_is(path)}") from error


def as_it_is(path: str | os.PathLike[str]) -> str:
    """How to use an ONNX file that is none of zfjax's nets."""
    return f"any net can be used as it is: zfjax import-weights {os.fspath(path)} --workdir=RUN, without --model"


def _other_model(tensors: Mapping[str, np.ndarray], modules: layouts.Modules, width: float, image_size: int) -> str:
    """A hint at a model that the tensors fit or, if none does, at one that has all of their names; empty if neither."""
    by_name = ""
    for other, known in layouts.MODELS.items():
        with contextlib.suppress(UserError):  # several such nets; too small
            net = preset(known.preset, 2, width=width, image_size=image_size)
            found, its = choose(tensors, functools.partial(layouts.names, known, net)).tensors, known.modules(net, {})
            net = resized(net, {net.layers[-1].name: layouts.count_outputs(net, its, found) or 2})
            slots = layouts.slots(net, its)
            if not layouts.differences(slots, found, {}):
                return f"; did you mean --model={other}?"
            if not by_name and its != modules and found.keys() == {slot.name for slot in slots}:
                by_name = f"; did you mean --model={other}?"
    return by_name


def save(
    path: str | os.PathLike[str],
    model: str,
    loaded: Loaded,
    classes: Sequence[str],
    width: float = 1.0,
) -> epath.Path:
    """Write a net as `.safetensors` in PyTorch's names and layout, described in the metadata; return the path.

    Args:
        path: the file, with extension `.safetensors`.
        model: one of `MODELS`.
        loaded: the net; its preprocessing is taken out of the first kernel again.
        classes: names of the outputs.
        width: the width of the net.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = layouts.to_torch(loaded.net, loaded.modules, _unfolded(loaded))
    metadata = {
        "model": model,
        "width": float(width),
        "image_size": loaded.net.image_size,
        "preprocessing": loaded.preprocessing._asdict(),
        "input": str(loaded.preprocessing),
        "classes": list(classes),
    }
    return write(path, tensors, {"format": "pt", METADATA: json.dumps(metadata)})


class Usual(NamedTuple):
    """Default description of a file's weights."""

    model: str  # one of `MODELS`; "" if unknown
    width: float
    image_size: int
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # names of the outputs; empty if unknown


def usual(file: TensorFile) -> Usual:
    """What `save` wrote about the weights; for other files, torchvision's defaults. Raises a UserError if damaged."""
    said = _described(file)
    return Usual(
        said.get("model", ""),
        said.get("width", 1.0),
        said.get("image_size", 224),
        Preprocessing.of(said["preprocessing"]) if "preprocessing" in said else TORCHVISION,
        tuple(map(readable, said.get("classes", ()))),
    )


def _described(file: TensorFile) -> dict[str, Any]:
    fits = {
        "model": lambda value: isinstance(value, str),
        "width": lambda value: type(value) is float and 0 < value <= 64,
        "image_size": lambda value: type(value) is int and 0 < value <= 8192,
        "preprocessing": lambda value: isinstance(value, dict),
        "classes": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    }
    try:
        said = json.loads(file.metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"the file's metadata {METADATA!r} are damaged ({first_line(error)})") from error
    if not isinstance(said, dict):
        raise UserError(f"the file's metadata {METADATA!r} are damaged: expected an object, got {reprlib.repr(said)}")
    for name, fit in fits.items():
        if name in said and not fit(said[name]):
            raise UserError(f"the file's metadata {METADATA!r} are damaged: {name} is {reprlib.repr(said[name])}")
    return said


def _is_text(value: object) -> bool:
    """Whether this is text that names something; JSON can hold lone surrogates."""
    return isinstance(value, str) and bool(value.strip()) and value.encode(errors="ignore").decode() == value


def folded(net: ConvNet, variables: PyTree, before: Preprocessing) -> PyTree:
    """Convert variables of a net that takes `before` to ones for RGB in 0..255 less the mean."""
    return _with_first_kernel(net, variables, fold(_first_kernel(net, variables), before))


def _unfolded(loaded: Loaded) -> PyTree:
    kernel = unfold(_first_kernel(loaded.net, loaded.variables), loaded.preprocessing)
    return _with_first_kernel(loaded.net, loaded.variables, kernel)


def _first_kernel(net: ConvNet, variables: PyTree) -> np.ndarray:
    return np.asarray(variables["params"][net.layers[0].name]["kernel"])


def _with_first_kernel(net: ConvNet, variables: PyTree, kernel: np.ndarray) -> PyTree:
    params, first = variables["params"], net.layers[0].name
    return variables | {"params": params | {first: params[first] | {"kernel": kernel}}}


def _conversions(tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """One sentence for each dtype that had to be converted."""
    counts = collections.Counter(tensor.dtype.name for tensor in tensors.values())
    return tuple(
        f"{count} tensors in {dtype} were converted to float32" for dtype, count in counts.items() if dtype != "float32"
    )

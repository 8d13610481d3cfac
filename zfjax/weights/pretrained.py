"""A file of PyTorch's weights as a net of zfjax's, for notebooks and for `zfjax import-weights`."""

import collections
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean
from zfjax.models import ConvNet, preset
from zfjax.models.edits import resized
from zfjax.weights import layouts
from zfjax.weights.files import TensorFile, read, write
from zfjax.weights.preprocessing import TORCHVISION, Preprocessing, fold, unfold

METADATA = "zfjax"  # the key of a safetensors file's metadata under which `save` says what the weights are


class Loaded(NamedTuple):
    """A net with weights from a file, for images in RGB, 0..255, less `preprocessing.pixel_mean`."""

    net: ConvNet
    variables: PyTree  # NumPy arrays, float32; the preprocessing is folded into the first kernel
    preprocessing: Preprocessing  # what the net took before
    modules: dict[str, str]  # the layers' names in the file
    notes: tuple[str, ...]  # what was done to the weights on the way, a sentence each

    @property
    def outputs(self) -> int:
        """How many classes the net tells apart."""
        return len(self.variables["params"][self.net.layers[-1].name]["bias"])


def load(
    source: str | os.PathLike[str],
    model: str,
    *,
    preprocessing: Preprocessing | None = None,
    width: float | None = None,
    image_size: int | None = None,
) -> Loaded:
    """Reads the weights of a PyTorch model.

    What is not given is what a file written by `save` says of itself, else torchvision's.

    Args:
      source: a `.pth`, `.pt` or `.safetensors` file.
      model: one of `MODELS`.
      preprocessing: what the model takes; default RGB in 0..1, normalised by ImageNet's mean and deviation.
      width: scales the numbers of maps and units; default 1.
      image_size: pixels; default 224.

    Raises:
      UserError: the file cannot be read, or its tensors are not the model's.
    """
    layouts.model(model)  # a mistyped name is told before a large file is read
    return from_file(
        read(source), os.fspath(source), model, preprocessing=preprocessing, width=width, image_size=image_size
    )


def from_file(
    file: TensorFile,
    name: str,
    model: str,
    *,
    preprocessing: Preprocessing | None = None,
    width: float | None = None,
    image_size: int | None = None,
) -> Loaded:
    """`load` of a file that was read already and is called `name` in errors."""
    known = layouts.model(model)
    said = usual(file)
    before = said.preprocessing if preprocessing is None else preprocessing
    net = preset(
        known.preset,
        1000,
        width=said.width if width is None else width,
        image_size=said.image_size if image_size is None else image_size,
    )
    modules = known.modules(net, file.tensors)
    net = resized(net, {net.layers[-1].name: layouts.count_outputs(net, modules, file.tensors) or 1000})
    try:
        variables = layouts.from_torch(net, modules, file.tensors)
    except UserError as error:
        raise UserError(f"{name} is no {model} at {net.image_size} px: {error}") from error
    return Loaded(net, folded(net, variables, before.checked()), before, modules, _conversions(file))


def save(
    path: str | os.PathLike[str],
    model: str,
    loaded: Loaded,
    classes: Sequence[str],
    width: float = 1.0,
) -> None:
    """Writes a net in PyTorch's names and layout as `.safetensors`; its metadata say what the net is and takes.

    Args:
      path: the file; its name ends in `.safetensors`.
      model: one of `MODELS`.
      loaded: the net; its preprocessing is taken out of the first kernel again.
      classes: what the outputs stand for.
      width: of the net.

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
    write(path, tensors, {"format": "pt", METADATA: json.dumps(metadata)})


class Usual(NamedTuple):
    """What a file's weights are where nobody says otherwise."""

    model: str  # among `MODELS`; "" where nobody knows
    width: float
    image_size: int
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # what the outputs stand for; empty where nobody knows


def usual(file: TensorFile) -> Usual:
    """What `save` wrote of the weights; for files of others, what torchvision's are. Raises a UserError if damaged."""
    said = _described(file)
    return Usual(
        said.get("model", ""),
        said.get("width", 1.0),
        said.get("image_size", 224),
        Preprocessing.of(said["preprocessing"]) if "preprocessing" in said else TORCHVISION,
        tuple(said.get("classes", ())),
    )


def _described(file: TensorFile) -> dict[str, Any]:
    kinds = {"model": str, "width": float, "image_size": int, "preprocessing": dict, "classes": list}
    try:
        said = json.loads(file.metadata.get(METADATA, "{}"))
    except ValueError as error:
        raise UserError(f"the file's metadata {METADATA!r} are damaged ({error})") from error
    if not isinstance(said, dict):
        raise UserError(f"the file's metadata {METADATA!r} are damaged: expected an object, got {said!r}")
    for name, kind in kinds.items():
        if name in said and type(said[name]) is not kind:
            raise UserError(f"the file's metadata {METADATA!r} are damaged: {name} is {said[name]!r}")
    return said


def with_outputs(loaded: Loaded, names: Sequence[str], wanted: Sequence[str], source: str) -> Loaded:
    """The net cut to those of its outputs that are `wanted`, in their order.

    Args:
      loaded: a net whose last layer is dense.
      names: what its outputs are called.
      wanted: the classes of a dataset.
      source: what to call the dataset in errors.

    Raises:
      UserError: there are more or fewer names than outputs, a class has no output, or several.
    """
    last = loaded.net.layers[-1]
    weights = loaded.variables["params"][last.name]
    outputs = len(weights["bias"])
    if len(names) != outputs:
        raise UserError(
            f"{len(names)} classes are named, but the net has {outputs} outputs; expected one name for each"
        )
    unknown = [name for name in wanted if name not in names]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserError(
            f"{source} has classes that the net does not know: {', '.join(unknown[:3])}{more}"
            f"{did_you_mean(unknown[0], names)}; expected some of {', '.join(names[:3])}, …"
        )
    counts = collections.Counter(names)
    twice = [name for name in wanted if counts[name] > 1]
    if twice:
        raise UserError(f"the net has {counts[twice[0]]} outputs called {twice[0]!r}; expected one for each class")
    rows = np.array([names.index(name) for name in wanted])
    cut = {"kernel": weights["kernel"][:, rows], "bias": weights["bias"][rows]}
    params = loaded.variables["params"] | {last.name: cut}
    net = resized(loaded.net, {last.name: len(rows)})
    return loaded._replace(net=net, variables=loaded.variables | {"params": params})


def folded(net: ConvNet, variables: PyTree, before: Preprocessing) -> PyTree:
    """Variables for RGB in 0..255 less the mean, of those for what `before` gives."""
    return _with_first_kernel(net, variables, fold(_first_kernel(net, variables), before))


def _unfolded(loaded: Loaded) -> PyTree:
    kernel = unfold(_first_kernel(loaded.net, loaded.variables), loaded.preprocessing)
    return _with_first_kernel(loaded.net, loaded.variables, kernel)


def _first_kernel(net: ConvNet, variables: PyTree) -> np.ndarray:
    return np.asarray(variables["params"][net.layers[0].name]["kernel"])


def _with_first_kernel(net: ConvNet, variables: PyTree, kernel: np.ndarray) -> PyTree:
    params, first = variables["params"], net.layers[0].name
    return variables | {"params": params | {first: params[first] | {"kernel": kernel}}}


def _conversions(file: TensorFile) -> tuple[str, ...]:
    """A sentence for each dtype that is not what the net has."""
    counts = collections.Counter(
        tensor.dtype.name for name, tensor in file.tensors.items() if not name.endswith(layouts.IGNORED)
    )
    return tuple(
        f"{count} tensors in {dtype} were converted to float32" for dtype, count in counts.items() if dtype != "float32"
    )

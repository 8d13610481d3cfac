"""Files of named tensors: PyTorch's and safetensors. Reading them needs no PyTorch and runs no code in them."""

import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from zfjax.console.errors import UserError
from zfjax.console.files import write_whole
from zfjax.console.hold import hold
from zfjax.console.paths import user_path
from zfjax.console.text import first_line, listed, reason, shown_by_shape
from zfjax.weights import torch_files

SAFETENSORS = ".safetensors"
METADATA = "zfjax"  # the key in a file's metadata under which zfjax describes the weights
KINDS = ".pth, .pt, .ckpt, .bin or .safetensors"  # the usual names; the content decides what a file is

# Other files that go by such names, by their first bytes.
_OTHERS = {
    b"": "is empty",
    b"version https://git-lfs": "is Git LFS's pointer to a file of weights; expected the file itself: git lfs pull",
    b"\x89HDF": "is an HDF5 file, as Keras writes them",
    b"<": "is a page of the web, not a file of weights",
    b"{": "is JSON, such as the index of a model in several files",
    b"\x1f\x8b": "is compressed by gzip",
    b"\x93NUMPY": "is an array of NumPy's",
}


@shown_by_shape
class TensorFile(NamedTuple):
    """The content of a weight file."""

    tensors: dict[str, np.ndarray]  # as in the file; half precision as float16 and ml_dtypes.bfloat16
    metadata: dict[str, str]  # of a safetensors file; what an ONNX file says of images; empty for PyTorch's
    unread: Mapping[str, str] = {}  # what is not a plain tensor, such as a sparse one, by name


def read(path: str | os.PathLike[str]) -> TensorFile:
    """Read all named tensors of a file that `torch.save` or safetensors wrote, whatever its extension.

    Names are the file's own. Names in nested dictionaries are joined by dots: "state_dict.fc.bias".

    Raises:
        UserError: the file is missing, damaged, of another kind, or has no named tensors.
    """
    path = pathlib.Path(user_path(path, "weights", local="so download it first"))
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "is not there"
            raise UserError(f"{path} {what}; expected a file of weights, {KINDS}")
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if start.startswith((torch_files.ZIP, torch_files.PICKLE)):
        tensors, unread = torch_files.read(path)
        return TensorFile(tensors, {}, unread)
    if what := other_kind(start):
        raise UserError(f"{path} {what}; expected a file of weights, {KINDS}")
    if path.suffix.lower() == SAFETENSORS:
        return _read_safetensors(path)  # reports what is wrong with it
    raise UserError(f"{path} is not a file of weights that zfjax knows; expected {KINDS}")


def other_kind(content: bytes) -> str:
    """What a file is instead, by its first bytes, such as "is empty"; empty if it may hold weights."""
    for begins, what in _OTHERS.items():
        if content.startswith(begins) if begins else not content:
            return what
    return ""


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> epath.Path:
    """Write a `.safetensors` file atomically and return its path.

    Raises:
        UserError: the path has another extension, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    target = user_path(path, "--out")
    if target.suffix != SAFETENSORS:
        raise UserError(f"cannot write weights to {target}: expected a name that ends in {SAFETENSORS}")
    try:
        content = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, dict(metadata))
        with hold(target, "zfjax export-weights", beside=True):
            write_whole(target, content)  # not save_file, whose files are readable by their owner only
    except SafetensorError as error:  # gs:// without gcsfs
        raise UserError(f"cannot write {target}: {first_line(error)}") from error
    return target


def _read_safetensors(path: pathlib.Path) -> TensorFile:
    from safetensors import SafetensorError, safe_open

    tensors, unread = {}, {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                try:
                    tensors[name] = file.get_tensor(name)
                except (TypeError, AttributeError, ValueError):  # a dtype that NumPy lacks, sizes beyond it
                    unread[name] = str(file.get_slice(name).get_dtype())
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {first_line(error)}") from error
    if not tensors:
        what = f": {listed(list(unread))} is {', '.join(sorted(set(unread.values())))}" if unread else ""
        raise UserError(f"{path} holds no tensors that can be read{what}")
    return TensorFile(tensors, metadata, unread)

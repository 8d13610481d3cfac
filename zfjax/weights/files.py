"""Files of tensors by name: PyTorch's, of which nothing is run, and safetensors, for which PyTorch is not needed."""

import os
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.files import write_whole
from zfjax.console.text import first_line

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".bin", ".tar")
WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which training scripts keep the state_dict
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
SAFE_TORCH = (2, 6)  # the first whose weights_only keeps its word (CVE-2025-32434)


class TensorFile(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, np.ndarray]  # as they are in the file; half precision as float16 and ml_dtypes.bfloat16
    metadata: dict[str, str]  # what a safetensors file says of itself; empty for PyTorch's


def read(path: str | os.PathLike[str]) -> TensorFile:
    """Reads a state_dict from a `.pth`, `.pt` or `.safetensors` file; wrappers and prefixes are taken off.

    PyTorch's files are pickles, which can run code as they are read: only tensors and plain containers are let through.

    Raises:
      UserError: no such file, another kind of file, no state_dict in it, code in it, or PyTorch is needed and missing.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"no such file: {path}; expected weights as {_kinds()}")
    if path.suffix == SAFETENSORS:
        tensors, metadata = _read_safetensors(path)
    elif path.suffix in TORCH:
        tensors, metadata = _read_torch(path), {}
    else:
        raise UserError(f"{path} is no file of weights that zfjax knows; expected {_kinds()}")
    return TensorFile(_without_prefixes(tensors), metadata)


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a `.safetensors` file, whole or not at all.

    Raises:
      UserError: the name ends otherwise, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save

    path = pathlib.Path(path).expanduser()
    if path.suffix != SAFETENSORS:
        raise UserError(f"cannot write weights to {path}: expected a name that ends in {SAFETENSORS}")
    try:
        content = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, dict(metadata))
    except SafetensorError as error:
        raise UserError(f"cannot write {path}: {first_line(error)}") from error
    write_whole(path, content)  # not save_file, whose files only their owner can read


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two: a dtype NumPy lacks
        raise UserError(f"{path} is no safetensors file that can be read: {first_line(error)}") from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} needs PyTorch: pip install 'zfjax[torch]'; {SAFETENSORS} files are read without"
        ) from error
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < SAFE_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} lets a .pth file run code (CVE-2025-32434); expected 2.6 or newer:"
            " pip install -U torch"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, str(error))) from error
    except Exception as error:  # a file that is no checkpoint fails in as many ways as there are files
        raise UserError(
            f"{path} is no checkpoint that PyTorch can read ({type(error).__name__}: {first_line(error)});"
            " expected what torch.save(model.state_dict(), …) writes"
        ) from error
    return {name: _as_numpy(path, name, tensor) for name, tensor in _state_dict(path, loaded).items()}


def _refusal(path: pathlib.Path, message: str) -> str:
    """What is wrong with a pickle: the code that it names, if it names any."""
    code = re.search(r"GLOBAL\W+([\w.]+)|of type ([\w.]+)|([\w.]+\.[\w.]+) was not an allowed", message)
    if code is None:
        return f"{path} is no checkpoint that PyTorch can read: expected what torch.save(model.state_dict(), …) writes"
    name = next(group for group in code.groups() if group)
    return (
        f"{path} is refused, and nothing of it was run: it asks for {name} beside tensors;"
        " expected what torch.save(model.state_dict(), …) writes"
    )


def _state_dict(path: pathlib.Path, loaded: Any) -> Mapping[str, Any]:
    """Tensors by name, taken out of what a training script keeps beside them."""
    import torch

    wrapper = next((key for key in WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)), None)
    found = loaded[wrapper] if wrapper else loaded
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds no state_dict: expected tensors by name, found {_kind(found)}")
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path} holds no state_dict: expected tensors by name, found {_kind(value)} under {name!r}"
            )
    return found


def _as_numpy(path: pathlib.Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    try:
        if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
            return tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.detach().numpy()
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{name} in {path} is no plain array: {first_line(error)}") from error


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):  # again, since wrappers wrap each other
            return _without_prefixes({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return tensors


def _kind(value: object) -> str:
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"


def _kinds() -> str:
    return ".pth, .pt or .safetensors"

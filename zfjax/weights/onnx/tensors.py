"""ONNX's tensors as arrays, in the file or beside it, after their claimed sizes were checked."""

import math
import os
import pathlib
from typing import Any

import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import brief, first_line, reason

TensorProto = Any  # onnx is imported only when a file is read


def dtype_of(element: int, what: str) -> np.dtype:
    """The type of a tensor's elements; half precision as float16 and ml_dtypes.bfloat16.

    Raises:
        UserError: they are text, or of a type that NumPy has no counterpart for.
    """
    from onnx import TensorProto, helper

    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{what} has elements of an unknown type, number {element}") from error
    if element == TensorProto.UNDEFINED or dtype.kind == "O":
        raise UserError(f"{what} has no numbers as elements")
    return dtype


def array(tensor: TensorProto, folder: pathlib.Path) -> np.ndarray:
    """A tensor's numbers.

    Args:
        tensor: the protobuf.
        folder: of the file; tensors outside the file must lie inside it.

    Raises:
        UserError: its size is not that of its data, or its data are not where it says.
    """
    from onnx import TensorProto, numpy_helper

    what = f"the tensor {brief(tensor.name)!r}"
    dtype, shape = dtype_of(tensor.data_type, what), tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise UserError(f"{what} has a negative size: {list(shape)}")
    count = math.prod(shape)
    plain = dtype.kind != "V" or dtype.name == "bfloat16" or dtype.itemsize > 1
    if tensor.data_location == TensorProto.EXTERNAL:
        if not plain:
            raise UserError(f"{what} of {dtype} lies outside the file; expected numbers of at least 16 bits")
        return _external(tensor, folder, what, dtype, count).reshape(shape)
    if tensor.HasField("raw_data") and plain:
        data = tensor.raw_data
        if len(data) != count * dtype.itemsize:
            raise UserError(f"{what} claims {dtype}{list(shape)}, but has {len(data)} bytes")
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:  # such as too few numbers for the shape
        raise UserError(f"{what} claims {dtype}{list(shape)}, which its data are not: {first_line(error)}") from error


def beside(tensor: TensorProto, folder: pathlib.Path, what: str) -> pathlib.Path:
    """The file that holds the numbers of a tensor which lies outside the model's.

    Raises:
        UserError: it is not there, or not in the folder.
    """
    location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
    path = folder / os.path.normpath(location)
    known = location and "\0" not in location and not os.path.isabs(location)
    if not known or not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{what} lies in {brief(location)!r}; expected a file in the model's own folder")
    if not path.is_file():
        raise UserError(f"{what} lies in {brief(location)}, which is not beside the model; copy it there too")
    return path


def _external(tensor: TensorProto, folder: pathlib.Path, what: str, dtype: np.dtype, count: int) -> np.ndarray:
    said = {entry.key: entry.value for entry in tensor.external_data}
    path, location = beside(tensor, folder, what), said["location"]
    size = count * dtype.itemsize
    offset, length = (_number(said, key, what, default) for key, default in (("offset", 0), ("length", size)))
    if length != size:
        raise UserError(f"{what} claims {dtype}{list(tensor.dims)}, but has {length} bytes")
    if offset + size > path.stat().st_size:
        raise UserError(f"{what} goes beyond the end of {brief(location)}, which may be cut short")
    try:
        return np.fromfile(path, dtype.newbyteorder("<"), count, offset=offset).astype(dtype, copy=False)
    except OSError as error:
        raise UserError(f"{what}: cannot read {brief(location)}: {reason(error)}") from error


def _number(said: dict[str, str], key: str, what: str, default: int) -> int:
    text = said.get(key) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UserError(f"{what} has the {key} {brief(text)!r}; expected a number of bytes")
    return int(text)

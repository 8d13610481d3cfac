"""The arrays of a checkpoint, read from what Orbax wrote, and a digest of them.

Orbax's own restore needs files that say nothing about the arrays and, if one read fails, lets the others end in traces
on stderr. TensorStore, with which Orbax writes, reads each array by name.
"""

import concurrent.futures
import hashlib
import os
import re
import stat
import textwrap
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from etils import epath
from jaxtyping import PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import first_line, reason

# How TensorStore's message starts if the storage is at fault and not the file.
_OUT_OF_REACH = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")


class DamagedError(Exception):
    """An array is not what was saved, or cannot be read."""


class MisfitError(Exception):
    """An array has another shape or type than requested."""


def named(tree: PyTree) -> dict[str, jax.Array | np.ndarray]:
    """The leaves of a tree by Orbax's names for them, such as `params.conv1.kernel`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


def layout(tree: PyTree) -> str:
    """A digest of the leaves' names, shapes and types."""
    described = sorted(f"{name} {leaf.dtype} {tuple(leaf.shape)}" for name, leaf in named(tree).items())
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:32]


def digest(tree: PyTree) -> str:
    """A digest of the leaves' names and values; arrays over several devices are the same on each."""

    def of_leaf(leaf: jax.Array | np.ndarray) -> bytes:
        value = np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
        return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).digest()

    leaves = sorted(named(tree).items())
    total = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor() as pool:  # the paper's net and its momentum are 500 MB
        for (name, _), found in zip(leaves, pool.map(of_leaf, [leaf for _, leaf in leaves]), strict=True):
            total.update(f"\0{name}\0".encode() + found)
    return total.hexdigest()[:32]


def read(folder: epath.Path, like: PyTree) -> PyTree:
    """Read the arrays that Orbax wrote in `folder` into memory.

    Args:
        folder: the folder of one saved tree, such as `checkpoints/9/default`.
        like: a tree with the names, shapes and types that were saved there.

    Raises:
        DamagedError: an array cannot be read.
        MisfitError: an array has another shape or type than in `like`.
        UserError: the storage does not respond, or access is denied.
    """
    if not folder.is_dir():
        _require_access(folder)
        raise DamagedError(f"its folder {folder.name} is missing")
    _require_no_pipes(folder)
    # Without a pool, each array would read the database's index again.
    context = ts.Context({"cache_pool": {"total_bytes_limit": 1 << 26}})
    opened = {name: ts.open(_spec(folder, name), read=True, open=True, context=context) for name in named(like)}
    reading = {}
    for name, leaf in named(like).items():
        array = _result(folder, name, opened[name])
        if (array.shape, array.dtype.numpy_dtype) != (tuple(leaf.shape), leaf.dtype):
            raise MisfitError(f"{name} is {array.dtype.name} of shape {array.shape}, not {leaf.dtype} {leaf.shape}")
        reading[name] = array.read()
    values = [_result(folder, name, value) for name, value in reading.items()]
    return jax.tree.unflatten(jax.tree.structure(like), values)


def place(values: PyTree, like: PyTree) -> PyTree:
    """Lay out arrays over devices as in `like`; where a leaf of `like` is NumPy's, keep the array in memory."""

    def one(value: np.ndarray, leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        if not isinstance(leaf, jax.Array):
            return value
        return jax.make_array_from_callback(value.shape, leaf.sharding, lambda index: value[index])

    return jax.tree.map(one, values, like)


def _require_access(folder: epath.Path) -> None:
    """Raise a UserError if a folder may not be read: it can be whole, and so is not damaged."""
    if "://" not in str(folder):
        try:
            os.stat(folder)
        except PermissionError as error:
            raise UserError(f"cannot read {folder}: {reason(error)}") from error
        except OSError:
            return


def _require_no_pipes(folder: epath.Path) -> None:
    """Raise a DamagedError if TensorStore would read from a named pipe, which may never end."""
    for parent, _, names in os.walk(folder):  # nothing, if the folder is remote
        for name in names:
            path = os.path.join(parent, name)
            is_read = name == "manifest.ocdbt" or os.path.basename(parent) == "d"
            if is_read and os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
                raise DamagedError(f"{os.path.relpath(path, folder)}: expected a file, found a named pipe")


def _spec(folder: epath.Path, name: str) -> dict[str, Any]:
    base = f"{folder}/" if "://" in str(folder) else {"driver": "file", "path": f"{folder}/"}
    return {"driver": "auto", "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"}}


def _result(folder: epath.Path, name: str, future: ts.Future) -> Any:
    try:
        return future.result()
    except MemoryError:
        raise
    except Exception as error:  # TensorStore raises many kinds of errors
        line = first_line(error)
        if line.startswith(_OUT_OF_REACH):
            raise UserError(f"cannot read {folder}: {line}") from error
        causes = re.split(r" \[(?:tensorstore_spec|source locations)=", line)[0].split(
            ": "
        )  # what failed first is last
        why = textwrap.shorten(f"{causes[0]}: {causes[-1]}", 160, placeholder=" …")
        raise DamagedError(f"{name} cannot be read ({why})") from error

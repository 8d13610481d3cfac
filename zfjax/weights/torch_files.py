"""Read PyTorch's files without PyTorch: a pickle next to the bytes of its tensors, zipped or, if old, in a row."""

import collections
import io
import pathlib
import re
import reprlib
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import brief, first_line, listed
from zfjax.weights.pickles import EXPECTED, Placeholder, Storage, Stream, Tensor, inside, is_unread, unpickled

ZIP = b"PK\x03\x04"  # how a file of PyTorch 1.6 or newer begins
PICKLE = b"\x80"  # and one of an older PyTorch
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of an older file
DEEPEST = 32  # levels of nested containers
ALIASES = 4  # ways to a container that are followed: modules may have several names, and may also form circles
FEW = 8  # tensors in a list that are not worth mentioning, such as the states of random numbers
LARGEST = 2**20  # bytes that a tensor may have beyond its file: `expand` repeats numbers without storing them

_OPTIMIZER = re.compile(r"opt$|optim(?!al|um|i[sz]ed|i[sz]ation)")


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the tensors of a file that `torch.save` wrote, by their names in its containers: "state_dict.conv1.weight".

    Optimizer state is left out. A whole module gives its `state_dict`.

    Returns:
        The tensors, and what is no plain tensor with a name: by its name, what made it (sparse or quantized tensors,
        NumPy's arrays), or how many tensors are in a list.

    Raises:
        UserError: the file is damaged, not from `torch.save`, has no named tensors, or asks for harmful functions.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(ZIP)) == ZIP
            file.seek(0)
            tree, content = _opened_zip(path, file) if zipped else _opened_old(file)
            tensors, unread = _named(tree)
            if not tensors and unread:
                name, maker = next(iter(unread.items()))
                raise UserError(f"holds no plain tensors: {brief(name)} ({brief(maker)}); {EXPECTED}")
            if not tensors:
                raise UserError(f"holds no state_dict: expected tensors by name, found {_described(tree)}")
            storages = {tensor.storage for tensor in tensors.values()}
            size = path.stat().st_size
            if sum(storage.size for storage in storages) > size:
                raise UserError(f"is cut short or damaged (its tensors are larger than the file); {EXPECTED}")
            contents = {storage: content(storage) for storage in storages}
            arrays = {name: tensor.array(contents[tensor.storage]) for name, tensor in tensors.items()}
            repeated = [name for name, array in arrays.items() if array.nbytes > size + LARGEST]
            if repeated:
                raise UserError(f"holds {listed(repeated)}, which repeats its numbers far beyond the size of the file")
            return arrays, unread
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except Exception as error:  # a file that is not a checkpoint can fail in any way
        raise UserError(
            f"{path} is not a readable checkpoint ({type(error).__name__}: {first_line(error)}); {EXPECTED}"
        ) from error


def _opened_zip(path: pathlib.Path, file: Stream) -> tuple[Any, Callable[[Storage], bytes]]:
    """The unpickled content of a file, and a function that reads a storage's bytes."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise UserError(f"is cut short or damaged ({first_line(error)}); {EXPECTED}") from error
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if not roots:
        first = "; unpack it first" if any(name.endswith((".pth", ".pt", ".ckpt")) for name in names) else ""
        raise UserError(f"is a zip archive, but none of torch.save's: it holds {listed(names)}{first}; {EXPECTED}")
    root = roots[0]
    if f"{root}constants.pkl" in names:
        raise UserError(
            "is a TorchScript archive, which is a program; expected a state_dict, which PyTorch makes of it:"
            f' torch.save(torch.jit.load({str(path)!r}, map_location="cpu").state_dict(), "weights.pth")'
        )

    def entry(name: str) -> bytes:
        return _stored(file, archive.getinfo(root + name))

    if f"{root}byteorder" in names and entry("byteorder") != b"little":
        raise ValueError("written by a big-endian machine")

    def content(storage: Storage) -> bytes:
        return _whole(entry(f"data/{storage.key}"), storage)

    return unpickled(io.BytesIO(entry("data.pkl")))[0], content


def _stored(file: Stream, info: zipfile.ZipInfo) -> bytes:
    """An entry of a zip archive as torch.save writes it: not compressed; a checksum of 0 means that there is none."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), io.SEEK_CUR)
    content = file.read(info.file_size)
    if info.CRC and zlib.crc32(content) != info.CRC:
        raise ValueError(f"{info.filename} does not fit its checksum: the file is damaged")
    return content


def _opened_old(file: Stream) -> tuple[Any, Callable[[Storage], bytes]]:
    magic, _ = unpickled(file)
    if magic != MAGIC:
        raise UserError(f"is a pickle, but none of torch.save's; {EXPECTED}")
    unpickled(file)  # the protocol's version
    if not unpickled(file)[0]["little_endian"]:
        raise ValueError("written by a big-endian machine")
    tree, storages = unpickled(file)
    places = {}
    for key in unpickled(file)[0]:
        if key not in storages:
            raise ValueError("storages of another kind of numbers")
        places[key] = file.tell() + 8  # after the number of elements
        file.seek(places[key] + storages[key].size)

    def content(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return _whole(file.read(storage.size), storage)

    return tree, content


def _whole(content: bytes, storage: Storage) -> bytes:
    if len(content) != storage.size:
        found = f"storage {storage.key} has {len(content)} bytes, expected {storage.size}"
        raise UserError(f"is cut short or damaged ({found}); {EXPECTED}")
    return content


def _named(tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors below string keys by their keys joined by dots, and the makers of other tensors."""
    found: dict[str, Tensor] = {}
    unread: dict[str, str] = {}
    ways: collections.Counter[int] = collections.Counter()

    def walk(value: Any, name: str, depth: int) -> None:
        if isinstance(value, Tensor):
            found.setdefault(name, value)
        elif is_unread(value):
            unread.setdefault(name, value.name)
        elif isinstance(value, list | tuple) and sum(isinstance(inner, Tensor) for inner in value) > FEW:
            unread.setdefault(name, f"{len(value)} tensors without names")
        elif depth < DEEPEST and ways[id(value)] < ALIASES:
            ways[id(value)] += 1
            for key, inner in inside(value):
                if isinstance(key, str) and not _OPTIMIZER.match(key):
                    walk(inner, f"{name}.{key}" if name else key, depth + 1)

    walk(tree, "", 0)
    return found, unread


def _described(tree: Any) -> str:
    if isinstance(tree, dict) and tree:
        key, value = next(iter(tree.items()))
        return f"{_kind(value)} under {reprlib.repr(key)}"
    return _kind(tree)


def _kind(value: Any) -> str:
    name = (value.name if isinstance(value, Placeholder) else "") or type(value).__name__
    name = brief(name)
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"

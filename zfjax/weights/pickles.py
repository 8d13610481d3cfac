"""Read PyTorch's files without PyTorch, and without running anything in them.

A checkpoint is a pickle next to the bytes of its tensors, and a pickle can name any function and have it called. Here
such a name is inert: what it calls, builds or fills is a `Placeholder`, which only stores what it is given. The few
names that build tensors are the exception: they become arrays of the bytes next to the pickle.
"""

import collections
import io
import pathlib
import pickle
import pickletools
import re
import reprlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import brief, first_line, listed

ZIP = b"PK\x03\x04"  # how a file of PyTorch 1.6 or newer begins
PICKLE = b"\x80"  # and one of an older PyTorch
EXPECTED = "expected what torch.save(model.state_dict(), …) writes"
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of an older file
DEEPEST = 32  # levels of nested containers
ALIASES = 4  # ways to a container that are followed: modules may have several names, and may also form circles
FEW = 8  # tensors in a list that are not worth mentioning, such as the states of random numbers
LARGEST = 2**20  # bytes that a tensor may have beyond its file: `expand` repeats numbers without storing them

Stream = io.BytesIO | io.BufferedReader

# Names that no checkpoint needs. They would be placeholders too, but are refused, since such a file means harm.
_HARMFUL = frozenset(
    ("os", "posix", "nt", "sys", "subprocess", "commands", "shutil", "socket", "runpy", "pty", "ctypes", "importlib")
)
_HARMFUL_BUILTINS = frozenset(("eval", "exec", "compile", "open", "__import__", "breakpoint"))

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_DTYPES = frozenset(_STORAGES.values()) | {"uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"}


class Storage(NamedTuple):
    """A block of bytes next to the pickle."""

    key: str
    dtype: str
    elements: int

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.elements * _dtype(self.dtype).itemsize


class Tensor(NamedTuple):
    """A view into a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str

    def array(self, content: bytes) -> np.ndarray:
        """The tensor as a view of its storage's content. Raises a ValueError or TypeError if it does not fit inside."""
        dtype = _dtype(self.dtype)
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        return np.ndarray(self.shape, dtype, content, self.offset * dtype.itemsize, strides)


class Placeholder:
    """Stands for an object that a pickle asks for by `name`; stores what it is given and does nothing."""

    name = ""

    def __new__(cls, *given: object, **_: object) -> "Placeholder":
        """Accept any arguments: a pickle may pass some, and then never call `__init__`."""
        made = object.__new__(cls)
        made.given, made.state, made.entries = given, None, {}
        return made

    def __init__(self, *_: object, **__: object) -> None:
        self.given: tuple[object, ...]
        self.state: Any
        self.entries: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def __call__(self, *_: object, **__: object) -> "Placeholder":
        """Return the result, another placeholder, if the pickle asked for a function."""
        return Placeholder()

    def append(self, _: object) -> None:
        """Ignore an item of a list; nothing reads lists."""

    extend = add = append

    def inside(self) -> Iterator[tuple[Any, Any]]:
        """What it was given, its entries and its attributes; of a PyTorch module only what its `state_dict` holds."""
        if isinstance(self.state, dict) and "_modules" in self.state:
            passing = self.state.get("_non_persistent_buffers_set") or ()
            for kind in ("_parameters", "_buffers", "_modules"):
                held = self.state.get(kind)
                yield from ((key, value) for key, value in (held or {}).items() if key not in passing)
            return
        yield from _inside(self.given)
        yield from self.entries.items()
        yield from _inside(self.state)


class _Unread(Placeholder):
    """Stands for a tensor of a class of its own."""

    name = "torch._tensor._rebuild_from_type_v2"


class _Maker:
    """A function that pickles may call, without attributes that they could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("the state of a function")


def _tensor(storage: object, offset: int, shape: Any, strides: Any, *rest: Any) -> Tensor | _Unread:
    # After requires_grad and hooks comes metadata: a view that conjugates or negates.
    if any(rest[2:]) or not isinstance(storage, Storage):
        return _Unread()
    return Tensor(storage, offset, tuple(shape), tuple(strides), storage.dtype)


def _typed_tensor(storage: Any, offset: int, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """A tensor whose storage is bytes; its dtype comes after requires_grad and hooks."""
    return Tensor(storage, offset, tuple(shape), tuple(strides), rest[2])


def _subclassed(made_by: Any, _: object, args: Any, *state: object) -> Any:
    return made_by(*args) if isinstance(made_by, _Maker) else _Unread()


_KNOWN = {
    "collections.OrderedDict": collections.OrderedDict,
    "builtins.set": set,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _Maker(_tensor),
    "torch._utils._rebuild_tensor_v2": _Maker(_tensor),
    "torch._utils._rebuild_tensor_v3": _Maker(_typed_tensor),
    "torch._utils._rebuild_parameter": _Maker(lambda tensor, *_: tensor),
    "torch._utils._rebuild_parameter_with_state": _Maker(lambda tensor, *_: tensor),
    "torch._tensor._rebuild_from_type_v2": _Maker(_subclassed),
}


class _Reader(pickle.Unpickler):
    """Makes tensors, plain containers and placeholders."""

    def __init__(self, file: Stream) -> None:
        super().__init__(file, encoding="latin-1")  # for strings written by Python 2
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # Python 2's name for it, which torch.save uses
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        if module.split(".")[0] == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return name
        if module.split(".")[0] in _HARMFUL or (module == "builtins" and name in _HARMFUL_BUILTINS):
            raise UserError(
                f"is refused, and nothing of it was run: it asks for {brief(full)} beside tensors; {EXPECTED}"
            )
        return type("Placeholder", (Placeholder,), {"name": full})

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # a class with its source
            return pid[1]
        _, dtype, key, _, count, *view = pid
        if not isinstance(dtype, str):  # such as quantized
            return dtype
        if any(view):
            raise ValueError("a storage inside another")
        self.storages[str(key)] = storage = Storage(str(key), dtype, count)
        return storage


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
        raise UserError(f"is a zip archive, but none of torch.save's: it holds {listed(names)}; {EXPECTED}")
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

    return _unpickled(io.BytesIO(entry("data.pkl")))[0], content


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
    magic, _ = _unpickled(file)
    if magic != MAGIC:
        raise UserError(f"is a pickle, but none of torch.save's; {EXPECTED}")
    _unpickled(file)  # the protocol's version
    if not _unpickled(file)[0]["little_endian"]:
        raise ValueError("written by a big-endian machine")
    tree, storages = _unpickled(file)
    places = {}
    for key in _unpickled(file)[0]:
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


def _unpickled(file: Stream) -> tuple[Any, dict[str, Storage]]:
    """The next pickle of a file and the storages it names; leaves the file position after it."""
    start = file.tell()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        # An unpickler allocates up to the largest index: one byte could ask for 64 GB.
        if opcode.name.endswith("PUT") and int(argument or 0) > number:
            raise ValueError(f"damaged: {opcode.name} {argument}")
    end = file.tell()
    file.seek(start)
    reader = _Reader(file)
    tree = reader.load()
    file.seek(end)
    return tree, reader.storages


def _named(tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors below string keys by their keys joined by dots, and the makers of other tensors."""
    found: dict[str, Tensor] = {}
    unread: dict[str, str] = {}
    ways: collections.Counter[int] = collections.Counter()

    def walk(value: Any, name: str, depth: int) -> None:
        if isinstance(value, Tensor):
            found.setdefault(name, value)
        elif _is_unread(value):
            unread.setdefault(name, value.name)
        elif isinstance(value, list | tuple) and sum(isinstance(inner, Tensor) for inner in value) > FEW:
            unread.setdefault(name, f"{len(value)} tensors without names")
        elif depth < DEEPEST and ways[id(value)] < ALIASES:
            ways[id(value)] += 1
            for key, inner in _inside(value):
                if isinstance(key, str) and not _OPTIMIZER.match(key):
                    walk(inner, f"{name}.{key}" if name else key, depth + 1)

    walk(tree, "", 0)
    return found, unread


_UNREAD = re.compile(r"torch\._utils\.|torch\._tensor\.|torch\.nn\.parameter\.Unin|numpy\..*\._reconstruct$")
_OPTIMIZER = re.compile(r"opt$|optim(?!al|um|i[sz]ed|i[sz]ation)")


def _is_unread(value: Any) -> bool:
    """Whether this stands for an array that is no plain tensor."""
    return isinstance(value, Placeholder) and _UNREAD.match(value.name) is not None


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a container by their keys. Of a list only other containers, by their numbers."""
    if isinstance(value, Placeholder):
        yield from value.inside()
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple) and not isinstance(value, Tensor | Storage):
        for place, inner in enumerate(value):
            is_container = isinstance(inner, dict | list | tuple | Placeholder)
            if is_container and not isinstance(inner, Tensor | Storage) and not _is_unread(inner):
                yield str(place), inner


def _described(tree: Any) -> str:
    if isinstance(tree, dict) and tree:
        key, value = next(iter(tree.items()))
        return f"{_kind(value)} under {reprlib.repr(key)}"
    return _kind(tree)


def _kind(value: Any) -> str:
    name = (value.name if isinstance(value, Placeholder) else "") or type(value).__name__
    name = brief(name)
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))

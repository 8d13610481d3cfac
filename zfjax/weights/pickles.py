"""A pickle as data: tensors, plain containers, and placeholders for all else. Nothing in it is run.

A pickle can name any function and have it called. Here such a name is inert: what it calls, builds or fills is a
`Placeholder`, which only stores what it is given. The few names that build tensors are the exception: they become
descriptions of arrays in the bytes next to the pickle.
"""

import collections
import io
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import brief

EXPECTED = "expected what torch.save(model.state_dict(), …) writes"

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

# Makers of arrays that are no plain tensors.
_UNREAD = re.compile(r"torch\._utils\.|torch\._tensor\.|torch\.nn\.parameter\.Unin|numpy\..*\._reconstruct$")


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
        yield from inside(self.given)
        yield from self.entries.items()
        yield from inside(self.state)


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


def unpickled(file: Stream) -> tuple[Any, dict[str, Storage]]:
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


def inside(value: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a container by their keys. Of a list only other containers, by their numbers."""
    if isinstance(value, Placeholder):
        yield from value.inside()
    elif isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple) and not isinstance(value, Tensor | Storage):
        for place, inner in enumerate(value):
            is_container = isinstance(inner, dict | list | tuple | Placeholder)
            if is_container and not isinstance(inner, Tensor | Storage) and not is_unread(inner):
                yield str(place), inner


def is_unread(value: Any) -> bool:
    """Whether this stands for an array that is no plain tensor."""
    return isinstance(value, Placeholder) and _UNREAD.match(value.name) is not None


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))

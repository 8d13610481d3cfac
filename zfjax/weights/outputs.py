"""Names of a net's outputs, and the net cut down to some of them."""

import ast
import codecs
import collections
import contextlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.files import read_whole
from zfjax.console.paths import user_path
from zfjax.console.text import did_you_mean, listed, reason
from zfjax.models.edits import resized
from zfjax.weights.pretrained import Loaded

_LINE_ENDS = re.compile(r"\r\n|\r|\n")
# UTF-32 before UTF-16: its mark starts with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Names(NamedTuple):
    """Names of a net's outputs, in their order."""

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what was unusual about their file, one sentence each


def read_names(path: str | os.PathLike[str]) -> Names:
    """Read class names, one per line, stripped of surrounding spaces; empty lines at the start and end are skipped.

    The file is UTF-8, or begins with the byte-order mark of another encoding; otherwise it is read as Windows-1252,
    with a note. It may also be a list or dictionary in JSON or Python, as ImageNet's names are passed around: of names,
    or of lists that end in one, in order or by the outputs' numbers (`{"0": ["n01440764", "tench"], …}`).

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read, is not text, has no names, or has an empty line between them.
    """
    try:
        content = read_whole(user_path(path, "--class_names"))
    except OSError as error:
        raise UserError(f"cannot read the class names in {path}: {reason(error)}") from error
    text, note = _decoded(path, content)
    if (literal := _literal(text)) is not None:
        return Names(_of_literal(path, literal), (note,) if note else ())
    lines = [line.strip() for line in _LINE_ENDS.split(text)]
    numbers = [number for number, line in enumerate(lines, 1) if line]
    if not numbers:
        raise UserError(f"{path} is empty; expected class names, one per line, in the order of the net's outputs")
    first, last = numbers[0], numbers[-1]
    gaps = sorted(set(range(first, last)) - set(numbers))
    if gaps:
        raise UserError(f"{path} has no name in line {listed([str(number) for number in gaps])}; expected one per line")
    return Names(tuple(lines[first - 1 : last]), (note,) if note else ())


def _literal(text: str) -> object:
    """A list or dictionary, if the text is one in JSON or Python; else None."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(text.strip())
    return None


def _of_literal(path: str | os.PathLike[str], found: object) -> tuple[str, ...]:
    if isinstance(found, dict):
        found = [found.get(str(number), found.get(number)) for number in range(len(found))]
    names = [one[-1] if isinstance(one, list) and one else one for one in found] if isinstance(found, list) else []
    wrong = [number for number, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    if wrong or not names:
        which = f" for output {wrong[0]}" if wrong else ""
        raise UserError(f"{path} has no name{which}; expected a list of class names, or names by the outputs' numbers")
    return tuple(unicodedata.normalize("NFC", name.strip()) for name in names)


def _decoded(path: str | os.PathLike[str], content: bytes) -> tuple[str, str]:
    """A file's text, and a note on its encoding."""
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    try:
        text, note = content[len(mark) :].decode(_MARKS.get(mark, "utf-8")), ""
    except UnicodeDecodeError as error:
        line = len(_LINE_ENDS.split(content[: error.start].decode("latin-1")))
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            text = ""
        if mark or not text:
            raise UserError(f"{path} is not text in UTF-8 (line {line}); expected class names, one per line") from error
        shown = _LINE_ENDS.split(text)[line - 1].strip()
        note = f"{path} is not UTF-8 and was read as Windows-1252: line {line} is {shown!r}"
    if "\0" in text:
        raise UserError(f"{path} is not text in UTF-8; expected class names, one per line")
    return unicodedata.normalize("NFC", text), note


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with the output number added to those that occur more than once: crane (134), crane (517)."""
    counts = collections.Counter(names)
    if len(counts) == len(names):
        return tuple(names)
    told_apart = (f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names))
    return distinct(tuple(told_apart))


def require_one_each(loaded: Loaded, names: Sequence[str]) -> None:
    """Raise a UserError unless there is one name per output."""
    if len(names) != loaded.outputs:
        raise UserError(
            f"{len(names)} classes are named, but the net has {loaded.outputs} outputs; expected one name for each"
        )


def with_outputs(loaded: Loaded, names: Sequence[str], wanted: Sequence[str], source: str) -> Loaded:
    """The net cut down to the `wanted` outputs, in their order.

    Args:
        loaded: a net whose last layer is dense.
        names: the names of its outputs; repeated names can also be given as `distinct` writes them.
        wanted: the classes of a dataset.
        source: the name of the dataset, for errors.

    Raises:
        UserError: there is not one name per output, or a class has no output or more than one.
    """
    require_one_each(loaded, names)
    plain, asked = ([unicodedata.normalize("NFC", name) for name in some] for some in (names, wanted))
    known = distinct(plain)
    unknown = [name for name in asked if name not in known]
    for name in unknown:
        several = [one for one, own in zip(known, plain, strict=True) if own == name]
        if several:
            raise UserError(
                f"the net has {len(several)} outputs called {name!r}; expected the class of {source} to be one of"
                f" {listed(several)}"
            )
    if unknown:
        raise UserError(
            f"{source} has classes that the net does not know: {listed(unknown)}"
            f"{did_you_mean(unknown[0], known)}; expected some of {listed(known)}"
        )
    last = loaded.net.layers[-1]
    weights = loaded.variables["params"][last.name]
    rows = np.array([known.index(name) for name in asked])
    cut = {"kernel": weights["kernel"][:, rows], "bias": weights["bias"][rows]}
    params = loaded.variables["params"] | {last.name: cut}
    net = resized(loaded.net, {last.name: len(rows)})
    return loaded._replace(net=net, variables=loaded.variables | {"params": params})

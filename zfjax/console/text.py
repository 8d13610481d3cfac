"""Plain-text output: aligned columns, hints, reasons of errors, and names made printable."""

import contextlib
import difflib
import errno
import os
import re
import reprlib
import sys
import unicodedata
from collections.abc import Sequence
from typing import TypeVar

import wadler_lindig

Record = TypeVar("Record")


def align(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns two spaces apart; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def did_you_mean(word: str, known: Sequence[str], prefix: str = "") -> str:
    """`; did you mean X?`, or nothing if no known word is close."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def brief(value: object) -> str:
    """Untrusted content for use in a message: printable short text as is, anything long or odd abbreviated."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 80
    return str(value) if plain else reprlib.repr(value)


def shown_by_shape(record: type[Record]) -> type[Record]:
    """Decorate a class whose fields hold arrays: its repr has their dtypes and shapes instead of their numbers."""

    def shown(self: Record) -> str:
        return wadler_lindig.pformat(self, width=100, custom=_abridged)

    record.__repr__ = shown  # type: ignore[method-assign, assignment]
    return record


def _abridged(value: object) -> wadler_lindig.AbstractDoc | None:
    """The first of many names, such as the files of a dataset; None for anything else, which is shown as usual."""
    if not isinstance(value, tuple | list) or len(value) <= 20 or not all(isinstance(one, str) for one in value):
        return None
    return wadler_lindig.TextDoc(f"<{listed(value)}>")


def whole_number(text: str) -> int:
    """Parse a number of at most 18 digits. Raises a ValueError for any other text."""
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
        raise ValueError(f"{brief(text)!r} is not a whole number")
    return int(text)


def listed(names: Sequence[str], shown: int = 3) -> str:
    """The first `shown` names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(brief, names[:shown])) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; its type if there is no message."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:299]}…"


_SYSTEM = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)]


def reason(error: BaseException) -> str:
    """Why something could not be read or written, in the operating system's words if possible, else the first line.

    C++ libraries raise arbitrary errors with the system's words somewhere in the message.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((words for words in _SYSTEM if words in str(error)), first_line(error))


def is_full(error: BaseException) -> bool:
    """Whether a full disk caused an error."""
    return reason(error) in _SYSTEM[:2]


def size_of(num_bytes: float) -> str:
    """A number of bytes in kB, MB or GB."""
    if num_bytes < 1e5:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the host or a device ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED: Out of memory" in str(error)


def written(folder: object, names: Sequence[str]) -> str:
    """The last line of a command that writes files: where, and which."""
    return f"written to {folder}: {', '.join(names)}"


def say(line: str) -> None:
    """Print a notice on stderr, prefixed like an error line; the work goes on."""
    print(f"zfjax: {one_line(line)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Text made `readable`; the middle of very long text is left out."""
    line = readable(text)
    return line if len(line) <= 1000 else f"{line[:600]} … {line[-300:]}"


def readable(name: str) -> str:
    r"""A file or folder name as text that can be printed, written and compared.

    Macs store names in NFD, other systems in NFC; the result is NFC. Bytes that are not UTF-8, as in old archives, are
    read as cp1252 letters; anything unprintable is escaped.

    >>> readable("cafe\u0301") == readable("caf\udce9") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", _printable, name))


def _printable(match: re.Match[str]) -> str:
    """Escape a control character; turn a byte that is not UTF-8 into a letter."""
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # how Python represents such bytes
        with contextlib.suppress(UnicodeDecodeError):
            return bytes([ord(character) - 0xDC00]).decode("cp1252")
    return character.encode("ascii", "backslashreplace").decode() if character > "~" else repr(character)[1:-1]


def as_file(name: str) -> str:
    """A name as part of a file's name, no two alike: `block1-conv2` for `block1/conv2`."""
    special = {"/": "-", "-": "--"}
    return re.sub(r"[^\w.]|^\.", lambda found: special.get(found[0], f"-{ord(found[0]):x}-"), readable(name))

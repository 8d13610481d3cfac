"""Tables, hints and last lines as plain text."""

import contextlib
import difflib
import errno
import os
import re
import reprlib
import sys
import unicodedata
from collections.abc import Sequence


def align(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns, two spaces apart: the first column to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def did_you_mean(word: str, known: Sequence[str], prefix: str = "") -> str:
    """`; did you mean X?`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def brief(value: object) -> str:
    """What stands in a file of anybody's, for a line of ours: a name as it is, what is long or odd cut short."""
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 80
    return str(value) if plain else reprlib.repr(value)


def whole_number(text: str) -> int:
    """The number that some digits are, 18 of them at most. Raises a ValueError for any other text."""
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text):
        raise ValueError(f"{brief(text)!r} is no whole number")
    return int(text)


def listed(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(brief, names[:shown])) + more


def first_line(error: BaseException) -> str:
    """The first line of what an error says, 300 characters at most; of one that says nothing, its kind."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 300 else f"{line[:299]}…"


_SYSTEM = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)]


def reason(error: BaseException) -> str:
    """Why something could not be read or written, in the system's words, whichever library met it; else its first line.

    Libraries in C++ raise what they like, with the system's words somewhere in it.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((words for words in _SYSTEM if words in str(error)), first_line(error))


def is_full(error: BaseException) -> bool:
    """Whether a full disk is behind an error."""
    return reason(error) in _SYSTEM[:2]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's memory, or a device's, is behind an error."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED: Out of memory" in str(error)


def written(folder: object, names: Sequence[str]) -> str:
    """The last line of a command that writes: where, and what."""
    return f"written to {folder}: {', '.join(names)}"


def say(line: str) -> None:
    """Print a line on stderr, as commands end with one: something to know, after which the work goes on."""
    print(f"zfjax: {one_line(line)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Text as `readable` makes it, and of what is very long the middle left out."""
    line = readable(text)
    return line if len(line) <= 1000 else f"{line[:600]} … {line[-300:]}"


def readable(name: str) -> str:
    r"""A file's or folder's name as text that can be printed, written and compared.

    The same name is composed of other characters on a Mac than elsewhere (NFD and NFC); here it is NFC. Bytes that are
    no UTF-8, as old archives have them, are read as Windows' Latin letters; what cannot be printed at all is escaped.

    >>> readable("cafe\u0301") == readable("caf\udce9") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", _printable, name))


def _printable(match: re.Match[str]) -> str:
    """A control character escaped; a byte that the file system did not understand as a letter."""
    character = match[0]
    if "\udc80" <= character <= "\udcff":  # how Python passes on such bytes
        with contextlib.suppress(UnicodeDecodeError):
            return bytes([ord(character) - 0xDC00]).decode("cp1252")
    return character.encode("ascii", "backslashreplace").decode() if character > "~" else repr(character)[1:-1]

"""Which files of a class folder are pictures; the others are counted by the reason they are left out."""

import collections
import concurrent.futures
import errno
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from zfjax.console.text import readable, reason
from zfjax.data import formats

_HIDDEN, _DEEPER, _BESIDE = "hidden", "in deeper folders", "beside the class folders"
_EMPTY, _COPY, _NO_FILE, _NO_PICTURE = (
    "empty",
    "backup copies",
    "neither files nor folders",
    "without a picture in them",
)
# Folders that archives, disks and file servers add; they hide them where they come from.
_OF_SYSTEMS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
_MOST_REASONS = 12  # in one line
# Extensions of editors' backups and unfinished downloads, left out even if they hold a picture.
_NOT_MEANT = (".bak", ".backup", ".old", ".orig", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".download")


class Contents(NamedTuple):
    """The names directly in a folder; `folders`, `files` and `others` have no hidden ones."""

    folders: list[str]
    files: list[str]
    others: list[str]  # pipes, devices, broken links
    hidden: list[str]  # files and folders


class Leftovers:
    """Counts of unused files by reason, with one example for each reason."""

    def __init__(self) -> None:
        self._counts = collections.Counter[str]()
        self._examples: dict[str, str] = {}

    def add(self, why: str, example: str, count: int = 1) -> None:
        """Count `count` more files."""
        if count:
            self._counts[why] += count
            self._examples.setdefault(why, readable(example))

    def add_beside(self, top: Contents) -> None:
        """Count everything beside the class folders."""
        for why, names in ((_BESIDE, top.files), (_HIDDEN, top.hidden), (_NO_FILE, top.others)):
            for name in names:
                self.add(why, name)

    def add_all(self, other: "Leftovers") -> None:
        """Add the other's counts."""
        for why, count in other._counts.items():
            self.add(why, other._examples[why], count)

    def __str__(self) -> str:
        """One line; empty if there are none."""
        most = self._counts.most_common(_MOST_REASONS)
        parts = [f"{count:,} {why} ({self._examples[why]})" for why, count in most]
        rest = self._counts.total() - sum(count for _, count in most)
        return "; ".join([*parts, *([f"{rest:,} others"] if rest else [])])


def contents(folder: epath.Path) -> Contents:
    """List a folder. Raises an OSError if it cannot be read."""
    found = Contents([], [], [], [])
    if "://" in os.fspath(folder):
        # One level of a walk: asking for each name's type would cost a request each.
        _, folders, files = next(iter(folder.walk()), (folder, [], []))
        entries = [(name.rstrip("/"), found.folders) for name in folders] + [(name, found.files) for name in files]
    else:
        with os.scandir(folder) as listed:
            entries = [(entry.name, _kind(entry, found)) for entry in listed]
    for name, kind in sorted(entries, key=lambda entry: entry[0]):
        (found.hidden if name.startswith(".") or name in _OF_SYSTEMS else kind).append(name)
    return found


def _kind(entry: os.DirEntry[str], found: Contents) -> list[str]:
    try:
        return found.folders if entry.is_dir() else found.files if entry.is_file() else found.others
    except OSError as error:
        if error.errno == errno.ELOOP:  # a circle of links is as broken as one that leads nowhere
            return found.others
        raise


def pick(folder: epath.Path, shown: str, left_out: Leftovers) -> list[str]:
    """The names of the pictures directly in a folder; everything else is counted in `left_out`.

    The extension identifies a picture, else the content, since downloads have names such as `1` or `1.jpg?w=640`.

    Args:
        folder: the folder to list.
        shown: what to call it.
        left_out: updated in place.

    Raises:
        OSError: the folder cannot be read.
    """
    found = contents(folder)
    pictures = [name for name in found.files if is_picture(name)]
    doubtful = [name for name in found.files if not is_picture(name)]
    for name, why in zip(doubtful, _reasons(folder, doubtful), strict=True):
        if why:
            left_out.add(why, f"{shown}/{name}")
        else:
            pictures.append(name)
    for why, names in ((_HIDDEN, found.hidden), (_NO_FILE, found.others)):
        for name in names:
            left_out.add(why, f"{shown}/{name}")
    for name in found.folders:
        left_out.add(_DEEPER, f"{shown}/{name}", count_below(folder / name))
    return pictures


def is_picture(name: str) -> bool:
    """Whether a file is a picture by its extension."""
    return _extension(name) in formats.extensions()


def count_below(folder: epath.Path) -> int:
    """Count the files in a folder and below it; unreadable folders are skipped."""
    if "://" in os.fspath(folder):
        return sum(len(files) for _, _, files in folder.walk())
    return sum(len(files) for _, _, files in os.walk(folder))


def _reasons(folder: epath.Path, names: Sequence[str]) -> list[str]:
    """Why each of these files, which lack a picture's extension, is left out; empty if it is a picture after all."""
    if not names:
        return []
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # opening files on a network takes long
        return list(pool.map(lambda name: _reason(folder, name), names))


def _reason(folder: epath.Path, name: str) -> str:
    extension = _extension(name)
    package = formats.missing_package(extension)
    if package:
        return f"{extension}: pip install {package}"
    if name.endswith("~") or extension in _NOT_MEANT:
        return extension or _COPY
    try:
        with (folder / name).open("rb") as file:
            kind = formats.recognized(file)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        return f"unreadable: {reason(error)}"
    if kind and kind not in formats.available():
        return f"{kind.name}: pip install {kind.package}"
    # Camera raw files (.nef, .dng) are TIFF too, but what opens is a thumbnail.
    if kind and not (kind.name == "TIFF" and extension):
        return ""
    return (extension or _NO_PICTURE) if size else _EMPTY


def _extension(name: str) -> str:
    """A name's extension in lower case with the dot; empty if it has none, as `1.jpg?w=640` or `Mr. Smith`."""
    found = re.search(r"[^.](\.(?=\w*[A-Za-z])\w{1,10})$", name, re.ASCII)
    return found[1].lower() if found else ""

"""Which files of a class folder are pictures; the others are counted, by why they are left out."""

import collections
import concurrent.futures
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from zfjax.console.text import readable
from zfjax.data import formats

_HIDDEN, _DEEPER, _BESIDE = "hidden", "in deeper folders", "beside the class folders"
_EMPTY, _COPY, _NO_FILE, _NO_PICTURE = (
    "empty",
    "backup copies",
    "neither files nor folders",
    "without a picture in them",
)
_MOST_REASONS = 12  # in one line
# Endings of copies that editors keep, and of downloads that are not whole: a picture may be in them, but none is meant.
_NOT_MEANT = (".bak", ".backup", ".old", ".orig", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".download")


class Contents(NamedTuple):
    """What is directly in a folder, by name; hidden files and folders are not among these."""

    folders: list[str]
    files: list[str]
    others: list[str]  # pipes, devices, links that lead nowhere
    hidden: list[str]  # files and folders

    def __len__(self) -> int:
        return sum(map(len, self[:]))


class Leftovers:
    """Files that are not used, counted by why, with one example of each kind."""

    def __init__(self) -> None:
        self._counts = collections.Counter[str]()
        self._examples: dict[str, str] = {}

    def add(self, why: str, example: str, count: int = 1) -> None:
        """Count `count` more files."""
        if count:
            self._counts[why] += count
            self._examples.setdefault(why, readable(example))

    def add_beside(self, top: Contents) -> None:
        """Count what lies beside class folders."""
        for why, names in ((_BESIDE, top.files), (_HIDDEN, top.hidden), (_NO_FILE, top.others)):
            for name in names:
                self.add(why, name)

    def add_all(self, other: "Leftovers") -> None:
        """Count what the other has counted."""
        for why, count in other._counts.items():
            self.add(why, other._examples[why], count)

    def __str__(self) -> str:
        """In one line; empty where there are none."""
        most = self._counts.most_common(_MOST_REASONS)
        parts = [f"{count:,} {why} ({self._examples[why]})" for why, count in most]
        rest = self._counts.total() - sum(count for _, count in most)
        return "; ".join([*parts, *([f"{rest:,} others"] if rest else [])])


def contents(folder: epath.Path) -> Contents:
    """List a folder. Raises an OSError where that cannot be done."""
    found = Contents([], [], [], [])
    if "://" in os.fspath(folder):
        # One level of a walk: asking of each name what it is would be one request each.
        _, folders, files = next(iter(folder.walk()), (folder, [], []))
        entries = [(name.rstrip("/"), found.folders) for name in folders] + [(name, found.files) for name in files]
    else:
        with os.scandir(folder) as listed:
            entries = [(entry.name, _kind(entry, found)) for entry in listed]
    for name, kind in sorted(entries, key=lambda entry: entry[0]):
        (found.hidden if name.startswith(".") else kind).append(name)
    return found


def _kind(entry: os.DirEntry[str], found: Contents) -> list[str]:
    return found.folders if entry.is_dir() else found.files if entry.is_file() else found.others


def pick(folder: epath.Path, shown: str, left_out: Leftovers) -> list[str]:
    """The names of the pictures directly in a folder; all else is counted in `left_out`.

    A file is a picture by its extension, else by its content, since downloads are called `1` or `1.jpg?w=640`.

    Args:
        folder: to look into.
        shown: what to call it.
        left_out: is added to.

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
    """How many files are in a folder and all below it; what cannot be read is not counted."""
    if "://" in os.fspath(folder):
        return sum(len(files) for _, _, files in folder.walk())
    return sum(len(files) for _, _, files in os.walk(folder))


def _reasons(folder: epath.Path, names: Sequence[str]) -> list[str]:
    """Why each of these files, whose names are no picture's, is left out; empty for those that are pictures."""
    if not names:
        return []
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # each is opened, which takes long where it is far away
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
        return f"unreadable: {error.strerror or error}"
    if kind and kind not in formats.available():
        return f"{kind.name}: pip install {kind.package}"
    # The raw files of cameras (.nef, .dng) are TIFF too, with a thumbnail for a picture.
    if kind and not (kind.name == "TIFF" and extension):
        return ""
    return (extension or _NO_PICTURE) if size else _EMPTY


def _extension(name: str) -> str:
    """In lower case with its dot; empty where what follows the last dot is none, as in `1.jpg?w=640` or `Mr. Smith`."""
    found = re.search(r"[^.](\.(?=\w*[A-Za-z])\w{1,10})$", name, re.ASCII)
    return found[1].lower() if found else ""

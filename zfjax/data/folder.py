"""Class folders: `PATH/CLASS/picture`, or `PATH/train/CLASS/picture` with `PATH/val/CLASS/picture`.

Paths are whatever etils.epath takes (gs://… too).
"""

import dataclasses
import functools
import hashlib
import os

import numpy as np
from etils import epath
from jaxtyping import Int32

from zfjax.console.errors import UserError
from zfjax.data import formats
from zfjax.data.source import BrokenImage, Example, Source, held_out

VALIDATION_FOLDERS = ("val", "validation", "test")  # the first that exists


@dataclasses.dataclass(frozen=True)
class FolderExamples:
    """The pictures `root/names[i]`, of the classes `labels[i]`."""

    root: epath.Path
    names: tuple[str, ...]
    labels: Int32[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        path = self.root / self.names[index]
        try:
            return Example(os.fspath(path), path.read_bytes(), int(self.labels[index]))
        except OSError as error:
            raise BrokenImage(f"{path}: {error.strerror or error}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of names, labels, sizes and times of change.

        Of names and labels alone where the folder is remote, since each size would be one request.
        """
        digest = hashlib.sha256(self.labels.tobytes())
        root, remote = os.fspath(self.root), "://" in os.fspath(self.root)
        for name in self.names:
            digest.update(f"\0{name}".encode(errors="surrogateescape"))
            if not remote:
                digest.update(_size_and_time(os.path.join(root, name)).encode())
        return digest.hexdigest()


def open_folder(path: str, *, data_dir: str = "", seed: int = 0) -> Source:
    """Opens class folders; classes are the sorted folder names.

    `train/` and `val/` (else `validation/`, else `test/`) are the two splits where they exist. With `train/`
    alone, or neither, a tenth of each class, drawn by `seed`, is kept for validation. Hidden files, files
    without the extension of an image and whatever lies deeper are not looked at.

    Raises:
      UserError: no such folder; no, one, or an empty class folder; the splits' classes differ.
    """
    root = _existing(path, data_dir)
    train_root = root / "train"
    has_train = train_root.is_dir() and bool(_folders(train_root))
    val_roots = [root / name for name in VALIDATION_FOLDERS if (root / name).is_dir()] if has_train else []
    train, classes = _read(train_root if has_train else root)
    if not val_roots:
        train, val = _split(train, seed)
    else:
        val, val_classes = _read(val_roots[0])
        _require_classes(val_roots[0], val_classes, train_root)
        _require_classes(train_root, classes, val_roots[0])
    return Source(f"folder:{path}", classes, train, val)


def _existing(path: str, data_dir: str) -> epath.Path:
    candidates = [epath.Path(path).expanduser()]
    if data_dir and not candidates[0].is_absolute():
        candidates.append(epath.Path(data_dir).expanduser() / path)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    wanted = " or ".join(map(os.fspath, candidates))
    what = "a file" if candidates[0].exists() else "not there"
    raise UserError(f"image folder {wanted}: {what}; expected a folder that holds one folder per class")


def _folders(root: epath.Path) -> list[str]:
    return sorted(child.name for child in root.iterdir() if not child.name.startswith(".") and child.is_dir())


def _read(root: epath.Path) -> tuple[FolderExamples, tuple[str, ...]]:
    classes = _folders(root)
    if len(classes) < 2:
        found = f"only one, {classes[0]!r}" if classes else "none"
        raise UserError(f"image folder {root}: expected two or more class folders in it, found {found}")
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = [child.name for child in (root / name).iterdir()]
        pictures = sorted(file for file in files if _is_picture(file))
        if not pictures:
            found = f"none among its {len(files)} entries" if files else "it empty"
            raise UserError(f"class folder {root / name}: expected images directly in it, found {found}")
        names += [f"{name}/{picture}" for picture in pictures]
        labels += [label] * len(pictures)
    return FolderExamples(root, tuple(names), np.array(labels, np.int32)), tuple(classes)


def _is_picture(file: str) -> bool:
    return not file.startswith(".") and os.path.splitext(file)[1].lower() in formats.extensions()


def _split(examples: FolderExamples, seed: int) -> tuple[FolderExamples, FolderExamples]:
    out = held_out(examples.names, examples.labels, seed=seed)

    def part(mask: np.ndarray) -> FolderExamples:
        kept = np.flatnonzero(mask)
        return FolderExamples(examples.root, tuple(examples.names[i] for i in kept), examples.labels[kept])

    return part(~out), part(out)


def _require_classes(root: epath.Path, classes: tuple[str, ...], other: epath.Path) -> None:
    missing = sorted(set(_folders(other)) - set(classes))
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(f"image folder {root}: expected the class folders of {other}, but it lacks {shown}")


def _size_and_time(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "unreadable"
    return f"{stat.st_size} {stat.st_mtime_ns}"

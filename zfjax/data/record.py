"""The result of a scan as one file: the mean image, every label, and which pictures are broken."""

import hashlib
import io
import os
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float32, Int32, Int64

from zfjax.console.files import damaged, read_whole, write_whole
from zfjax.console.text import shown_by_shape
from zfjax.data.prints import DIGEST

FILE = "scan.npz"
NOTES = "pictures.txt"  # a copy of the notes, for people


@shown_by_shape
class Record(NamedTuple):
    """The result of a scan. Numbers count the examples of a split in the source's order, from 0."""

    mean: Float32[np.ndarray, "size size 3"]
    train_labels: Int32[np.ndarray, "train"]
    val_labels: Int32[np.ndarray, "val"]  # 0 where broken
    train_broken: Int64[np.ndarray, "broken_train"]
    val_broken: Int64[np.ndarray, "broken_val"]
    messages: np.ndarray  # one line per broken picture
    notes: np.ndarray = np.zeros(0, np.str_)  # lines about the dataset: which split is which, what is left out
    # Size, stamp and digest of each picture (`prints`); empty in records of older versions.
    train_prints: Int64[np.ndarray, "train_known 3"] = np.zeros((0, 3), np.int64)
    val_prints: Int64[np.ndarray, "val_known 3"] = np.zeros((0, 3), np.int64)

    @property
    def train_kept(self) -> Int64[np.ndarray, "kept"]:
        """Numbers of the readable training pictures."""
        return np.delete(np.arange(len(self.train_labels)), self.train_broken)

    @property
    def val_kept(self) -> Int64[np.ndarray, "kept"]:
        """Numbers of the readable validation pictures."""
        return np.delete(np.arange(len(self.val_labels)), self.val_broken)

    @property
    def known(self) -> bool:
        """Whether the record has fingerprints of the pictures."""
        return bool(len(self.train_prints) or len(self.val_prints))

    @property
    def fingerprint(self) -> str:
        """A hash of the pictures' contents and labels, independent of paths; only for a record that is `known`."""
        digest = hashlib.sha256()
        for array in (self.train_labels, self.train_prints[:, DIGEST], self.val_labels, self.val_prints[:, DIGEST]):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def equals(self, other: "Record") -> bool:
        """Whether both describe the same pictures, by fingerprints, else by mean image and labels."""
        if not np.array_equal(self.train_broken, other.train_broken):
            return False
        if not np.array_equal(self.val_broken, other.val_broken):
            return False
        if self.known and other.known:
            return self.fingerprint == other.fingerprint
        return all(np.array_equal(mine, its) for mine, its in zip(self[:3], other[:3], strict=True))

    def has_pictures_of(self, other: "Record") -> bool:
        """Whether both datasets hold the same pictures, in whatever splits; false if either is not `known`."""
        mine, its = (np.concatenate((one.train_prints, one.val_prints))[:, DIGEST] for one in (self, other))
        return self.known and other.known and np.array_equal(np.sort(mine), np.sort(its))

    def first_difference(self, other: "Record") -> tuple[str, int] | None:
        """The split (`train` or `val`) and number of the first picture that differs; None if unknown.

        Both records must have the same number of pictures.
        """
        if self.known and other.known:
            for split in ("train", "val"):
                (mine, my_prints), (its, its_prints) = (
                    (getattr(record, f"{split}_labels"), getattr(record, f"{split}_prints")) for record in (self, other)
                )
                differ = np.flatnonzero((mine != its) | (my_prints[:, DIGEST] != its_prints[:, DIGEST]))
                if len(differ):
                    return split, int(differ[0])
        return None


def write(record: Record, folder: str | os.PathLike[str]) -> None:
    """Write `record` into a folder (any epath), and its notes beside it as text; each file is whole or absent."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **record._asdict())
    if len(record.notes):
        write_whole(epath.Path(folder) / NOTES, "".join(f"{line}\n" for line in record.notes))
    write_whole(epath.Path(folder) / FILE, buffer.getvalue())


def all_readable(
    mean: Float32[np.ndarray, "size size 3"],
    train_labels: Int32[np.ndarray, "train"],
    val_labels: Int32[np.ndarray, "val"],
) -> Record:
    """The record of a dataset without broken pictures."""
    none = np.zeros(0, np.int64)
    return Record(mean, train_labels, val_labels, none, none, np.zeros(0, np.str_))


def read(folder: str | os.PathLike[str], what_to_do: str = "remove it to scan the dataset again") -> Record | None:
    """Read the record in a folder; None if there is none.

    Args:
        folder: any epath.
        what_to_do: the end of the error message.

    Raises:
        UserError: the record is damaged.
    """
    path = epath.Path(folder) / FILE
    try:
        with np.lib.npyio.NpzFile(io.BytesIO(read_whole(path))) as arrays:  # checks each array's CRC-32
            record = Record(**arrays)
        _require_whole(record)
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib and NumPy fail in countless ways
        raise damaged(path, error, what_to_do) from error
    return record


def _require_whole(record: Record) -> None:
    """Raise a ValueError for a record that no scan could have made."""
    expected = {
        "mean": (np.float32, 3),
        "train_labels": (np.int32, 1),
        "val_labels": (np.int32, 1),
        "train_broken": (np.int64, 1),
        "val_broken": (np.int64, 1),
        "train_prints": (np.int64, 2),
        "val_prints": (np.int64, 2),
        **{name: (_text(getattr(record, name)), 1) for name in ("messages", "notes")},
    }
    for name, (dtype, rank) in expected.items():
        array = getattr(record, name)
        if array.dtype != dtype or array.ndim != rank:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
    side, other, colors = record.mean.shape
    if side != other or colors != 3 or not np.isfinite(record.mean).all():
        raise ValueError(f"the mean image has shape {record.mean.shape}")
    for labels, broken in ((record.train_labels, record.train_broken), (record.val_labels, record.val_broken)):
        if (labels < 0).any() or (np.diff(broken) <= 0).any() or not np.isin(broken, np.arange(len(labels))).all():
            raise ValueError("labels and broken pictures do not match")
    for labels, prints in ((record.train_labels, record.train_prints), (record.val_labels, record.val_prints)):
        if record.known and prints.shape != (len(labels), 3):
            raise ValueError("labels and prints of the pictures do not match")
    if len(record.messages) != len(record.train_broken) + len(record.val_broken):
        raise ValueError("there is not one message per broken picture")


def _text(lines: np.ndarray) -> np.dtype:
    """The dtype expected of an array of text, whatever the length of its lines."""
    return lines.dtype if lines.dtype.kind == "U" else np.dtype(np.str_)

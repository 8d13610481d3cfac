"""What a scan found, as one file: the mean image, every label, and which pictures are broken."""

import io
import os
import zipfile
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float32, Int32, Int64

from zfjax.console.errors import UserError
from zfjax.console.files import write_whole

FILE = "scan.npz"


class Record(NamedTuple):
    """Numbers count the examples of a split in the source's order, from 0."""

    mean: Float32[np.ndarray, "size size 3"]
    train_labels: Int32[np.ndarray, "train"]
    val_labels: Int32[np.ndarray, "val"]  # 0 where broken
    train_broken: Int64[np.ndarray, "broken_train"]
    val_broken: Int64[np.ndarray, "broken_val"]
    messages: np.ndarray  # one line a broken picture

    @property
    def train_kept(self) -> Int64[np.ndarray, "kept"]:
        """Numbers of the readable training pictures."""
        return np.delete(np.arange(len(self.train_labels)), self.train_broken)

    @property
    def val_kept(self) -> Int64[np.ndarray, "kept"]:
        """Numbers of the readable validation pictures."""
        return np.delete(np.arange(len(self.val_labels)), self.val_broken)

    def equals(self, other: "Record") -> bool:
        """Whether both describe the same pictures."""
        return all(np.array_equal(mine, its) for mine, its in zip(self[:5], other[:5], strict=True))


def write(record: Record, folder: str | os.PathLike[str]) -> None:
    """Keeps `record` in a folder (any epath); the file is whole or absent."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **record._asdict())
    write_whole(epath.Path(folder) / FILE, buffer.getvalue())


def read(folder: str | os.PathLike[str]) -> Record | None:
    """The record kept in a folder, or None.

    Raises:
      UserError: it is damaged.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            return Record(**arrays)
    except (zipfile.BadZipFile, ValueError, TypeError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it to scan the dataset again") from error

"""Save figures to files."""

import io
from collections.abc import Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from etils import epath
from matplotlib.figure import Figure

from zfjax.console.files import write_whole


def save_png(figure: Figure, path: epath.PathLike) -> None:
    """Write `figure` to `path`, local or remote. Raises a UserError if that fails."""
    write_whole(path, _rendered(figure, "png"))


def save(figure: Figure, path: epath.PathLike, arrays: Mapping[str, Any]) -> list[str]:
    """Write `path`.png and .pdf, and the numbers behind the figure as .npz; return the files' names.

    Raises:
        UserError: a file cannot be written.
    """
    behind, kept = io.BytesIO(), cast(Any, {name: _plain(array) for name, array in arrays.items()})
    np.savez_compressed(behind, **kept)
    written = []
    for ending, content in (
        ("png", _rendered(figure, "png")),
        ("pdf", _rendered(figure, "pdf")),
        ("npz", behind.getvalue()),
    ):
        file = epath.Path(f"{path}.{ending}")
        write_whole(file, content)
        written.append(file.name)
    return written


def _plain(array: Any) -> np.ndarray:
    """Convert bfloat16 to float32, since NumPy's files do not support it."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _rendered(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()

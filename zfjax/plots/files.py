"""Figures as files."""

import io
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from etils import epath
from matplotlib.figure import Figure

from zfjax.errors import UserError


def save_png(figure: Figure, path: epath.PathLike) -> None:
    """Writes `figure` to `path`, local or remote. Raises a UserError where that fails."""
    _write(epath.Path(path), _rendered(figure, "png"))


def save(figure: Figure, path: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `path`.png and .pdf, and the arrays behind the figure as .npz. Raises a UserError where that fails."""
    behind, kept = io.BytesIO(), cast(Any, arrays)
    np.savez_compressed(behind, **kept)
    for ending, content in (
        ("png", _rendered(figure, "png")),
        ("pdf", _rendered(figure, "pdf")),
        ("npz", behind.getvalue()),
    ):
        _write(epath.Path(f"{path}.{ending}"), content)


def _rendered(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


def _write(path: epath.Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error

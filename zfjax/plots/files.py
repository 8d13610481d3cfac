"""Figures as files."""

import io

from etils import epath
from matplotlib.figure import Figure

from zfjax.errors import UserError


def save_png(figure: Figure, path: epath.PathLike) -> None:
    """Writes `figure` to `path`, local or remote. Raises a UserError where that fails."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    try:
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
        epath.Path(path).write_bytes(picture.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error

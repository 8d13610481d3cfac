"""Keep output out of a dataset's folder, where a new folder would count as one more class."""

import contextlib
import os
import posixpath
from collections.abc import Iterator

from etils import epath

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.data.folder import find_root
from zfjax.data.spec import parse_spec
from zfjax.data.splits import is_split


def root_of(dataset: str, data_dir: str = "") -> epath.Path | None:
    """The pictures' folder of `folder:PATH`; None for other datasets or if the folder does not exist."""
    try:
        spec = parse_spec(dataset)
        return find_root(spec.place, data_dir) if spec.kind == "folder" else None
    except (UserError, OSError):  # opening it reports the error
        return None


def require_outside(path: epath.PathLike, what: str, root: os.PathLike | None) -> None:
    """Refuse to write inside the folder of a dataset's pictures, however either path is spelled.

    Args:
        path: the file or folder to write; it need not exist.
        what: what to call it in the error, such as `--out`.
        root: from `root_of`; None refuses nothing.

    Raises:
        UserError: `path` is inside `root`.
    """
    if root is not None and _is_inside(os.fspath(user_path(path, what)), root):
        raise UserError(
            f"{what} {path} lies in the dataset's folder {root}, where folders are classes; give one outside"
        )


def _is_inside(path: str, root: epath.Path) -> bool:
    if "://" in path or "://" in os.fspath(root):
        return f"{_normal(path)}/".startswith(f"{_normal(os.fspath(root))}/")
    above = os.path.realpath(path)
    folders = {identity for folder in _class_roots(root) if (identity := _identity(folder)) is not None}
    while _identity(above) not in folders:
        above, below = os.path.dirname(above), above
        if above == below:
            return False
    return True


def _class_roots(root: epath.Path) -> Iterator[str]:
    """The dataset's folder and the targets of links in it: class folders may be elsewhere."""
    yield os.fspath(root)
    entries = _entries(os.fspath(root))
    for split in [entry for entry in entries if is_split(entry.name)]:
        entries += _entries(split.path)
    yield from (entry.path for entry in entries if entry.is_symlink())


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """List a folder; empty if it does not exist."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode, the same however a folder is spelled; None if it does not exist."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return stat.st_dev, stat.st_ino


def _normal(path: str) -> str:
    """A remote path without `..`, double slashes or a trailing slash."""
    scheme, _, rest = path.rpartition("://")
    return f"{scheme}://{posixpath.normpath(rest)}"

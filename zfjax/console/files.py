"""Files written all at once, and read without waiting for a pipe or filling the memory."""

import contextlib
import errno
import fnmatch
import functools
import json
import os
import pathlib
import shutil
import stat
import textwrap
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from zfjax.console import signals
from zfjax.console.errors import UserError
from zfjax.console.text import reason

_MOST = 1_000_000_000  # bytes of a file that is read into memory
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a part, even if this process is killed.

    Missing parent folders are created. A failed write leaves nothing behind.

    Raises:
        UserError: the file cannot be written; the message names it.
    """
    target = epath.Path(path)
    part = target.with_name(f".{target.name}.part")
    with signals.held():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
            part.replace(target)
        except OSError as error:
            why = "there is a folder of that name; move it away" if target.is_dir() else reason(error)
            raise UserError(f"cannot write {target}: {why}") from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def matching(folder: epath.Path, pattern: str) -> list[epath.Path]:
    """What in a folder has a name of this pattern. `epath`'s own `glob` takes brackets in the folder's path for one."""
    return [path for path in folder.iterdir() if fnmatch.fnmatchcase(path.name, pattern)] if folder.is_dir() else []


def remove(folder: pathlib.Path) -> None:
    """Remove a local folder and its content, even while another thread is still writing there."""
    until = time.monotonic() + 5
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            if folder.is_file():
                folder.unlink()
            elif folder.exists():  # files come faster than they go: move the folder out of its writer's reach
                out_of_reach = folder.with_name(f"{folder.name}.removed")
                shutil.rmtree(out_of_reach, ignore_errors=True)
                folder.rename(out_of_reach)
                shutil.rmtree(out_of_reach, ignore_errors=True)
                time.sleep(0.05)


@contextlib.contextmanager
def draft(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new local folder that is removed after the block, however it ends, unless the block moved it away.

    The caller must hold the path: anything already there is taken as left behind by a killed command.

    Raises:
        OSError: the folder cannot be created.
    """
    remove(path)
    with signals.at_end(functools.partial(remove, path)):
        try:
            path.mkdir()
            yield path
        finally:
            remove(path)


def read_whole(path: epath.PathLike, most: int = _MOST) -> bytes:
    """Read a file, local or remote.

    Raises:
        OSError: it is missing or unreadable, is not a regular file (reading a pipe or a device may never end), or has
            more than `most` bytes.
    """
    place, too_large = os.fspath(path), f"more than {most / 1e6:,.0f} MB"
    if "://" in place:
        with epath.Path(place).open("rb") as file:
            data: bytes = file.read(most + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, too_large, place)
        return data
    found = os.stat(place)
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(found.st_mode)), "a device")
        raise OSError(errno.EINVAL, f"expected a file, found {kind}", place)
    if found.st_size > most:
        raise OSError(errno.EFBIG, too_large, place)
    return pathlib.Path(place).read_bytes()


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_json(path: epath.PathLike, what_to_do: str = "") -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what_to_do: the end of the error message, such as `remove it to measure its folds again`.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON; the message names it.
    """
    try:
        return json.loads(read_whole(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error, what_to_do) from error


def damaged(path: epath.PathLike, why: BaseException | str, what_to_do: str = "") -> UserError:
    """The error for a missing or damaged file, with the reason and what to do."""
    if isinstance(why, PermissionError):  # it may be whole
        return UserError(f"{path} cannot be read ({reason(why)})")
    if isinstance(why, FileNotFoundError):
        found = "is missing"
    else:
        said = why if isinstance(why, str) else reason(why)
        found = f"is damaged ({textwrap.shorten(said, 120, placeholder=' …')})"
    return UserError(f"{path} {found}" + (f"; {what_to_do}" if what_to_do else ""))

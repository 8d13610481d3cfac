"""Read a picture's file, refusing what would never end or not fit in memory."""

import os
import stat

from etils import epath

from zfjax.console.text import readable, reason
from zfjax.data.decode import BrokenImage
from zfjax.data.images import bounds

_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


def read_picture(path: epath.PathLike) -> bytes:
    """The bytes of a picture's file, local or remote.

    Raises:
        BrokenImage: the file is missing or unreadable, is not a regular file (reading a pipe or device may never end),
            or is larger than a picture may be in memory (`images.bounds.ONE`).
    """
    place = os.fspath(path)
    name = readable(place) or "''"
    try:
        if "://" in place:
            with epath.Path(path).open("rb") as file:
                data = file.read(bounds.ONE + 1)
            _require_size(name, len(data))
            return data
        found = os.stat(place)
        if not stat.S_ISREG(found.st_mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(found.st_mode)), "a device")
            raise BrokenImage(f"{name}: expected a file, found {kind}")
        _require_size(name, found.st_size)
        with open(place, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BrokenImage(f"{name}: {reason(error)}") from error


def _require_size(name: str, size: int) -> None:
    if size > bounds.ONE:
        raise BrokenImage(f"{name}: more than {bounds.ONE / 1e6:.0f} MB; expected a picture's file")

"""Read a picture's file, refusing what would never end or not fit in memory."""

import os

from etils import epath

from zfjax.console.files import read_whole
from zfjax.console.text import readable, reason
from zfjax.data.decode import BrokenImage
from zfjax.data.images import bounds


def read_picture(path: epath.PathLike) -> bytes:
    """The bytes of a picture's file, local or remote.

    Raises:
        BrokenImage: the file is missing or unreadable, is not a regular file, or is larger than a picture may be in
            memory (`images.bounds.ONE`).
    """
    try:
        return read_whole(path, bounds.ONE)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        name = readable(os.fspath(path)) or "''"
        raise BrokenImage(f"{name}: {reason(error)}") from error

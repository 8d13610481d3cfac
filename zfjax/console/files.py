"""Files that are whole at any moment: what is written appears under its name all at once."""

import contextlib
import json
from typing import Any

from etils import epath

from zfjax.console.errors import UserError


def write_whole(path: epath.PathLike, content: bytes | str) -> None:
    """Write a file, so that a reader or a kill meets the old content or the new, never a part.

    Folders on the way are made. A write that fails leaves nothing behind.

    Raises:
        UserError: the file cannot be written; it is named.
    """
    target = epath.Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Write a value as indented JSON, as `write_whole` does."""
    write_whole(path, json.dumps(value, indent=2) + "\n")

"""What somebody looks at, as data: it is the page's link, and all that an answer depends on besides the pictures."""

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import numpy as np
from jaxtyping import Bool

from zfjax.console.errors import UserError
from zfjax.console.text import brief, whole_number

CELLS = 32  # the brush paints cells of a grid of this many rows and columns
_LONGEST = 2000  # letters of a link
_KEYS = {"layer": "place", "map": "unit", "class": "label", "row": "row", "column": "column"}


class View(NamedTuple):
    """A picture, what is painted over it, and what is asked about it.

    Attributes:
        picture: a number in the split, or `u` and the digest of one that was uploaded.
        painted: cells that are painted gray, from `packed`; empty for none.
        beside: another picture next to it; empty: the same without what is painted, if anything is.
        place: of the model; empty for the highest that figures show.
        unit: the number of a map or unit there; None for the strongest.
        row, column: the pixel of the picture that was clicked; None for none.
        rules: names a set of rules for projections.
        label: the number of a class; None for the most probable.
        lens: names a lens; empty for none.
    """

    picture: str = "0"
    painted: str = ""
    beside: str = ""
    place: str = ""
    unit: int | None = None
    row: int | None = None
    column: int | None = None
    rules: str = "deconvnet"
    label: int | None = None
    lens: str = ""

    @property
    def link(self) -> str:
        """What stands after the question mark of the page's address."""
        names = {field: key for key, field in _KEYS.items()}
        there = {names.get(key, key): value for key, value in self._asdict().items() if value not in (None, "")}
        return urlencode({key: value for key, value in there.items() if (key, value) != ("rules", "deconvnet")})


def read(link: str) -> View:
    """The view of a link; what it does not say is as in `View()`, and keys of others are ignored.

    Raises:
        UserError: a number in it is none.
    """
    asked: Mapping[str, str] = dict(parse_qsl(link[:_LONGEST].lstrip("?")))
    found: dict[str, str | int] = {}
    for key, value in asked.items():
        field = _KEYS.get(key, key)
        if (key in _KEYS.values() and field != key) or field not in View._fields:
            continue
        if field in ("unit", "row", "column", "label"):
            try:
                found[field] = whole_number(value)
            except ValueError as error:
                raise UserError(f"{key}: expected a whole number, got {brief(value)}") from error
        else:
            found[field] = value
    return View(**found)  # type: ignore[arg-type]


def packed(cells: Bool[np.ndarray, "cells cells"]) -> str:
    """Painted cells as a few letters that may stand in a link; empty if there are none."""
    if not cells.any():
        return ""
    return base64.urlsafe_b64encode(zlib.compress(np.packbits(cells).tobytes(), 9)).decode().rstrip("=")


def unpacked(letters: str) -> Bool[np.ndarray, "cells cells"]:
    """The cells of `packed`. Raises a UserError if these letters are not from there."""
    if not letters:
        return np.zeros((CELLS, CELLS), bool)
    try:
        # Strict, as saved Python repeats them: no letter that base64 would pass over.
        content = base64.b64decode(letters + "=" * (-len(letters) % 4), altchars=b"-_", validate=True)
        bits = zlib.decompressobj().decompress(content, CELLS * CELLS // 8 + 1)
        return np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(CELLS, CELLS).astype(bool)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise UserError(f"painted: expected what a link of this page has, got {brief(letters)}") from error


def over(cells: Bool[np.ndarray, "cells cells"], size: int) -> Bool[np.ndarray, "size size"]:
    """Which pixels of a square are painted: each belongs to the cell that its center is in."""
    of_pixel = (np.arange(size) * 2 + 1) * CELLS // (2 * size)
    return cells[of_pixel[:, None], of_pixel[None]]

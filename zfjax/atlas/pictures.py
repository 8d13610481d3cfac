"""A map's strongest images as one picture: projections in three columns, with their patches to the right."""

import io
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from zfjax.experiments.gallery import Gallery
from zfjax.plots.gallery import patches
from zfjax.plots.projections import per_image

COLUMNS = 3  # of projections, and of patches
GAP = 2  # pixels between tiles, transparent
_MIDDLE = 8  # pixels between projections and patches
_SMALL = 48  # pixels; smaller tiles are enlarged and stored lossless
_THUMBNAIL = 112  # pixels; larger tiles are shrunk for pages with many maps


class Sheet(NamedTuple):
    """Layout of the tiles in a layer's pictures, in pixels."""

    tile_height: int
    tile_width: int
    rows: int
    pixelated: bool  # whether tiles are so small that pixels show as squares

    @property
    def height(self) -> int:
        """Height of the whole picture."""
        return self.top(self.rows) - GAP

    @property
    def width(self) -> int:
        """Width of the whole picture."""
        return self.left(2 * COLUMNS - 1) + self.tile_width

    @property
    def thumbnail(self) -> tuple[int, int] | None:
        """Width and height of each map's thumbnail; None if the full picture is small enough."""
        share = _THUMBNAIL / max(self.tile_height, self.tile_width)
        return (round(share * self.width), round(share * self.height)) if share < 1 else None

    def left(self, column: int) -> int:
        """Left edge of a tile; the patches' columns follow those of the projections."""
        return column * (self.tile_width + GAP) + (_MIDDLE - GAP) * (column >= COLUMNS)

    def top(self, row: int) -> int:
        """Top edge of a tile."""
        return row * (self.tile_height + GAP)


class Picture(NamedTuple):
    """The picture of one map, encoded as files."""

    map: int
    sheet: Sheet
    full: bytes  # WebP
    thumbnail: bytes | None  # WebP; None if the full one is small enough


def pictures(found: Gallery) -> Iterator[Picture]:
    """Yield one picture per map; images that do not excite it are left blank.

    Args:
        found: some maps of a layer, from `in_rgb`.
    """
    for number, values, projections, images in zip(
        found.maps, found.values, map(per_image, found.projections), patches(found), strict=True
    ):
        tiles = np.stack([projections, images])[:, values > 0]
        yield _picture(int(number), tiles, found.values.shape[1])


def _picture(number: int, tiles: Float[np.ndarray, "2 shown height width 3"], winners: int) -> Picture:
    height, width = tiles.shape[2:4]
    times = math.ceil(_SMALL / min(height, width))
    sheet = Sheet(height * times, width * times, math.ceil(winners / COLUMNS), times > 1)
    page = Image.fromarray(_page(np.rint(tiles * 255).astype(np.uint8), sheet, times))
    small = page.resize(sheet.thumbnail, Image.Resampling.LANCZOS) if sheet.thumbnail else None
    full = _webp(page, lossless=sheet.pixelated)
    return Picture(number, sheet, full, _webp(small, lossless=False) if small else None)


def _page(tiles: np.ndarray, sheet: Sheet, times: int) -> np.ndarray:
    page = np.zeros((sheet.height, sheet.width, 4), np.uint8)
    for side, block in enumerate(tiles):
        for i, tile in enumerate(block):
            top, left = sheet.top(i // COLUMNS), sheet.left(side * COLUMNS + i % COLUMNS)
            window = page[top : top + sheet.tile_height, left : left + sheet.tile_width]
            window[..., :3] = tile.repeat(times, axis=0).repeat(times, axis=1)
            window[..., 3] = 255
    return page


def _webp(picture: Image.Image, lossless: bool) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="WEBP", lossless=lossless, quality=60 if lossless else 82, method=4)
    return file.getvalue()

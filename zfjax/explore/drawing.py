"""Arrays as pictures inside a page: data URLs, so that nothing is written to a disk or fetched."""

import base64
import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from zfjax.experiments.gallery import Gallery
from zfjax.plots.gallery import patches
from zfjax.plots.overlay import overlay
from zfjax.plots.projections import per_image

_TILE = 56  # pixels; larger maps are shrunk for thumbnails
_COLUMNS = 16  # of thumbnails in their picture

Pixels = UInt8[np.ndarray, "height width 3"]


class Sheet(NamedTuple):
    """Thumbnails of many maps in one picture."""

    url: str
    columns: int
    rows: int


def png(pixels: UInt8[np.ndarray, "height width *channels"]) -> bytes:
    """A PNG file, quickly made."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def small(pixels: Pixels) -> str:
    """A picture among many as the address of itself, a tenth as long and nearly the same."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="WEBP", quality=85, method=0)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def url(pixels: UInt8[np.ndarray, "height width *channels"]) -> str:
    """A picture as the address of itself."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"


def picture(rgb: Float[np.ndarray, "height width 3"]) -> Pixels:
    """A picture of 0..255."""
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def signal(projection: Float[np.ndarray, "height width 3"]) -> Pixels:
    """A projection in the paper's display: gray is zero."""
    return picture(255 * per_image(projection))


def overlaid(heat: Float[np.ndarray, "height width"], rgb: Float[np.ndarray, "height width 3"]) -> Pixels:
    """Where something is strong, over a gray picture: from dark purple for 0 or less to yellow for the maximum."""
    return picture(255 * overlay(heat, rgb))


def thumbnails(maps: Float[np.ndarray, "height width maps"]) -> Sheet:
    """Maps side by side, each from black for 0 or less to white for its own maximum."""
    height, width, count = maps.shape
    step = math.ceil(max(height, width) / _TILE)
    if step > 1:
        padded = np.pad(maps, ((0, -height % step), (0, -width % step), (0, 0)), mode="edge")
        maps = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step, count).max(axis=(1, 3))
    tiles = np.maximum(np.nan_to_num(maps), 0)
    tiles = tiles / np.maximum(tiles.max(axis=(0, 1)), np.finfo(np.float32).tiny)
    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    height, width, _ = tiles.shape
    page = np.zeros((rows * columns, height, width), np.float32)
    page[:count] = tiles.transpose(2, 0, 1)
    page = page.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return Sheet(url(np.rint(255 * page).astype(np.uint8)), columns, rows)


def nine(found: Gallery) -> list[tuple[Pixels, Pixels]]:
    """The projection and the patch of each of a map's strongest images; of one map."""
    tiles = zip(per_image(found.projections[0]), patches(found)[0], strict=True)
    return [(picture(255 * projection), picture(255 * patch)) for projection, patch in tiles]

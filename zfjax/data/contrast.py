"""Gray pictures with local contrast normalized, as Adaptive Deconvolutional Networks take them."""

import concurrent.futures
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int32, UInt8
from PIL import Image

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import listed, shown_by_shape
from zfjax.data.scan import speaks
from zfjax.data.source import BrokenImage, Example, Examples
from zfjax.data.threads import threads_or_cores

SIGMA, RADIUS = 4.77, 6  # pixels, of a Gaussian of 13 × 13


@shown_by_shape
class GrayPictures(NamedTuple):
    """Some pictures of a split, normalized."""

    images: Float[np.ndarray, "n side side"]
    labels: Int32[np.ndarray, "n"]
    numbers: Int32[np.ndarray, "n"]  # in the split


def normalized(gray: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """A picture less its local mean, divided by its local standard deviation, and with a mean of zero.

    Both are weighted by a Gaussian that is reflected at the edges. The deviation is at least its own median over the
    picture, so that flat parts stay flat; a picture without any contrast becomes zero.
    """

    def local(values: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(values, SIGMA, mode="reflect", truncate=RADIUS / SIGMA)

    centered = gray - local(gray)
    deviation = np.sqrt(np.maximum(local(np.square(centered)), 0))
    floor, largest = float(np.median(deviation)), float(deviation.max())
    rounding = 1e-5 * float(np.abs(gray).max())
    if floor <= rounding:  # most of the picture is flat
        floor = largest if largest > rounding else np.inf
    found = centered / np.maximum(deviation, floor)
    return (found - found.mean()).astype(np.float32)


def fitted(picture: UInt8[np.ndarray, "height width 3"], side: int) -> Float[np.ndarray, "side side"]:
    """A picture in gray, its longer side `side` pixels, normalized, in the middle of a square of zeros."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    gray = Image.fromarray(picture).convert("L").resize(size, Image.Resampling.BILINEAR)
    inside = normalized(np.asarray(gray, np.float32))
    square = np.zeros((side, side), np.float32)
    top, left = (side - inside.shape[0]) // 2, (side - inside.shape[1]) // 2
    square[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return square


def gray_pictures(
    name: str, examples: Examples | Sequence[Example], side: int, count: int = 0, max_broken: float = 0.01
) -> GrayPictures:
    """Pictures of a split as `fitted` returns them; those that cannot be read are named on stderr and left out.

    Args:
        name: of the dataset.
        examples: the split.
        side: pixels of the squares.
        count: how many, spread evenly over the split; 0: all.
        max_broken: the share of them that may be unreadable.

    Raises:
        UserError: there are none, or too many cannot be read.
    """
    total = len(examples)
    chosen = np.linspace(0, total - 1, min(count or total, total)).astype(int).tolist()

    def load(number: int) -> tuple[np.ndarray, int] | str:
        try:
            example = examples[number]
            return fitted(example.image, side), example.label
        except BrokenImage as error:
            return str(error)

    images, labels, numbers, broken = list[np.ndarray](), list[int](), list[int](), list[str]()
    with (
        Progress(f"reading {name}", len(chosen), show=speaks()) as progress,
        concurrent.futures.ThreadPoolExecutor(threads_or_cores(0)) as pool,
    ):
        for number, found in zip(chosen, pool.map(load, chosen), strict=True):
            if isinstance(found, str):
                broken.append(found)
            else:
                images.append(found[0])
                labels.append(found[1])
                numbers.append(number)
            progress.advance(1)
    if len(broken) > max_broken * len(chosen):
        raise UserError(f"{name}: {len(broken)} of {len(chosen)} images cannot be read: {listed(broken)}")
    if not images:
        raise UserError(f"{name}: expected one image or more, found none")
    if broken:
        progress.say(f"left out, since they cannot be read: {listed(broken)}")
    return GrayPictures(np.stack(images), np.array(labels, np.int32), np.array(numbers, np.int32))

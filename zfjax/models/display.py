"""A model's images and signals as RGB pictures, whatever the model takes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from zfjax.console.text import shown_by_shape

_EXACT = 1e-3  # of 255: how far a picture made of an image may be from the one that the image was made of


@shown_by_shape
class Display(NamedTuple):
    """How a model's images are made of RGB pictures: image = black + picture · mixing, at each pixel.

    Attributes:
        black: what the model takes for a black picture.
        mixing: how much each of red, green and blue, in 0..255, adds to each channel. None: the images are made in
            another way, and are shown with their smallest number black and their largest white.
    """

    black: Float[np.ndarray, "height width channels"]
    mixing: Float[np.ndarray, "3 channels"] | None

    @property
    def image_mean(self) -> Float[np.ndarray, "height width 3"]:
        """The picture in 0..255 whose image is zero: a run's mean image."""
        return self.pixels(np.zeros_like(self.black)[None])[0]

    @property
    def cover(self) -> Float[np.ndarray, " channels"]:
        """What hides a part of an image: zero if that is neither black nor white; else gray."""
        nothing = np.zeros(self.black.shape[-1], np.float32)
        if self.mixing is None or 1 <= self.image_mean.mean() <= 254:
            return nothing
        return (self.black.mean((0, 1)) + 128 * self.mixing.sum(0)).astype(np.float32)

    def pixels(
        self,
        images: Float[Array | np.ndarray, "*n height width channels"],
        fields: Int[np.ndarray, "*n 4"] | None = None,
    ) -> Float[np.ndarray, "*n height width 3"]:
        """The pictures that images were made of, in 0..255 where they were.

        Args:
            images: as the model takes them.
            fields: (top, left, height, width) of each in a whole image, for patches; default whole images.
        """
        images = np.asarray(images, np.float32)
        if self.mixing is None:
            return _stretched(images)
        less = images - (self.black if fields is None else self._black_at(fields))
        if np.array_equal(self.mixing, np.eye(3)):
            return less
        return less @ np.linalg.pinv(self.mixing).astype(np.float32)

    def signals(
        self, projections: Float[Array | np.ndarray, "*n height width channels"]
    ) -> Float[np.ndarray, "*n height width 3"]:
        """Signals at a model's input, such as projections, as signals at the pictures' red, green and blue."""
        projections = np.asarray(projections, np.float32)
        if self.mixing is None:
            return _as_rgb(projections)
        return projections if np.array_equal(self.mixing, np.eye(3)) else projections @ self.mixing.T

    def _black_at(self, fields: Int[np.ndarray, "*n 4"]) -> Float[np.ndarray, "*n height width channels"]:
        cut = [
            self.black[top : top + height, left : left + width] for top, left, height, width in fields.reshape(-1, 4)
        ]
        return np.stack(cut).reshape(*fields.shape[:-1], *cut[0].shape)


def display_of(preprocess: Callable[[np.ndarray], Array | np.ndarray], size: Sequence[int]) -> Display:
    """How a function makes images of RGB uint8 pictures [N, H, W, 3] of a size, found by calling it on a few.

    Args:
        preprocess: such as `Model.preprocess`.
        size: (height, width) in pixels.
    """
    height, width = size
    probes = np.zeros((5, height, width, 3), np.uint8)
    probes[1, ..., 0] = probes[2, ..., 1] = probes[3, ..., 2] = 255
    probes[4] = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    made = np.asarray(preprocess(probes), np.float32)
    black, *primaries, random = made
    mixing = np.stack([(one - black).mean((0, 1)) for one in primaries]) / 255
    if made.shape[1:3] != (height, width) or np.linalg.matrix_rank(mixing) < min(mixing.shape):
        return Display(black, None)
    found = Display(black, mixing.astype(np.float32))
    again = black + probes[4].astype(np.float32) @ found.mixing
    scale = max(float(np.abs(mixing).max()) * 255, 1e-30)
    return found if np.abs(again - random).max() <= _EXACT * scale else Display(black, None)


def _stretched(images: Float[np.ndarray, "*n h w c"]) -> Float[np.ndarray, "*n h w 3"]:
    """Each picture from black to white."""
    shown = _as_rgb(images)
    low, high = (end(shown, axis=(-3, -2, -1), keepdims=True) for end in (np.min, np.max))
    return 255 * (shown - low) / np.maximum(high - low, 1e-30)


def _as_rgb(images: Float[np.ndarray, "*n h w c"]) -> Float[np.ndarray, "*n h w 3"]:
    """Images of three channels as they are; of others the mean of the channels, in gray."""
    return images if images.shape[-1] == 3 else np.repeat(images.mean(-1, keepdims=True), 3, axis=-1)

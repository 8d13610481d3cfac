"""The preprocessing that a net expects, folded into its first convolution.

zfjax's nets take RGB in 0..255 less a mean. Other nets take pixels in another scale and channel order. Since their
first layer is linear, and its padding stands for the mean in both, adjusted kernels give the same result.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Float, UInt8

from zfjax.console.errors import UserError


class Preprocessing(NamedTuple):
    """What a net takes: (pixels · pixel_max / 255 - mean) / std, with pixels in 0..255."""

    mean: tuple[float, ...]  # one per channel, in the net's channel order and the units of pixel_max
    std: tuple[float, ...]  # in the same order and units
    pixel_max: float = 1.0  # the value of white before the mean is subtracted: 1, or 255 for Caffe
    bgr: bool = False  # channels are blue, green, red, as in Caffe

    def __call__(self, squares: UInt8[Array | np.ndarray, "n height width 3"]) -> Float[Array, "n height width 3"]:
        """What the net takes, of RGB pictures in 0..255."""
        pixels = jnp.asarray(squares)[..., :: -1 if self.bgr else 1].astype(jnp.float32)
        mean, std = (jnp.array(numbers, jnp.float32).reshape(1, 1, 1, 3) for numbers in (self.mean, self.std))
        return (pixels * (self.pixel_max / 255) - mean) / std

    @property
    def pixel_mean(self) -> Float[np.ndarray, "3"]:
        """The mean of red, green and blue in 0..255, to subtract from a zfjax net's images."""
        mean = np.array(self.mean, np.float64) * 255 / self.pixel_max
        return (mean[::-1] if self.bgr else mean).astype(np.float32)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Restore from an `_asdict` kept as JSON. Raises a UserError if fields are missing or not numbers."""
        try:
            if not isinstance(fields["mean"], list | tuple) or not isinstance(fields["std"], list | tuple):
                raise TypeError("no lists")
            mean, std = (tuple(float(number) for number in fields[name]) for name in ("mean", "std"))
            return cls(mean, std, float(fields["pixel_max"]), {True: True, False: False}[fields["bgr"]]).checked()
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"damaged preprocessing {reprlib.repr(fields)}: expected mean, std, pixel_max and bgr"
            ) from error

    def mean_image(self, side: int) -> Float[np.ndarray, "side side 3"]:
        """`pixel_mean` as a mean image of side × side pixels."""
        return np.tile(self.pixel_mean, (side, side, 1))

    def checked(self) -> "Preprocessing":
        """Return this after checking that its numbers are usable.

        Raises:
            UserError: not three means, not three positive deviations, or numbers out of any range of pixels.
        """
        if not 1e-3 <= self.pixel_max <= 1e6:
            raise UserError(f"pixel_max={self.pixel_max:g} must be positive: what white is, 1 or 255")
        if len(self.mean) != 3 or not np.isfinite(self.mean).all():
            raise UserError(
                f"mean={_listed(self.mean)} must be three numbers, one per channel, such as 0.485,0.456,0.406"
            )
        if len(self.std) != 3 or not (np.isfinite(self.std) & (np.array(self.std) > 0)).all():
            raise UserError(f"std={_listed(self.std)} must be three positive numbers, such as 0.229,0.224,0.225")
        if np.abs(self.mean).max() > 10 * self.pixel_max:
            raise UserError(f"mean={_listed(self.mean)} is not a color where white is {self.pixel_max:g}")
        if not all(1e-6 <= std / self.pixel_max <= 1e3 for std in self.std):
            raise UserError(f"std={_listed(self.std)} is not a deviation of pixels in 0..{self.pixel_max:g}")
        return self

    def __str__(self) -> str:
        return (
            f"{'BGR' if self.bgr else 'RGB'} in 0..{self.pixel_max:g},"
            f" less {_listed(self.mean)}, divided by {_listed(self.std)}"
        )


TORCHVISION = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def asked_for(values: flags.FlagValues, usual: Preprocessing) -> Preprocessing:
    """The preprocessing that the flags of `options.preprocessing` give, with the usual values for the rest.

    Raises:
        UserError: as `Preprocessing.checked`, or no numbers.
    """
    return usual._replace(
        mean=_numbers("mean", values.mean, usual.mean),
        std=_numbers("std", values.std, usual.std),
        pixel_max=usual.pixel_max if values.pixel_max is None else values.pixel_max,
        bgr=usual.bgr if values.bgr is None else values.bgr,
    ).checked()


def _numbers(name: str, words: Sequence[str] | None, usual: tuple[float, ...]) -> tuple[float, ...]:
    try:
        return usual if words is None else tuple(float(word) for word in words)
    except ValueError as error:
        raise UserError(f"--{name}={','.join(words or ())}: expected three numbers with commas between") from error


def of_mean_image(mean: Float[np.ndarray, "side side 3"]) -> Preprocessing:
    """What a run's net takes, by channel: RGB in 0..255 less the mean image's channel means."""
    channels = tuple(float(mean[:, :, channel].mean(dtype=np.float64)) for channel in range(3))
    return Preprocessing(channels, (1.0, 1.0, 1.0), 255.0)


def fold(kernel: Float[np.ndarray, "kh kw 3 features"], preprocessing: Preprocessing) -> Float[np.ndarray, "..."]:
    """Convert the first kernel of a net with this preprocessing to one for RGB in 0..255 less `pixel_mean`."""
    folded = np.asarray(kernel, np.float64) * _scale(preprocessing)
    return (folded[:, :, ::-1] if preprocessing.bgr else folded).astype(np.float32)


def unfold(kernel: Float[np.ndarray, "kh kw 3 features"], preprocessing: Preprocessing) -> Float[np.ndarray, "..."]:
    """The inverse of `fold`."""
    ordered = kernel[:, :, ::-1] if preprocessing.bgr else kernel
    return (np.asarray(ordered, np.float64) / _scale(preprocessing)).astype(np.float32)


def _scale(preprocessing: Preprocessing) -> Float[np.ndarray, "1 1 3 1"]:
    return (preprocessing.pixel_max / 255 / np.array(preprocessing.std, np.float64)).reshape(1, 1, 3, 1)


def _listed(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)

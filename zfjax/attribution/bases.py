"""Bases of pictures for activation maximization: single pixels, or waves."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zfjax.ops.windows import Pair


@runtime_checkable
class Basis(Protocol):
    """Coefficients that make up a picture. Adam changes all at one rate, so the basis decides what comes easily.

    Coefficients drawn from the unit Gaussian give a picture of root mean square 1.
    """

    def shape(self, size: Pair, channels: int = 3) -> tuple[int, ...]:
        """The coefficients' shape for a picture of `size` = (height, width)."""
        ...

    def picture(self, coefficients: Float[Array, "..."], size: Pair) -> Float[Array, "height width channels"]:
        """The picture of these coefficients."""
        ...


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Each pixel by itself: fine grain comes as easily as large forms (Erhan 2009, Simonyan 2013)."""

    def shape(self, size: Pair, channels: int = 3) -> tuple[int, ...]:
        """The picture's own."""
        return (*size, channels)

    def picture(self, coefficients: Float[Array, "height width c"], size: Pair) -> Float[Array, "height width c"]:
        """The coefficients themselves."""
        return coefficients


@dataclasses.dataclass(frozen=True)
class Fourier:
    """Waves, weaker by 1 / frequency as in photographs: large forms come first (Olah et al. 2017)."""

    def shape(self, size: Pair, channels: int = 3) -> tuple[int, ...]:
        """Real and imaginary parts of the half of the frequencies that describe a real picture."""
        return (2, size[0], size[1] // 2 + 1, channels)

    def picture(
        self, coefficients: Float[Array, "2 height half_width c"], size: Pair
    ) -> Float[Array, "height width c"]:
        """The inverse transform."""
        scales = jnp.asarray(_one_over_frequency(size), coefficients.dtype)
        real, imaginary = coefficients * scales[None, :, :, None]
        return jnp.fft.irfft2(jax.lax.complex(real, imaginary), size, axes=(0, 1), norm="ortho")


PIXELS = Pixels()
FOURIER = Fourier()


def _one_over_frequency(size: Pair) -> Float[np.ndarray, "height half_width"]:
    """Scales that turn real and imaginary parts of variance 1 into a picture of variance 1, alike in all directions."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    scales = 1 / np.maximum(frequency, 1 / max(size))
    half = scales[:, : width // 2 + 1] / np.sqrt(2 * np.mean(scales**2))
    # Columns that are their own mirror images occur once in the spectrum, and half of their variance is lost.
    half[:, [0, width // 2] if width % 2 == 0 else [0]] *= np.sqrt(2)
    return half

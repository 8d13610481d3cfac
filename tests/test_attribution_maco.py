"""MACO: magnitudes stay, and phases find what is known to be there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from lens_nets import FEATURES, assert_close, draw

from zfjax.attribution import Spectrum, maco, spectrum

KEY = jax.random.key(0)
PHOTOS = 40 * draw((6, 16, 15, 3), 0) + np.array([30.0, 0, -5], np.float32)
SPECTRUM = spectrum(PHOTOS)


def matches(templates, x):
    return jnp.einsum("nhwc,hwck->nk", x, templates)


LINEAR = Partial(matches, jnp.asarray(draw((16, 15, 3, 4), 1)))
PLAIN = {"crop": (1.0, 1.0), "noise": 0.0, "n_crops": 1}


def on_axes(pictures):
    return np.abs(np.fft.fft2(pictures @ SPECTRUM.colors.T, axes=(1, 2)))


def test_a_spectrum_is_the_mean_magnitude_on_axes_of_color_that_do_not_vary_together():
    colors = np.asarray(SPECTRUM.colors)
    assert_close(colors @ colors.T, np.eye(3), 1e-5)
    assert_close(SPECTRUM.magnitude, on_axes(PHOTOS).mean(axis=0))
    turned = (PHOTOS @ colors.T).reshape(-1, 3)
    covariance = np.cov(turned.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3 * covariance.max()


def test_magnitudes_stay_those_of_the_photographs_and_phases_find_the_template():
    found = maco(LINEAR, [2, 0], KEY, spectrum=SPECTRUM, n_steps=40, **PLAIN)
    pictures = np.asarray(found.pictures)
    assert pictures.shape == (2, 16, 15, 3)
    # Waves that are their own mirror images have no phase in a picture.
    own = np.zeros((16, 15), bool)
    own[[0, 8], 0] = True
    np.testing.assert_allclose(
        on_axes(pictures)[:, ~own], np.broadcast_to(SPECTRUM.magnitude, (2, 16, 15, 3))[:, ~own], rtol=1e-3
    )
    # Each wave's best phase is the template's own: no picture of these magnitudes has more.
    templates = np.moveaxis(np.asarray(LINEAR.args[0]), -1, 0)
    best = (on_axes(templates) * np.asarray(SPECTRUM.magnitude)[None]).sum(axis=(1, 2, 3)) / (16 * 15)
    said = np.asarray(LINEAR(found.pictures))[np.arange(2), [2, 0]]
    assert (said > 0.95 * best[[2, 0]]).all()
    assert (said <= 1.001 * best[[2, 0]]).all()


def test_transparency_is_where_the_unit_looks():
    """Cell 4, 4 of 8 × 8 alone: seen through 3×3 windows twice, of stride 2."""
    lone = lambda x: FEATURES(x)[:, 4, 4]  # noqa: E731
    square = spectrum(40 * draw((4, 16, 16, 3), 2))
    found = maco(lone, 3, KEY, spectrum=square, n_steps=20, **PLAIN)
    seen = np.zeros((16, 16), bool)
    seen[5:12, 5:12] = True
    shares = np.asarray(found.transparency[0])
    assert shares.max() == 1
    assert shares[seen].mean() > 0.1
    assert np.abs(shares[~seen]).max() < 1e-6


def test_a_units_picture_is_its_own_whatever_else_is_asked():
    options = {"spectrum": SPECTRUM, "n_steps": 6, "n_crops": 2}
    many = maco(LINEAR, [0, 1, 3], KEY, batch_size=2, **options)
    alone = maco(LINEAR, 3, KEY, **options)
    assert_close(many.pictures[2:], alone.pictures, 1e-3)
    assert_close(many.transparency[2:], alone.transparency, 1e-3)
    by_function = maco(LINEAR, lambda y: y[:, 3], KEY, **options)
    assert by_function.pictures.shape == (1, 16, 15, 3)
    other = maco(LINEAR, 3, jax.random.key(1), **options)
    assert not np.allclose(other.pictures, alone.pictures)


def test_crops_are_parts_enlarged():
    from zfjax.attribution.maco import _crops

    ramp = jnp.broadcast_to(jnp.arange(16.0)[None, :, None, None], (1, 16, 16, 1))
    whole, half = np.asarray(_crops(ramp, jnp.array([[1.0, 0.5]]), jnp.array([[[0.3, 0.9], [1.0, 0.0]]])))[0]
    assert_close(whole, ramp[0])
    assert_close(half[2:-2, :, 0], np.broadcast_to(7.75 + 0.5 * np.arange(16)[2:-2, None], (12, 16)))


def test_what_maco_cannot_do_is_said(unchecked):
    for ask, error in (
        (lambda: maco(LINEAR, 0, KEY, spectrum=SPECTRUM, crop=(0.5, 1.5)), r"crop: expected the smallest and largest"),
        (lambda: maco(LINEAR, 9, KEY, spectrum=SPECTRUM), r"units: expected some of the 4 units, 0 to 3; got 9"),
        (lambda: maco(LINEAR, 0, KEY, spectrum=SPECTRUM, n_crops=0), r"n_crops: expected at least 1"),
        (lambda: spectrum(PHOTOS[0]), r"images: expected \[n, H, W, C\]"),
        (lambda: maco(LINEAR, 0, KEY, spectrum=Spectrum(SPECTRUM.magnitude[..., :2], SPECTRUM.colors[:2, :2])), "2"),
    ):
        with pytest.raises(ValueError, match=error):
            ask()

"""Accentuation: a unit goes up, a lower layer stays near, and each image is on its own."""

import jax
import numpy as np
import pytest
from lens_nets import FEATURES, IMAGES, NET, TARGETS, assert_close, draw

from zfjax.attribution import accentuate

KEY = jax.random.key(0)
OPTIONS = {"n_steps": 12, "lr": 0.02, "reach": 2.0, "jitter": 0}


def said(images):
    return np.asarray(NET(images))[np.arange(3), TARGETS]


def apart(images):
    before, after = (np.asarray(FEATURES(some)).reshape(3, -1) for some in (IMAGES, images))
    return np.linalg.norm(after - before, axis=1) / np.linalg.norm(before, axis=1)


def test_a_unit_responds_more_and_the_more_is_kept_the_nearer_the_lower_layer():
    free, held = (accentuate(NET, IMAGES, TARGETS, FEATURES, KEY, keep=keep, **OPTIONS) for keep in (0.0, 30.0))
    for found in (free, held):
        assert (said(found.images) > said(IMAGES)).all()
        assert np.abs(found.images - IMAGES).max() <= 2
        moved = np.abs(np.asarray(found.images) - IMAGES).sum(axis=-1)
        assert_close(found.transparency, moved / moved.max(axis=(1, 2), keepdims=True), 1e-4)
    assert (apart(held.images) < 0.7 * apart(free.images)).all()
    assert (said(held.images) < said(free.images)).all()
    # Each image is on its own.
    alone = accentuate(NET, IMAGES[1:2], int(TARGETS[1]), FEATURES, KEY, keep=30.0, **OPTIONS)
    assert_close(alone.images, held.images[1:2], 1e-3)


def test_what_accentuate_cannot_do_is_said(unchecked):
    for ask, error in (
        (
            lambda: accentuate(NET, IMAGES, [0, 1], FEATURES, KEY),
            r"units: expected one, or one for each of the 3",
        ),
        (lambda: accentuate(NET, IMAGES, 99, FEATURES, KEY), r"units: expected some of the"),
        (lambda: accentuate(NET, IMAGES, 0, FEATURES, KEY, keep=-1), r"keep: expected 0 or more"),
        (lambda: accentuate(NET, draw((3, 8), 0), 0, FEATURES, KEY), r"images: expected \[n, H, W, C\]"),
    ):
        with pytest.raises(ValueError, match=error):
            ask()

"""ROAD, infidelity, sensitivity, sparseness: by their formulas as Quantus has them, and where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lens_nets import CLASSES, FEATURES, HEAD, IMAGES, NET, TARGETS, assert_close, draw

from zfjax import attribution as lenses
from zfjax.attribution.metrics import imputed, infidelity, road, sensitivity, sparseness

KEY = jax.random.key(0)
WEIGHTS = draw((8, 10, 3, CLASSES), 1)


def linear(images):
    return jnp.einsum("nhwc,hwck->nk", images, WEIGHTS)


def solved(image, removed):
    """Quantus' noisy_linear_imputation without its noise, by a dense system, channel by channel."""
    holes = [tuple(place) for place in np.argwhere(removed)]
    left, right = np.zeros((len(holes),) * 2), np.zeros((len(holes), image.shape[2]))
    for row, (y, x) in enumerate(holes):
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                there = y + down, x + across
                if there == (y, x) or not (0 <= there[0] < image.shape[0] and 0 <= there[1] < image.shape[1]):
                    continue
                weight = 1 / 6 if 0 in (down, across) else 1 / 12
                left[row, row] += weight
                if removed[there]:
                    left[row, holes.index(there)] -= weight
                else:
                    right[row] += weight * image[there]
    found = image.copy()
    found[removed] = np.linalg.solve(left, right)
    return found


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_imputation_solves_the_papers_equations(share):
    rng = np.random.default_rng(0)
    removed = rng.random((3, 8, 10)) < share
    expected = np.stack([solved(*one) for one in zip(IMAGES, removed, strict=True)])
    found = np.asarray(imputed(IMAGES, removed))
    assert_close(found, expected, 1e-4)
    np.testing.assert_array_equal(found[~removed], IMAGES[~removed])
    assert_close(imputed(IMAGES[1:2], removed[1:2]), found[1:2], 1e-6)


def test_imputation_of_half_precision_is_that_of_full_rounded():
    images = jax.random.normal(jax.random.key(0), (1, 12, 11, 2))
    removed = jax.random.uniform(jax.random.key(1), (1, 12, 11)) < 0.6
    half = imputed(images.astype(jnp.bfloat16), removed)
    whole = imputed(images.astype(jnp.bfloat16).astype(jnp.float32), removed)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half, whole.astype(jnp.bfloat16))


def test_a_ramp_is_imputed_within_itself_and_a_level_whole():
    level = np.full((1, 9, 9, 2), 3.5, np.float32)
    removed = np.zeros((1, 9, 9), bool)
    removed[:, 2:7, 1:8] = True
    assert_close(imputed(level, removed), level, 1e-5)
    ramp = np.arange(81, dtype=np.float32).reshape(1, 9, 9, 1)
    assert_close(imputed(ramp, removed), ramp, 1e-4)  # harmonic
    assert_close(imputed(0 * level, removed) + 1, 0 * level + 1)


def test_road_by_its_parts():
    maps = np.abs(draw((3, 8, 10), 2))
    found = road(NET, IMAGES, TARGETS, maps, KEY, shares=(0.25, 0.5), noise=0, batch_size=4)
    for values, order in ((found.most, -maps), (found.least, maps)):
        for column, count in enumerate((20, 40)):
            removed = np.argsort(np.argsort(order.reshape(3, -1), axis=1), axis=1).reshape(maps.shape) < count
            said = jax.nn.softmax(NET(imputed(IMAGES, removed)))[np.arange(3), TARGETS]
            np.testing.assert_allclose(values[:, column], said, rtol=1e-3)
    np.testing.assert_allclose(found.score, (found.least - found.most).mean(axis=1) / 2)


def test_road_tells_what_matters_and_does_not_depend_on_the_batch():
    """A net that sees one corner: the map of that corner loses all at once, its opposite nothing."""
    images = draw((2, 8, 8, 1), 3)
    images[:, :4, :4] += 6

    def net(x):
        corner = x[:, :4, :4, 0].std(axis=(1, 2))
        return jnp.stack([corner, 0.4 * jnp.ones_like(corner)], axis=1)

    right = np.zeros((2, 8, 8), np.float32)
    right[:, :4, :4] = 1
    good, bad = (road(net, images, 0, maps, KEY, shares=(0.25,)) for maps in (right, 1 - right))
    assert (good.score > 0.1).all()
    np.testing.assert_allclose(bad.most, jax.nn.softmax(net(images))[:, :1], rtol=1e-5)
    one = road(net, images, 0, right, KEY, shares=(0.25, 0.5), batch_size=1)
    np.testing.assert_allclose(one.most[:, :1], good.most, rtol=1e-3)
    number = road(net, images, lambda said: said[:, 0], right, KEY, shares=(0.25,), noise=0).most
    assert (number[:, 0] < net(images)[:, 0]).all()


def covered_by_hand(window, n_samples, fill):
    """Each place's images, as the measure draws them."""
    ends = 8 - window[0] + 1, 10 - window[1] + 1
    places = (
        jax.random.randint(key, (n_samples,), 0, end) for key, end in zip(jax.random.split(KEY), ends, strict=True)
    )
    for top, left in zip(*map(np.asarray, places), strict=True):
        covered = IMAGES.copy()
        covered[:, top : top + window[0], left : left + window[1]] = fill
        yield covered


@pytest.mark.parametrize("per_pixel", [False, True])
def test_infidelity_by_its_formula(per_pixel):
    """Quantus': the mean square of (attributions · what is taken) − what the score loses."""
    maps = draw((3, 8, 10) if per_pixel else (3, 8, 10, 3), 4)
    phi = maps[..., None] if per_pixel else maps
    clean, rows = np.asarray(NET(IMAGES)), np.arange(3)
    said, falls = [], []
    for covered in covered_by_hand((3, 2), 7, 0.5):
        said.append(((IMAGES - covered) * phi).sum(axis=(1, 2, 3)))
        falls.append((clean - np.asarray(NET(covered)))[rows, TARGETS])
    said, falls = np.stack(said), np.stack(falls)
    for batch_size in (1, 5, 100):
        found = infidelity(NET, IMAGES, TARGETS, maps, KEY, window=(3, 2), n_samples=7, fill=0.5, batch_size=batch_size)
        assert_close(found.as_given, ((said - falls) ** 2).mean(axis=0))
    best = (said * falls).sum(axis=0) / (said**2).sum(axis=0)
    assert_close(found.scaled, ((best * said - falls) ** 2).sum(axis=0) / (falls**2).sum(axis=0), 1e-4)


def test_infidelity_of_a_gradient_of_a_linear_function_is_zero():
    gradient = np.broadcast_to(WEIGHTS[..., 1], IMAGES.shape)
    whole = infidelity(linear, IMAGES, 1, np.zeros_like(IMAGES), KEY, window=3)
    assert (whole.scaled == 1).all()
    found = infidelity(linear, IMAGES, 1, gradient, KEY, window=3)
    assert (found.as_given < 1e-6 * whole.as_given).all()
    tripled = infidelity(linear, IMAGES, 1, 3 * gradient, KEY, window=3)
    assert_close(tripled.as_given, 4 * whole.as_given, 1e-4)
    np.testing.assert_allclose(tripled.scaled, 0, atol=1e-5)
    nothing = infidelity(lambda x: 0 * linear(x), IMAGES, 1, gradient, KEY, window=3)
    assert (nothing.scaled == 0).all()
    number = infidelity(linear, IMAGES, lambda logits: logits[:, 1], gradient, KEY, window=3)
    assert_close(number.as_given + 1, found.as_given + 1)


def test_sensitivity_by_its_formula():
    """A linear function's gradient never moves; that times its input moves as the input does."""
    still = sensitivity(lenses.gradient, linear, IMAGES, 1, KEY, n_samples=3)
    assert not np.any(still.largest)
    lens = lenses.gradient_times_input
    found = sensitivity(lens, linear, IMAGES, 1, KEY, radius=0.1, n_samples=4)
    clean, moved = np.asarray(lens(linear, IMAGES, 1)).reshape(3, -1), []
    span = IMAGES.max(axis=(1, 2, 3)) - IMAGES.min(axis=(1, 2, 3))
    for number in range(4):
        keys = [jax.random.fold_in(jax.random.fold_in(KEY, number), row) for row in range(3)]
        noise = np.stack([jax.random.uniform(key, IMAGES.shape[1:], minval=-1) for key in keys])
        there = np.asarray(lens(linear, IMAGES + 0.1 * span[:, None, None, None] * noise, 1)).reshape(3, -1)
        moved.append(np.linalg.norm(there - clean, axis=1) / np.linalg.norm(clean, axis=1))
    assert_close(found.largest, np.max(moved, axis=0))
    assert_close(found.mean, np.mean(moved, axis=0))
    known = sensitivity(lens, linear, IMAGES, 1, KEY, radius=0.1, n_samples=4, attributions=clean)
    assert_close(known.largest, found.largest)
    assert not np.any(sensitivity(lens, linear, IMAGES, 1, KEY, radius=0).largest)


def test_sensitivity_takes_any_lens():
    cam = sensitivity(lenses.grad_cam, (FEATURES, HEAD), IMAGES, TARGETS, KEY, n_samples=2)
    path = sensitivity(lenses.integrated_gradients, NET, IMAGES, TARGETS, KEY, n_samples=2)
    assert ((cam.largest > 0) & (cam.largest >= cam.mean)).all()
    assert np.isfinite(path.mean).all()
    assert not np.any(sensitivity(lambda fun, x, target: 0 * x, NET, IMAGES, 0, KEY, n_samples=2).largest)


def test_sparseness_is_quantus_gini_index():
    maps = draw((4, 8, 10), 5)
    maps[1] = 0
    expected = []
    for one in np.abs(maps):
        values = np.sort(one.ravel().astype(float) + 1e-12)
        ranks = np.arange(1, len(values) + 1)
        expected.append(np.sum((2 * ranks - len(values) - 1) * values) / (len(values) * values.sum()))
    np.testing.assert_allclose(sparseness(maps), expected, atol=1e-6)
    np.testing.assert_allclose(sparseness(jnp.asarray(100 * maps, jnp.bfloat16)), expected, atol=0.01)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda one: sparseness(one[None])[0]))(maps), expected, atol=1e-6)


def test_bad_arguments(unchecked):
    maps = np.zeros((3, 8, 10), np.float32)
    for ask, error in (
        (lambda: road(NET, IMAGES, 0, maps[:2], KEY), r"maps: expected \[3, 8, 10\] as the images, got \[2, 8, 10\]"),
        (lambda: road(NET, IMAGES, 0, maps, KEY, shares=(0.5, 1)), r"shares: expected some above 0 and below 1"),
        (lambda: road(NET, IMAGES, 0, maps, KEY, noise=-1), r"noise: expected 0 or more"),
        (lambda: imputed(IMAGES, maps), r"removed: expected bool \[n, H, W\]"),
        (lambda: imputed(IMAGES, maps == 0), r"removed: expected some pixels of each image to be left"),
        (lambda: infidelity(NET, IMAGES, 0, maps[:, :4], KEY, window=2), r"attributions: expected \[n, H, W, C\]"),
        (lambda: infidelity(NET, IMAGES, 0, maps, KEY, window=9), "window: expected at most the image's 8×10 px"),
        (lambda: infidelity(NET, IMAGES, 4, maps, KEY, window=2), r"target: expected one of the 4 classes"),
        (lambda: sensitivity(lenses.gradient, NET, IMAGES, 0, KEY, radius=-1), r"radius: expected 0 or more"),
        (
            lambda: sensitivity(lenses.gradient, NET, IMAGES, 0, KEY, attributions=maps),
            r"attributions: expected maps of 240 numbers, as the lens gives them, got 80",
        ),
        (lambda: sparseness(np.ones(3, np.float32)), r"attributions: expected \[n, …\]"),
    ):
        with pytest.raises(ValueError, match=error):
            ask()
    with pytest.raises(TypeError, match="key: expected one key"):
        road(NET, IMAGES, 0, maps, 3)

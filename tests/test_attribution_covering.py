"""Occlusion as a lens: against a loop, on zfjax's own nets, of functions as targets, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lens_nets import IMAGES, NET, TARGETS, assert_close, draw

import zfjax
from zfjax import attribution as lenses
from zfjax.attribution import covering

NETS = zfjax.ConvNet(
    (
        zfjax.models.specs.Conv("conv1", 4, (3, 3), (2, 2)),
        zfjax.models.specs.ReLU("relu1"),
        zfjax.models.specs.Dense("fc2", 3),
    ),
    kernel_init=jax.nn.initializers.he_normal(),
)


@pytest.fixture(scope="module")
def own():
    return zfjax.layer(NETS, jax.jit(NETS.init)(jax.random.key(0), IMAGES), "fc2")


def by_loops(fun, images, target, window, strides, fill):
    """Falls, and each pixel's mean of those that cover it."""
    n, height, width, _ = images.shape
    tops = sorted({*range(0, height - window[0] + 1, strides[0]), height - window[0]})
    lefts = sorted({*range(0, width - window[1] + 1, strides[1]), width - window[1]})
    clean = np.asarray(fun(images))[range(n), target]
    falls, total, count = np.zeros((n, len(tops), len(lefts))), np.zeros((n, height, width)), np.zeros((height, width))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            place = slice(top, top + window[0]), slice(left, left + window[1])
            covered = images.copy()
            covered[:, *place] = np.broadcast_to(fill, images.shape)[:, *place]
            falls[:, i, j] = clean - np.asarray(fun(covered))[range(n), target]
            total[:, *place] += falls[:, i, j, None, None]
            count[place] += 1
    return falls, total / np.maximum(count, 1), (tops, lefts)


@pytest.mark.parametrize("fill", [0.0, draw((3,), 1), draw((8, 10, 3), 2), draw((3, 8, 10, 3), 3)], ids=np.ndim)
@pytest.mark.parametrize("whose", ["own", "any"])
def test_by_loops(own, whose, fill):
    fun, target = (own, [2, 0, 1]) if whose == "own" else (NET, TARGETS)
    falls, pixels, places = by_loops(fun, IMAGES, target, (3, 4), (2, 5), fill)
    found = lenses.occlusion(fun, IMAGES, target, window=(3, 4), strides=(2, 5), fill=fill, batch_size=5)
    assert_close(found.falls, falls)
    assert_close(found.attributions, pixels)
    assert (found.tops.tolist(), found.lefts.tolist()) == places
    assert falls.shape == (3, 4, 3)


def test_own_nets_recompute_only_what_changes(own, monkeypatch):
    def never(*_):
        raise AssertionError

    ask = functools.partial(lenses.occlusion, own, IMAGES, window=3, strides=2)
    expected = lenses.occlusion(lambda x: own(x), IMAGES, 1, window=3, strides=2)
    monkeypatch.setattr(covering, "_falls", never)
    assert_close(ask(1).falls, expected.falls)
    assert_close(ask(lambda logits: logits[:, 1], batch_size=4).attributions, expected.attributions)


def test_what_a_target_closes_over_may_be_traced(own):
    def of(share, fun):
        return lenses.occlusion(fun, IMAGES, lambda logits: share * logits[:, 1], window=3, strides=2).falls

    for fun in (own, lambda x: own(x)):
        assert_close(jax.jit(functools.partial(of, fun=fun))(2.0), 2 * of(1.0, own))


def test_a_target_without_a_gradient_and_under_vmap(own):

    def says(logits):
        return (logits.argmax(axis=1) == 0).astype(jnp.float32)

    found = lenses.occlusion(own, IMAGES, says, window=3, strides=2)
    assert set(np.unique(found.falls)) <= {-1.0, 0.0, 1.0}
    each = jax.vmap(lambda image: lenses.occlusion(own, image[None], 1, window=3, strides=2).attributions[0])(IMAGES)
    assert_close(each, lenses.occlusion(own, IMAGES, 1, window=3, strides=2).attributions)


def test_pixels_that_are_never_covered_are_zero():
    found = lenses.occlusion(NET, IMAGES, TARGETS, window=1, strides=3)
    assert not np.any(found.attributions[:, 1])
    assert np.any(found.attributions[:, 3])


def test_the_usual_window_is_a_share_of_the_image():
    images = draw((1, 28, 56, 1), 0)
    found = lenses.occlusion(lambda x: x.mean(axis=(1, 2)), images, 0)
    assert found.tops.tolist() == list(range(0, 23, 2))
    assert found.lefts.tolist() == [*range(0, 45, 4)]


def test_bad_arguments(unchecked):
    for more, error in (
        ({"window": 9}, "window: expected at most the image's 8×10 px, got 9×9"),
        ({"window": 0}, "window: "),
        ({"strides": (0, 1)}, "strides: "),
        ({"fill": np.zeros(2, np.float32)}, r"fill: expected a number, \[3\], \[8, 10, 3\] or \[3, 8, 10, 3\]"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"target": 4}, "target: expected one of the 4 classes"),
    ):
        with pytest.raises(ValueError, match=error):
            lenses.occlusion(NET, IMAGES, **({"target": 0} | more))
    with pytest.raises(ValueError, match=r"images: expected \[n, H, W, C\], got \[8, 3\]"):
        lenses.occlusion(lambda x: x, IMAGES[0, :, 0], 0)

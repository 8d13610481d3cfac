"""Class activation maps against their formulas by loops and finite differences, and against CAM itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import ON_CPU
from lens_nets import FEATURES, HEAD, IMAGES, NET, TARGETS, assert_close, draw, numpy_features, numpy_head, numpy_logits
from lens_nets import slope as numpy_slope

import zfjax
from zfjax import attribution as lenses
from zfjax.models import specs

MAPS = numpy_features(IMAGES).astype(np.float32)
SLOPES = numpy_slope(numpy_head, MAPS, TARGETS)
CAMS = (lenses.grad_cam, lenses.grad_cam_plus_plus, lenses.layer_cam)
WEIGHTS = draw((6, 4), 8)


def linear_head(maps):
    """The mean over each map, and one dense layer: Zhou's net."""
    return maps.mean(axis=(1, 2)) @ WEIGHTS


def bilinear(cells, size):
    """One map, pixel by pixel."""
    found = np.zeros(size)
    for pixel in np.ndindex(*size):
        shares = []
        for at, pixels, count in zip(pixel, size, cells.shape, strict=True):
            place = np.clip((at + 0.5) * count / pixels - 0.5, 0, count - 1)
            low = min(int(place), count - 2)
            share = np.zeros(count)
            share[low], share[low + 1] = 1 - (place - low), place - low
            shares.append(share)
        found[pixel] = shares[0] @ cells @ shares[1]
    return found


def test_grad_cam_by_loops():
    expected = np.zeros(MAPS.shape[:3])
    for i, k in np.ndindex(len(MAPS), MAPS.shape[3]):
        expected[i] += SLOPES[i, :, :, k].mean() * MAPS[i, :, :, k]
    assert (expected < 0).any()
    assert_close(lenses.grad_cam(HEAD, MAPS, TARGETS), np.maximum(expected, 0))


def test_layer_cam_by_loops():
    expected = np.zeros(MAPS.shape[:3])
    for i, y, x, k in np.ndindex(*MAPS.shape):
        expected[i, y, x] += max(SLOPES[i, y, x, k], 0) * MAPS[i, y, x, k]
    assert_close(lenses.layer_cam(HEAD, MAPS, TARGETS), np.maximum(expected, 0))


def test_grad_cam_plus_plus_by_loops():
    """Equation 19 as it stands: α = g² / (2 g² + Σ A · g³)."""
    expected = np.zeros(MAPS.shape[:3])
    for i, k in np.ndindex(len(MAPS), MAPS.shape[3]):
        g, total = SLOPES[i, :, :, k], MAPS[i, :, :, k].sum()
        below = 2 * g**2 + total * g**3
        alpha = np.where(g != 0, g**2 / np.where(below == 0, 1, below), 0)
        expected[i] += (alpha * np.maximum(g, 0)).sum() * MAPS[i, :, :, k]
    assert_close(lenses.grad_cam_plus_plus(HEAD, MAPS, TARGETS), expected)


def test_grad_cam_plus_plus_by_derivatives_of_the_exponential():
    """Where its formula comes from: the second and third derivatives of exp(score) by each cell."""
    maps, target, weights = np.abs(draw((1, 2, 2, 2), 1)), 1, np.abs(WEIGHTS[:2])

    def score(maps):
        return maps.mean(axis=(1, 2)) @ weights

    def derivatives(cell):
        along = [lambda maps: jnp.exp(score(maps[None])[0, target])]
        for _ in range(3):
            along.append(lambda maps, last=along[-1]: jax.jvp(last, (maps,), (cell,))[1])
        return [one(jnp.asarray(maps[0])) for one in along]

    one, two, three = jax.jit(jax.vmap(derivatives))(jnp.eye(8).reshape(8, 2, 2, 2))[1:]
    totals = np.tile(maps[0].sum(axis=(0, 1)), 4)  # of each cell's map
    alphas = two / (2 * two + totals * three)
    logit_slopes = one / np.exp(score(maps)[0, target])
    shares = np.asarray(alphas * logit_slopes).reshape(4, 2).sum(axis=0)
    assert_close(lenses.grad_cam_plus_plus(score, maps, target)[0], maps[0] @ shares)


def test_of_a_linear_head_all_are_cam():
    """Zhou et al. 2016: Σ_k w_k A^k; Grad-CAM is that, divided by the number of cells."""
    maps = np.abs(MAPS) + 0.1
    cam = np.einsum("nhwk,kn->nhw", maps, WEIGHTS[:, TARGETS])
    assert_close(lenses.grad_cam(linear_head, maps, TARGETS), np.maximum(cam, 0) / 20)
    positive = np.einsum("nhwk,kn->nhw", maps, np.maximum(WEIGHTS[:, TARGETS], 0))
    assert_close(lenses.layer_cam(linear_head, maps, TARGETS), positive / 20)


@pytest.mark.parametrize("lens", CAMS)
def test_maps_that_mean_nothing_to_a_class_give_zeros(lens):
    found = lens(lambda maps: 0 * linear_head(maps), MAPS, TARGETS)
    assert found.shape == (3, 4, 5)
    assert not np.any(found)


def test_score_cam_by_loops():
    """Every masked image by itself through the NumPy net."""
    expected = np.zeros(MAPS.shape[:3])
    for i in range(len(IMAGES)):
        scores = []
        for k in range(MAPS.shape[3]):
            mask = bilinear(MAPS[i, :, :, k], IMAGES.shape[1:3])
            mask = (mask - mask.min()) / (mask.max() - mask.min() or 1)
            scores.append(numpy_logits((IMAGES[i] * mask[:, :, None])[None])[0, TARGETS[i]])
        shares = np.exp(scores - np.max(scores))
        expected[i] = MAPS[i] @ (shares / shares.sum())
    assert_close(lenses.score_cam(NET, IMAGES, TARGETS, MAPS), expected)


@pytest.mark.parametrize("level", [0.0, 0.1, 1e3])
def test_score_cam_of_flat_maps(level):
    """A map without contrast masks everything, whatever its level: no noise is stretched, and nothing divided by 0."""
    maps = MAPS.copy()
    maps[..., 0] = level
    seen = []

    def net(x):
        jax.debug.callback(lambda x: seen.append(np.array(x)), x)
        return NET(x)

    assert np.isfinite(lenses.score_cam(net, IMAGES, 0, maps, batch_size=6)).all()
    jax.effects_barrier()
    first = np.concatenate(seen)[::6]
    assert len(first) == 3
    assert np.abs(first).max() < (1e-4 if ON_CPU else 0.02)  # rounding of maps of 1,000, times pixels
    assert np.abs(np.concatenate(seen)).max() > 1


def test_guided_grad_cam_is_the_product():
    cam = lenses.grad_cam(HEAD, MAPS, TARGETS)
    wide = np.stack([bilinear(np.asarray(one), (8, 10)) for one in cam])
    guided = lenses.guided_backprop(NET, IMAGES, TARGETS)
    assert_close(lenses.guided_grad_cam((FEATURES, HEAD), IMAGES, TARGETS), wide[..., None] * np.asarray(guided))


@pytest.mark.parametrize("size", [(8, 10), (9, 21), (4, 5), (2, 7)])
def test_upsample(size):
    cam = draw((2, 4, 5), 0)
    assert_close(lenses.upsample(cam, size), np.stack([bilinear(one, size) for one in cam]))
    torch = pytest.importorskip("torch")
    stretched = torch.nn.functional.interpolate(torch.tensor(cam)[:, None], size, mode="bilinear", align_corners=False)
    assert_close(lenses.upsample(cam, size), stretched[:, 0])


def test_upsample_to_a_square():
    cam = jnp.asarray(draw((1, 3, 4), 0))
    np.testing.assert_array_equal(lenses.upsample(cam, 9), lenses.upsample(cam, (9, 9)))


def test_upsample_of_another_shape(unchecked):
    with pytest.raises(ValueError, match=r"cam: expected maps \[n, height, width\], got \[4, 5\]"):
        lenses.upsample(jnp.ones((4, 5)), (8, 8))


def test_a_layer_of_a_net():
    """By name, with the functions that `split` gives."""
    layers = (specs.Conv("conv1", 4, (3, 3)), specs.ReLU("relu1"), specs.Dense("fc2", 3))
    net = zfjax.ConvNet(layers, kernel_init=jax.nn.initializers.he_normal())
    images = draw((2, 6, 7, 3), 0)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    features, head = zfjax.split(net, variables, "relu1")
    maps = np.asarray(jax.jit(features)(images))
    weights = np.asarray(variables["params"]["fc2"]["kernel"]).reshape(4, 5, 4, 3)[..., [0, 2]]
    expected = (np.maximum(np.moveaxis(weights, -1, 0), 0) * maps).sum(axis=-1)
    assert_close(lenses.layer_cam(head, maps, [0, 2]), expected)

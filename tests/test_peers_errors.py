"""Errors seen in other deconvnets, one test each.

Each builds by hand, in numpy and from definitions, both what is right and what the error gives; ours must be the one
and differ from the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

import zfjax
from zfjax.data.crops import fixed_crop
from zfjax.data.pipeline import Batch
from zfjax.models.specs import Dense
from zfjax.training.config import default
from zfjax.training.state import State, annealing, create_optimizer
from zfjax.training.step import train_step


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


# A net of two convolutions with a ReLU between: pixels -> hidden -> top.
IMAGES = normal(2, 9, 8, 3)
KERNEL1, BIAS1 = normal(3, 3, 3, 4), normal(4)
KERNEL2, BIAS2 = normal(2, 2, 4, 5), normal(5)
HIDDEN = (2, 7, 6, 4)
SEED = normal(2, 3, 3, 5)  # of both signs, in all units


def conv(x, kernel, stride=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def hidden(x):
    return conv(x, KERNEL1) + jnp.asarray(BIAS1).reshape(1, 1, 1, -1)


def two_convs(x, relu=jax.nn.relu):
    return conv(relu(hidden(x)), KERNEL2, 2) + jnp.asarray(BIAS2).reshape(1, 1, 1, -1)


def relu(x):
    return np.maximum(np.asarray(x), 0)


def down1(signal):
    return filter_down(signal, KERNEL1, 1, IMAGES.shape)


def down2(signal):
    return filter_down(signal, KERNEL2, 2, HIDDEN)


def filter_down(signal, kernel, stride, shape):
    """The transposed convolution by its definition: every value pastes its filter where it was seen."""
    below = np.zeros(shape, np.float32)
    kh, kw = kernel.shape[:2]
    for i, j in np.ndindex(signal.shape[1:3]):
        patch = np.einsum("nf,abcf->nabc", signal[:, i, j], kernel)
        below[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += patch
    return below


def max_pool(x, window, stride, beyond=0):
    """Square windows that may hang over the bottom and right edge by `beyond` cells."""
    hang = (0, beyond)
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), ((0, 0), hang, hang, (0, 0))
    )


def maxima(x, window, stride, beyond=0):
    """Of each pooled value: (its index, the index of its maximum in x), in row-major order."""
    n, height, width, channels = x.shape
    rows, columns = ((size + beyond - window) // stride + 1 for size in (height, width))
    for image, i, j, c in np.ndindex(n, rows, columns, channels):
        top, left = i * stride, j * stride
        cells = x[image, top : top + window, left : left + window, c]
        a, b = np.unravel_index(np.argmax(cells), cells.shape)
        yield (image, i, j, c), (image, top + a, left + b, c)


def unpool(signal, places, shape):
    """Values back to their maxima; where two share one, they sum."""
    below = np.zeros(shape, np.float32)
    for index, place in places:
        below[place] += signal[index]
    return below


def assert_right(pixels, right, *wrongs):
    """`pixels` is `right`, and each wrong answer is off by more than a thousand times that tolerance, or in shape."""
    scale = np.abs(right).max()
    for wrong in wrongs:
        assert wrong.shape != right.shape or np.abs(wrong - right).max() > 0.01 * scale, (
            "this could not tell them apart"
        )
    assert pixels.shape == right.shape
    np.testing.assert_allclose(pixels, right, rtol=0, atol=1e-5 * scale)


def projected(fun, seed=SEED, x=IMAGES):
    y, project = zfjax.deconvnet(fun, x)
    np.testing.assert_allclose(y, fun(x), rtol=1e-5)
    return project(jnp.asarray(seed))


def test_rectification_is_not_forgotten():
    """Several PyTorch repositories, and piergiaj's for Caffe: transposed filters only."""
    assert_right(projected(two_convs), down1(relu(down2(SEED))), down1(down2(SEED)))


def test_biases_take_no_part():
    """csgwon reuses the forward biases; Jasonlee1995 leaves a random one on the last transposed convolution."""
    right = down1(relu(down2(SEED)))
    added = down1(relu(down2(SEED + BIAS2) + BIAS1))
    undone = down1(relu(down2(SEED - BIAS2) - BIAS1))
    assert_right(projected(two_convs), right, added, undone, right + normal(3))


def test_forward_mask_takes_no_part():
    """tf_cnnvis: with the forward ReLU's mask it is guided backpropagation."""
    signal = down2(SEED)
    passed = np.asarray(hidden(IMAGES)) > 0
    assert_right(projected(two_convs), down1(relu(signal)), down1(relu(signal) * passed), down1(signal * passed))


def test_contrast_norm_is_not_applied_again():
    """piergiaj applies it to the signal. Its derivative, which autodiff would give, has no part either."""

    def norm(x):
        squares = jnp.pad(x**2, ((0, 0), (0, 0), (0, 0), (1, 1)))
        return x / (2 + 0.1 / 3 * (squares[..., :-2] + squares[..., 1:-1] + squares[..., 2:])) ** 0.75

    def fun(x):
        return conv(zfjax.ops.local_response_norm(jax.nn.relu(hidden(x)), 3, 2.0, 0.1, 0.75), KERNEL2, 2)

    acts = jax.nn.relu(hidden(IMAGES))
    np.testing.assert_allclose(fun(IMAGES), conv(norm(acts), KERNEL2, 2), rtol=1e-4, atol=1e-4)
    signal = down2(SEED)
    again, derivative = np.asarray(norm(signal)), np.asarray(jax.vjp(norm, acts)[1](jnp.asarray(signal))[0])
    assert_right(projected(fun), down1(relu(signal)), down1(relu(again)), down1(relu(derivative)))


def test_filtering_gives_the_stored_size():
    """piergiaj gives (H - 1)·s + k; here a last row and two columns of pixels are seen by no filter of stride 3."""
    images, kernel, seed = normal(1, 10, 11, 3), normal(3, 3, 3, 4), normal(1, 3, 3, 4)
    pixels = projected(lambda x: conv(jax.nn.relu(x), kernel, 3), seed, images)
    wrong = filter_down(seed, kernel, 3, (1, 9, 9, 3))
    assert_right(pixels, relu(filter_down(seed, kernel, 3, images.shape)), relu(wrong))
    assert not np.any(pixels[:, 9:])
    assert not np.any(pixels[:, :, 9:])


def test_unpooling_gives_the_stored_size():
    """The same of a pool whose windows hang over the edge, as the paper's: (H - 1)·s + k is too large."""
    images, seed = normal(1, 6, 8, 3), np.abs(normal(1, 3, 4, 3))
    places = list(maxima(relu(images), 3, 2, beyond=1))
    pixels = projected(lambda x: max_pool(jax.nn.relu(x), 3, 2, beyond=1), seed, images)
    assert_right(pixels, unpool(seed, places, images.shape), unpool(seed, places, (1, 7, 9, 3)))


def test_overlapping_windows_sum():
    """piergiaj and all that use PyTorch's `max_unpool2d`: the value written last stays."""
    seed = np.abs(normal(2, 3, 2, 4))
    places = list(maxima(relu(hidden(IMAGES)), 3, 2))
    last, first = np.zeros(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)
    for index, place in places:
        last[place] = seed[index]
    for index, place in reversed(places):
        first[place] = seed[index]
    assert len({place for _, place in places}) < len(places), "no two windows share a maximum"
    pixels = projected(lambda x: max_pool(jax.nn.relu(hidden(x)), 3, 2), seed)
    assert_right(pixels, down1(unpool(seed, places, HIDDEN)), down1(last), down1(first))


@pytest.mark.parametrize(
    ("window", "stride", "size"),
    [(2, 2, 6), (2, 2, 7), (3, 2, 7), (3, 2, 8), (2, 3, 8), (3, 1, 5)],
    ids=["even", "rest", "overlap", "overlap and rest", "gaps", "each cell"],
)
def test_pools_of_any_geometry(window, stride, size):
    """All repositories for VGG alone: every value fills its own block of window × window cells, and nothing is left."""
    images = normal(1, size, size, 2)
    places = list(maxima(images, window, stride))
    seed = normal(*max_pool(images, window, stride).shape)
    blocks = [
        ((n, i, j, c), (n, i * window + row - i * stride, j * window + column - j * stride, c))
        for (n, i, j, c), (_, row, column, _) in places
    ]
    side = seed.shape[1] * window
    wrong = unpool(seed, blocks, (1, side, side, 2))
    right = unpool(seed, places, images.shape)
    with pytest.warns(zfjax.RuleWarning, match="no relu"):  # there is none, so that negative maxima count too
        pixels = projected(lambda x: max_pool(x, window, stride), seed, images)
    if window == stride and size % window == 0:
        assert_right(pixels, right)
        np.testing.assert_array_equal(right, wrong)  # the one case in which those repositories are right
    else:
        assert_right(pixels, right, wrong)


def test_filters_are_flipped_not_transposed():
    """A JAX notebook swaps height and width, and Flax's `ConvTranspose` does not flip: together or alone, wrong."""
    signal = relu(down2(SEED))
    swapped, unflipped = KERNEL1.transpose(1, 0, 2, 3), KERNEL1[::-1, ::-1]
    wrongs = [
        filter_down(signal, wrong, 1, IMAGES.shape)
        for wrong in (swapped, unflipped, swapped[::-1, ::-1], KERNEL1[::-1], KERNEL1[:, ::-1])
    ]
    assert_right(projected(two_convs), filter_down(signal, KERNEL1, 1, IMAGES.shape), *wrongs)


def test_rectification_comes_after_unpooling():
    """ChienliMa rectifies first: where a positive and a negative value meet at one maximum, the sum differs."""
    seed = normal(2, 3, 2, 4)
    places = list(maxima(relu(hidden(IMAGES)), 3, 2))
    pixels = projected(lambda x: max_pool(jax.nn.relu(hidden(x)), 3, 2), seed)
    right, wrong = relu(unpool(seed, places, HIDDEN)), unpool(relu(seed), places, HIDDEN)
    assert_right(pixels, down1(right), down1(wrong))


def test_activations_are_not_applied_to_the_signal():
    """jalused sends the signal through the softmax again on the way down; it passes by the softmax's derivative."""
    images, weights1, weights2 = normal(2, 6), normal(6, 5), normal(5, 4)
    seed = 2 * normal(2, 4)

    def logits(x):
        return jax.nn.relu(x @ weights1) @ weights2

    def down(signal):
        return relu(signal @ weights2.T) @ weights1.T

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)

    assert_right(projected(logits, seed, images), down(seed), down(softmax(seed)), down(np.tanh(seed)))
    probability = softmax(np.asarray(logits(images)))
    derivative = probability * (seed - (probability * seed).sum(axis=-1, keepdims=True))
    pixels = projected(lambda x: jax.nn.softmax(logits(x)), seed, images)
    assert_right(pixels, down(derivative), down(softmax(seed)), down(seed))


SPELLINGS = {
    "jax.nn.relu": jax.nn.relu,
    "flax.linen.relu": nn.relu,
    "maximum(x, 0)": lambda x: jnp.maximum(x, 0.0),
    "maximum(0, x)": lambda x: jnp.maximum(0.0, x),
    "maximum(x, zeros)": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "lax.max": lambda x: lax.max(x, lax.full_like(x, 0)),
    "clip(x, 0)": lambda x: jnp.clip(x, 0.0),
    "clip(min=0)": lambda x: x.clip(min=0.0),
    "jitted": jax.jit(lambda x: jnp.maximum(x, 0.0)),
    "remat": jax.checkpoint(jax.nn.relu),
    "vmapped": jax.vmap(jax.nn.relu),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_is_seen(spelling):
    """Captum and many others see `nn.ReLU` modules only; `F.relu` is silently the plain gradient."""
    signal = down2(SEED)
    gradient = down1(signal * (np.asarray(hidden(IMAGES)) > 0))
    pixels = projected(lambda x: two_convs(x, SPELLINGS[spelling]))
    assert_right(pixels, down1(relu(signal)), gradient, down1(signal))


def test_a_relu_that_is_not_recognized_is_the_plain_gradient_but_says_so():
    gradient = down1(down2(SEED) * (np.asarray(hidden(IMAGES)) > 0))
    with pytest.warns(zfjax.RuleWarning, match="no relu"):
        pixels = projected(lambda x: two_convs(x, lambda x: x * (x > 0).astype(x.dtype)))
    assert_right(pixels, gradient, down1(relu(down2(SEED))))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"])
def test_a_reused_relu_acts_each_time(wrap):
    """captum#200, #578, #1082: with one ReLU module in two places, one of them is lost or takes the other's values.

    Under jit both uses are calls of one and the same jaxpr.
    """
    kernel = normal(1, 1, 3, 3)
    block = wrap(lambda x: jax.nn.relu(conv(x, kernel)))
    seed = normal(*IMAGES.shape, seed=1)

    def down(signal):
        return filter_down(signal, kernel, 1, IMAGES.shape)

    pixels = projected(lambda x: block(block(x)), seed)
    upper_only, lower_only = down(down(relu(seed))), down(relu(down(seed)))
    assert_right(pixels, down(relu(down(relu(seed)))), upper_only, lower_only)


def test_training_takes_the_softmax_once():
    """Jasonlee1995's ZFNet: softmax in the net, then a cross-entropy that takes it again."""
    z, label = np.array([0.0, 1.0, 3.0], np.float32), np.array([0, 1, 2, 2], np.int32)
    # With weights 0 the logits are the biases, whatever the pictures.
    params = {"fc": {"kernel": jnp.zeros((4 * 4 * 3, 3)), "bias": jnp.asarray(z)}}
    config = default()
    rate = optax.constant_schedule(0.1)
    optimizer = create_optimizer(config, rate)
    state = State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats={},
        opt_state=optimizer.init(params),
        plateau=annealing(config).init(params),
        key=jax.random.key(0),
        mean=jnp.full((5, 5, 3), 128.0),
        net=zfjax.ConvNet((Dense("fc", 3),), image_size=4),
        optimizer=optimizer,
        rate=rate,
        crop=fixed_crop,
    )
    _, metrics = train_step(state, Batch(np.zeros((4, 5, 5, 3), np.uint8), label, np.ones(4, np.float32)))

    def loss(z):
        return np.mean(np.log(np.sum(np.exp(z))) - z[label])

    right, wrong = loss(z), loss(np.exp(z) / np.sum(np.exp(z)))
    assert abs(wrong - right) > 0.1
    np.testing.assert_allclose(metrics.loss, right, rtol=1e-5)

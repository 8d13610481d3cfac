"""What all lenses have in common: one at a time, under jit, in chunks, and when they are asked the impossible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import compiles
from jax.tree_util import Partial
from lens_nets import CLASSES, FEATURES, HEAD, IMAGES, NET, TARGETS, assert_close, head_of, logits_of

from zfjax import attribution as lenses
from zfjax.attribution import chunks

KEY = jax.random.key(0)
MAPS = np.asarray(FEATURES(IMAGES))


def path(x, target, **options):
    return lenses.integrated_gradients(NET, x, target, n_steps=3, **options).attributions


def noisy(x, target, **options):
    return lenses.smooth_grad(NET, x, target, KEY, n_samples=3, **options)


def scored(x, target, **options):
    return lenses.score_cam(NET, x, target, jax.jit(FEATURES)(x), **options)


def guided_cam(x, target):
    return lenses.guided_grad_cam((FEATURES, HEAD), x, target)


def of_net(lens):
    return lambda x, target: lens(NET, x, target)


def of_split(lens):
    return lambda x, target: lens((FEATURES, HEAD), x, target)


def without_each(x, target, **options):
    return lenses.ablation_cam((FEATURES, HEAD), x, target, **options)


def covered(x, target, **options):
    return lenses.occlusion(NET, x, target, window=(3, 5), strides=(3, 4), **options).attributions


def shared_out(x, target):
    return lenses.lrp(NET, x, target).attributions


def differences(x, target):
    return lenses.deep_lift(NET, x, target).attributions


def drawn(x, target):
    return lenses.gradient_shap(NET, x, target, 0.5 * IMAGES[:2], KEY, n_samples=3).attributions


def of_head(lens):
    return lambda x, target: lens(HEAD, jax.jit(FEATURES)(x), target)


LENSES = {
    "gradient": of_net(lenses.gradient),
    "saliency": of_net(lenses.saliency),
    "gradient_times_input": of_net(lenses.gradient_times_input),
    "guided_backprop": of_net(lenses.guided_backprop),
    "deconvolution": of_net(lenses.deconvolution),
    "grad_cam": of_head(lenses.grad_cam),
    "grad_cam_plus_plus": of_head(lenses.grad_cam_plus_plus),
    "layer_cam": of_head(lenses.layer_cam),
    "smooth_grad": noisy,
    "integrated_gradients": path,
    "score_cam": scored,
    "guided_grad_cam": guided_cam,
    "hires_cam": of_split(lenses.hires_cam),
    "xgrad_cam": of_split(lenses.xgrad_cam),
    "ablation_cam": without_each,
    "occlusion": covered,
    "eigen_cam": of_split(lenses.eigen_cam),
    "eigen_grad_cam": of_split(lenses.eigen_grad_cam),
    "finer_cam": of_split(lenses.finer_cam),
    "lrp": shared_out,
    "deep_lift": differences,
    "gradient_shap": drawn,
}
LONG = {
    "smooth_grad": noisy,
    "integrated_gradients": path,
    "score_cam": scored,
    "ablation_cam": without_each,
    "occlusion": covered,
}


@pytest.mark.parametrize("name", LENSES)
def test_batched_equals_one_at_a_time_and_jitted(name):
    """Each image has its own target; the jitted lens is given the last image alone."""
    lens = LENSES[name]
    together = np.asarray(lens(IMAGES, TARGETS))
    for i in range(2):
        assert_close(lens(IMAGES[i : i + 1], TARGETS[i : i + 1]), together[i : i + 1])
    assert_close(jax.jit(lens)(IMAGES[2:], TARGETS[2:]), together[2:])


@pytest.mark.parametrize("name", LENSES)
def test_one_target_for_all(name):
    assert_close(LENSES[name](IMAGES, 1), LENSES[name](IMAGES, [1, 1, 1]), 1e-7)


def test_function_as_argument_of_jit():
    """Weights are arguments: another net of the same form is not compiled again."""
    jitted = jax.jit(lenses.saliency)
    assert_close(jitted(NET, IMAGES, 3), lenses.saliency(NET, IMAGES, 3))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, NET)
    with compiles() as lines:
        found = jitted(doubled, IMAGES, 3)
    assert not lines
    assert_close(found, lenses.saliency(doubled, IMAGES, 3))
    assert_close(jax.jit(lambda maps: lenses.grad_cam(HEAD, maps, 3))(MAPS), lenses.grad_cam(HEAD, MAPS, 3))


def test_under_vmap():
    """Over targets: what each class hangs on."""
    every = jax.vmap(lambda target: path(IMAGES, target))(jnp.arange(CLASSES))
    for target in range(CLASSES):
        assert_close(every[target], path(IMAGES, target))


@pytest.mark.parametrize("name", LONG)
def test_batch_size_changes_nothing(name):
    """Chunks of one image, chunks that end within an image, and all at once."""
    expected = LONG[name](IMAGES, TARGETS)
    for batch_size in (1, 4):
        assert_close(LONG[name](IMAGES, TARGETS, batch_size=batch_size), expected)


@pytest.mark.parametrize("name", LONG)
def test_batch_size_is_honoured(name, monkeypatch):
    """No more images than that go through the net at once, and one program serves all chunks."""
    seen = []

    def watched(weights, x):
        seen.append(len(x))
        return logits_of(weights, x)

    def watched_head(weights, maps):
        seen.append(len(maps))
        return head_of(weights, maps)

    monkeypatch.setitem(globals(), "NET", Partial(watched, *NET.args))
    monkeypatch.setitem(globals(), "HEAD", Partial(watched_head, *HEAD.args))
    few, target = IMAGES[:2], TARGETS[:2]
    LONG[name](few, target, batch_size=4)
    # Once to learn the shape of what it gives; then by itself, and in the loop of a jitted function.
    assert set(seen) == {2, 3} or set(seen) == {2, 4}
    assert len(seen) == 2
    jax.make_jaxpr(lambda x: LONG[name](x, target, batch_size=4))(few)
    assert max(seen) <= 4


@pytest.mark.parametrize("name", ["integrated_gradients", "score_cam"])
def test_progress(name, monkeypatch):
    """All images that go through the net are counted; nothing is shown while a program is traced."""
    bars = []

    class Bar(chunks.Progress):
        def __init__(self, what, total):
            super().__init__(what, total, show=False)
            bars.append(self)

    monkeypatch.setattr(chunks, "Progress", Bar)
    LONG[name](IMAGES, TARGETS, batch_size=4)
    (bar,) = bars
    assert bar._done == bar._total >= 9
    jax.make_jaxpr(lambda x: LONG[name](x, TARGETS, batch_size=4))(IMAGES)
    assert bars[-1]._done == 0


def test_weights_that_are_traced():
    """A plain function, closed over what an outer jit traces."""

    def lens(weights, x):
        return lenses.integrated_gradients(lambda x: logits_of(weights, x), x, TARGETS, n_steps=3, batch_size=2)[0]

    assert_close(jax.jit(lens)(NET.args[0], IMAGES), path(IMAGES, TARGETS))
    # Here the images are not traced, and it is only seen after the first chunk.
    assert_close(jax.jit(lambda weights: lens(weights, IMAGES))(NET.args[0]), path(IMAGES, TARGETS))


@pytest.mark.parametrize("name", [name for name in LENSES if name != "guided_grad_cam"])
def test_bad_targets(unchecked, name):
    lens = LENSES[name]
    for target, wrong in ((4, 4), (-1, -1), ([0, 1, 9], 9), (np.array([0, -2, 1]), -2)):
        with pytest.raises(ValueError, match=rf"one of the 4 classes, 0 to 3; got {wrong}$"):
            lens(IMAGES, target)
    for target in ([0, 1], np.zeros((3, 1), int), 1.0, [True, False, True]):
        with pytest.raises(ValueError, match="target: expected a class, or one for each of the 3"):
            lens(IMAGES, target)


@pytest.mark.parametrize("lens", ["gradient", "grad_cam", "guided_backprop", "integrated_gradients", "score_cam"])
def test_traced_target_that_is_no_class(lens):
    """It cannot raise; it must not look like a result, nor harm the images beside it."""
    found = jax.jit(LENSES[lens])(IMAGES, jnp.array([2, 4, 3]))
    assert np.isnan(found[1]).any()
    assert_close(found[jnp.array([0, 2])], LENSES[lens](IMAGES, TARGETS)[jnp.array([0, 2])])


def test_bad_inputs(unchecked):
    with pytest.raises(TypeError, match=r"images: expected floating-point numbers.* got int32"):
        lenses.saliency(NET, IMAGES.astype(np.int32), 0)
    with pytest.raises(TypeError, match="features: expected floating-point numbers"):
        lenses.grad_cam(HEAD, MAPS.astype(np.uint8), 0)
    with pytest.raises(ValueError, match=r"expected a batch \[n, …\] of one or more, got \[5\]"):
        lenses.saliency(NET, IMAGES[0, 0, :5, 0], 0)
    with pytest.raises(ValueError, match=r"of one or more, got \[0, "):
        lenses.saliency(NET, IMAGES[:0], 0)
    with pytest.raises(ValueError, match="attributions: expected"):
        lenses.per_pixel(IMAGES[..., 0])


@pytest.mark.parametrize(
    ("fun", "got"),
    [
        (FEATURES, r"\[3, 4, 5, 6\]"),
        (lambda x: (NET(x), {}), "tuple"),
        (lambda x: NET(x)[:, 0], r"\[3\]"),
        (lambda x: NET(x)[:1], r"\[1, 4\]"),
    ],
)
def test_functions_that_give_no_logits(fun, got):
    with pytest.raises(ValueError, match=rf"fun: expected logits \[3, classes\] of 3 images, got {got}"):
        lenses.gradient(fun, IMAGES, 0)


@pytest.mark.parametrize("lens", [lenses.grad_cam, lenses.grad_cam_plus_plus, lenses.layer_cam])
def test_features_without_positions(unchecked, lens):
    with pytest.raises(
        ValueError, match=r"features: expected maps \[n, height, width, maps\], got \[3, 7\]; take a layer"
    ):
        lens(lambda hidden: hidden, IMAGES[:, 0, :7, 0], 0)


def test_maps_of_score_cam(unchecked):
    with pytest.raises(ValueError, match=r"maps: expected maps .* got \[3, 7\]; take a layer below"):
        lenses.score_cam(NET, IMAGES, 0, MAPS[:, 0, 0, :1].repeat(7, axis=1))
    with pytest.raises(
        ValueError, match=r"maps: expected those of the images .* got \[2, 4, 5, 6\] for \[3, 8, 10, 3\]"
    ):
        lenses.score_cam(NET, IMAGES, 0, MAPS[:2])


def test_numbers_below_one():
    for lens in LONG.values():
        with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
            lens(IMAGES, TARGETS, batch_size=0)
    with pytest.raises(ValueError, match="samples: expected at least 1, got 0"):
        lenses.smooth_grad(NET, IMAGES, 0, KEY, n_samples=0)
    with pytest.raises(ValueError, match="steps: expected at least 1, got -1"):
        lenses.integrated_gradients(NET, IMAGES, 0, n_steps=-1)
    with pytest.raises(ValueError, match="noise: expected 0 or more, got -"):
        lenses.smooth_grad(NET, IMAGES, 0, KEY, noise=-0.1)
    with pytest.raises(
        ValueError, match=r"baseline: expected a number, \[3\], \[8, 10, 3\] or \[3, 8, 10, 3\], got \[10, 3\]"
    ):
        lenses.integrated_gradients(NET, IMAGES, 0, IMAGES[0, 0])

"""Targets that are functions: what each lens answers, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import compiles
from lens_nets import FEATURES, HEAD, IMAGES, NET, TARGETS, assert_close
from test_attribution_lenses import LENSES

from zfjax import attribution as lenses
from zfjax import rules
from zfjax.attribution import metrics

MAPS = np.asarray(FEATURES(IMAGES))


def logit_two(logits):
    return logits[:, 2]


@pytest.mark.parametrize("name", sorted(LENSES.keys() - {"finer_cam"}))  # which compares classes, and says so
def test_a_class_as_a_function(name):
    assert_close(LENSES[name](IMAGES, logit_two), LENSES[name](IMAGES, 2))


def test_relevance_of_a_function():
    """It starts from the number: the sum is that of one class less that of another."""
    found = lenses.lrp(NET, IMAGES, lambda logits: logits[:, 2] - logits[:, 1], rules=rules.LRP_ZERO)
    one, other = (lenses.lrp(NET, IMAGES, target, rules=rules.LRP_ZERO).attributions for target in (2, 1))
    assert_close(found.attributions, one - other)
    logits = NET(IMAGES)
    assert_close(found.attributions.sum(axis=(1, 2, 3)) - found.error, logits[:, 2] - logits[:, 1])


def test_units_boxes_and_masks_of_other_outputs():
    """Of maps, of a dictionary, and of outputs with whole numbers among them."""
    unit = lenses.gradient(FEATURES, IMAGES, lambda maps: maps[:, 1, 2, 3])
    assert_close(unit, jax.grad(lambda x: FEATURES(x)[:, 1, 2, 3].sum())(IMAGES))
    mask = np.zeros((1, 4, 5, 1), np.float32)
    mask[:, 1:3, 2:] = 1

    def detector(x):
        maps = FEATURES(x)
        return {"best": maps.argmax(axis=-1), "maps": maps, "count": jnp.ones(len(x), jnp.int32)}

    covered = lenses.integrated_gradients(detector, IMAGES, lambda out: (out["maps"] * mask).mean(axis=(1, 2, 3)))
    gain = [(np.asarray(FEATURES(x)) * mask).mean(axis=(1, 2, 3)) for x in (IMAGES, 0 * IMAGES)]
    assert_close(covered.attributions.sum(axis=(1, 2, 3)), gain[0] - gain[1], 2e-2)
    guided = lenses.guided_backprop(detector, IMAGES, lambda out: out["maps"][:, 1, 2, 3])
    assert_close(guided, lenses.guided_backprop(FEATURES, IMAGES, lambda maps: maps[:, 1, 2, 3]))


def test_one_mask_for_each_picture_under_vmap():
    masks = np.random.default_rng(0).uniform(size=(3, 4, 5)).astype(np.float32)

    def one(image, mask):
        return lenses.gradient(FEATURES, image[None], lambda maps: (maps[..., 0] * mask[None]).sum(axis=(1, 2)))[0]

    assert_close(jax.jit(jax.vmap(one))(IMAGES, masks), jax.grad(lambda x: (FEATURES(x)[..., 0] * masks).sum())(IMAGES))


def test_defined_anew_in_a_loop_it_compiles_once():
    weights = [np.float32([1, 0, 0, 2]), np.float32([0, 3, 0, 0])]
    lenses.gradient(NET, IMAGES, lambda logits: logits @ weights[0])
    with compiles() as programs:
        found = [lenses.gradient(NET, IMAGES, lambda logits, by=by: logits @ by) for by in weights]
    assert not programs
    for by, one in zip(weights, found, strict=True):
        assert_close(one, jax.grad(lambda x, by=by: (NET(x) @ by).sum())(IMAGES))


def test_curves_are_of_the_number():
    maps = np.arange(240, dtype=np.float32).reshape(3, 8, 10)
    found = metrics.deletion(NET, IMAGES, lambda logits: logits.max(axis=1), maps, n_steps=2)
    assert_close(found.curve[:, 0], NET(IMAGES).max(axis=1))
    said = metrics.deletion(NET, IMAGES, lambda logits: jax.nn.softmax(logits)[:, 1], maps, n_steps=2, batch_size=2)
    assert_close(said.auc, metrics.deletion(NET, IMAGES, 1, maps, n_steps=2).auc)


@pytest.mark.parametrize(
    ("number", "got"),
    [
        (lambda logits: logits[:, 2].sum(), r"float32\[\]"),
        (lambda logits: logits[:, :1], r"float32\[3, 1\]"),
        (lambda logits: logits.argmax(axis=1), r"int32\[3\]"),
        (lambda logits: logits[0], r"float32\[4\]"),
        (lambda logits: (logits[:, 0], logits[:, 1]), "tuple"),
        (lambda logits: None, "NoneType"),
    ],
)
def test_functions_that_give_other_than_one_number_each(number, got):
    expected = r"target: expected a function from what fun returns to one floating-point number for each of the 3"
    with pytest.raises(ValueError, match=rf"{expected} images, \[3\]; got {got}$"):
        lenses.gradient(NET, IMAGES, number)
    with pytest.raises(ValueError, match=rf"{expected} features, \[3\]; got {got}$"):
        lenses.grad_cam(HEAD, MAPS, number)


@pytest.mark.parametrize(
    "number",
    [
        lambda logits: (logits.argmax(axis=1) == 2).astype(jnp.float32),
        jax.jit(lambda logits: jnp.sign(logits[:, 1])),
        lambda logits: jax.lax.stop_gradient(logits)[:, 2],
        lambda logits: jnp.ones(len(logits)),
    ],
)
def test_functions_without_a_gradient(number):
    for lens in (lenses.gradient, lenses.guided_backprop, lenses.lrp):
        with pytest.raises(ValueError, match="target: expected a function with a gradient"):
            lens(NET, IMAGES, number)
    # Lenses that only look at the number take it.
    assert lenses.score_cam(NET, IMAGES, number, MAPS).shape == (3, 4, 5)


def test_functions_of_a_batch_of_one_size():
    masks = np.ones((3, 4), np.float32)
    assert_close(lenses.gradient(NET, IMAGES, lambda logits: (logits * masks).sum(axis=1)).sum(), of_all_classes())
    with pytest.raises(ValueError, match=r"target: expected a function of however many images, .* of 2 it gives"):
        lenses.integrated_gradients(NET, IMAGES, lambda logits: logits[:1, 0] + masks[:, 0], n_steps=3, batch_size=2)


def of_all_classes():
    return sum(lenses.gradient(NET, IMAGES, target).sum() for target in range(4))


def test_logits_are_asked_for_only_by_a_class():
    with pytest.raises(ValueError, match=r"fun: expected logits .* of other outputs, make target a function, such as"):
        lenses.gradient(FEATURES, IMAGES, TARGETS)

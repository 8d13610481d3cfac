"""What lenses say of things, against what happens without them: known by construction, and drawn."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_comparison import OPTIONS

from zfjax import attribution
from zfjax.console.errors import UserError
from zfjax.data import shapes
from zfjax.experiments.counterfactuals import Agreement, Drawings, agreement, believed, drawings, readings, to_table
from zfjax.experiments.lenses import BASELINES, Lens
from zfjax.models import ConvNet
from zfjax.models.nets import NetModel
from zfjax.models.specs import Conv, Dense
from zfjax.runs import subject as subjects

SIDE, SIZE = 18, 16
LINEAR = ConvNet((Conv("conv1", 3, (1, 1)), Dense("fc2", 2)), image_size=SIZE)
TRUE = Lens("true", "true", attribution.gradient_times_input)
FALSE = Lens("false", "false", lambda *asked: -attribution.gradient_times_input(*asked))
FLAT = Lens("flat", "flat", lambda fun, images, target: jnp.ones(images.shape[:3]))


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def linear():
    """A linear net: gradient × input is what is lost where a thing becomes zero."""
    weights = {
        "conv1": {"kernel": jnp.eye(3).reshape(1, 1, 3, 3), "bias": jnp.zeros(3)},
        "fc2": {"kernel": jnp.asarray(draw(SIZE * SIZE * 3, 2)), "bias": jnp.zeros(2)},
    }
    return NetModel(LINEAR, {"params": weights})


@pytest.fixture(scope="module")
def things():
    """Images of four things each, of 4 to 16 pixels; the last is not part of the object."""
    images, rows, number = draw(5, SIZE, SIZE, 3), np.repeat(np.arange(5), 4), np.arange(20)
    changed = np.zeros((20, SIZE, SIZE), bool)
    for one in number:
        changed[one, 4 * (one % 4) : 4 * (one % 4) + 4, : 1 + (one + one // 4) % 4] = True
    others = np.where(changed[..., None], 0, images[rows])
    return Drawings(jnp.asarray(images), np.arange(5) % 2, jnp.asarray(others), rows, changed, number % 4 < 3)


def some(found, first, last):
    mine = (found.rows >= first) & (found.rows < last)
    one_each = (array[first:last] for array in (found.images, found.labels))
    others, rows, changed, is_part = (array[mine] for array in found[2:6])
    return Drawings(*one_each, others, rows - first, changed, is_part, first)


def compared(model, lenses, *batches):
    return agreement(model, batches, lenses, layer="conv1", options=OPTIONS._replace(batch_size=7))


@pytest.fixture(scope="module")
def found(linear, things):
    return compared(linear, (TRUE, FALSE, FLAT, *BASELINES), things)


def test_a_lens_that_says_what_is_lost_agrees_and_its_negative_disagrees(found):
    magnitude, signed = 0, 1
    for field in ("things", "parts", "per_pixel"):
        values = getattr(found, field)
        np.testing.assert_array_equal(values[0, signed], 1, err_msg=field)
        np.testing.assert_array_equal(values[1, signed], -1, err_msg=field)
        np.testing.assert_array_equal(values[0, magnitude], values[1, magnitude], err_msg=field)
        assert (values[0, magnitude] < 1).any()
    np.testing.assert_array_equal(found.first[:2, signed], [[1] * 5, [0] * 5])
    np.testing.assert_array_equal(found.per_pixel[2], 0)  # says the same of each pixel
    assert found.negative[:2].all()
    assert not found.negative[2:].any()


def test_agreement_does_not_depend_on_the_batches(linear, things, found):
    again = compared(linear, (TRUE, FALSE, FLAT, *BASELINES), some(things, 0, 3), some(things, 3, 5))
    for name, values in found._asdict().items():
        np.testing.assert_array_equal(getattr(again, name), values, err_msg=name)
    with pytest.raises(ValueError, match="batches: expected at least one"):
        compared(linear, (TRUE,))


def of(*means):
    """Agreement of lenses, nearly the same for all 40 drawings."""
    noise = np.random.default_rng(0).normal(0, 0.2, (len(means), 40))
    noise -= noise.mean(axis=1, keepdims=True)
    values = np.repeat(np.array(means)[:, None, None] + noise[:, None], 2, axis=1)
    return Agreement(values, values, values, values, np.zeros((len(means), 40), bool))


def test_what_to_believe_is_said_with_what_cannot_be_told_apart():
    lenses = (TRUE, FALSE, FLAT, BASELINES[0])
    said = believed(of(0.5, 0.48, 0.1, 0.12), lenses)
    assert said.startswith("Best: true, 50.0 (")
    assert "; not to be told apart from it: false. " in said
    assert said.endswith("No better than a map that ignores the net: flat.")
    assert "; all others are told apart from it." in believed(of(0.5, 0.2, 0.3, 0), lenses)
    assert believed(of(0.1, 0.1, 0.1, 0.1), lenses).startswith("None is better than a map that ignores the net")
    assert believed(of(0.1), BASELINES[:1]) == "No lens was asked that looks at the net."


def test_the_table_has_the_best_first_and_signs_only_where_there_are_some(found):
    lenses = (TRUE, FALSE, FLAT, *BASELINES)
    table = to_table(found, lenses, "conv1")
    titles = [row[0] for row in table.rows]
    assert titles[0] == "true (signed)"
    assert titles[-1] == "false (signed)"
    assert {"true (magnitude)", "flat", "random map", "center Gaussian"} < {*titles}
    assert table.rows[0][1] == (100, 100, 100)
    assert [row.title for row in readings(found, lenses)] == titles
    assert "Best: true (signed), 100.0" in table.note
    empty = Agreement(*(np.full_like(values, np.nan) for values in found[:-1]), found.negative)
    assert "–" in to_table(empty, lenses, "conv1").text()


def test_drawings_are_images_and_what_differs_from_them(linear):
    mean = np.full((SIDE, SIDE, 3), 90, np.float32)
    subject = subjects.of_net(LINEAR, linear.variables, mean, ("zebra", *shapes.CLASSES[:2]))
    found = drawings(subject, range(3, 7), seed=1)
    assert found.labels.tolist() == [2, 1, 2, 1]  # car, face, …
    assert found.first == 3
    assert found.images.shape == (4, SIZE, SIZE, 3)
    assert len(found.others) == len(found.rows) == len(found.changed) == len(found.is_part) > 20
    differ = (np.asarray(found.others) != np.asarray(found.images)[found.rows]).any(axis=-1)
    np.testing.assert_array_equal(differ, found.changed)
    assert differ.any(axis=(1, 2)).all()
    later = drawings(subject, [5], seed=1)
    np.testing.assert_array_equal(later.images[0], found.images[2])
    assert not np.array_equal(drawings(subject, [5], seed=2).images[0], later.images[0])
    with pytest.raises(UserError, match="no output of the model is named face, car, house and 7 more"):
        drawings(subject._replace(classes=("zebra",)), [0])

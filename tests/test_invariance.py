"""Figure 5: affine maps of images, and what they do to features and answers."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import zfjax
from zfjax.data.pictures import CachedPictures
from zfjax.experiments.invariance import (
    Invariance,
    Response,
    Steps,
    invariance,
    mean_probabilities,
    paper_steps,
    relative_changes,
    response,
    rotations,
    scalings,
    transformed,
    translations,
)
from zfjax.figures import fig5
from zfjax.figures.request import Request
from zfjax.models.cut import layers
from zfjax.plots.invariance import plot_invariance, shown_steps
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import of_run
from zfjax.runs.subject import Splits, of_net
from zfjax.training.config import default


def picture(height=9, width=9, seed=0):
    return np.asarray(jax.random.normal(jax.random.key(seed), (height, width, 3)))


def sampled(image, matrix):
    """The definition, pixel by pixel: where it lies in the old image, and the four pixels around weighted."""
    height, width, _ = image.shape
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    new = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            y, x = matrix[:, :2] @ (np.array([i, j]) - middle) + matrix[:, 2] + middle
            for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        new[i, j] += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return new


@pytest.mark.parametrize("down", [-11, -3, 0, 2, 8])
def test_translation_by_whole_pixels_moves_pixels_down_and_leaves_the_mean(down):
    image = picture(9, 12)
    expected = np.zeros_like(image)
    for row in range(9):
        if 0 <= row + down < 9:
            expected[row + down] = image[row]
    np.testing.assert_array_equal(transformed(image, translations(np.array([down])))[0], expected)


@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_counter_clockwise_as_rot90(size):
    image = picture(size, size)
    found = transformed(image, rotations(np.array([0, 90, 180, 270, 360, -90])))
    expected = [jnp.rot90(image, k) for k in (0, 1, 2, 3, 0, 3)]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_scale_one_changes_nothing_and_two_moves_pixels_twice_as_far_from_the_center():
    image = picture()
    same, larger = transformed(image, scalings(np.array([1.0, 2.0])))
    np.testing.assert_array_equal(same, image)
    for row in range(-2, 3):
        for column in range(-2, 3):
            np.testing.assert_allclose(larger[4 + 2 * row, 4 + 2 * column], image[4 + row, 4 + column], atol=1e-6)


def test_the_center_stays():
    image = picture()
    maps = np.concatenate([scalings(np.array([0.5, 1.3])), rotations(np.array([17.0, 200.0]))])
    np.testing.assert_allclose(transformed(image, maps)[:, 4, 4], np.tile(image[4, 4], (4, 1)), atol=1e-5)


def test_between_pixels_it_is_bilinear():
    image = picture(7, 10)
    shear = np.array([[[0.8, 0.3, 0.4], [-0.2, 1.1, -1.7]]])
    maps = np.concatenate([translations([0.3, -2.6]), scalings([0.7, 1.45]), rotations([10.0, 305.0]), shear])
    for found, matrix in zip(transformed(image, maps), maps, strict=True):
        np.testing.assert_allclose(found, sampled(image, matrix), atol=1e-5)


@pytest.mark.parametrize("fill", [7.0, np.float32([1, -2, 30])])
def test_what_is_outside_is_filled(fill):
    image = picture()
    maps = np.concatenate([translations([3.5]), rotations([33.0])])
    expected = np.stack([sampled(image - fill, matrix) for matrix in maps]) + fill
    np.testing.assert_allclose(transformed(image, maps, fill), expected, atol=1e-4)
    fun, labels, steps = (lambda x: {"x": x, "logits": x.mean((1, 2))}), np.array([1]), np.arange(2.0)
    found = response(fun, ("x",), "logits", image[None], labels, steps, maps, fill=fill)
    np.testing.assert_allclose(
        found.distances[0, 0], np.linalg.norm((expected - image).reshape(2, -1), axis=1), rtol=1e-5
    )


def test_two_transforms_compose_as_matrices():
    image = np.pad(picture(), ((6, 6), (6, 6), (0, 0)))  # nothing leaves it on the way
    first, second = rotations(np.array([90.0])), translations(np.array([3.0]))
    after = transformed(transformed(image, first)[0], second)
    last = np.array([[0.0, 0.0, 1.0]])
    both = np.concatenate([first[0], last]) @ np.concatenate([second[0], last])
    np.testing.assert_allclose(transformed(image, both[None, :2]), after, atol=1e-5)
    back = translations(np.array([3.0, -3.0]))
    np.testing.assert_array_equal(transformed(transformed(image, back[:1])[0], back[1:])[0], image)


@pytest.mark.parametrize("ratios", [[1.0, 0.0], [-1.0]])
def test_a_scale_must_be_positive(ratios):
    with pytest.raises(ValueError, match="ratios: expected numbers above 0"):
        scalings(np.array(ratios))


def test_the_papers_ranges_shrink_with_the_image():
    for size, most in ((224, 60), (96, 26), (48, 13)):
        steps = paper_steps(size)
        assert (steps.translation[0], steps.translation[-1]) == (-most, most)
        assert 0 in steps.translation
        np.testing.assert_array_equal(steps.translation, np.round(steps.translation))
        assert (steps.scale[0], steps.scale[-1]) == (1.0, 1.8)
        assert (steps.rotation[0], steps.rotation[-1]) == (0.0, 350.0)


def small_net():
    net = zfjax.zfnet(5, width=1 / 16, image_size=48)
    images = 50 * jax.random.normal(jax.random.key(0), (2, 48, 48, 3))
    variables = jax.tree.map(lambda leaf: 3 * leaf, net.init(jax.random.key(1), images))
    return layers(net, variables, ("relu1", "relu7", "fc8")), images, np.array([4, 2])


def test_distances_and_probabilities_are_those_of_each_transformed_image():
    fun, images, labels = small_net()
    degrees = np.array([0.0, 5.0, 200.0])
    maps = rotations(degrees)
    found = response(fun, ("relu1", "relu7"), "fc8", images, labels, degrees, maps, batch_size=2)
    assert found.distances.shape == (2, 2, 3)
    forward = jax.jit(fun)
    for i, image in enumerate(np.asarray(images)):
        still = jax.device_get(forward(image[None]))
        for j, matrix in enumerate(maps):
            acts = jax.device_get(forward(jnp.asarray(sampled(image, matrix))[None]))
            for layer, name in enumerate(("relu1", "relu7")):
                expected = np.sqrt(np.sum((acts[name] - still[name]) ** 2))
                scale = np.linalg.norm(still[name])
                np.testing.assert_allclose(found.distances[layer, i, j], expected, atol=1e-4 * scale, rtol=1e-4)
            logits = acts["fc8"][0].astype(float)
            expected = np.exp(logits[labels[i]]) / np.exp(logits).sum()
            np.testing.assert_allclose(found.probability[i, j], expected, rtol=1e-3)


def test_the_size_of_batches_changes_nothing():
    fun, images, labels = small_net()
    steps = Steps(np.array([-3.0, 0, 1]), np.array([1, 1.2, 1.4, 1.7]), np.array([0.0, 30]))
    one, many = (invariance(fun, ("relu1",), "fc8", images, labels, steps, batch_size) for batch_size in (1, 64))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())
    moved = one.translation.distances[0]
    assert np.all(moved[:, 1] < 1e-3 * moved[:, [0, 2]].min())
    np.testing.assert_allclose(one.untransformed, one.scale.probability[:, 0], rtol=1e-4)


def identity_net(images):
    flat = images.reshape(len(images), -1)
    return {"pixels": images, "half": flat / 2, "logits": flat[:, :4]}


def test_two_different_images_are_apart_by_the_mean_over_pairs():
    images = jnp.stack([jnp.full((8, 8, 1), value) for value in (0.0, 1.0, 4.0)])
    steps = Steps(*np.array([[0.0], [1.0], [0.0]]))
    found = invariance(identity_net, ("pixels", "half"), "logits", images, np.zeros(3, int), steps)
    np.testing.assert_allclose(found.apart, [8 * (1 + 4 + 3) / 3, 4 * (1 + 4 + 3) / 3])
    alone = invariance(identity_net, ("pixels",), "logits", images[:1], np.zeros(1, int), steps)
    assert np.isnan(alone.apart).all()


def made_up(values):
    """Distances that are known: `values` of the parameters, for two layers and two images."""
    steps = Steps(np.array([-20.0, -10, 0, 10, 20]), np.array([1, 1.1, 1.8]), np.array([0.0, 10, 180, 350]))
    responses = []
    for parameters in steps:
        distances = np.stack([values(parameters), 3 * values(parameters)])[:, None].repeat(2, axis=1)
        responses.append(Response(parameters, distances, np.full((2, len(parameters)), len(parameters) / 10)))
    return Invariance(*responses, np.ones(2), np.array([100.0, 600.0]))


def test_small_transforms_are_compared_with_different_images():
    found = made_up(np.abs)
    expected = np.array([[10, 10], [1.1, 1.1], [(10 + 350) / 2, (10 + 350) / 2]]) * [1 / 100, 3 / 600]
    np.testing.assert_allclose(relative_changes(found, size=224), expected)
    # Of 448 px, 20 are as 10 of 224.
    np.testing.assert_allclose(relative_changes(found, size=448)[0], [15 / 100, 45 / 600])
    np.testing.assert_allclose(mean_probabilities(found), [0.5, 0.3, 0.4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(2, int)}, "labels: expected one for each of at least one image, got 2 for 3"),
        ({"images": jnp.zeros((0, 8, 8, 1)), "labels": np.zeros(0, int)}, "at least one image, got 0 for 0"),
        ({"labels": np.array([0, 4, 0])}, "labels: expected 0 to 3, got 4"),
        ({"labels": np.array([0, -1, 0])}, "labels: expected 0 to 3, got -1"),
        ({"maps": np.zeros((2, 3, 3))}, r"maps: expected \[2, 2, 3\]"),
        ({"maps": np.zeros((0, 2, 3)), "parameters": np.zeros(0)}, "at least one"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
    ],
)
def test_what_does_not_fit_is_named(unchecked, changes, message):
    arguments = {
        "images": jnp.zeros((3, 8, 8, 1)),
        "labels": np.zeros(3, int),
        "parameters": np.zeros(2),
        "maps": np.zeros((2, 2, 3)),
        "batch_size": 8,
    }
    with pytest.raises(ValueError, match=message):
        response(identity_net, ("pixels",), "logits", **(arguments | changes))


def test_the_grid_has_a_row_a_transform_and_a_color_an_image():
    found = made_up(np.abs)
    examples = [np.full((2, len(shown_steps(len(one.parameters))), 8, 8, 3), 0.5) for one in found[:3]]
    figure = plot_invariance(found, examples, ["$a_", "b"], ["first", "last"])
    rows = np.array(figure.axes).reshape(3, 4)
    assert [axes.get_title() for axes in rows[0]][1:] == [
        "distance in first",
        "distance in last",
        "probability of its class",
    ]
    for axes, one in zip(rows, found[:3], strict=True):
        np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), one.distances[0, 0])
        np.testing.assert_array_equal(axes[2].lines[1].get_ydata(), one.distances[1, 1])
        np.testing.assert_array_equal(axes[3].lines[1].get_ydata(), one.probability[1])
        assert len({line.get_color() for line in axes[3].lines}) == 2
        assert axes[0].lines[:] == []
    assert rows[0, 1].get_ylim() == rows[2, 1].get_ylim()
    assert [text.get_text() for text in figure.legends[0].texts] == ["$a_", "b", "two different images"]
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert Image.open(file).size[0] == 1800


def test_fig5_draws_a_run(tmp_path, monkeypatch):
    net = zfjax.zfnet(3, width=1 / 16, image_size=48)
    squares = np.random.default_rng(0).integers(0, 256, (6, 55, 55, 3), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2], np.int32)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    mean = np.full((55, 55, 3), 127.5, np.float32)
    pictures, classes = CachedPictures(squares, labels, np.arange(6)), ("cat", "dog", "owl")
    subject = of_net(net, variables, mean, classes)._replace(pictures=pictures, labels=labels, kept=np.arange(6))
    run = RunInfo(epath.Path(tmp_path), default(), classes, mean)
    request = Request(of_run(run, "figures"), Splits(subject, subject), classes=("dog", "owl"))
    (drawing,) = fig5.draw(request)
    assert drawing.name == "fig5_invariance"
    assert drawing.arrays["translation_distances"].shape == (2, 2, 27)
    assert np.isfinite(drawing.arrays["relative_changes"]).all()
    assert [text.get_text() for text in drawing.figure.legends[0].texts][:2] == ["dog", "owl"]
    name, table = drawing.table
    assert (name, table.header[1:3]) == ("fig5_invariance", ("relu1 moved (%)", "relu7 moved (%)"))
    changes = [row[1:3] for row in table.rows]
    np.testing.assert_allclose(changes, 100 * drawing.arrays["relative_changes"])
    # In the middle of the first row the images are as they came.
    shown = drawing.figure.axes[0].images[0].get_array()
    image = squares[subject.one_of_each([1], request.rng(5)).numbers[0], 3:51, 3:51] / 255
    np.testing.assert_allclose(shown[:48, 2 * 51 : 2 * 51 + 48], image, atol=1e-5)
    # A model for which zero is black: outside the image is gray.
    given = []
    monkeypatch.setattr(fig5, "invariance", lambda *arguments: given.extend(arguments) or 1 / 0)
    model = zfjax.Model(
        lambda x: net.apply(variables, x)[0], (1, 48, 48, 3), preprocess=lambda x: x.astype(jnp.float32) / 255
    )
    val = zfjax.look(model, squares).val
    with pytest.raises(ZeroDivisionError):
        next(fig5.draw(Request(of_run(run, "figures"), Splits(val, val))))
    np.testing.assert_allclose(given[-1], 128 / 255, rtol=1e-3)

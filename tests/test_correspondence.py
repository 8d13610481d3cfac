"""Table 1: against its definition, pair by pair and dimension by dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import eight_devices

from zfjax.experiments.correspondence import (
    Correspondence,
    correspondence,
    difference,
    hidden,
    random_boxes,
)
from zfjax.plots.correspondence import plot_correspondence
from zfjax.training import sharding


def features(images):
    """Two layers that mix pixels, with a ReLU that leaves zeros."""
    weights = jnp.asarray(np.random.default_rng(5).normal(size=(6 * 5 * 2, 40)).astype(np.float32))
    flat = jnp.maximum(images.reshape(len(images), -1) @ weights, 0)
    return {"low": jnp.maximum(images, 0), "high": flat}


def some(n=5, draws=2, seed=0):
    rng = np.random.default_rng(seed)
    corners = np.stack([rng.integers(0, 4, (draws, n)), rng.integers(0, 3, (draws, n))], axis=-1)
    return rng.normal(size=(n, 6, 5, 2)).astype(np.float32), np.concatenate(
        [corners, np.full_like(corners, 2)], axis=-1
    )


def by_definition(fun, images, boxes, fill):
    """H(sign ε_i, sign ε_j) counted in loops; and the other measures."""
    covered = images.copy()
    for image, (top, left, height, width) in zip(covered, boxes, strict=True):
        for row in range(top, top + height):
            for column in range(left, left + width):
                image[row, column] = fill
    n = len(images)
    eps = np.asarray(fun(images)).reshape(n, -1) - np.asarray(fun(covered)).reshape(n, -1)
    state = [["still" if e == 0 else "up" if e > 0 else "down" for e in row] for row in eps]
    pairs, both, opposed = [], 0, 0
    for i in range(n):
        for j in range(n):
            if i != j:
                pairs.append(np.mean([a != b for a, b in zip(state[i], state[j], strict=True)]))
                both += sum("still" not in pair for pair in zip(state[i], state[j], strict=True))
                opposed += sum(set(pair) == {"up", "down"} for pair in zip(state[i], state[j], strict=True))
    return pairs, opposed / both, np.mean([[s == "still" for s in row] for row in state])


@eight_devices
def test_draws_split_over_many_devices_give_the_same_to_the_last_bit():
    images, boxes = some(draws=3)
    one, many = (
        correspondence(features, images, boxes, batch_size=2, mesh=mesh)
        for mesh in (sharding.first_of(sharding.data_mesh(), 1), sharding.data_mesh())
    )
    jax.tree.map(np.testing.assert_array_equal, many, one)


@pytest.mark.parametrize(("fill", "batch_size"), [(0.0, 64), (-1.5, 2)])
def test_correspondence_is_its_definition(fill, batch_size):
    images, boxes = some(draws=1)
    found = correspondence(features, images, boxes, fill=fill, batch_size=batch_size)
    for name, result in found.items():
        pairs, opposed, still = by_definition(lambda x, name=name: features(x)[name], images, boxes[0], fill)
        assert result.mean == pytest.approx(np.mean(pairs))
        assert result.std == pytest.approx(np.std(pairs))
        assert result.sparsity == pytest.approx(still)
        assert result.opposed == pytest.approx(opposed)
        assert 0 < still < 1


def test_draws_are_pooled():
    images, boxes = some(draws=3)
    found = correspondence(features, images, boxes)["high"]
    pairs = [by_definition(lambda x: features(x)["high"], images, draw, 0.0)[0] for draw in boxes]
    assert found.differing.shape == (3, 5, 5)
    assert (found.mean, found.std) == (pytest.approx(np.mean(pairs)), pytest.approx(np.std(pairs)))


def test_no_change_is_a_state_of_its_own():
    """One image changes up, one down, one not at all: all three pairs differ; two that do not change agree."""
    images = np.array([2.0, -2.0, 1.0, 1.0], np.float32).reshape(4, 1, 1, 1)
    found = correspondence(lambda x: x, images, np.full((1, 4, 4), (0, 0, 1, 1)), fill=1.0)
    expected = [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_array_equal(found.differing[0], expected)
    assert found.sparsity == 0.5
    assert found.opposed == 1.0


def test_equal_changes_agree_and_nothing_in_common_is_not_opposed():
    images = np.repeat(some()[0][:1], 4, axis=0)
    same = correspondence(features, images, np.full((1, 4, 4), (1, 1, 4, 3)))["high"]
    assert (same.mean, same.opposed) == (0.0, 0.0)
    apart = np.array([[(0, 0, 1, 1), (1, 0, 1, 1), (2, 0, 1, 1), (3, 0, 1, 1)]])
    assert np.isnan(correspondence(lambda x: x, images, apart).opposed)


def test_what_lies_outside_the_box_is_unchanged_exactly():
    images, boxes = some(n=7, draws=1)
    result = correspondence(lambda x: x, images, boxes, batch_size=3)
    assert result.sparsity == pytest.approx(1 - 4 / 30)


def test_hiding_leaves_the_images_alone():
    images, boxes = some()
    kept = images.copy()
    covered = hidden(images, boxes[0], 7.0)
    np.testing.assert_array_equal(images, kept)
    assert np.sum(covered == 7.0) == 5 * 2 * 2 * 2


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 7, 2), r"inside image 1 of 6×5 px, got \(0, 0, 7, 2\)"),
        ((-1, 0, 2, 2), "inside image 1"),
        ((0, 3, 2, 3), "inside image 1"),
        ((2, 2, 0, 2), "inside image 1"),
        ((3, 2, -1, 2), "inside image 1"),
    ],
)
def test_boxes_outside_the_image_are_named(box, message):
    images, boxes = some(n=3)
    boxes[1, 1] = box
    with pytest.raises(ValueError, match=message):
        correspondence(features, images, boxes)
    with pytest.raises(ValueError, match=message):
        hidden(images, boxes[1])


def test_bad_input_is_named(unchecked):
    images, boxes = some(n=3)
    with pytest.raises(ValueError, match="two or more to compare, got 1"):
        correspondence(features, images[:1], boxes[:, :1])
    with pytest.raises(ValueError, match=r"expected \[draws, 3, 4\] for 3 images, got \[2, 2, 4\]"):
        correspondence(features, images, boxes[:, :2])
    with pytest.raises(ValueError, match="expected whole pixels, got float64"):
        correspondence(features, images, boxes / 2)
    with pytest.raises(ValueError, match="diverged"):
        correspondence(lambda x: x * jnp.nan, images, boxes)


def test_random_boxes_keep_sizes_and_go_everywhere_inside():
    rng = np.random.default_rng(0)
    like, within = np.array([[5, 5, 2, 3], [0, 0, 4, 4]]), np.array([[1, 2, 5, 7], [3, 3, 4, 4]])
    boxes = random_boxes(rng, like, within, 400)
    np.testing.assert_array_equal(boxes[..., 2:], np.broadcast_to([[2, 3], [4, 4]], (400, 2, 2)))
    assert {tuple(corner) for corner in boxes[:, 0, :2]} == {(y, x) for y in range(1, 5) for x in range(2, 7)}
    np.testing.assert_array_equal(boxes[:, 1], np.broadcast_to(within[1], (400, 4)))
    with pytest.raises(ValueError, match=r"box 1 \[0, 0, 4, 4\] is larger than \[3, 3, 3, 4\]"):
        random_boxes(rng, like, within - np.array([[0], [1]]) * np.array([[0, 0, 1, 0]]), 1)


def of_matrix(differing):
    return Correspondence(differing[None], np.ones_like(differing)[None], np.zeros_like(differing)[None])


def test_the_error_of_a_difference_is_that_of_so_many_images():
    """Of pairs d(i, j) = (a_i + a_j) / 2 the mean is that of a, and so is its standard error."""
    a = np.random.default_rng(0).normal(size=30)
    matrix = (a[:, None] + a[None]) / 2 * (1 - np.eye(30))
    found = difference(of_matrix(matrix), of_matrix(np.zeros((30, 30))))
    assert found.value == pytest.approx(a.mean())
    assert found.error == pytest.approx(a.std(ddof=1) / np.sqrt(30))
    assert difference(of_matrix(matrix), of_matrix(matrix)) == (0.0, 0.0)


def test_parts_that_features_know_are_told_from_random_boxes():
    """A feature that sees only the part changes alike in all images where it is hidden, elsewhere never."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(12, 8, 8, 1)).astype(np.float32)
    part = np.stack([rng.integers(0, 6, 12), rng.integers(0, 6, 12)], axis=1)
    part = np.concatenate([part, np.full_like(part, 2)], axis=1)[None]
    for image, (top, left, height, width) in zip(images, part[0], strict=True):
        image[top : top + height, left : left + width] = 9.0

    def knows(x):
        return jnp.concatenate([jnp.max(x, axis=(1, 2)), x.reshape(len(x), -1)], axis=1)

    random = correspondence(knows, images, random_boxes(rng, part[0], np.full((12, 4), (0, 0, 8, 8)), 4))
    known = correspondence(lambda x: jnp.max(x, axis=(1, 2)), images, part)
    assert known.mean == 0.0
    gap = difference(correspondence(knows, images, part), random, lambda found: found.opposed)
    assert gap.value < -3 * gap.error < 0


def test_a_difference_needs_three_images_and_the_same():
    with pytest.raises(ValueError, match="three or more images, got 2 and 2"):
        difference(of_matrix(np.zeros((2, 2))), of_matrix(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="got 4 and 3"):
        difference(of_matrix(np.zeros((4, 4))), of_matrix(np.zeros((3, 3))))


def test_the_figure_shows_rows_of_images_and_a_panel_a_measure():
    images, boxes = some()
    results = {"layer 5": {"nose": correspondence(features, images, boxes)["high"]}}
    pictures = {"original": np.zeros((5, 9, 9, 3)), "nose": np.ones((5, 9, 9, 3))}
    figure = plot_correspondence(pictures, results)
    assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["original", "nose"]
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["nose"]
    figure.canvas.draw()

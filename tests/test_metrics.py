"""Measures of maps against their definitions, pixel by pixel, and on maps and objects made to order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy import stats

from zfjax.attribution.metrics import (
    blurred,
    box_masks,
    boxes_of,
    deletion,
    energy_inside,
    insertion,
    localization,
    pointing_game,
    rank_agreement,
    sums_inside,
)
from zfjax.data.boxes import Box, edges, from_edges
from zfjax.experiments.correspondence import hidden, random_boxes

SIZE = 12
BOX = (3, 4, 5, 6)  # top, left, height, width


def masks_of(*boxes):
    return box_masks(np.array(boxes), SIZE, SIZE)


def bright(*pixels, value=1.0):
    """One map, `value` at these pixels."""
    one = np.zeros((1, SIZE, SIZE), np.float32)
    for row, column in pixels:
        one[0, row, column] = value
    return one


def test_boxes_are_masks_and_back_and_what_hangs_over_is_cut_off():
    boxes = np.array([BOX, (0, 0, 1, 1), (11, 0, 1, 12)])
    masks = masks_of(*boxes)
    assert masks[0].sum() == 30
    assert masks[0, 3:8, 4:10].all()
    np.testing.assert_array_equal(boxes_of(masks), boxes)
    np.testing.assert_array_equal(boxes_of(masks_of((-2, 10, 5, 9))), [(0, 10, 3, 2)])


def test_a_box_means_the_same_pixels_to_everyone():
    """To masks, to what is hidden, and to the boxes around both."""
    box = np.array([[1, 1, 8, 8]])
    mask = box_masks(box, SIZE, SIZE)
    assert mask.sum() == 64
    images = np.zeros((2, SIZE, SIZE, 1), np.float32)
    covered = hidden(images, np.concatenate([box, box]), fill=1.0)
    np.testing.assert_array_equal(covered[0, :, :, 0] == 1, mask[0])
    assert Box.around(mask[0]) == tuple(box[0])
    np.testing.assert_array_equal(from_edges(edges(box)), box)
    assert edges(box).tolist() == [[1, 1, 9, 9]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64])
def test_boxes_of_small_or_unsigned_integers(dtype):
    """Their sums and differences wrap around."""
    boxes = np.array([[100, 100, 100, 100], [9, 9, 100, 127]], dtype)
    areas = np.array([100 * 100, 100 * 127])
    np.testing.assert_array_equal(box_masks(boxes, 250, 250).sum((1, 2)), areas)
    np.testing.assert_array_equal(hidden(np.ones((2, 250, 250, 1), np.float32), boxes).sum((1, 2, 3)), 250**2 - areas)
    np.testing.assert_array_equal(from_edges(edges(boxes)), boxes.astype(np.int64))
    within = np.array([[100, 100, 120, 120]], dtype)
    drawn = random_boxes(np.random.default_rng(0), boxes[:1], within, 50)
    assert drawn.min() == 100
    assert 200 < drawn[..., :2].max() + 100 <= 220
    with pytest.raises(ValueError, match=r"box 0 \[100, 100, 120, 120\] is larger"):
        random_boxes(np.random.default_rng(0), within, boxes[:1], 1)
    np.testing.assert_array_equal(box_masks(np.array([[5, 5, 2**63 - 1, 2]]), 20, 20).sum(), 30)


@pytest.mark.parametrize("box", [(12, 0, 3, 3), (-3, 0, 3, 3), (2, 2, 0, 4)])
def test_a_box_without_pixels_is_named(box):
    with pytest.raises(ValueError, match="as number 1"):
        masks_of(BOX, box)


def test_boxes_of_another_shape_or_kind_are_named(unchecked):
    with pytest.raises(ValueError, match=r"boxes: expected whole pixels \[n, 4\], got float64"):
        box_masks(np.ones((2, 4)), SIZE, SIZE)
    with pytest.raises(ValueError, match=r"int64 \[4\]"):
        box_masks(np.array(BOX), SIZE, SIZE)


def test_the_pointing_game_is_won_inside_the_object():
    maps = np.concatenate([bright((3, 4)), bright((7, 9)), bright((2, 4)), bright((8, 9)), bright((5, 5), value=-1.0)])
    assert pointing_game(maps, masks_of(*[BOX] * 5)).tolist() == [True, True, False, False, False]


def test_of_equal_maxima_the_first_in_row_major_order_points():
    inside_first, outside_first = bright((3, 9), (4, 0)), bright((3, 3), (3, 4))
    assert pointing_game(np.concatenate([inside_first, outside_first]), masks_of(BOX, BOX)).tolist() == [True, False]


def test_a_map_that_says_nothing_misses_even_where_its_first_pixel_is_the_objects():
    maps = np.stack([np.zeros((SIZE, SIZE)), np.ones((SIZE, SIZE)), -np.ones((SIZE, SIZE))])
    masks = masks_of(*[(0, 0, 6, 6)] * 3)
    assert not pointing_game(maps, masks).any()
    assert not pointing_game(maps, masks, tolerance=3).any()
    found = localization(maps, masks)
    assert not found.boxes.any()
    assert not found.iou.any()
    np.testing.assert_allclose(energy_inside(maps, masks), [0, 0.25, 0])


def test_the_tolerance_is_a_distance_to_the_object():
    """In a straight line, so a corner is farther than an edge."""
    corner = bright((1, 2))  # two rows above and two columns left of the box's corner
    for tolerance, hit in ((0, False), (2.8, False), (2.9, True)):
        assert pointing_game(corner, masks_of(BOX), tolerance=tolerance).tolist() == [hit]
    assert pointing_game(bright((1, 4)), masks_of(BOX), tolerance=2).all()


def test_the_box_goes_round_the_largest_segment_above_the_threshold():
    one = np.zeros((1, SIZE, SIZE), np.float32)
    one[0, 3:8, 4:10] = 0.15  # the object, just at the threshold
    one[0, 0, 0] = 1.0  # the maximum, apart from it
    one[0, 2, :] = 0.14  # below
    found = localization(one, masks_of(BOX))
    assert found.boxes.tolist() == [list(BOX)]
    np.testing.assert_allclose(found.iou, 1)
    assert found.localized.all()
    assert localization(one, masks_of(BOX), threshold=0.2).boxes.tolist() == [[0, 0, 1, 1]]


def test_pixels_that_touch_at_a_corner_are_one_segment_and_of_equal_ones_the_first_counts():
    one = bright((2, 2), (3, 3), (4, 4), (9, 9), (10, 9), (11, 9))
    assert localization(one, masks_of(BOX)).boxes.tolist() == [[2, 2, 3, 3]]


def test_iou_is_of_boxes_as_defined_by_pixels():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(20, SIZE, SIZE)).astype(np.float32)
    masks = rng.random((20, SIZE, SIZE)) < 0.05
    masks[:, 5, 5] = True
    found = localization(maps, masks)
    drawn, given = (box_masks(boxes, SIZE, SIZE) for boxes in (found.boxes, boxes_of(masks)))
    np.testing.assert_allclose(found.iou, (drawn & given).sum(axis=(1, 2)) / (drawn | given).sum(axis=(1, 2)))
    assert (found.localized == (found.iou >= 0.5)).all()
    assert 0 < found.iou.min() < found.iou.max()


def test_energy_is_the_share_of_what_is_positive():
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(4, SIZE, SIZE)).astype(np.float32)
    expected = [sum(max(v, 0) for v in one[3:8, 4:10].ravel()) / sum(max(v, 0) for v in one.ravel()) for one in maps]
    np.testing.assert_allclose(energy_inside(maps, masks_of(*[BOX] * 4)), expected, rtol=1e-6)
    np.testing.assert_allclose(energy_inside(bright((5, 5)), masks_of(BOX)), 1)


@pytest.mark.parametrize("measure", [pointing_game, localization, energy_inside])
def test_an_empty_mask_and_maps_that_are_none_are_named(unchecked, measure):
    maps, masks = np.ones((2, SIZE, SIZE)), masks_of(BOX, BOX)
    empty = masks & (np.arange(2) == 0)[:, None, None]
    with pytest.raises(ValueError, match="masks: expected some pixels of an object, mask 1 has none"):
        measure(maps, empty)
    with pytest.raises(ValueError, match=r"masks: expected bool \[n, H, W\] .*, got int64"):
        measure(maps, masks.astype(int))
    with pytest.raises(ValueError, match=r"maps, masks: expected one shape, got \[1, 12, 12\] and \[2, 12, 12\]"):
        measure(maps[:1], masks)
    with pytest.raises(ValueError, match=r"maps: expected \[n, H, W\]"):
        measure(maps[..., None], masks)
    maps[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="maps: expected finite numbers, map 1 has others"):
        measure(maps, masks)


def test_thresholds_and_tolerances_out_of_range_are_named():
    maps, masks = bright((5, 5)), masks_of(BOX)
    with pytest.raises(ValueError, match="tolerance: expected 0 px or more, got -1"):
        pointing_game(maps, masks, tolerance=-1)
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="threshold: expected a share"):
            localization(maps, masks, threshold=threshold)


def test_blurring_is_a_gaussian_over_rows_and_columns_and_leaves_flat_images():
    images = np.zeros((2, 31, 31, 3), np.float32)
    images[1, 15, 15] = (1, 2, 3)
    soft = blurred(images, 2.0)
    bell = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    expected = np.outer(bell, bell)[..., None] * np.array([1, 2, 3]) / bell.sum() ** 2
    np.testing.assert_allclose(soft[1, 9:22, 9:22], expected, rtol=1e-4)
    assert not soft[0].any()
    np.testing.assert_allclose(blurred(np.full((1, 9, 9, 3), 7.0, np.float32), 3.0), 7, rtol=1e-6)


# A net of two classes that looks at two colors in two pixels only.
WEIGHTS = np.zeros((6 * 6 * 3, 2), np.float32)
WEIGHTS[(1 * 6 + 2) * 3, 0] = 2.0
WEIGHTS[(4 * 6 + 4) * 3 + 1, 1] = 1.0


def logits(weights, images):
    return images.reshape(len(images), -1) @ weights


NET = Partial(logits, jnp.asarray(WEIGHTS))


def drawn(n=3):
    rng = np.random.default_rng(2)
    return rng.normal(size=(n, 6, 6, 3)).astype(np.float32), rng.normal(size=(n, 6, 6)).astype(np.float32)


def by_loops(images, cover, labels, maps, steps):
    """The definition of `deletion`: pixel after pixel, one picture after the other."""
    curves = []
    for image, other, label, one in zip(images, cover, labels, maps, strict=True):
        order = sorted(range(36), key=lambda pixel: (-one.ravel()[pixel], pixel))
        curve = []
        for step in range(steps + 1):
            picture = image.reshape(36, 3).copy()
            gone = order[: round(step * 36 / steps)]
            picture[gone] = other.reshape(36, 3)[gone]
            said = np.exp(picture.ravel() @ WEIGHTS)
            curve.append(said[label] / said.sum())
        curves.append(curve)
    return np.array(curves)


@pytest.mark.parametrize("steps", [1, 7, 36])
@pytest.mark.parametrize("fill", ["number", "color", "picture", "pictures"])
def test_curves_are_those_of_the_definition(steps, fill):
    images, maps = drawn()
    maps[0, :3] = 0.0  # ties
    labels = np.array([0, 1, 1])
    fills = {"number": 0.5, "color": np.arange(3.0), "picture": images[1], "pictures": images[::-1]}
    cover = np.broadcast_to(np.asarray(fills[fill], np.float32), images.shape)
    found = deletion(NET, images, labels, maps, n_steps=steps, fill=fills[fill])
    expected = by_loops(images, cover, labels, maps, steps)
    np.testing.assert_allclose(found.curve, expected, rtol=1e-5)
    area = [sum((one[i] + one[i + 1]) / 2 / steps for i in range(steps)) for one in expected]
    np.testing.assert_allclose(found.auc, area, rtol=1e-5)
    back = insertion(NET, images, labels, maps, n_steps=steps, fill=fills[fill])
    np.testing.assert_allclose(back.curve, by_loops(cover, images, labels, maps, steps), rtol=1e-5)


def test_curves_run_from_the_whole_image_to_the_filled_one_and_back():
    images, maps = drawn()
    away, back = (
        deletion(NET, images, 0, maps, fill=1.0, n_steps=5),
        insertion(NET, images, 0, maps, fill=1.0, n_steps=5),
    )
    whole = jax.nn.softmax(logits(WEIGHTS, jnp.asarray(images)))[:, 0]
    np.testing.assert_allclose(away.curve[:, 0], whole, rtol=1e-5)
    np.testing.assert_allclose(back.curve[:, -1], whole, rtol=1e-5)
    np.testing.assert_allclose(away.curve[:, -1], back.curve[:, 0], rtol=1e-5)


def test_a_map_that_finds_what_the_net_looks_at_has_the_better_areas():
    images = np.ones((1, 6, 6, 3), np.float32)
    right, wrong = np.zeros((1, 6, 6)), np.ones((1, 6, 6))
    right[0, 1, 2], wrong[0, 1, 2] = 1, 0
    areas = {
        measure: [measure(NET, images, 0, one, n_steps=36).auc[0] for one in (right, wrong)]
        for measure in (insertion, deletion)
    }
    assert areas[insertion][0] > areas[insertion][1] + 0.2
    assert areas[deletion][0] < areas[deletion][1] - 0.2


def test_no_more_pictures_at_once_than_the_batch_size_and_the_same_result():
    images, maps = drawn()
    sizes = []

    def watched(batch):
        sizes.append(len(batch))
        return NET(batch)

    whole = insertion(NET, images, 1, maps, n_steps=10, batch_size=1000)
    for batch_size in (1, 7, 33):
        sizes.clear()
        found = insertion(watched, images, 1, maps, n_steps=10, batch_size=batch_size)
        assert set(sizes) <= {batch_size, len(images)}  # the images alone are only asked for their shape
        np.testing.assert_allclose(found.curve, whole.curve, rtol=1e-6)


def test_bfloat16_logits_give_float32_probabilities():
    images, maps = drawn()
    found = deletion(lambda x: NET(x).astype(jnp.bfloat16), images, 0, maps, n_steps=4)
    assert found.curve.dtype == np.float32
    np.testing.assert_allclose(found.curve, deletion(NET, images, 0, maps, n_steps=4).curve, atol=0.02)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target": 2}, "target: expected one of the 2 classes, 0 to 1; got 2"),
        ({"target": -1}, "target: expected one of the 2 classes, 0 to 1; got -1"),
        ({"target": np.zeros(2, int)}, r"target: expected a class, or one for each of the 3 images"),
        ({"target": 0.5}, "target: expected a class"),
        ({"maps": np.ones((3, 6, 5))}, r"maps: expected \[3, 6, 6\] as the images, got \[3, 6, 5\]"),
        ({"maps": np.full((3, 6, 6), np.inf)}, "maps: expected finite numbers"),
        ({"n_steps": 0}, "n_steps: expected 1 to the 36 pixels"),
        ({"n_steps": 37}, "n_steps: expected 1 to the 36 pixels"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"fill": np.ones(2)}, r"fill: expected a number, \[3\], \[6, 6, 3\] or \[3, 6, 6, 3\], got \[2\]"),
        ({"fill": np.ones((6, 3))}, "fill: expected a number"),
        ({"fun": lambda x: x}, r"fun: expected logits \[3, classes\] of 3 images, got \[3, 6, 6, 3\]"),
        ({"images": np.ones((6, 6, 3), np.float32)}, r"images: expected \[n, H, W, C\]"),
    ],
)
def test_what_curves_cannot_use_is_named(unchecked, changes, expected):
    images, maps = drawn()
    given = {"fun": NET, "images": images, "target": 0, "maps": maps, "n_steps": 9} | changes
    for measure in (insertion, deletion):
        with pytest.raises(ValueError, match=expected):
            measure(**given)


def test_rank_agreement_is_kendalls_where_nothing_is_equal_and_counts_equal_claims_as_untold():
    rng = np.random.default_rng(0)
    claims, effects = rng.normal(size=(2, 3, 7))
    expected = [stats.kendalltau(one, other).statistic for one, other in zip(claims, effects, strict=True)]
    np.testing.assert_allclose(rank_agreement(claims, effects), expected)
    np.testing.assert_allclose(rank_agreement(effects**3, effects), 1)
    np.testing.assert_allclose(rank_agreement(-effects, effects), -1)
    np.testing.assert_array_equal(rank_agreement(np.ones((3, 7)), effects), 0)
    # One pair of three is equal, the others right: tau-b would say 0.82.
    assert rank_agreement(np.array([2.0, 1.0, 1.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(2 / 3)
    # Things that are not there, or do the same, make no pairs.
    assert rank_agreement(np.array([2.0, 1.0, 9.0]), np.array([3.0, 2.0, np.nan])) == 1
    assert np.isnan(rank_agreement(np.array([2.0, 1.0]), np.array([3.0, np.nan])))
    assert np.isnan(rank_agreement(np.array([2.0, 1.0]), np.array([3.0, 3.0])))
    with pytest.raises(ValueError, match="claims, effects: expected one of each for each thing"):
        rank_agreement(claims, effects[:, :5])


def test_sums_over_regions_keep_signs():
    maps = np.arange(-8.0, 8.0, dtype=np.float32).reshape(1, 4, 4)
    regions = np.zeros((1, 2, 4, 4), bool)
    regions[0, 0, :2], regions[0, 1, 0, 0] = True, True
    np.testing.assert_array_equal(sums_inside(maps, regions), [[-36, -8]])
    with pytest.raises(ValueError, match="regions: expected bool"):
        sums_inside(maps, regions[:, :, :3])

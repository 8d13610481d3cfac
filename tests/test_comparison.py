"""Lenses side by side, on a net whose reasons are known, and the pictures of them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from test_plots import ink, pixels

import zfjax
from zfjax import attribution
from zfjax.attribution.metrics import (
    box_masks,
    deletion,
    energy_inside,
    infidelity,
    insertion,
    localization,
    pointing_game,
    road,
    sensitivity,
    sparseness,
)
from zfjax.console.errors import UserError
from zfjax.experiments.bootstrap import intervals
from zfjax.experiments.comparison import SHARES, Comparison, Labeled, compare, to_table
from zfjax.experiments.lenses import (
    BASELINES,
    LENSES,
    MORE,
    Grid,
    Lens,
    Options,
    case_of,
    given_to,
    heat,
    maps_by,
    placed,
)
from zfjax.experiments.sanity import Sanity, Similarity, sanity_check
from zfjax.experiments.sanity import to_table as sanity_table
from zfjax.models import ConvNet
from zfjax.models.nets import NetModel
from zfjax.models.specs import BatchNorm, Conv, Dense, MaxPool, MeanPool, ReLU, Residual, same
from zfjax.plots.comparison import MARK, plot_comparison, plot_sanity

SIZE, KEY = 16, jax.random.key(0)
OPTIONS = Options(KEY, others=np.full((2, SIZE, SIZE, 3), -3, np.float32))  # dark pictures
ALL = LENSES + MORE + BASELINES
BY_NAME = {lens.name: lens for lens in ALL}

# Class 0 is as red as the image, class 1 as green.
REDDEST = ConvNet(
    (Conv("conv1", 2, (1, 1)), ReLU("relu1"), MaxPool("pool1", (4, 4), (4, 4)), Dense("fc2", 2)), image_size=SIZE
)
WEIGHTS = {
    "params": {
        "conv1": {"kernel": jnp.eye(3, 2).reshape(1, 1, 3, 2), "bias": jnp.zeros(2)},
        "fc2": {"kernel": jnp.tile(jnp.eye(2), (16, 1)), "bias": jnp.zeros(2)},
    }
}


def squares(n):
    """A red or green square on dark noise, its class and its pixels."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    boxes = np.concatenate([rng.integers(0, 10, (n, 2)), np.full((n, 2), 6)], axis=1)
    masks = box_masks(boxes, SIZE, SIZE)
    images = rng.uniform(-4, -2, (n, SIZE, SIZE, 3)).astype(np.float32)
    for image, label, mask in zip(images, labels, masks, strict=True):
        image[mask, label] = 1 + 0.1 * rng.random(mask.sum())
    return images, labels, masks


def batches(n, *sizes):
    """The squares in batches of these sizes."""
    images, labels, masks = squares(n)
    for some in np.split(np.arange(n), np.cumsum(sizes)[:-1]):
        yield Labeled(images[some], labels[some], masks[some])


def reddest(images, labels, layer="relu1", **options):
    return case_of(NetModel(REDDEST, WEIGHTS), layer, jnp.asarray(images), jnp.asarray(labels), OPTIONS, **options)


@pytest.fixture(scope="module")
def compared():
    return compare(NetModel(REDDEST, WEIGHTS), batches(6, 6), ALL, layer="relu1", options=OPTIONS, n_steps=8)


def test_lenses_find_what_the_net_looks_at_and_baselines_do_not(compared):
    assert compared.pointing.shape == (len(ALL), 6)
    rows = dict(zip(BY_NAME, compared.pointing.mean(axis=1), strict=True))
    # A deconvnet lets a signal down where nothing came up: it does not know where the color is.
    assert {lens.name for lens in LENSES + MORE if rows[lens.name] < 1} == {"deconvnet"}
    assert rows["random"] < 1
    assert not compared.pointing[-1].all()
    areas = {
        name: dict(zip(BY_NAME, getattr(compared, name).mean(axis=1), strict=True))
        for name in ("insertion", "deletion")
    }
    for lens in LENSES + MORE:
        if lens.name == "deconvnet":
            continue
        assert areas["insertion"][lens.name] > areas["insertion"]["random"], lens
        assert areas["deletion"][lens.name] < areas["deletion"]["random"], lens
    cams = [row for row, lens in enumerate(ALL) if lens.name in ("grad_cam", "score_cam")]
    np.testing.assert_allclose(compared.energy[cams], 1, rtol=1e-5)  # what is dark is rectified
    np.testing.assert_allclose(compared.iou[cams], 1)
    assert (compared.seconds > 0).all()
    assert (compared.in_box >= compared.pointing).all()


def test_scores_are_those_of_the_metrics(compared):
    images, labels, masks = squares(6)
    case = reddest(images, labels)
    row = list(BY_NAME).index("gradient_times_input")
    maps = np.abs(np.asarray(maps_by(BY_NAME["gradient_times_input"], case))).max(axis=-1)
    np.testing.assert_array_equal(compared.pointing[row], pointing_game(maps, masks))
    np.testing.assert_allclose(compared.iou[row], localization(maps, masks).iou)
    np.testing.assert_allclose(compared.energy[row], energy_inside(maps, masks), rtol=1e-5)
    np.testing.assert_allclose(
        compared.deletion[row], deletion(case.fun, images, labels, maps, n_steps=8).auc, rtol=1e-5
    )
    # From a blurred image, so above what comes of the mean.
    assert (compared.insertion[row] > insertion(case.fun, images, labels, maps, n_steps=8).auc).all()


def test_a_softmax_at_the_end_changes_no_score():
    own = NetModel(REDDEST, WEIGHTS)
    plain, ends = (
        zfjax.Model(lambda images, end=end: end(own.function(images)), (1, SIZE, SIZE, 3))
        for end in (lambda logits: logits, jax.nn.softmax)
    )
    lenses = [BY_NAME[name] for name in ("gradient_times_input", "lrp", "grad_cam")]
    expected, found = (
        compare(model, batches(2, 2), lenses, layer="relu", options=OPTIONS, n_steps=4) for model in (plain, ends)
    )
    assert (expected.deletion > 0).all()
    for name in set(Comparison._fields) - {"seconds"}:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5, err_msg=name)


def test_what_takes_long_is_scored_on_the_first_images_alone(compared):
    images, labels, _ = squares(6)
    case, row = reddest(images, labels), list(BY_NAME).index("gradient_times_input")
    attributions = maps_by(BY_NAME["gradient_times_input"], case)
    asked = case.fun, images, labels
    found = infidelity(*asked, attributions, KEY, window=3, n_samples=32)
    np.testing.assert_allclose(compared.infidelity[row], found.scaled, rtol=1e-4)
    maps = np.abs(np.asarray(attributions)).max(axis=-1)
    np.testing.assert_allclose(compared.road[row], road(*asked, maps, KEY, shares=SHARES).score, rtol=1e-4)
    moved = sensitivity(attribution.gradient_times_input, *asked, KEY, n_samples=4)
    np.testing.assert_allclose(compared.sensitivity[row], moved.largest, rtol=1e-4)
    np.testing.assert_allclose(compared.sparseness[row], sparseness(maps), rtol=1e-4)
    assert np.isnan(compared.sensitivity[-len(BASELINES) :]).all()
    few = compare(
        NetModel(REDDEST, WEIGHTS), batches(6, 2, 4), ALL[:1], layer="relu1", options=OPTIONS, n_steps=1, costly=3
    )
    for name in ("road", "infidelity", "sensitivity"):
        assert np.isnan(getattr(few, name)).tolist() == [[False] * 3 + [True] * 3]
        np.testing.assert_allclose(getattr(few, name)[0, :3], getattr(compared, name)[0, :3], rtol=1e-4, atol=1e-6)
    assert "3 of the images have ROAD" in to_table(few, ALL[:1], "squares", "relu1").note


def test_the_box_holds_more_than_the_object():
    images, labels, _ = squares(1)
    ring = box_masks(np.array([[2, 2, 6, 6]]), SIZE, SIZE) & ~box_masks(np.array([[3, 3, 4, 4]]), SIZE, SIZE)
    spot = box_masks(np.array([[4, 4, 1, 1]]), SIZE, SIZE).astype(np.float32)
    middle = Lens("middle", "middle", lambda fun, images, target: np.tile(spot, (len(images), 1, 1)))
    found = compare(
        NetModel(REDDEST, WEIGHTS), [Labeled(images, labels, ring)], [middle], layer="relu1", options=OPTIONS, n_steps=2
    )
    assert (found.pointing.tolist(), found.in_box.tolist()) == ([[False]], [[True]])


def test_results_do_not_depend_on_the_batches(compared):
    """Nor on what fills up the last one; that is not counted."""
    sizes = []

    def watched(split, images, target):
        sizes.append(len(images))
        return attribution.grad_cam(split, images, target)

    watching = Lens("watching", "watching", watched, at_cut=True)
    lenses = [*(BY_NAME[name] for name in ("smooth_grad", "grad_cam", "occlusion", "random")), watching]
    found = compare(
        NetModel(REDDEST, WEIGHTS),
        batches(6, 4, 2),
        lenses,
        layer="relu1",
        options=OPTIONS._replace(batch_size=5),
        n_steps=8,
    )
    assert sizes[0] == 4  # the first batch compiles and is not timed
    assert {*sizes} <= {4, 2}  # two images and their noisy copies, for their sensitivity
    for field in Comparison._fields[:-1]:
        expected = getattr(compared, field)[[list(BY_NAME).index(lens.name) for lens in lenses[:-1]]]
        np.testing.assert_allclose(getattr(found, field)[:-1], expected, rtol=1e-4, err_msg=field)
        np.testing.assert_allclose(getattr(found, field)[-1], getattr(found, field)[1], rtol=1e-6)


def test_every_lens_takes_a_color_as_cover():
    images, labels, _ = squares(2)
    options = Options(KEY, cover=np.float32([0.1, -0.2, 0.3]))
    case = case_of(NetModel(REDDEST, WEIGHTS), "relu1", images, labels, options)
    for lens in ALL:
        if not {"fill", "baseline"}.isdisjoint(inspect.signature(lens.of).parameters):
            assert np.isfinite(maps_by(lens, case)).all(), lens


def test_lenses_take_the_steps_of_the_options():
    case = reddest(*squares(2)[:2])
    mine = Lens("mine", "mine", lambda fun, images, target, n_steps: jnp.full(images.shape[:3], float(n_steps)))
    assert (maps_by(mine, case._replace(options=OPTIONS._replace(n_steps=7))) == 7).all()


def test_random_maps_are_each_images_own():
    images, labels, _ = squares(3)
    first = np.asarray(maps_by(BY_NAME["random"], reddest(images, labels)))
    later = np.asarray(maps_by(BY_NAME["random"], reddest(images[2:], labels[2:], first=2)))
    np.testing.assert_array_equal(first[2], later[0])
    assert not np.array_equal(first[0], first[1])


def test_the_center_gaussian_is_highest_in_the_middle_and_falls_by_its_deviation():
    images, labels, _ = squares(1)
    (one,) = np.asarray(maps_by(BY_NAME["center"], reddest(images, labels)))
    np.testing.assert_allclose(one, one[::-1, ::-1])
    np.testing.assert_allclose(one, one.T)
    assert one.max() == one[8, 8] == one[7, 7]
    np.testing.assert_allclose(one[3, 7] / one[7, 7], np.exp(-0.5 * ((4.5 / 4) ** 2 - (0.5 / 4) ** 2)), rtol=1e-5)


def test_occlusion_is_the_mean_fall_over_the_squares_that_hide_a_pixel():
    images, labels, _ = squares(1)
    case = reddest(images, labels)
    window, stride = 3, 1  # 48 and 16 of 224, of 16 px
    total, count = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    clean = case.fun(case.images)[0, labels[0]]
    for top in range(0, SIZE - window + 1, stride):
        for left in range(0, SIZE - window + 1, stride):
            covered = images.copy()
            covered[0, top : top + window, left : left + window] = 0
            total[top : top + window, left : left + window] += clean - case.fun(jnp.asarray(covered))[0, labels[0]]
            count[top : top + window, left : left + window] += 1
    np.testing.assert_allclose(maps_by(BY_NAME["occlusion"], case)[0], total / count, atol=1e-5)


def test_cells_stand_where_they_look():
    """One bright cell is highest at the center of its field, whatever the padding and strides below."""
    net = zfjax.zfnet(10, width=0.03, image_size=96)
    images = jnp.zeros((1, 96, 96, 3))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(net.init, KEY, images))
    case = case_of(NetModel(net, variables), "relu5", images, jnp.zeros(1, jnp.int32), OPTIONS)
    assert case.grid == Grid((20.0, 20.0), (16, 16))
    for row, column in ((0, 0), (4, 1), (2, 3)):
        cells = np.zeros((1, 5, 5), np.float32)
        cells[0, row, column] = 2.0
        (found,) = heat(case, cells)
        assert np.unravel_index(found.argmax(), found.shape) == (20 + 16 * row, 20 + 16 * column)
        assert found.max() == 2
    (level,) = heat(case, np.ones((1, 5, 5), np.float32))
    np.testing.assert_allclose(level[20:85, 20:85], 1)
    np.testing.assert_allclose(level[20, :20], np.maximum(0, (np.arange(20) - 4) / 16))


def test_placing_is_bilinear_and_a_map_of_the_images_size_stays():
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(2, 3, 4)).astype(np.float32)
    found = placed(cells, Grid((1.5, 2.0), (4, 3)), (11, 12))
    assert found.shape == (2, 11, 12)
    for i in range(11):
        for j in range(12):
            y, x = (i - 1.5) / 4, (j - 2.0) / 3
            expected = sum(
                max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column)) * cells[:, row, column]
                for row in range(3)
                for column in range(4)
            )
            np.testing.assert_allclose(found[:, i, j], expected, atol=1e-6)
    images, labels, _ = squares(2)
    maps = rng.normal(size=(2, SIZE, SIZE)).astype(np.float32)
    np.testing.assert_array_equal(heat(reddest(images, labels), maps), maps)


def residual():
    conv = Conv("stage1_conv1", 6, (3, 3), (2, 2), same(1), bias=False)
    short = Conv("stage1_shortcut_conv", 6, (1, 1), (2, 2), bias=False)
    block = Residual("stage1", (conv, BatchNorm("stage1_norm1")), (short, BatchNorm("stage1_shortcut_norm")))
    return ConvNet(
        (
            *(Conv("conv1", 4, (3, 3), padding=same(1), bias=False), BatchNorm("norm1"), ReLU("relu1")),
            *(block, MeanPool("pool5"), Dense("fc", 3)),
        ),
        image_size=SIZE,
        kernel_init=jax.nn.initializers.he_normal(),
    )


@pytest.mark.slow
def test_all_lenses_see_through_residual_blocks():
    net, (images, labels, _) = residual(), squares(2)
    variables = jax.jit(net.init)(KEY, images)
    case = case_of(NetModel(net, variables), "stage1", jnp.asarray(images), jnp.asarray(labels), OPTIONS)
    assert case.grid == Grid((0.0, 0.0), (2, 2))
    shapes = {}
    for lens in ALL:
        attributions = maps_by(lens, case)
        shapes[lens.name] = np.shape(attributions)
        found = heat(case, attributions)
        assert found.shape == (2, SIZE, SIZE)
        assert np.isfinite(found).all()
        assert found.std() > 0
    assert shapes["grad_cam"] == shapes["score_cam"] == (2, 8, 8)
    assert shapes["occlusion"] == shapes["random"] == (2, SIZE, SIZE)
    assert shapes["deconvnet"] == shapes["guided_grad_cam"] == (2, SIZE, SIZE, 3)


def test_lenses_take_the_sanity_check_and_those_that_draw_draw_the_same():
    net, (images, labels, _) = residual(), squares(2)
    model, target = NetModel(net, jax.jit(net.init)(KEY, images)), jnp.asarray(labels)
    for name in ("random", "center"):
        found = sanity_check(given_to(BY_NAME[name], OPTIONS), model, images, target, KEY)
        np.testing.assert_allclose(found.cascade.signed, 1)
    seeing = sanity_check(attribution.grad_cam, model, images, target, KEY, layer="stage1")
    assert seeing.layers == ("fc", "stage1", "conv1")
    assert (np.nan_to_num(seeing.cascade.signed) < 0.99).all()


def test_a_layer_that_is_not_there_or_has_no_positions_is_named():
    images, labels, _ = squares(1)
    with pytest.raises(UserError, match="no layer 'rellu1' in the model; did you mean relu1"):
        reddest(images, labels, "rellu1")
    with pytest.raises(UserError, match="layer fc2: CAMs need a layer with positions"):
        reddest(images, labels, "fc2")
    with pytest.raises(ValueError, match="batches: expected at least one"):
        compare(NetModel(REDDEST, WEIGHTS), [], ALL, layer="relu1", options=OPTIONS)


def test_the_table_has_a_row_a_lens_in_percent_and_milliseconds(compared):
    table = to_table(compared, ALL, "squares", "relu1")
    assert table.title == "Lenses on 6 images of squares"
    assert [row[0] for row in table.rows] == [lens.title for lens in ALL]
    assert len(table.header) == len(table.rows[0]) == 13
    row = dict(zip(table.header, table.rows[6], strict=True))
    assert row["lens"] == "Grad-CAM"
    assert row["pointing"] == row["in box"] == row["localized"] == (100, 100, 100)
    values = 100 * compared.deletion[6]
    assert row["deletion"].value == pytest.approx(values.mean())
    assert values.min() <= row["deletion"].low < values.mean() < row["deletion"].high <= values.max()
    assert row["ms per image"] == pytest.approx(1000 * compared.seconds[6])
    assert "CAMs use relu1" in table.note


def test_the_picture_outlines_the_objects_box_and_marks_the_maximum():
    images, _, masks = squares(2)
    pixel_map = np.zeros((2, SIZE, SIZE, 3), np.float32)
    pixel_map[0, 3, 11, 1] = -5.0  # the highest absolute value counts
    region = np.zeros((2, SIZE, SIZE), np.float32)
    region[0, 7, 2] = 1.0
    names = ["$red", "green"]
    with pytest.raises(ValueError, match="names: expected 2, one for each image; got 1"):
        plot_comparison(images, None, {"regions": region}, names[:1])
    with pytest.raises(ValueError, match=r"maps: expected CAM of .*, as the images, got .*upsample enlarges"):
        plot_comparison(images, None, {"regions": region, "CAM": region[:, :4, :4]}, names)
    figure = plot_comparison(images * 100, masks, {"pixels of it": pixel_map, "regions": region}, names)
    assert pixels(figure).shape[1] > pixels(figure).shape[0]
    axes = np.reshape(figure.axes, (2, 3))
    assert [panel.get_title() for panel in axes[0]] == ["image", "pixels of\nit", "regions"]
    assert [row[0].get_ylabel() for row in axes] == names
    for row, mask in zip(axes, masks, strict=True):
        for panel in row:
            (box,) = panel.patches
            inside = box.get_bbox()
            rows, columns = np.nonzero(mask)
            assert (inside.x0, inside.x1) == (columns.min() - 0.5, columns.max() + 0.5)
            assert (inside.y0, inside.y1) == (rows.min() - 0.5, rows.max() + 0.5)
            assert box.get_edgecolor()[:3] == to_rgb(MARK)
    assert [len(panel.lines) for panel in axes.ravel()] == [0, 1, 1, 0, 0, 0]  # of zeros nothing is highest
    assert [np.concatenate(panel.lines[0].get_data()).tolist() for panel in axes[0, 1:]] == [[11, 3], [2, 7]]
    np.testing.assert_allclose(axes[1, 1].images[0].get_array(), 0.5)  # gray is zero


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    """Of 300 samples of 60 pictures; means of shares are nearly normal."""
    rng = np.random.default_rng(1)
    draws = np.concatenate([rng.random((150, 60)) < 0.7, rng.exponential(0.7, (150, 60))])
    low, high = intervals(draws)
    assert 0.9 < ((low <= 0.7) & (high >= 0.7)).mean() < 0.98
    normal = 1.96 * draws.std(axis=1) / np.sqrt(60)
    np.testing.assert_allclose((high - low) / 2, normal, rtol=0.15)
    np.testing.assert_array_equal(intervals(np.ones((2, 1))), 1)
    for one, pair in zip(draws[:3], zip(*intervals(draws), strict=True), strict=False):
        np.testing.assert_allclose(intervals(one), pair)  # of the same resamples
    with pytest.raises(ValueError, match="values: expected those of one picture or more"):
        intervals(np.ones((2, 0)))


def some_sanity(layers=("fc3", "conv2", "conv1")):
    rng = np.random.default_rng(0)
    ways = [Similarity(*rng.uniform(-1, 1, (2, len(layers), 4))) for _ in range(2)]
    ways[0].signed[1] = np.nan
    ways[0].signed[0, 0] = np.nan
    return Sanity(layers, *ways)


def test_the_plot_of_the_sanity_check_starts_at_the_trained_net_and_leaves_gaps():
    found = {f"$lens {i}": some_sanity() for i in range(8)}
    figure = plot_sanity(found)
    assert 0.01 < ink(figure) < 0.5
    axes = np.reshape(figure.axes, (2, 3))
    assert [len(panel.get_legend_handles_labels()[1]) for panel in axes[:, 0]] == [6, 2]
    one = some_sanity()
    absolute, signed, alone = (panel.lines[0].get_ydata() for panel in axes[0])
    np.testing.assert_allclose(absolute, [1, *one.cascade.absolute.mean(axis=1)])
    np.testing.assert_allclose(signed, [1, one.cascade.signed[0, 1:].mean(), np.nan, one.cascade.signed[2].mean()])
    np.testing.assert_allclose(alone, one.alone.absolute.mean(axis=1))
    assert [label.get_text() for label in axes[0, 0].get_xticklabels()] == ["none", "fc3", "conv2", "conv1"]
    assert [label.get_text() for label in axes[1, 2].get_xticklabels()] == ["fc3", "conv2", "conv1"]


def test_the_table_of_the_sanity_check_has_a_column_a_layer():
    one = some_sanity()
    table = sanity_table({"a": one, "b": one}, "squares")
    assert table.header == ("lens", "randomized", "map", "fc3", "conv2", "conv1")
    assert [row[:3] for row in table.rows[:4]] == [
        ("a", "from the top", "absolute"),
        ("a", "from the top", "signed"),
        ("a", "alone", "absolute"),
        ("a", "alone", "signed"),
    ]
    values, cell = 100 * one.cascade.absolute[0], table.rows[0][3]
    assert cell.value == pytest.approx(values.mean())
    assert values.min() <= cell.low < cell.value < cell.high <= values.max()
    assert table.rows[1][3].value == pytest.approx(100 * one.cascade.signed[0, 1:].mean())
    assert np.isnan(table.rows[1][4]).all()
    assert "4 images of squares" in table.title

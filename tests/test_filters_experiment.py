"""Figure 6: filters' strength and aliasing, against spectra on a fine grid."""

import json

import jax
import numpy as np
import pytest
from etils import epath

import zfjax
from zfjax.data.pictures import CachedPictures
from zfjax.experiments.filters import aliased_share, filters, first_layers
from zfjax.experiments.gallery import top_activations
from zfjax.figures import draw
from zfjax.figures.request import Opened, Request
from zfjax.models.cut import layers as layers_of
from zfjax.models.nets import NetModel
from zfjax.models.specs import Conv, Dense, MaxPool, ReLU
from zfjax.plots.filters import plot_first_layers
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import of_run
from zfjax.runs.subject import Splits, of_net
from zfjax.training.config import default


def by_fft(pattern, strides, grid=1024):
    """The definition: energy of the zero-padded spectrum at |f| > 1/(2s) along either axis."""
    energy = sum(np.abs(np.fft.fft2(pattern[..., c], (grid, grid))) ** 2 for c in range(pattern.shape[-1]))
    down, across = (np.abs(np.fft.fftfreq(grid)) for _ in strides)
    # Frequencies on the limit itself lie half inside.
    inside = [
        np.where(f < 0.5 / s, 1.0, np.where(f > 0.5 / s, 0.0, 0.5))
        for f, s in zip((down, across), strides, strict=True)
    ]
    return 1 - np.sum(energy * inside[0][:, None] * inside[1][None]) / energy.sum()


@pytest.mark.parametrize("strides", [(2, 2), (4, 4), (1, 1), (4, 2)])
@pytest.mark.parametrize("shape", [(7, 7, 3), (11, 5, 1)])
def test_the_aliased_share_is_that_of_the_padded_spectrum(shape, strides):
    patterns = np.random.default_rng(0).normal(size=(3, *shape))
    expected = [by_fft(pattern, strides) for pattern in patterns]
    if strides == (1, 1):
        expected = [0.0] * 3  # nothing is beyond half a cycle a pixel
    np.testing.assert_allclose(aliased_share(patterns, strides), expected, atol=2e-4)


def test_waves_alias_above_the_limit_and_not_below():
    """As long as the pattern is, its spectrum leaks: a few percent."""
    rows, columns = np.mgrid[:64, :64]
    waves = [np.cos(2 * np.pi * f * x)[..., None] for x in (rows, columns) for f in (0.1, 0.15, 0.2, 0.35)]
    four, two = aliased_share(np.stack(waves), (4, 4)), aliased_share(np.stack(waves), (2, 2))
    np.testing.assert_allclose(four, [0, 1, 1, 1] * 2, atol=0.1)
    np.testing.assert_allclose(two, [0, 0, 0, 1] * 2, atol=0.1)
    # Along the other axis alone, the stride is another.
    np.testing.assert_allclose(aliased_share(np.stack(waves), (1, 4)), [0] * 4 + [0, 1, 1, 1], atol=0.1)


def test_flat_patches_alias_little_and_single_pixels_as_noise():
    flat, pixel, nothing = np.ones((1, 32, 32, 3)), np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 32, 3))
    pixel[0, 5, 9, 1] = -2.0
    assert aliased_share(flat, (4, 4))[0] < 0.1
    assert aliased_share(pixel, (4, 4))[0] == pytest.approx(15 / 16)
    assert aliased_share(pixel, (2, 2))[0] == pytest.approx(3 / 4)
    assert aliased_share(nothing, (2, 2))[0] == 0.0


def test_the_share_depends_on_neither_place_nor_scale_nor_padding():
    pattern = np.random.default_rng(1).normal(size=(1, 6, 6, 2))
    moved = np.zeros((1, 20, 15, 2))
    moved[:, 9:15, 4:10] = -30 * pattern
    np.testing.assert_allclose(aliased_share(moved, (2, 2)), aliased_share(pattern, (2, 2)), rtol=1e-9)


def test_dead_and_dominating_filters_are_told_by_the_median():
    scales = np.array([1.0, 1.1, 0.9, 1.0, 0.04, 0.06, 3.2, 2.8, 1.0])
    unit = np.random.default_rng(2).normal(size=(5, 5, 3, 9))
    unit /= np.sqrt(np.mean(unit**2, axis=(0, 1, 2)))
    found = filters(0.02 * unit * scales, (2, 2))
    np.testing.assert_allclose(found.rms, 0.02 * scales, rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(found.dead), [4])
    np.testing.assert_array_equal(np.flatnonzero(found.dominating), [6])
    shares = [by_fft(kernel, (2, 2)) for kernel in np.moveaxis(unit, -1, 0)]
    np.testing.assert_allclose(found.aliased, shares, atol=2e-4)
    assert found.aliased_total == pytest.approx(np.sum(shares * scales**2) / np.sum(scales**2), abs=2e-4)


def test_where_most_filters_are_zero_the_others_dominate():
    """The paper's Figure 6a: one filter, the rest nothing."""
    kernel = np.zeros((3, 3, 3, 5), np.float32)
    kernel[1, 1, :, 3] = 1.0
    found = filters(kernel, (2, 2))
    np.testing.assert_array_equal(found.dead, [True, True, True, False, True])
    np.testing.assert_array_equal(found.dominating, [False, False, False, True, False])
    none = filters(np.zeros((3, 3, 3, 2)), (2, 2))
    assert none.dead.all()
    assert not none.dominating.any()
    assert none.aliased_total == 0.0


@pytest.mark.parametrize(
    ("kernel", "strides", "message"),
    [
        (np.ones((7, 7, 3)), (2, 2), r"kernel: expected \[kh, kw, c, maps\]"),
        (np.ones((7, 7, 3, 0)), (2, 2), r"got \[7, 7, 3, 0\]"),
        (np.full((3, 3, 3, 2), np.nan), (2, 2), "diverged"),
        (np.ones((3, 3, 3, 2)), (0, 2), r"strides: expected at least 1, got \(0, 2\)"),
    ],
)
def test_bad_kernels_are_named(unchecked, kernel, strides, message):
    with pytest.raises(ValueError, match=message):
        filters(kernel, strides)


@pytest.fixture(scope="module")
def found():
    specs = (
        *(Conv("conv1", 6, (5, 5), (2, 2)), ReLU("relu1"), MaxPool("pool1", (3, 3), (2, 2))),
        *(Conv("conv2", 8, (3, 3)), ReLU("relu2"), Dense("fc8", 3)),
    )
    net = zfjax.models.ConvNet(specs, 32)
    images = 50 * jax.random.normal(jax.random.key(0), (6, 32, 32, 3))
    variables = net.init(jax.random.key(1), images)
    # Map 2 never fires: its bias is far below any answer.
    variables["params"]["conv1"]["bias"] = variables["params"]["conv1"]["bias"].at[2].set(-1e9)
    rng = np.random.default_rng(0)
    tops = top_activations(layers_of(net, variables, ["relu1", "relu2"]), [images[:4], images[4:]], k=1)
    return net, variables, images, first_layers(NetModel(net, variables), tops, lambda n: images[n], rng, 5)


def test_first_layers_count_silent_maps_and_project_whole_fields(found):
    net, variables, images, layers = found
    np.testing.assert_array_equal(np.flatnonzero(layers.silent), [2])
    np.testing.assert_array_equal(layers.filters.kernel, variables["params"]["conv1"]["kernel"])
    assert layers.projections.shape == (5, 17, 17, 3)  # 5 + 2 * 2 of the pool, + 2 * 4 of conv2
    fun = zfjax.layer(net, variables, "relu2")
    y, project = jax.jit(zfjax.deconvnet)(fun, images)
    for unit, projection, aliased in zip(layers.maps, layers.projections, layers.aliased_projections, strict=True):
        image, *place = np.unravel_index(np.argmax(y[..., unit]), y.shape[:3])
        seed = np.zeros(y.shape, np.float32)
        seed[image, *place, unit] = y[image, *place, unit]
        whole = np.asarray(project(seed))[image]
        assert np.linalg.norm(projection) == pytest.approx(np.linalg.norm(whole), rel=1e-4)
        assert aliased == pytest.approx(by_fft(whole, (2, 2), 256), abs=0.01)


def test_nets_are_drawn_side_by_side(found):
    layers = found[-1]
    figure = plot_first_layers({"one": layers, "two $\\bad_{$": layers})
    assert len(figure.axes) == 2 * 3 + 2
    figure.canvas.draw()


def test_figure_6_draws_several_runs_and_counts_them(found, tmp_path, capsys):
    net, variables, _, _ = found
    squares = np.random.default_rng(0).integers(0, 256, (6, 37, 37, 3), np.uint8)
    pictures = CachedPictures(squares, np.zeros(6, np.int32), np.arange(6))
    mean = np.full((37, 37, 3), 128, np.float32)
    labels, kept = np.zeros(6, np.int32), np.arange(6)
    subject = of_net(net, variables, mean, ("a", "b"))._replace(pictures=pictures, labels=labels, kept=kept)
    free = default()
    free.filter_radius = 0.0
    one, other = (
        RunInfo(epath.Path(tmp_path / name), config, ("a", "b"), mean)
        for name, config in (("a", default()), ("b", free))
    )
    splits = Splits(subject, subject)
    draw.all_of(["fig6"], Request(of_run(one, "figures"), splits, compare=(Opened(of_run(other, ""), splits),)))
    assert "fig6: fig6.png, fig6.md" in capsys.readouterr().out
    with np.load(tmp_path / "a" / "figures" / "fig6.npz") as arrays:
        assert arrays["run2_aliased"].shape == (6,)
        assert arrays["run2_aliased_projections"].shape == (8,)
        np.testing.assert_array_equal(arrays["run1_kernel"], variables["params"]["conv1"]["kernel"])
        silent, dead = arrays["run1_silent"].sum(), arrays["run1_dead"].sum()
    first, second = json.loads((tmp_path / "a" / "figures" / "fig6.json").read_text())["rows"]
    assert first["run"] == "1. a: zfnet, 5×5 stride 2, RMS ≤ 0.1"
    assert second["run"] == "2. b: zfnet, 5×5 stride 2, RMS free"
    assert (first["silent"], first["dead"], first["noise aliased %"]) == (silent, dead, 75.0)

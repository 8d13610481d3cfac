"""Figures draw what they are given."""

import importlib
import inspect
import io
import pkgutil

import numpy as np
import pytest
from matplotlib.font_manager import FontEntry, findfont
from PIL import Image

import zfjax.plots
from zfjax.experiments.gallery import Gallery
from zfjax.plots import lettering
from zfjax.plots.curves import plot_curves
from zfjax.plots.files import save_png
from zfjax.plots.filters import plot_filters
from zfjax.plots.gallery import plot_gallery
from zfjax.plots.picture import Picture
from zfjax.plots.predictions import plot_predictions
from zfjax.plots.projections import per_image, per_map, shared, sheet, show


def pixels(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def ink(figure):
    """The share of a drawn figure's pixels that are not white."""
    return (pixels(figure) < 250).any(axis=2).mean()


NAMES = ["猫の子", "\U0001f3f4\u200d cat", "고양이", "Кошка", "cafe\u0301", "a\U00020000b", "\ue123"]


def test_letters_that_the_font_lacks_are_spelled(tmp_path, monkeypatch):
    """Matplotlib warns of each as it draws, and warnings are errors here."""
    monkeypatch.setattr(lettering, "_family_with", lambda letter: None)
    figure = Picture(figsize=(6, 4), layout="constrained")
    figure.suptitle(NAMES[0])
    axes = figure.subplots()
    axes.bar(range(len(NAMES)), 1, label=NAMES[1])
    axes.set_xticks(range(len(NAMES)), NAMES)
    axes.set_title(NAMES[2], parse_math=False)
    axes.set_ylabel(NAMES[3])
    axes.legend()
    save_png(figure, tmp_path / "a.png")
    figure.savefig(tmp_path / "a.pdf")
    shown = ["U+732B no U+5B50", "[waving black flag]\u200d cat", "goyangi", "Кошка", "cafe\u0301", "a U+20000 b", ""]
    assert [label.get_text() for label in axes.get_xticklabels()] == shown
    assert [figure._suptitle.get_text(), axes.get_title(), axes.get_ylabel()] == [shown[0], shown[2], shown[3]]
    assert axes.get_legend().get_texts()[0].get_text() == shown[1]


def test_another_installed_font_is_taken_where_it_has_the_letter(monkeypatch):
    monkeypatch.setattr(lettering, "_has", lambda letter, families: letter.isascii())
    monkeypatch.setattr(lettering, "_fonts", lambda: (FontEntry(fname=findfont("DejaVu Serif"), name="DejaVu Serif"),))
    lettering._family_with.cache_clear()
    assert lettering.drawable("я", ("sans-serif",)) == ("я", ("sans-serif", "DejaVu Serif"))
    assert lettering.drawable("x я 猫", ("serif",)) == ("x я U+732B", ("serif", "DejaVu Serif"))
    lettering._family_with.cache_clear()


def test_filters_are_scaled_alike_and_zero_is_gray():
    kernel = np.zeros((7, 7, 3, 12), np.float32)
    kernel[..., 0] = 1.0  # dominates
    kernel[..., 1] = -0.5
    (axes,) = plot_filters(kernel).axes
    sheet = axes.images[0].get_array()
    assert sheet.shape == (15, 47, 3)  # two rows of six, a pixel between
    np.testing.assert_allclose(sheet[3, 3], 1.0)
    np.testing.assert_allclose(sheet[3, 11], 0.25)
    np.testing.assert_allclose(sheet[11, 3], 0.5)


def test_curves_show_epochs_and_leave_gaps_for_what_is_not_finite():
    steps = {"loss": 2.0, "top1": 0.1, "lr": 0.01}
    records = [
        {"step": 5, **steps},
        {"step": 10, **steps, "loss": float("nan")},
        {"step": 10, "epoch": 1, "val_loss": 1.5, "val_top1": 0.4, "val_top5": 0.9},
    ]
    loss, error, rate = plot_curves(records).axes
    assert [line.get_xdata().tolist() for line in loss.lines] == [[0.5, 1.0], [1.0]]
    for line, expected in zip(error.lines, ([90.0, 90.0], [60.0], [10.0]), strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected)
    assert rate.get_xlabel() == "epoch"
    records[-1]["val_top5"] = 1.0  # of five classes or fewer
    assert [line.get_label() for line in plot_curves(records).axes[1].lines] == ["train top-1", "val top-1"]
    assert 0.001 < ink(plot_curves([])) < 0.2  # axes alone


def test_predictions_name_the_answer_and_the_truth_where_they_differ():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    figure = plot_predictions(images, np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]), ["cat", "dog"])
    assert [axes.get_title() for axes in figure.axes] == ["cat 90%", "cat 80%\n(is dog)"]


def test_class_names_are_text_and_no_formula(tmp_path):
    figure = plot_predictions(np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), np.array([[1.0]]), ["$\\bad_{$"])
    save_png(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == 1500


def test_gray_is_zero_and_signs_go_to_both_sides():
    projection = np.zeros((5, 5, 3), np.float32)
    projection[0, 0], projection[1, 1] = 2.0, -1.0
    picture = per_image(projection)
    np.testing.assert_allclose(picture[[0, 1, 2], [0, 1, 2]], np.array([[1.0] * 3, [0.25] * 3, [0.5] * 3]))
    np.testing.assert_array_equal(per_image(np.zeros((2, 4, 4, 3))), 0.5)


def test_one_outlier_does_not_gray_out_the_rest():
    projection = np.ones((20, 20, 3), np.float32)
    projection[0, 0] = 1e6
    np.testing.assert_allclose(per_image(projection)[5, 5], 1.0)


def test_contrast_is_per_image_per_map_or_shared():
    strengths = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)
    projections = np.broadcast_to(strengths[..., None, None, None], (2, 2, 3, 3, 3))
    shown = {f.__name__: 2 * f(projections)[:, :, 0, 0, 0] - 1 for f in (per_image, per_map, shared)}
    np.testing.assert_allclose(shown["per_image"], np.ones((2, 2)))
    np.testing.assert_allclose(shown["per_map"], [[0.5, 1.0], [0.5, 1.0]])
    np.testing.assert_allclose(shown["shared"], strengths / 8)


def test_show_puts_labels_above_a_grid():
    projections = np.random.default_rng(0).normal(size=(5, 8, 8, 3))
    figure = show(projections, labels=["$a_", "b", "c", "d", "e"])
    assert [axes.get_title() for axes in figure.axes] == ["$a_", "b", "c", "d", "e", ""]
    assert 0.3 < ink(figure) < 0.9  # five pictures of six places
    rows = show(projections[:4].reshape(2, 2, 8, 8, 3), contrast=per_map)
    assert len(rows.axes) == 4
    assert len(show(projections[0, :, :, :1]).axes) == 1


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, 4), (), "projections: expected"),
        ((2, 3, 4, 4), (), "projections: expected"),
        ((2, 9, 9), (), r"projections: expected \[N, H, W, 3\], got \[2, 9, 9\]; heat maps"),
        ((2, 4, 4, 3), "abc", "labels: expected 2 or none, got 3"),
    ],
)
def test_show_names_what_is_wrong(unchecked, shape, labels, message):
    with pytest.raises(ValueError, match=message):
        show(np.zeros(shape), labels=labels)


def test_a_sheet_has_pictures_in_rows_with_white_between():
    pictures = np.arange(3.0)[:, None, None, None] / 4 * np.ones((3, 2, 2, 3))
    page = sheet(pictures, columns=2)
    assert page.shape == (5, 5, 3)
    np.testing.assert_allclose(page[[0, 0, 0, 3, 3], [0, 2, 3, 0, 3], 0], [0, 1, 0.25, 0.5, 1])


def test_a_gallery_shows_each_map_beside_its_patches():
    rng = np.random.default_rng(0)
    fields = np.tile([2, 3, 7, 7], (3, 9, 1))
    found = Gallery(np.array([4, 8, 15]), rng.random((3, 9)), *(rng.normal(size=(3, 9, 7, 7, 3)),) * 2, fields)
    figure = plot_gallery(found, np.full((16, 16, 3), 128.0), "layer 1")
    assert [axes.get_title() for axes in figure.axes[::2]] == ["map 4", "map 8", "map 15"]
    assert figure.axes[0].images[0].get_array().shape == (23, 23, 3)  # three of seven pixels, and two gaps
    assert 0.3 < ink(figure) < 0.7


def test_one_projection_is_a_map_of_its_own():
    projection = np.random.default_rng(0).normal(size=(6, 5, 3))
    np.testing.assert_array_equal(per_map(projection), per_image(projection))
    np.testing.assert_array_equal(shared(projection), per_image(projection))


def test_what_is_no_number_does_not_hide_the_rest():
    projections = np.ones((2, 4, 4, 3), np.float32)
    projections[0, 0, 0] = np.nan
    projections[1] = np.nan
    picture = per_image(projections)
    np.testing.assert_array_equal(picture[0, 1:], 1.0)
    assert len(show(projections, labels=np.arange(2)).axes) == 2


def plots():
    """Every public function of `zfjax.plots` that returns a figure."""
    for module in pkgutil.iter_modules(zfjax.plots.__path__, "zfjax.plots."):
        for name, function in vars(importlib.import_module(module.name)).items():
            if (name == "show" or name.startswith("plot_")) and function.__module__ == module.name:
                yield function


def test_notebooks_draw_what_plots_return():
    returned = {function.__name__: inspect.signature(function).return_annotation for function in plots()}
    assert len(returned) > 10
    assert set(returned.values()) == {Picture}, returned
    for figure in (show(np.ones((4, 4, 3))), plot_filters(np.ones((7, 7, 3, 12), np.float32))):
        with Image.open(io.BytesIO(figure._repr_png_())) as picture:
            assert picture.format == "PNG"

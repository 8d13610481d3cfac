"""Figures draw what they are given."""

import io

import numpy as np
from PIL import Image

from zfjax.plots.curves import plot_curves
from zfjax.plots.files import save_png
from zfjax.plots.filters import plot_filters
from zfjax.plots.predictions import plot_predictions


def pixels(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def test_filters_are_scaled_alike_and_zero_is_grey():
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
    assert pixels(plot_curves([])).size


def test_predictions_name_the_answer_and_the_truth_where_they_differ():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    figure = plot_predictions(images, np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]), ["cat", "dog"])
    assert [axes.get_title() for axes in figure.axes] == ["cat 90%", "cat 80%\n(is dog)"]


def test_class_names_are_text_and_no_formula(tmp_path):
    figure = plot_predictions(np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), np.array([[1.0]]), ["$\\bad_{$"])
    save_png(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] == 1500

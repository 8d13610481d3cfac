"""What the live page says and saves, without a browser."""

import base64
import io
import sys

import explore_sites
import jax
import numpy as np
import pytest
from PIL import Image

import zfjax
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.experiments.exploring.view import CELLS, View, packed
from zfjax.explore import drawing, opening, saving
from zfjax.explore.sections import Sections


@pytest.fixture(scope="module")
def explorer():
    return explore_sites.explorer()


def painted(size=5):
    cells = np.zeros((CELLS, CELLS), bool)
    cells[3 : 3 + size, 7 : 7 + size] = True
    return packed(cells)


def test_names_of_classes_are_text_in_every_part(explorer):
    sections = Sections(explorer, atlas="atlas")
    view = explorer.settled(View("3", painted(), "4", place="relu2", unit=2, lens="saliency"))
    whole = "".join(
        getattr(sections, part)(view) for part in ("pictures", "classes", "maps", "detail", "strongest", "lens", "save")
    )
    assert "&lt;script&gt;alert(1)" in whole
    for bad in ("<script", "{", "${", "`", "onerror=alert(3)>"):
        assert bad not in whole, bad
    assert whole.count("<img") == whole.count(" alt=")
    assert "alert(2)" in whole


def test_each_part_shows_what_it_is_about(explorer):
    sections = Sections(explorer)
    view = explorer.settled(View("3", place="relu2", unit=2))
    assert sections.classes(view).count("data-label=") == 4
    assert sections.maps(view).count("data-map=") == explorer.places["relu2"].shape[2]
    first = sections.maps(view).partition("data-map=")[2].partition('"')[2].partition('"')[0]
    assert int(first) == explorer.ranked(view).units[0]
    assert "Histogram" in sections.detail(view)
    fires = int((explorer.strongest(view).values > 0).sum())
    assert sections.strongest(view).count("<figure>") == fires > 0
    assert sections.strongest(explorer.settled(View("3", place="relu3"))) == ""
    assert "before the brush" in sections.pictures(view._replace(painted=painted()))
    corner = explorer.settled(View("3", place="relu1", row=0, column=0))
    assert "the frame is what the unit sees" in sections.pictures(corner)
    assert "the unit sees all of it" in sections.pictures(explorer.settled(View("3", place="pool5", row=24, column=24)))
    dense = explorer.settled(View("3", place="fc7", unit=5))
    assert "where it fires" not in sections.detail(dense)
    assert "zx-field" not in sections.pictures(dense)


def test_thumbnails_show_each_map_in_its_place():
    maps = np.zeros((2, 3, 20), np.float32)
    maps[1, 2, 17] = 5
    sheet = drawing.thumbnails(maps)
    page = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.url.partition(",")[2]))))
    assert (sheet.columns, sheet.rows) == (16, 2)
    assert np.argwhere(page).tolist() == [[3, 5]]
    assert drawing.thumbnails(np.ones((300, 200, 2), np.float32)).url


def ran(lines, explorer, folder, monkeypatch):
    """What saved Python computes, in a folder with the numbers beside it."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["view.py", "RUN", "view.npz"])
    exec(compile(lines, "view.py", "exec"), {"SUBJECT": explorer.subject})
    return np.load("again.npz")


def test_where_a_map_fires_is_seen_beside_a_cell_that_is_no_number():
    heat = np.array([[0, 1], [np.nan, -1]], np.float32)
    shown = drawing.overlaid(heat, np.zeros((2, 2, 3), np.float32)).astype(int)
    assert shown[0, 1].sum() > 250 > shown[0, 0].sum()  # yellow, dark purple
    assert np.array_equal(shown[0, 0], shown[1, 1])


@pytest.mark.parametrize(
    "view",
    [
        View("3", place="relu2", unit=2),
        View("5", painted(), place="fc7", rules="guided", lens="grad_cam", label=1),
        View("1", place="relu4", row=20, column=30, rules="epsilon_plus", lens="smooth_grad"),
        View("upload", place="conv3", lens="expected_gradients"),
        View("2", place="relu1", lens="accentuate"),
        View("2", place="relu1", lens="integrated_gradients"),
        View("2", place="relu1", lens="lrp_gamma_box"),
    ],
)
def test_the_saved_python_gives_the_saved_numbers(explorer, view, tmp_path, monkeypatch):
    if view.picture == "upload":
        view = view._replace(
            picture=explorer.add_square(np.random.default_rng(5).integers(0, 256, (48, 48, 3), np.uint8))
        )
    view = explorer.settled(view)
    lines = saving.python(explorer, view, saving.Origin("SUBJECT", has_numbers=True))
    (tmp_path / "view.npz").write_bytes(saving.npz(explorer, view))
    ran(lines, explorer, tmp_path, monkeypatch)
    with np.load("again.npz") as again, np.load("view.npz") as saved:
        assert {"projection", "probabilities"} <= set(again.files)
        assert ("lens" in again.files) == bool(view.lens)
        assert ("strongest_patches" in again.files) == (view.place in ("relu1", "relu2"))
        for name in again.files:
            scale = float(np.abs(saved[name]).max())
            assert np.allclose(again[name], saved[name], atol=1e-4 * scale + 1e-12), name
    assert (tmp_path / "projection.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_python_of_a_model_that_gives_probabilities(explorer, tmp_path, monkeypatch):
    """They are what it gives, and no softmax of these."""
    model = explorer.subject.model
    gives = zfjax.Model(
        lambda images: jax.nn.softmax(model(images) + np.arange(4, dtype=np.float32)[None]),
        (1, 48, 48, 3),
        classes=model.classes,
        preprocess=model.preprocess,
    )
    gives = Explorer(explorer.subject._replace(model=gives))
    view = gives.settled(View("3"))
    again = ran(saving.python(gives, view, saving.Origin("SUBJECT", has_numbers=True)), gives, tmp_path, monkeypatch)
    assert np.allclose(again["probabilities"], gives.probabilities(view), atol=1e-6)


def test_what_is_saved_as_a_picture(explorer):
    view = explorer.settled(View("3", painted(), "4", place="relu2", unit=2, lens="saliency"))
    assert Image.open(io.BytesIO(saving.png(explorer, view))).size[0] > 600


def test_fewer_pictures_are_spread_over_the_split(explorer):
    some = opening.few(explorer.subject, 4)
    assert len(some.pictures) == 4
    assert np.array_equal(some.load([1]), explorer.subject.load([3]))
    assert opening.few(explorer.subject, 0) is opening.few(explorer.subject, 99) is explorer.subject

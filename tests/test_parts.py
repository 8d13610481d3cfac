"""Boxes of parts in a run's pictures, and the figure that needs them."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

import zfjax
from zfjax.console.errors import UserError
from zfjax.data import shapes
from zfjax.data.boxes import edges
from zfjax.data.crops import center_crop
from zfjax.data.decode import decode_square
from zfjax.data.pictures import DecodedPictures
from zfjax.data.record import Record, write
from zfjax.data.shapes import builder as builders
from zfjax.data.shapes.annotations import DrawnObjects
from zfjax.data.shapes.parts import in_crop, part_boxes
from zfjax.data.source import Example
from zfjax.experiments.occlusion import sensitivities
from zfjax.figures import draw, fig7, fig8
from zfjax.figures.request import Request
from zfjax.models import ConvNet
from zfjax.models.specs import Conv, Dense, ReLU
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import of_run
from zfjax.runs.looking import alone
from zfjax.runs.subject import Splits, of_net
from zfjax.training.config import default

EYES = ("left_eye", "right_eye", "nose")
FACE = shapes.CLASSES.index("face")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    config = builders.ShapesConfig(name="few", train=10, validation=100)
    return shapes.prepared_builder(str(tmp_path_factory.mktemp("tfds")), config)


@pytest.fixture(scope="module")
def records(built):
    return list(built.as_data_source("validation", decoders={"image": tfds.decode.SkipDecoding()}))


def test_boxes_are_carried_as_pictures_are():
    """A rectangle painted into a picture lies, decoded and cropped, in its box; all outside is background."""
    for square, size, box in [(110, 96, (30, 41, 61, 90)), (128, 128, (0, 5, 128, 9)), (64, 50, (40, 40, 72, 80))]:
        picture = np.zeros((128, 128, 3), np.uint8)
        top, left, bottom, right = box
        picture[top:bottom, left:right] = 255
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format="PNG")
        seen = center_crop(decode_square(file.getvalue(), square)[None], size)[0]
        (found,) = in_crop(np.array([box]) / 128, square, size)
        bright = np.argwhere(np.asarray(seen[..., 0]) > 127)
        np.testing.assert_allclose(np.concatenate([bright.min(axis=0), bright.max(axis=0) + 1]), found, atol=1)
        y, x = bright.T
        assert found[0] <= y.min() <= y.max() < found[2]
        assert found[1] <= x.min() <= x.max() < found[3]


def test_whole_pixels_stay_whole():
    np.testing.assert_array_equal(in_crop(np.array([[0.1, 0.2, 0.7, 0.9]], np.float32), 110, 110), [[11, 22, 77, 99]])
    np.testing.assert_array_equal(in_crop(np.array([[0.0, 0.0, 1.0, 1.0]]), 110, 96), [[-7, -7, 103, 103]])


def test_kept_are_those_whose_parts_are_seen(built, records):
    names = built.info.features["parts"]["name"].names
    faces = np.array([i for i, record in enumerate(records) if record["label"] == FACE])
    found = part_boxes(built, "validation", faces, EYES, square=110, size=96)
    assert 4 <= len(found.numbers) <= 10
    assert list(found.parts) == list(EYES)
    areas = {name: [] for name in EYES}
    for number in range(len(faces)):
        record = records[faces[number]]
        pairs = zip(record["parts"]["name"], record["parts"]["bbox"], strict=True)
        boxes = {names[i]: in_crop(box[None], 110, 96)[0] for i, box in pairs}
        if number in found.numbers:
            place = list(found.numbers).index(number)
            for name in EYES:
                np.testing.assert_array_equal(edges(found.parts[name][place]), boxes[name])
            np.testing.assert_array_equal(
                edges(found.objects[place]), np.clip(in_crop(record["bbox"][None], 110, 96)[0], 0, 96)
            )
            assert all(box.min() >= 0 and box.max() <= 96 for box in (boxes[name] for name in EYES))
        elif all(name in boxes for name in EYES):
            areas = {name: np.prod(boxes[name][2:] - boxes[name][:2]) for name in EYES}
            usual = {name: np.median(np.prod(box[:, 2:], axis=1)) for name, box in found.parts.items()}
            outside = any(boxes[name].min() < 0 or boxes[name].max() > 96 for name in EYES)
            assert outside or any(areas[name] < 0.7 * usual[name] for name in EYES)
    left, right, nose = (found.parts[name] for name in EYES)
    assert np.all(left[:, 1] < right[:, 1])
    assert np.all(edges(nose)[:, 2] > np.minimum(edges(left)[:, 2], edges(right)[:, 2]))


def test_small_crops_leave_out_what_they_cut(built, records):
    faces = np.array([i for i, record in enumerate(records) if record["label"] == FACE])
    assert len(part_boxes(built, "validation", faces, EYES, square=110, size=12).numbers) == 0
    assert len(part_boxes(built, "validation", faces[:0], EYES, square=110, size=96).numbers) == 0


def test_an_unknown_part_is_named(built):
    with pytest.raises(ValueError, match="no part 'left_ear' in shapes; there are"):
        part_boxes(built, "validation", np.arange(3), ("left_ear",), square=110, size=96)


@pytest.fixture(scope="module")
def tiny():
    net = ConvNet(
        (Conv("conv1", 4, (9, 9), (4, 4)), ReLU("relu1"), Dense("fc2", 20), ReLU("relu2"), Dense("fc3", 10)), 64
    )
    variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    return net, variables


def request_for(tiny, records, folder, built=None, dataset="shapes"):
    """A run that was never trained, of a tiny net; its first picture is broken."""
    net, variables = tiny
    labels = np.array([record["label"] for record in records], np.int32)
    examples = [Example(str(i), bytes(record["image"]), int(labels[i])) for i, record in enumerate(records)]
    mean, none = np.full((73, 73, 3), 128, np.float32), np.zeros(0, np.int64)
    seen = Record(mean, labels[:1], labels, none, np.array([0]), np.array(["broken"]))
    write(seen, folder)
    subject = of_net(net, variables, mean, shapes.CLASSES)._replace(
        pictures=DecodedPictures(examples, seen.val_kept, 73),
        labels=labels[seen.val_kept],
        kept=seen.val_kept,
        annotations=DrawnObjects(built, "validation") if built else None,
    )
    config = default()
    config.dataset, config.image_size = dataset, 64
    run = RunInfo(epath.Path(folder), config, shapes.CLASSES, mean)
    return Request(of_run(run, "figures"), Splits(subject, subject))


def test_figure_8_hides_what_the_boxes_name(tiny, built, records, tmp_path, monkeypatch, capsys):
    request = request_for(tiny, records, tmp_path, built)
    draw.all_of(["fig8"], request)
    assert "fig8: fig8.png, table1.md" in capsys.readouterr().out
    with np.load(tmp_path / "figures" / "fig8.npz") as arrays:
        # Numbers are of the readable pictures; the first was not.
        for number, box in zip(arrays["images"], arrays["boxes_nose"][0], strict=True):
            record = records[number + 1]
            assert record["label"] == FACE
            boxes = in_crop(np.asarray(record["parts"]["bbox"]), 73, 64)
            assert edges(box).tolist() in boxes.tolist()
        assert arrays["layer_7_nose_random_differing"].shape[0] == 3
        sizes = (arrays[f"boxes_nose{which}"] for which in ("", "_random"))
        first, second = (box[..., 2:] for box in sizes)
        np.testing.assert_array_equal(np.broadcast_to(first, second.shape), second)
        mean = arrays["layer_5_left_eye_differing"]
        expected = 100 * mean.sum() / (len(mean[0]) * (len(mean[0]) - 1))
    rows = json.loads((tmp_path / "figures" / "table1.json").read_text())["rows"]
    assert [(row["layer"], row["hidden"]) for row in rows[:5]] == [
        *(("layer 5", part) for part in ("right eye", "left eye", "nose", "random")),
        ("layer 7", "right eye"),
    ]
    assert rows[1]["Δ"] == pytest.approx(expected)
    assert (rows[1]["paper's Δ"], rows[3]["paper's Δ"], rows[3]["Δ - random"]) == (6.9, 10.7, None)
    # The same net as a function that takes pixels of 0 to 1, zero being black, and knows no class "face".
    net, variables = tiny
    model = zfjax.Model(
        lambda x: net.apply(variables, 255 * x - 128)[0],
        (1, 64, 64, 3),
        preprocess=lambda x: x.astype(jnp.float32) / 255,
    )
    own = request.subject
    other = alone(model)._replace(pictures=own.pictures, kept=own.kept, annotations=own.annotations)
    other = other._replace(labels=np.full_like(own.labels, -1))
    one, two = (next(fig8.draw(request._replace(splits=Splits(each, each)))).arrays for each in (own, other))
    assert one.keys() == two.keys()
    for name in ("images", "boxes_nose", "boxes_nose_random"):
        np.testing.assert_array_equal(one[name], two[name])
    for name in ("pictures", "layer_5_nose_differing", "layer_7_nose_differing"):
        np.testing.assert_allclose(one[name].mean(), two[name].mean(), rtol=0.01, err_msg=name)


def test_figure_7_of_ones_own_picture_sweeps_over_that_alone(tiny, built, records, tmp_path, monkeypatch):
    """Not over fifty others, whose masks are known; these belong to the run's own images."""
    file = tmp_path / "mine.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 70, 3), np.uint8)).save(file)
    request = request_for(tiny, records, tmp_path, built)
    swept = []
    monkeypatch.setattr(fig7, "SCORED", 2)
    monkeypatch.setattr(
        fig7, "sensitivities", lambda *args, **options: swept.extend(args[1]) or sensitivities(*args, **options)
    )
    (drawing,) = fig7.draw(request._replace(files=request.subject.of_files([file])))
    assert (len(swept), drawing.table) == (1, None)
    (drawing,) = fig7.draw(request._replace(classes=("car",)))
    assert len(swept) == 2 + 2 * 2  # and two squares for each scored image
    assert drawing.table


def test_figures_that_a_run_cannot_have_are_passed_over_unless_named(
    tiny, built, records, tmp_path, monkeypatch, capsys
):
    request = request_for(tiny, records, tmp_path, dataset="folder:photos")
    monkeypatch.setattr(draw, "FIGURES", {"fig8": draw.FIGURES["fig8"]})
    draw.all_of([], request)
    assert capsys.readouterr().out.startswith(
        "fig8: not drawn: fig8 needs boxes of parts, which the dataset shapes has"
    )
    with pytest.raises(UserError, match="folder:photos has not"):
        draw.all_of(["fig8"], request)

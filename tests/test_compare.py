"""`zfjax compare` on a run's pictures: what it writes, where it takes the objects from, and mistakes as one line."""

import io
import json
import os
import shutil
from unittest import mock

import numpy as np
import pytest
import tiny_runs
from etils import epath
from PIL import Image
from test_comparison import REDDEST, WEIGHTS

from zfjax import compare, train
from zfjax.compare import drawings, photographs
from zfjax.compare.asked import chosen
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data.crops import center_crop
from zfjax.data.decode import decode_square
from zfjax.data.opening import open_source
from zfjax.data.pictures import DecodedPictures
from zfjax.data.shapes.annotations import DrawnObjects
from zfjax.experiments import lenses
from zfjax.runs import given
from zfjax.runs import subject as subjects
from zfjax.runs.boxes import known_objects
from zfjax.runs.folder import RunInfo
from zfjax.runs.subject import Splits
from zfjax.training.config import default

SQUARE = 18  # of which the net sees the 16 in the middle
CLASSES = ("green", "red")
TABLES = [f"lenses.{kind}" for kind in ("csv", "json", "md", "npz", "pdf", "png")]
SANITY = [
    *(f"randomized.{kind}" for kind in ("csv", "json", "md")),
    *(name.replace("lenses", "sanity") for name in TABLES),
]


def picture(rng, colour, height, width):
    """A square of one colour on dark noise, and its box."""
    pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    middle = (height - 24) // 2, (width - 24) // 2
    top, left = (int(edge + rng.integers(-6, 7)) for edge in middle)
    pixels[top : top + 24, left : left + 24, colour] = 255
    return pixels, [top, left, 24, 24]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures of several forms, and boxes of those to validate."""
    folder, boxes = tmp_path_factory.mktemp("data") / "photos", {}
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number, size in enumerate([(48, 48), (54, 80), (90, 50), (48, 60)]):
                pixels, box = picture(rng, 1 - label, *size)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
                if split == "val":
                    boxes[f"{name}/{number}.png"] = box
    return folder, boxes


def opened(monkeypatch, workdir, dataset, pictures, labels, kept, annotations=None):
    """A run that was never trained, of the net that looks for red and green."""
    monkeypatch.setattr(given, "read_run", lambda *_: run)
    monkeypatch.setattr(subjects, "of_run", lambda *_: Splits(subject, subject))
    config = default()
    config.dataset, config.image_size = dataset, 16
    mean = np.full((SQUARE, SQUARE, 3), 90, np.float32)
    run = RunInfo(epath.Path(workdir), config, CLASSES, mean)
    subject = subjects.of_net(REDDEST, WEIGHTS, mean, CLASSES)
    subject = subject._replace(pictures=pictures, labels=labels[kept], kept=kept, annotations=annotations)
    return subject


@pytest.fixture
def on_photos(photos, tmp_path, monkeypatch):
    """The run on these pictures, of which one is broken; boxes of all; the flags that name both."""
    folder, boxes = photos
    source = open_source(f"folder:{folder}")
    kept = np.delete(np.arange(8), 2)
    pictures = DecodedPictures(source.val, kept, SQUARE)
    subject = opened(monkeypatch, tmp_path / "run", f"folder:{folder}", pictures, 1 - source.val.labels, kept)
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(boxes), encoding="utf-8-sig")  # as Windows writes it
    return subject, file, ["compare", f"--workdir={tmp_path / 'run'}", f"--boxes={file}", "--layer=relu1"]


def test_a_folder_without_boxes_is_compared_by_what_needs_none(on_photos, tmp_path, capsys):
    words = [word for word in on_photos[2] if not word.startswith("--boxes")]
    words += ["--only=grad_cam,random", "--count=7", "--rows=3", "--sanity_images=0"]
    folder, found = tmp_path / "run" / "compare", {}
    for boxes in ([], [f"--boxes={on_photos[1]}"]):
        assert command.run(compare.main, [*words, *boxes]) == 0
        table = json.loads((folder / "lenses.json").read_text())
        with np.load(folder / "lenses.npz") as arrays:
            assert ("masks" in arrays) == bool(boxes)
            found[len(boxes)] = table, {name: arrays[name] for name in arrays}
    (without, arrays), (boxed, known) = found[0], found[1]
    some, more = (set(table["rows"][0]) for table in (without, boxed))
    assert {"pointing", "in box", "IoU", "localized", "energy", "pointing low"} <= more - some
    assert some < more
    assert "Where the objects are is not known" in without["note"]
    for name in ("insertion", "deletion", "road", "sparseness"):  # the boxes hold all seven pictures
        np.testing.assert_array_equal(arrays[name], known[name])
    for name in ("pointing", "in_box", "iou", "energy"):
        assert np.isnan(arrays[name]).all()


def test_a_folder_with_boxes_is_compared(on_photos, tmp_path, capsys):
    only = ("grad_cam", "saliency", "random")
    words = [*on_photos[2], f"--only={','.join(only)}", "--count=6", "--rows=3", "--sanity_images=2", "--batch_size=4"]
    assert command.run(compare.main, words) == 0
    folder = tmp_path / "run" / "compare"
    assert sorted(path.name for path in folder.iterdir()) == sorted(TABLES + SANITY)
    said = capsys.readouterr().out
    assert f"written to {folder}: lenses.md" in said
    assert "Grad-CAM" in said
    rows = {row["lens"]: row for row in json.loads((folder / "lenses.json").read_text())["rows"]}
    assert list(rows) == ["Grad-CAM", "saliency", "random map"]
    # The net looks at colours only: boxes that were not carried to the crops would be missed.
    for measure in ("pointing", "localized"):
        assert rows["Grad-CAM"][measure] == 100
    assert rows["Grad-CAM"]["IoU"] > 80
    assert rows["Grad-CAM"]["energy"] > 90
    assert rows["random map"]["pointing"] < 100
    assert "6 images of folder:" in (folder / "lenses.md").read_text()
    with np.load(folder / "lenses.npz") as arrays:
        assert arrays["pointing"].shape == (3, 6)
        assert arrays["lenses"].tolist() == list(only)
        assert len(set(arrays["images"].tolist())) == 6
        assert arrays["shown"].tolist() == arrays["images"][:3].tolist() or len(arrays["shown"]) == 3
        assert arrays["map_saliency"].shape == (3, 16, 16, 3)
        assert arrays["map_grad_cam"].shape == (3, 16, 16)
    sanity = json.loads((folder / "sanity.json").read_text())["rows"]
    assert {row["lens"] for row in sanity} == {"Grad-CAM", "saliency"}  # random maps ask no net
    assert set(sanity[0]) == {"lens", "randomized", "map"} | {
        f"{layer}{end}" for layer in ("fc2", "conv1") for end in ("", " low", " high")
    }
    forms = json.loads((folder / "randomized.json").read_text())["rows"]
    assert [row["lens"] for row in forms] == ["Grad-CAM", "saliency"]
    assert all(-100 <= row["smooth, absolute"] <= row["smooth, absolute high"] <= 100 for row in forms)


def test_lenses_that_compare_with_pictures_of_the_split(on_photos, tmp_path):
    names = ["expected_gradients", "lrp_gamma_box"]
    words = [*on_photos[2][:-1], f"--only={','.join(names)}", "--count=2", "--rows=1", "--sanity_images=0"]
    assert command.run(compare.main, words) == 0
    with np.load(tmp_path / "run" / "compare" / "lenses.npz") as arrays:
        assert arrays["lenses"].tolist() == names
        assert all(np.any(arrays[f"map_{name}"]) for name in names)


def test_all_lenses_are_those_with_a_name_of_their_own():
    every = [lens.name for lens in lenses.LENSES + lenses.MORE + lenses.BASELINES]
    assert [lens.name for lens in chosen(["all"], ())] == every
    assert [lens.name for lens in chosen(["lrp", "center", "lrp"], ())] == ["lrp", "center"]
    assert chosen([], lenses.LENSES) == lenses.LENSES
    with pytest.raises(UserError, match=r"no lens 'all'.* there are saliency, .*, center, or all"):
        chosen(["lrp", "all"], ())


def test_without_sanity_images_there_is_no_sanity_check_and_the_seed_draws_the_pictures(on_photos, tmp_path):
    drawn = []
    for seed in (0, 0, 1):
        words = [*on_photos[2][:-1], "--only=center", "--count=4", "--sanity_images=0", f"--seed={seed}"]
        assert command.run(compare.main, words) == 0
        assert sorted(path.name for path in (tmp_path / "run" / "compare").iterdir()) == TABLES
        with np.load(tmp_path / "run" / "compare" / "lenses.npz") as arrays:
            drawn.append(arrays["images"].tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_tables_of_the_time_before_do_not_stay(on_photos, tmp_path):
    folder = tmp_path / "run" / "compare"
    words = [*on_photos[2], "--only=grad_cam", "--count=4", "--sanity_images=2"]
    assert command.run(compare.main, words) == 0
    (folder / "images.png").write_bytes(b"of photographs")
    assert command.run(compare.main, [*words[:-1], "--sanity_images=0"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["images.png", *TABLES]


def test_photographs_are_pictured_before_any_run(photos, on_photos, tmp_path, monkeypatch, capsys):
    """The run's own pictures are not opened; a file's folder is its class where the net knows it."""
    subject, _, _ = on_photos
    monkeypatch.setattr(subjects, "of_run", None)
    monkeypatch.setattr(subjects, "without_pictures", lambda *_: subject._replace(classes=CLASSES[::-1], pictures=()))
    red = photos[0] / "val" / "red" / "1.png"
    shutil.copy(photos[0] / "val" / "green" / "2.png", tmp_path / "mine.png")
    words = ["compare", f"--workdir={tmp_path / 'run'}", "--layer=relu1", f"--images={red},{tmp_path / 'mine.png'}"]
    plot = mock.Mock(side_effect=photographs.plot_comparison)
    monkeypatch.setattr(photographs, "plot_comparison", plot)
    assert command.run(compare.main, [*words, "--only=grad_cam,saliency", "--batch_size=1"]) == 0
    assert plot.call_args.args[3] == ["1\nred", "mine\n(net: green)"]  # what the net says is not shown as the truth
    folder = tmp_path / "run" / "compare"
    assert sorted(path.name for path in folder.iterdir()) == ["images.npz", "images.pdf", "images.png"]
    assert capsys.readouterr().out == f"written to {folder}: images.png, images.pdf, images.npz\n"
    with np.load(folder / "images.npz") as arrays:
        assert arrays["names"].tolist() == ["1", "mine"]
        assert arrays["classes"].tolist() == ["red", "green"]
        assert arrays["map_saliency"].shape == (2, 16, 16, 3)
        maps, pixels = arrays["map_grad_cam"], arrays["pixels"]
        for one, image, colour in zip(maps, pixels, (0, 1), strict=True):
            assert image[np.unravel_index(np.argmax(one), one.shape)][colour] > 150  # it points at the square
    (tmp_path / "empty").mkdir()
    several = shutil.copytree(red.parent, tmp_path / "several" / "red")
    (several / "0.png").write_bytes(b"no picture")
    of_folder = [*words[:-1], f"--images={several.parent}", "--only=grad_cam", "--batch_size=2"]
    assert command.run(compare.main, of_folder) == 0  # what can be read
    assert plot.call_args.args[3] == ["1\nred", "2\nred", "3\nred"]
    assert "skipped broken images" in capsys.readouterr().err
    for more, expected in (
        ([*words, "--rows=2"], "--rows has no meaning with --images, which are not scored: leave it out"),
        (
            [*words, "--only=grad_cam,gradient_shap"],
            "--only=gradient_shap: expected pictures of a val split to compare with",
        ),
        ([*words[:-1], f"--images={tmp_path / 'none.png'}"], "cannot read the image"),
        ([*words[:-1], f"--images={on_photos[1]}"], "cannot read the image"),
        ([*words[:-1], f"--images={tmp_path / 'empty'}"], "expected pictures in it, found none"),
    ):
        assert command.run(compare.main, more) == 2
        assert expected in capsys.readouterr().err


def test_boxes_are_carried_as_pictures_are(on_photos):
    """What is bright in the crop lies in the carried box, and fills it."""
    subject, file, _ = on_photos
    known = known_objects(given.of_run(given.read_run(""), "compare"), subject, str(file))
    assert known.numbers.tolist() == list(range(7))
    for number, mask in zip(known.numbers, known.masks(known.numbers), strict=True):
        image = np.asarray(subject.load(np.array([number]))[0]) + 90
        bright = image.max(axis=-1) > 150
        assert (bright & mask).sum() >= 0.9 * bright.sum()
        assert (bright & mask).sum() >= 0.7 * mask.sum()


def test_pictures_without_a_box_or_with_none_in_the_crop_are_left_out(on_photos, tmp_path, capsys):
    _, file, words = on_photos
    # 54×80: the crop does not show the margin.
    file.write_text(
        json.dumps({"green/1.png": [0, 0, 8, 8], "red/0.png": [12, 12, 24, 24], "red/3.png": [12, 12, 24, 24]})
    )
    assert command.run(compare.main, [*words[:-1], "--only=center", "--sanity_images=0"]) == 0
    with np.load(tmp_path / "run" / "compare" / "lenses.npz") as arrays:
        assert sorted(arrays["images"].tolist()) == [3, 6]
    file.write_text(json.dumps({"green/1.png": [0, 0, 8, 8]}))
    assert command.run(compare.main, [*words[:-1], "--only=center"]) == 2
    assert "none of the pictures shows its object inside the center crop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2", "is not JSON"),
        ("[1, 2]", 'holds no object; expected {"CLASS/picture.jpg"'),
        ('{"red/0.png": [1, 2, 3]}', "expected [top, left, height, width] for 'red/0.png'"),
        ('{"red/0.png": [1, 2, 3, "4"]}', "got [1, 2, 3, '4']"),
        ('{"red/0.png": [1, 2, 3, NaN]}', "got [1, 2, 3, nan]"),
        ('{"red/0.png": [1, 2, 3, 1e999]}', "got [1, 2, 3, inf]"),
        (f'{{"red/0.png": [1, 2, 3, 4{"0" * 400}]}}', "got [1, 2, 3, 40000"),
        ("[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
        ('{"blue/0.png": [1, 2, 3, 4]}', "names no picture of the val split; expected names like 'green/0.png'"),
        (
            '{"red/0.png": [60, 2, 3, 4]}',
            "'red/0.png' in {file} is a picture of 48×48 px; its box [60, 2, 3, 4] lies outside",
        ),
        ('{"red/0.png": [6, 2, 0, 4]}', "lies outside"),
        (None, "--boxes: cannot read {file}: No such file or directory"),
    ],
)
def test_a_file_of_boxes_that_is_none_is_named(on_photos, capsys, text, expected):
    _, file, words = on_photos
    file.unlink() if text is None else file.write_text(text)
    assert command.run(compare.main, words) == 2
    assert expected.replace("{file}", str(file)) in capsys.readouterr().err
    if text is None:
        os.mkfifo(file)
        assert command.run(compare.main, words) == 2
        assert f"--boxes: cannot read {file}: expected a file, found a named pipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing --workdir=RUN, the folder that zfjax train wrote"),
        (["--workdir=nowhere"], "no run in"),
        (["--workdir=nowhere", "--count=0"], "count"),
        (
            ["--workdir=nowhere", "--only=gradcam"],
            "--only: no lens 'gradcam'; did you mean grad_cam? there are saliency,",
        ),
        (["--workdir=nowhere", "more"], "compare takes only flags"),
    ],
)
def test_what_is_missing_or_wrong_is_named(capsys, words, expected):
    assert command.run(compare.main, ["compare", *words]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("relu9", "no layer 'relu9' in the model; did you mean relu1"),
        ("fc2", "layer fc2: CAMs need a layer with positions"),
    ],
)
def test_a_layer_that_cams_cannot_use_is_named(on_photos, capsys, layer, expected):
    assert command.run(compare.main, [*on_photos[2], f"--layer={layer}"]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "boxes", "expected"),
    [
        ("tfds:cars196", ("--boxes=a.json",), "the dataset is tfds:cars196"),
        ("shapes", ("--boxes=a.json",), "--boxes: the dataset shapes has its objects' pixels"),
    ],
)
def test_boxes_of_other_datasets_are_refused(monkeypatch, tmp_path, capsys, dataset, boxes, expected):
    drawn = DrawnObjects(None, "validation") if dataset == "shapes" else None
    opened(monkeypatch, tmp_path, dataset, None, np.zeros(1, int), np.arange(1), drawn)
    assert command.run(compare.main, ["compare", f"--workdir={tmp_path}", *boxes]) == 2
    assert expected in capsys.readouterr().err


def test_shapes_know_their_pixels(monkeypatch, tmp_path, capsys):
    """Pictures are numbered among the readable ones, masks among all."""
    rng, records = np.random.default_rng(0), []
    for _ in range(3):
        pixels, (top, left, height, width) = picture(rng, 0, 60, 60)
        mask = np.zeros((60, 60), np.uint8)
        mask[top : top + height, left : left + width] = 255
        files = [io.BytesIO(), io.BytesIO()]
        for array, file in zip((pixels, mask), files, strict=True):
            Image.fromarray(array).save(file, format="PNG")
        records.append({"image": files[0].getvalue(), "mask": files[1].getvalue()})
    monkeypatch.setattr("zfjax.data.shapes.masks.encoded_records", lambda *_: records)

    class Pictures:
        def __len__(self):
            return 2

        def load(self, numbers):
            squares = np.stack([decode_square(records[number + 1]["image"], SQUARE) for number in numbers])
            return squares, np.zeros(len(numbers), np.int32)

    drawn = DrawnObjects(None, "validation")
    subject = opened(monkeypatch, tmp_path, "shapes", Pictures(), np.zeros(3, int), np.array([1, 2]), drawn)
    flags = ["compare", f"--workdir={tmp_path}", "--layer=relu1", "--only=grad_cam", "--sanity_images=0", "--rows=2"]
    assert command.run(compare.main, flags) == 0
    with np.load(tmp_path / "compare" / "lenses.npz") as arrays:
        assert sorted(arrays["shown"].tolist()) == [0, 1]
        assert arrays["pointing"].all()
        for number, mask in zip(arrays["shown"], arrays["masks"], strict=True):
            seen = center_crop(decode_square(records[number + 1]["image"], SQUARE)[None], 16)[0]
            assert (mask == (np.asarray(seen)[..., 0] > 150)).mean() > 0.9
    assert subject.kept.tolist() == [1, 2]
    assert "drawings: not compared: drawings have parts left out of shapes: no output" in capsys.readouterr().out
    assert command.run(compare.main, [*flags, "--drawings=2"]) == 2
    assert "no output of the model is named face, car, house and 7 more" in capsys.readouterr().err


def test_drawings_without_one_thing_are_compared_for_any_model_that_knows_them(
    on_photos, tmp_path, monkeypatch, capsys
):
    subject, _, words = on_photos
    named = subject._replace(classes=("face", "car"))
    monkeypatch.setattr(subjects, "of_run", lambda *_: Splits(named, named))
    more = ["--only=saliency,gradient_times_input,grad_cam,random", "--count=2", "--sanity_images=0"]
    assert command.run(compare.main, [*words, *more, "--drawings=6", "--batch_size=4"]) == 0
    folder = tmp_path / "run" / "compare"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*drawings.FILES, *TABLES])
    said = capsys.readouterr().out
    rows = json.loads((folder / "drawings.json").read_text())
    assert rows["note"].splitlines()[-1] in said
    assert "6 drawings of shapes" in rows["title"]
    assert {row["lens"] for row in rows["rows"]} == {
        *("saliency", "Grad-CAM", "random map", "gradient × input")  # of this net positive where bright
    }
    things = [row["things"] for row in rows["rows"]]
    assert things == sorted(things, reverse=True)
    with np.load(folder / "drawings.npz") as arrays:
        assert arrays["things"].shape == (4, 2, 6)
        assert arrays["lenses"].tolist() == ["saliency", "gradient_times_input", "grad_cam", "random"]
    assert command.run(compare.main, [*words, "--only=grad_cam", "--count=2", "--sanity_images=0"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == TABLES  # others' drawings do not stay


@pytest.mark.slow
def test_a_trained_run_is_compared_by_its_highest_maps(tmp_path, capsys):
    folder = tiny_runs.make_folder(tmp_path / "pictures", per_class=12)
    workdir = tmp_path / "run"
    words = tiny_runs.train_command(folder, workdir, epochs=1, cosine=False, without=(3, 4, 7))[3:]
    assert command.run(train.main, ["train", *words]) == 0
    names = open_source(f"folder:{folder}").val.names
    (tmp_path / "boxes.json").write_text(json.dumps({name: [8, 8, 20, 24] for name in names}))
    flags = ["compare", f"--workdir={workdir}", f"--boxes={tmp_path / 'boxes.json'}", "--sanity_images=0"]
    assert command.run(compare.main, [*flags, "--only=grad_cam,deconvnet", "--count=3", "--rows=2"]) == 0
    rows = json.loads((workdir / "compare" / "lenses.json").read_text())
    assert "CAMs use relu5" in rows["note"]
    assert [row["lens"] for row in rows["rows"]] == ["Grad-CAM", "deconvnet"]
    capsys.readouterr()

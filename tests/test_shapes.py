"""The drawn dataset: repeatable, balanced, truly labeled, and not to be told apart by color or place."""

import io
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from scipy import ndimage

from zfjax.console.errors import UserError
from zfjax.data.boxes import edges
from zfjax.data.shapes import CLASSES, PARTS, builder, counterfactuals, scene
from zfjax.data.shapes.clutter import MOST_HIDDEN

SKIP = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}


def config(train=30, validation=10, **other):
    return builder.ShapesConfig(name="few", train=train, validation=validation, **other)


@pytest.fixture(scope="module")
def scenes():
    """Label and scene, 60 of each class."""
    return [(i % 10, scene(np.random.default_rng((7, i)), i % 10)) for i in range(600)]


def test_the_same_seed_gives_the_same_picture_and_another_seed_another():
    for label in range(10):
        first, again, other = scene(5, label), scene(5, label), scene(6, label)
        np.testing.assert_array_equal(first.image, again.image)
        np.testing.assert_array_equal(first.mask, again.mask)
        assert (first.box, first.parts, first.hidden) == (again.box, again.parts, again.hidden)
        assert not np.array_equal(first.image, other.image)


def test_shapes_and_types(scenes):
    for _, s in scenes[:20]:
        assert s.image.shape == (128, 128, 3)
        assert s.image.dtype == np.uint8
        assert s.mask.shape == (128, 128)
        assert s.mask.dtype == bool


def test_the_box_is_tight_around_the_mask_and_holds_every_part(scenes):
    for _, s in scenes:
        rows, columns = np.nonzero(s.mask)
        assert tuple(edges(np.array(s.box))) == (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        for part in s.parts:
            top, left, bottom, right = edges(np.array(part.box))
            assert s.box.top <= top < bottom <= s.box.top + s.box.height, part
            assert s.box.left <= left < right <= s.box.left + s.box.width, part
            assert s.mask[top:bottom, left:right].any()


def test_parts_are_the_class_s_own_and_all_there_where_nothing_is_covered(scenes):
    for label, s in scenes:
        names = [part.name for part in s.parts]
        expected = PARTS[CLASSES[label]]
        assert names == [name for name in expected if name in names]
        if s.hidden == 0:
            assert tuple(names) == expected, CLASSES[label]


def test_a_part_s_box_lies_where_the_part_is_drawn(scenes):
    """The left eye is on the picture's left, the nose between the eyes and below (turned at most 15°)."""
    for label, s in scenes:
        parts = {part.name: part.box for part in s.parts}
        if CLASSES[label] == "face" and not s.hidden:
            left, right, nose = (middle(parts[name]) for name in ("left_eye", "right_eye", "nose"))
            assert left[1] < nose[1] + 8
            assert left[1] < right[1]
            assert nose[1] < right[1] + 8
            assert nose[0] > (left[0] + right[0]) / 2


@pytest.mark.parametrize("label", range(10))
def test_a_drawing_without_a_thing_differs_only_where_the_thing_was_seen(label):
    for seed in range(2):
        s, (picture, others) = scene(seed, label), counterfactuals(seed, label)
        np.testing.assert_array_equal(picture, s.image)
        boxes = {part.name: part.box for part in s.parts}
        assert {other.thing for other in others if other.is_part} >= {*boxes}
        assert any(other.thing.startswith("clutter") for other in others)
        assert ("occluder" in {other.thing for other in others}) == (s.hidden > 0)
        inside = ndimage.binary_erosion(s.mask)
        for other in others:
            changed = (other.image != picture).any(axis=-1)
            assert changed.any()
            if other.is_part:  # but for smoothed edges, and slivers narrower than a pixel
                top, left, bottom, right = edges(np.array(boxes[other.thing]))
                beyond = changed.copy()
                beyond[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = False
                assert beyond.sum() <= 0.03 * changed.sum()
            else:  # what stands behind the object, or before it
                assert (changed & inside).sum() <= 0.03 * changed.sum()


def middle(box):
    return box.top + box.height / 2, box.left + box.width / 2


def test_some_objects_are_partly_covered_none_too_much(scenes):
    hidden = np.array([s.hidden for _, s in scenes])
    assert hidden.min() >= 0
    assert hidden.max() <= MOST_HIDDEN
    assert 0.3 < (hidden > 0).mean() < 0.8


def test_objects_fill_a_good_part_of_the_picture(scenes):
    extent = [max(s.box.height, s.box.width) for _, s in scenes]
    assert min(extent) > 50
    assert max(extent) <= 128
    assert np.std(extent) > 8


def linear_accuracy(features, labels, train):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
    model.fit(features[:train], labels[:train])
    return model.score(features[train:], labels[train:])


@pytest.mark.slow
def test_pixels_colors_and_background_do_not_give_the_class_away():
    labels = np.arange(2000) % 10
    images = [scene(np.random.default_rng((8, i)), int(label)).image for i, label in enumerate(labels)]
    small = np.stack([np.asarray(Image.fromarray(image).reduce(4), np.float32) for image in images]) / 255
    assert linear_accuracy(small.reshape(2000, -1), labels, 1500) < 0.45
    color = np.stack([np.concatenate([i.mean((0, 1)), i.std((0, 1))]) for i in small])
    assert linear_accuracy(color[:, :3], labels, 1500) < 0.16
    assert linear_accuracy(color, labels, 1500) < 0.25
    ring = np.ones((32, 32), bool)
    ring[1:-1, 1:-1] = False
    assert linear_accuracy(small[:, ring].reshape(2000, -1), labels, 1500) < 0.2


@pytest.mark.parametrize("file_format", ["array_record", "parquet"])
def test_the_builder_writes_and_reads_back_what_was_drawn(tmp_path, monkeypatch, file_format):
    pytest.importorskip({"array_record": "array_record", "parquet": "pyarrow"}[file_format])
    monkeypatch.setattr(builder, "_file_format", lambda: file_format)
    built = builder.prepared_builder(str(tmp_path), config())
    assert built.info.features["label"].names == list(CLASSES)
    part_names = built.info.features["parts"]["name"].names
    for split, index, count in (("train", 0, 30), ("validation", 1, 10)):
        examples = list(built.as_data_source(split=split, decoders=SKIP))
        assert len(examples) == count
        assert np.bincount([e["label"] for e in examples]).tolist() == [count // 10] * 10
        drawn = [scene(np.random.default_rng((0, index, i)), i % 10) for i in range(count)]
        masks = {s.mask.tobytes(): s for s in drawn}
        for e in examples:
            mask = np.asarray(Image.open(io.BytesIO(e["mask"]))) > 0
            s = masks.pop(mask.tobytes())
            jpeg = io.BytesIO()
            Image.fromarray(s.image).save(jpeg, "JPEG", quality=90)
            assert e["image"] == jpeg.getvalue()
            np.testing.assert_array_equal(e["bbox"] * 128, edges(np.array(s.box)))
            assert [part_names[n] for n in e["parts"]["name"]] == [p.name for p in s.parts]
            np.testing.assert_array_equal(np.array(e["parts"]["bbox"]) * 128, edges(np.array([p.box for p in s.parts])))


def test_a_built_set_is_not_built_again_and_seeds_differ(tmp_path, capsys):
    def bytes_of(folder, seed):
        built = builder.prepared_builder(str(tmp_path / folder), config(10, 10, seed=seed))
        return [e["image"] for e in built.as_data_source(split="train", decoders=SKIP)]

    first = bytes_of("a", 0)
    assert capsys.readouterr().err.count("Drawing the shapes dataset, once: 20 pictures") == 1
    assert bytes_of("a", 0) == first
    assert capsys.readouterr().err == ""
    assert bytes_of("b", 0) == first
    assert bytes_of("c", 1) != first


def test_pictures_do_not_depend_on_how_many_are_drawn(tmp_path):
    few = builder.prepared_builder(str(tmp_path / "few"), config(10, 10))
    more = builder.prepared_builder(str(tmp_path / "more"), config(20, 10))
    images = [{e["image"] for e in built.as_data_source(split="train", decoders=SKIP)} for built in (few, more)]
    assert images[0] < images[1]


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"shapes dataset cannot be kept in .*file") as caught:
        builder.prepared_builder(str(tmp_path / "file"), config())
    assert "\n" not in str(caught.value)


def test_a_build_that_is_stopped_leaves_nothing_that_counts_as_done(tmp_path, monkeypatch):
    def stop(drawn, label):
        if label == 7:
            raise KeyboardInterrupt
        return encode(drawn, label)

    encode = builder._encode
    monkeypatch.setattr(builder, "_encode", stop)
    with pytest.raises(KeyboardInterrupt):
        builder.prepared_builder(str(tmp_path), config())
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.array_record*"))
    (tmp_path / "shapes" / "few" / "incomplete.ABC_1.0.0").mkdir()  # as a killed one leaves
    built = builder.prepared_builder(str(tmp_path), config())
    assert len(built.as_data_source(split="train", decoders=SKIP)) == 30
    assert [path.name for path in (tmp_path / "shapes" / "few").iterdir()] == ["1.0.0"]


def _build(folder):
    built = builder.prepared_builder(folder, config(200, 20))
    assert len(built.as_data_source(split="train", decoders=SKIP)) == 200


@pytest.mark.slow
def test_of_two_processes_that_build_at_once_one_draws_and_both_get_the_whole_set(tmp_path, capfd):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_build, args=(str(tmp_path),)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert not list(tmp_path.rglob("incomplete*"))
    assert capfd.readouterr().err.count("Drawing the shapes dataset") == 1


def test_drawing_needs_neither_tfds_nor_jax():
    code = "import sys; from zfjax.data import shapes; shapes.scene(0, 0);"
    code += "print({'jax', 'tensorflow_datasets'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

"""Table 6: sets with several labels per image, and average precision."""

import io
import sys

import jax
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from zfjax import train, transfer
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data.multilabel import Truth, open_multilabel
from zfjax.experiments.multilabel import average_precisions, to_table

COUNTS = {"train": 40, "validation": 24}


def picture(present: np.ndarray) -> bytes:
    """Red, green and blue bars for the classes that are there."""
    pixels = np.full((40, 40, 3), 20, np.uint8)
    for label in np.flatnonzero(present):
        pixels[10 * label : 10 * label + 10, :, label] = 220
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def presence(split: str) -> np.ndarray:
    rng = np.random.default_rng(len(split))
    return rng.random((COUNTS[split], 3)) < 0.5


def difficult(split: str) -> np.ndarray:
    """Which of the classes there are only difficult: the first of every tenth image."""
    found = np.zeros_like(presence(split))
    found[::10, 0] = True
    return found & presence(split)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    """Sets as array_record, without TensorFlow: one like VOC, one with objects alone, one without a second split."""
    tfds = pytest.importorskip("tensorflow_datasets")
    label = tfds.features.ClassLabel(names=["red", "green", "blue"])
    boxed = tfds.features.Sequence({"label": label, "bbox": tfds.features.BBoxFeature()})

    class ZfVoc(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        SPLITS = ("train", "validation")
        FEATURES = (
            ("labels", tfds.features.Sequence(label)),
            ("labels_no_difficult", tfds.features.Sequence(label)),
            ("objects", boxed),
        )

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), **dict(self.FEATURES)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in self.SPLITS}

        def _generate_examples(self, split):
            box = tfds.features.BBox(0.0, 0.0, 1.0, 1.0)
            for i, (there, hard) in enumerate(zip(presence(split), difficult(split), strict=True)):
                labels = np.flatnonzero(there).tolist()
                values = {
                    "labels": labels,
                    "labels_no_difficult": np.flatnonzero(there & ~hard).tolist(),
                    "objects": [{"label": number, "bbox": box} for number in labels + labels],
                }
                yield i, {"image": io.BytesIO(picture(there)), **{key: values[key] for key, _ in self.FEATURES}}

    class ZfObjects(ZfVoc):
        FEATURES = ZfVoc.FEATURES[2:]

    class ZfOneSplit(ZfVoc):
        SPLITS = ("train",)

    class ZfOneLabel(ZfVoc):
        FEATURES = (("label", label),)

        def _generate_examples(self, split):
            for i in range(4):
                yield i, {"image": io.BytesIO(picture(np.zeros(3))), "label": i % 3}

    root = tmp_path_factory.mktemp("tfds")
    file_format = "parquet" if sys.platform == "win32" else "array_record"
    for builder in (ZfVoc, ZfObjects, ZfOneSplit, ZfOneLabel):
        builder(data_dir=root, file_format=file_format).download_and_prepare()
    return root


def by_image(examples):
    """Which classes each image shows, by its pixels, in the order it is stored."""
    return np.array([[examples[i].image[10 * c, 0, c] > 128 for c in range(3)] for i in range(len(examples))])


@pytest.mark.parametrize("name", ["zf_voc", "zf_objects"])
def test_all_labels_of_an_image_are_read(tiny_dir, name):
    found = open_multilabel(f"tfds:{name}", data_dir=str(tiny_dir))
    assert found.source.classes == ("red", "green", "blue")
    for examples, count in ((found.train, 40), (found.val, 24)):
        assert len(examples) == count
        assert examples[3].label == 0
        truth = examples.truth(np.arange(count), 3)
        np.testing.assert_array_equal(truth.present, by_image(examples))
        asked = np.array([5, 2])
        np.testing.assert_array_equal(examples.truth(asked, 3).present, truth.present[asked])
        # Where nothing is said of difficult objects, all counts.
        split = "train" if count == 40 else "validation"
        assert (~truth.counted).sum() == (difficult(split).sum() if name == "zf_voc" else 0)
        assert (truth.present | truth.counted).all()


def test_splits_can_be_named(tiny_dir):
    found = open_multilabel("tfds:zf_voc:1.0.0:train[:10],train[10:]", data_dir=str(tiny_dir))
    assert (len(found.train), len(found.val)) == (10, 30)
    assert found.train.fingerprint != found.val.fingerprint


def test_other_datasets_are_left_to_others(tiny_dir):
    for spec in ("shapes", "folder:nowhere", "tfds:zf_one_label"):
        assert open_multilabel(spec, data_dir=str(tiny_dir)) is None


def test_what_cannot_be_used_is_named(tiny_dir):
    with pytest.raises(UserError, match="one to test on, as TRAIN,VAL; found train alone"):
        open_multilabel("tfds:zf_one_split", data_dir=str(tiny_dir))
    with pytest.raises(UserError, match="not prepared"):
        open_multilabel("tfds:voc/2012", data_dir=str(tiny_dir))
    with pytest.raises(UserError, match="no such dataset"):
        open_multilabel("tfds:zf_nothing", data_dir=str(tiny_dir))


# Average precision


def told(seed=0, count=120, noise=1.0):
    rng = np.random.default_rng(seed)
    present = rng.random((count, 3)) < 0.4
    features = np.concatenate([present + noise * rng.normal(size=present.shape), rng.normal(size=(count, 5))], axis=1)
    return features.astype(np.float32), Truth(present, np.ones_like(present))


def test_precision_is_perfect_where_classes_can_be_told_and_chance_where_not():
    x, truth = told(noise=0.05)
    found = average_precisions(x[:80], Truth(*(part[:80] for part in truth)), x[80:], Truth(*(p[80:] for p in truth)))
    np.testing.assert_allclose(found, 1.0)
    noise = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    found = average_precisions(
        noise[:80], Truth(*(part[:80] for part in truth)), noise[80:], Truth(*(p[80:] for p in truth))
    )
    assert (np.abs(found - truth.present[80:].mean(axis=0)) < 0.3).all()


def test_difficult_images_have_no_say():
    """Whatever they look like, in training and in the test."""
    x, truth = told()
    counted = truth.counted.copy()
    counted[::7] = False
    spoilt = truth.present.copy()
    spoilt[::7] = ~spoilt[::7]
    results = []
    for present in (truth.present, spoilt):
        both = Truth(present, counted)
        parts = [Truth(*(part[rows] for part in both)) for rows in (slice(80), slice(80, None))]
        results.append(average_precisions(x[:80], parts[0], x[80:], parts[1]))
    np.testing.assert_array_equal(*results)


def test_a_class_that_no_test_image_shows_has_no_precision():
    x, truth = told()
    present = truth.present.copy()
    present[80:, 1] = False
    parts = [Truth(present[rows], truth.counted[rows]) for rows in (slice(80), slice(80, None))]
    found = average_precisions(x[:80], parts[0], x[80:], parts[1])
    assert np.isnan(found).tolist() == [False, True, False]
    table = to_table(found, present[80:], "voc", ("a", "b", "c"))
    assert table.rows[1] == ("b", 0, None)
    assert table.rows[3][2] == pytest.approx(50 * (found[0] + found[2]))
    assert len(table.header) == 3


def test_a_class_that_no_training_image_shows_is_named():
    x, truth = told()
    truth.present[:, 2] = False
    with pytest.raises(UserError, match="some with and without class 2"):
        average_precisions(x, truth, x, truth)


def test_the_papers_mean_stands_beside_pascal():
    table = to_table(np.full(20, 0.5), np.ones((4, 20), bool), "tfds:voc/2012", [f"c{i}" for i in range(20)])
    assert table.rows[-1] == ("mean", 4, 50.0, 79.0)
    assert table.rows[0] == ("c0", 4, 50.0, None)
    assert "test set of 2012" in table.note


@pytest.mark.slow
def test_a_run_is_transferred_to_a_set_with_several_labels(tiny_dir, tmp_path, capsys):
    folder = tiny_runs.make_folder(tmp_path / "pictures")
    workdir = tmp_path / "run"
    words = tiny_runs.train_command(folder, workdir, epochs=1, cosine=False, data_dir=str(tiny_dir))[3:]
    assert command.run(train.main, ["train", *words]) == 0
    flags = ["transfer", f"--workdir={workdir}", "--dataset=tfds:zf_voc", f"--batch_size={jax.device_count()}"]
    assert command.run(transfer.main, flags) == 0
    out = capsys.readouterr().out
    assert "average precision %" in out
    lines = (workdir / "transfer" / "zf_voc" / "transfer.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["class", "red", "green", "blue", "mean"]
    assert float(lines[-1].split(",")[2]) > 100 * presence("validation").mean()  # better than chance

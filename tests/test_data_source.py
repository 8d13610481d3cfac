import io
import json
import logging
import os
import pathlib
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from zfjax.console.errors import UserError
from zfjax.data import formats
from zfjax.data.opening import open_source
from zfjax.data.source import BrokenImage, held_out
from zfjax.data.spec import parse_spec


def picture(value: int, width: int = 12, height: int = 9, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (value % 256, 20, 30)).save(buffer, kind)
    return buffer.getvalue()


def class_folders(root: pathlib.Path, counts: dict[str, int]) -> pathlib.Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03}.png").write_bytes(picture(i))
    return root


# Folders


def test_train_and_val_folders(tmp_path):
    class_folders(tmp_path / "train", {"dog": 3, "cat": 2})
    class_folders(tmp_path / "val", {"dog": 1, "cat": 1})
    source = open_source(f"folder:{tmp_path}")
    assert source.name == f"folder:{tmp_path}"
    assert source.classes == ("cat", "dog")
    assert [source.train[i].label for i in range(len(source.train))] == [0, 0, 1, 1, 1]
    assert source.train[4].name.endswith("train/dog/002.png")
    assert source.train[4].image.shape == (9, 12, 3)
    assert source.train[4].image[0, 0].tolist() == [2, 20, 30]
    assert source.train[4].square(5).shape == (5, 5, 3)
    assert len(source.val) == 2


@pytest.mark.parametrize(
    ("folders", "train", "val", "aside"),
    [
        ("train valid test", "train", "valid", "test/ (8 files)"),
        ("Train TEST Val", "Train", "Val", "TEST/ (8 files)"),
        ("training dev testing", "training", "dev", "testing/ (8 files)"),
        ("training_set test_set", "training_set", "test_set", ""),
        ("train validation extra", "train", "validation", "extra/ (8 files)"),
        ("train test", "train", "test", ""),
        ("train val dev", "train", "val", "dev/ (8 files)"),
        ("train Eval tests", "train", "Eval", "tests/ (8 files)"),
        ("trainval test", "trainval", "test", ""),
    ],
)
def test_split_folders_by_their_usual_names(tmp_path, folders, train, val, aside):
    for name in folders.split():
        class_folders(tmp_path / name, {"a": 3 if name == train else 4, "b": 3 if name == train else 4})
    source = open_source(f"folder:{tmp_path}")
    assert source.train[0].name.endswith(f"/{train}/a/000.png")
    assert source.val[0].name.endswith(f"/{val}/a/000.png")
    (note,) = source.notes
    assert f"trains on {train}/ (6 images), validates on {val}/ (8)" in note
    assert note.endswith(f"; left aside: {aside}") if aside else "aside" not in note


def test_a_test_folder_without_classes_does_not_validate(tmp_path):
    """As competitions have it: nobody knows the classes of the test images."""
    class_folders(tmp_path / "train", {"a": 20, "b": 20})
    class_folders(tmp_path, {"test": 5})
    source = open_source(f"folder:{tmp_path}")
    assert (len(source.train), len(source.val)) == (36, 4)
    assert source.notes == (
        f"folder:{tmp_path}: trains on nine tenths of each class in train/ (36 images), validates on the rest (4);"
        " left aside: test/ (5 files)",
    )


def test_an_empty_val_folder_leaves_it_to_test(tmp_path):
    for name in ("train", "test"):
        class_folders(tmp_path / name, {"a": 2, "b": 2})
    (tmp_path / "val").mkdir()
    source = open_source(f"folder:{tmp_path}")
    assert "validates on test/ (4); left aside: val/ (0 files)" in source.notes[0]


def test_valid_without_train_is_said(tmp_path):
    class_folders(tmp_path / "valid", {"a": 2, "b": 2})
    with pytest.raises(UserError, match=r"expected a split called train next to valid, found valid$"):
        open_source(f"folder:{tmp_path}")


def test_train_alone_is_divided(tmp_path):
    class_folders(tmp_path / "train", {"a": 20, "b": 20})
    source = open_source(f"folder:{tmp_path}")
    assert (len(source.train), len(source.val)) == (36, 4)


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, {"train": 10, "bus": 10, "val": 10})
    assert open_source(f"folder:{tmp_path}").classes == ("bus", "train", "val")
    class_folders(tmp_path / "train", {"deeper": 3})
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("bus", "train", "val")
    assert source.notes[1].endswith("left out: 3 in deeper folders (train/deeper)")


def test_seeded_split_is_stratified_disjoint_and_complete(tmp_path):
    class_folders(tmp_path, {"a": 40, "b": 10, "c": 3, "d": 1})
    source = open_source(f"folder:{tmp_path}", seed=1)
    train, val = source.train, source.val
    assert np.bincount(val.labels).tolist() == [4, 1, 1]
    assert np.bincount(train.labels).tolist() == [36, 9, 2, 1]
    assert not set(train.names) & set(val.names)
    files = [f"{c}/{i:03}.png" for c, n in [("a", 40), ("b", 10), ("c", 3), ("d", 1)] for i in range(n)]
    assert sorted(train.names + val.names) == files
    again = open_source(f"folder:{tmp_path}", seed=1)
    assert (again.train.names, again.val.names) == (train.names, val.names)
    assert open_source(f"folder:{tmp_path}", seed=2).val.names != val.names


def test_held_out_is_the_same_everywhere():
    keys = [f"k{i}" for i in range(20)]
    found = held_out(keys, np.repeat(np.int32([0, 1]), 10), seed=0)
    assert np.flatnonzero(found).tolist() == [1, 11]
    assert held_out([], np.zeros(0, np.int32), seed=0).shape == (0,)


def test_files_that_are_left_out_are_counted_by_why(tmp_path, monkeypatch):
    class_folders(tmp_path, {"a": 12, "b": 12})
    monkeypatch.setattr(formats, "available", lambda: tuple(k for k in formats.FORMATS if k.package == "pillow"))
    monkeypatch.setattr(formats, "extensions", formats.extensions.__wrapped__)
    for i in range(200):
        (tmp_path / "a" / f"{i}.HEIC").write_bytes(b"")
    (tmp_path / "a" / "photo").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    for name in (".DS_Store", "._000.png", "notes.txt", "001.png.part", "copy.png~"):
        (tmp_path / "a" / name).write_bytes(picture(0) if "png" in name else b"BMW and Porsche")
    (tmp_path / "b" / "nothing").touch()
    for name in ("shot.nef", "scan"):
        (tmp_path / "b" / name).write_bytes(picture(1, kind="TIFF"))
    os.mkfifo(tmp_path / "b" / "pipe.png")
    (tmp_path / "b" / "lost.png").symlink_to("nowhere")
    class_folders(tmp_path / "a" / "deep", {"deeper": 7})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "labels.csv").write_text("x")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("a", "b")
    assert len(source.train) + len(source.val) == 25  # `scan` is a picture
    told, left_out = source.notes
    assert told.endswith("trains on nine tenths of each class (23 images), validates on the rest (2)")
    assert left_out.startswith(f"folder:{tmp_path}: left out: 200 .heic: pip install pillow-heif (a/")
    assert "; 7 in deeper folders (a/deep); 3 hidden (" in left_out
    assert "\n" not in left_out
    counted = {part.partition(" (")[0] for part in left_out.partition("left out: ")[2].split("; ")}
    assert counted == {
        *("200 .heic: pip install pillow-heif", "7 in deeper folders", "3 hidden", "2 neither files nor folders"),
        *("1 beside the class folders", "1 HEIF: pip install pillow-heif", "1 empty", "1 backup copies"),
        *("1 .txt", "1 .part", "1 .nef"),
    }


def test_what_systems_add_and_circles_of_links_are_no_classes(tmp_path):
    class_folders(tmp_path, {"a": 10, "b": 10, "__MACOSX": 3, "@eaDir": 2, "a/@eaDir": 2})
    for link in ("c", "a/loop.png"):
        (tmp_path / link).symlink_to(tmp_path / link)
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("a", "b")
    assert source.notes[1].endswith("left out: 3 hidden (@eaDir); 2 neither files nor folders (c)")


def test_pictures_are_known_by_content_where_their_names_do_not_say(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    kinds = {"001": "JPEG", "1.jpg?w=640": "JPEG", "Abel.Pacheco": "PNG", "x.jpg:large": "WEBP", "UPPER.JPEG": "JPEG"}
    for name, kind in kinds.items():
        (tmp_path / "a" / name).write_bytes(picture(0, kind=kind))
    (tmp_path / "b" / "page.php?id=3").write_bytes(b"<html>not found</html>")
    source = open_source(f"folder:{tmp_path}")
    found = {*source.train.names, *source.val.names}
    assert {f"a/{name}" for name in kinds} <= found
    assert len(found) == 9
    assert all(source.train[i].square(8).shape == (8, 8, 3) for i in range(len(source.train)))
    assert source.notes[1].endswith("left out: 1 without a picture in them (b/page.php?id=3)")


def test_class_folders_may_end_in_a_tilde(tmp_path):
    assert open_source(f"folder:{class_folders(tmp_path, {'a~': 2, 'b': 2})}").classes == ("a~", "b")


def test_names_are_text_and_the_same_on_every_machine(tmp_path):
    """Composed characters of a Mac, bytes of an old archive: files are found, names can be written."""
    names = [os.fsencode("cafe\u0301"), b"\xff\x8d", os.fsencode("a\nb")]
    for split in ("train", "val"):
        class_folders(tmp_path / split, {os.fsdecode(name): 2 for name in names})
    # In val the same class is called in Latin-1, and a picture is.
    os.rename(os.fsencode(tmp_path) + b"/val/" + names[0], os.fsencode(tmp_path) + b"/val/caf\xe9")
    os.rename(os.fsencode(tmp_path) + b"/val/caf\xe9/000.png", os.fsencode(tmp_path) + b"/val/caf\xe9/\xfc.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("a\\nb", "caf\u00e9", "\u00ff\\udc8d")
    assert source.val.names[3] == "caf\u00e9/\u00fc.png"
    for examples in (source.train, source.val):
        for i in range(6):
            assert examples[i].image.shape == (9, 12, 3)
            examples[i].name.encode()


def test_folders_of_one_name_in_two_forms_are_one_class(tmp_path):
    class_folders(tmp_path, {"caf\u00e9": 20, "cafe\u0301": 10, "b": 20})
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("b", "caf\u00e9")
    assert np.bincount([*source.train.labels, *source.val.labels]).tolist() == [20, 30]


def test_the_drawn_split_does_not_depend_on_the_form_of_names(tmp_path):
    drawn = []
    for i, form in enumerate(("NFC", "NFD")):
        root = tmp_path / str(i)
        for name in ("\u00e9t\u00e9", "\u00fcber", "z"):
            folder = root / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            for j in range(20):
                (folder / unicodedata.normalize(form, f"\u00e9{chr(97 + j)}{j}.png")).write_bytes(picture(j))
        source = open_source(f"folder:{root}")
        drawn.append((source.classes, source.train.names, source.val.names))
    assert drawn[0] == drawn[1]


def test_a_program_may_change_its_folder(tmp_path, monkeypatch):
    class_folders(tmp_path / "pets", {"a": 20, "b": 20})
    monkeypatch.chdir(tmp_path)
    source = open_source("folder:pets")
    assert source.name == "folder:pets"
    before = source.train.stamps.tolist()
    monkeypatch.chdir("/")
    assert source.train[0].image.shape == (9, 12, 3)
    assert source.train.where(np.ones(36, bool)).stamps.tolist() == before


def test_data_dir_and_home(tmp_path, monkeypatch):
    class_folders(tmp_path / "pets", {"a": 2, "b": 2})
    assert len(open_source("folder:pets", data_dir=str(tmp_path)).train) == 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(open_source("folder:~/pets").train) == 2


def test_folder_errors_are_one_clear_line(tmp_path):
    def message(path: object) -> str:
        with pytest.raises(UserError) as error:
            open_source(f"folder:{path}")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "not there; expected a folder that holds one folder per class" in message(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "file: a file; expected" in message(tmp_path / "file")
    (tmp_path / "bare").mkdir()
    assert "expected two or more class folders in it, found none" in message(tmp_path / "bare")
    assert "found only one, 'cat'" in message(class_folders(tmp_path / "one", {"cat": 2}))
    assert "empty/dog: expected images directly in it, found it empty" in message(
        class_folders(tmp_path / "empty", {"cat": 2, "dog": 0})
    )
    (tmp_path / "empty" / "dog" / "a.txt").write_text("")
    assert "dog: expected images directly in it, found none, but 1 empty (dog/a.txt)" in message(tmp_path / "empty")
    class_folders(tmp_path / "both" / "train", {"cat": 2, "dog": 2})
    class_folders(tmp_path / "both" / "val", {"cat": 2, "fox": 2})
    assert "val: expected the class folders of" in message(tmp_path / "both")
    assert message(tmp_path / "both").endswith("but it lacks dog")
    class_folders(tmp_path / "more" / "train", {"cat": 2, "dog": 2})
    class_folders(tmp_path / "more" / "val", {"cat": 2, "dog": 1, "fox": 2})
    assert message(tmp_path / "more").endswith("train: expected the class folders of "
                                               f"{tmp_path / 'more' / 'val'}, but it lacks fox")  # fmt: skip


def test_unreadable_file_is_broken(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    source = open_source(f"folder:{tmp_path}")
    path = pathlib.Path(source.train[0].name)
    path.write_bytes(picture(0)[:50])
    with pytest.raises(BrokenImage, match=f"{path.name}: "):
        source.train[0].square(8)
    path.unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        source.train[0]


def test_fingerprint_follows_the_files(tmp_path):
    class_folders(tmp_path, {"a": 5, "b": 5})
    first = open_source(f"folder:{tmp_path}")
    assert open_source(f"folder:{tmp_path}").train.fingerprint == first.train.fingerprint
    path = pathlib.Path(first.train[0].name)
    path.write_bytes(picture(99))
    second = open_source(f"folder:{tmp_path}")
    assert second.train.fingerprint != first.train.fingerprint
    assert second.val.fingerprint == first.val.fingerprint


@pytest.mark.parametrize(
    ("dataset", "title", "short_name"),
    [
        ("folder:/data/caltech101/", "caltech101", "caltech101"),
        ("folder:caltech 101", "caltech 101", "caltech-101"),
        ("folder:C:\\photos\\cafe\u0301", "cafe\u0301", "caf\u00e9"),
        ("folder:..", "..", "dataset"),
        ("tfds:voc/2012", "tfds:voc/2012", "voc-2012"),
        ("tfds:voc:1.0.0:train[:10],test", "tfds:voc:1.0.0:train[:10],test", "voc-1.0.0-train-10-test"),
        ("shapes", "shapes", "shapes"),
    ],
)
def test_what_a_dataset_is_called(dataset, title, short_name):
    spec = parse_spec(dataset)
    assert (spec.title, spec.short_name) == (title, short_name)


def test_specs_that_name_nothing(tmp_path):
    for spec in ("", "folder:", "tfds:", "fodler:x", "imagenette", str(tmp_path)):
        with pytest.raises(UserError, match="expected shapes, folder:PATH or tfds:NAME"):
            open_source(spec)
    with pytest.raises(UserError, match=f"did you mean folder:{tmp_path}"):
        open_source(str(tmp_path))


def test_folder_needs_neither_tfds_nor_jax(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 2})
    code = (
        "import sys; from zfjax.data.opening import open_source; from zfjax.data.scan import scan;"
        f"scan(open_source('folder:{tmp_path}'), 8);"
        "print([m for m in ('tensorflow_datasets', 'tensorflow', 'jax', 'grain') if m in sys.modules])"
    )
    root = pathlib.Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
    assert done.stderr.startswith(f"folder:{tmp_path}: trains on nine tenths of each class (2 images)")
    assert len(done.stderr.splitlines()) == 1


# TFDS


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    """Two tiny sets prepared as array_record, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class ZfTiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["ant", "bee"]),
                    "note": tfds.features.Text(),
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                }),
            )  # fmt: skip

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(40), "test": self._generate_examples(6)}

        def _generate_examples(self, count):
            for i in range(count):
                yield (
                    i,
                    {
                        "image": io.BytesIO(picture(i)),
                        "label": i % 2,
                        "note": str(i),
                        "mask": io.BytesIO(b"no image"),
                    },
                )

    class ZfUnlabeled(ZfTiny):
        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "note": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"image": io.BytesIO(picture(i)), "note": str(i)}

    root = tmp_path_factory.mktemp("tfds")
    file_format = "parquet" if sys.platform == "win32" else "array_record"
    for builder in (ZfTiny, ZfUnlabeled):
        builder(data_dir=root, file_format=file_format).download_and_prepare()
    return root


def open_tiny(tiny_dir, spec="zf_tiny", **options):
    return open_source(f"tfds:{spec}", data_dir=str(tiny_dir), **options)


def values(examples):
    return sorted(int(examples[i].image[0, 0, 0]) for i in range(len(examples)))


def test_tfds_default_splits(tiny_dir):
    source = open_tiny(tiny_dir)
    assert source.name == "tfds:zf_tiny"
    assert source.classes == ("ant", "bee")
    assert values(source.train) == list(range(40))
    assert values(source.val) == list(range(6))
    example = source.train[7]
    assert example.label == example.image[0, 0, 0] % 2
    assert example.name == "tfds:zf_tiny:train example 7"


@pytest.mark.parametrize(
    ("spec", "sizes"),
    [
        ("zf_tiny:1.0.0", (40, 6)),
        ("zf_tiny:train", (36, 4)),
        ("zf_tiny:train[:50%]", (18, 2)),
        ("zf_tiny:train[:75%],train[75%:]", (30, 10)),
        ("zf_tiny:1.0.0:train[5:15]+test, test", (16, 6)),
    ],
)
def test_tfds_split_expressions(tiny_dir, spec, sizes):
    source = open_tiny(tiny_dir, spec)
    assert (len(source.train), len(source.val)) == sizes


def test_tfds_seeded_split(tiny_dir):
    one, again, two = (open_tiny(tiny_dir, "zf_tiny:train", seed=seed) for seed in (1, 1, 2))
    assert values(one.train) + values(one.val) != values(two.train) + values(two.val)
    assert sorted(values(one.train) + values(one.val)) == list(range(40))
    assert values(one.val) == values(again.val)
    assert one.train.fingerprint == again.train.fingerprint
    assert len({s.train.fingerprint for s in (one, two, open_tiny(tiny_dir))}) == 3


def test_tfds_errors_are_one_clear_line(tiny_dir, tmp_path):
    def message(spec: str, data_dir: pathlib.Path = tiny_dir) -> str:
        with pytest.raises(UserError) as error:
            open_tiny(data_dir, spec)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no such dataset" in message("imagenete")
    assert "did you mean imagenette" in message("imagenete")
    assert "expected one of tensorflow.org/datasets" in message("qqqqqqqqqqqq")
    assert "full-size-v2" in message("imagenette/medium")
    assert "expected NAME[/CONFIG][:VERSION]" in message("cifar-10")
    assert "only: 1.0.0" in message("imagenette:9.9.9")
    assert "expected the features image (Image) and label (ClassLabel); it has image, note" in message("zf_unlabeled")
    assert "expected the features image" in message("voc")
    assert "Unknown split 'dev'" in message("zf_tiny:dev")
    assert message("zf_tiny:dev").endswith("it has train, test")
    assert "split 'train[:4'" in message("zf_tiny:train[:4")
    assert "split 'train[:400]'" in message("zf_tiny:train[:400]")
    assert "or two as TRAIN,VAL" in message("zf_tiny:train,test,test")
    assert "or two as TRAIN,VAL" in message("zf_tiny:train,")


def test_tfds_not_prepared_names_the_command(tmp_path):
    with pytest.raises(UserError) as error:
        open_source("tfds:imagenette", data_dir=str(tmp_path))
    text = str(error.value)
    assert "tfds:imagenette: not prepared in" in text
    assert (
        f"tfds.builder('imagenette/full-size-v2', data_dir='{tmp_path}', file_format='array_record')"
        ".download_and_prepare()" in text
    )
    with pytest.raises(UserError, match="not prepared"):
        open_source("tfds:imagenette:train[:50%]", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="by hand"):
        open_source("tfds:imagenet2012", data_dir=str(tmp_path))


def test_tfds_prepared_as_tfrecord_names_the_command(tiny_dir, tmp_path):
    """As TensorFlow's default leaves a set: the same folder, but with TFRecord files."""
    folder = tmp_path / "zf_tiny" / "1.0.0"
    folder.mkdir(parents=True)
    for path in (tiny_dir / "zf_tiny" / "1.0.0").iterdir():
        (folder / path.name.replace("array_record", "tfrecord")).write_bytes(path.read_bytes())
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        split["filepathTemplate"] = split["filepathTemplate"].replace("array_record", "tfrecord")
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(UserError) as error:
        open_tiny(tmp_path)
    text = str(error.value)
    assert "\n" not in text
    assert f"prepared in {folder} as tfrecord, which has no random access; remove that folder" in text
    assert "file_format='array_record').download_and_prepare()" in text


def test_tfds_decodes_nothing_itself(tiny_dir, caplog):
    """Not even the set's other images, here no images at all; so it does not ask for OpenCV either."""
    with caplog.at_level(logging.WARNING):
        assert open_tiny(tiny_dir).train[0].square(8).shape == (8, 8, 3)
    assert not caplog.records

"""Whose a folder is: what is held, what others wrote, and a dataset's pictures stay as they are."""

import json
import os

import holders
import numpy as np
import pytest
import tiny_runs
from etils import epath

from zfjax import ablate, atlas, compare, export_weights, figures, import_weights, probe, train, transfer
from zfjax.console import command, paths
from zfjax.console.errors import UserError
from zfjax.data.opening import open_source
from zfjax.data.outside import require_outside, root_of
from zfjax.data.scan import scan
from zfjax.runs import claim
from zfjax.runs.folder import open_data, read_run
from zfjax.training.config import as_json, default
from zfjax.weights.files import write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file that import-weights opens; what is in it is looked at later than the folder."""
    file = tmp_path_factory.mktemp("weights") / "x.safetensors"
    write(file, {"fc.weight": np.zeros((3, 4), np.float32)}, {})
    return file


def said(capsys, main, *words):
    """Exit code and the one line on stderr of a command that fails."""
    code = command.run(main, ["zfjax", *map(str, words)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zfjax: ")]
    assert len(lines) == (code != 0), lines
    return code, lines[0].removeprefix("zfjax: ") if lines else ""


def tiny_words(folder, workdir, **changes):
    return tiny_runs.train_command(folder, workdir, **changes)[3:]


def begun(folder, workdir):
    """A run's folder with a checkpoint that nobody reads."""
    config = tiny_runs.tiny_config(folder)
    data = open_data(config, None)
    claim.begin(epath.Path(workdir), config, data.classes, data.record)
    (workdir / "checkpoints" / "5").mkdir(parents=True)
    return workdir


# One writer


@pytest.mark.parametrize(
    ("main", "where", "words"),
    [
        (train.main, "", ("--config.dataset=folder:{folder}", "--config.batch_size=8")),
        (ablate.main, "", ("--config.dataset=folder:{folder}", "--config.batch_size=8")),
        (figures.main, "figures", ()),
        (compare.main, "compare", ("--images=none.jpg",)),
        (atlas.main, "atlas", ()),
        (transfer.main, "transfer/other", ("--dataset=folder:{other}", "--per_class=2", "--noscratch")),
        (probe.main, "probe/other", ("--dataset=folder:{other}", "--per_class=2")),
    ],
    ids=lambda value: getattr(value, "__module__", "").removeprefix("zfjax."),
)
def test_the_second_writer_is_refused_at_once_and_names_the_first(capsys, folder, tmp_path, main, where, words):
    workdir, other = begun(folder, tmp_path / "run"), tiny_runs.make_folder(tmp_path / "other", per_class=4)
    words = [word.format(folder=folder, other=other) for word in words]
    with holders.holding(workdir / where, *(["--beside"] if where == "atlas" else [])) as process:
        before = holders.contents(tmp_path)
        code, line = said(capsys, main, f"--workdir={workdir}", *words)
        assert code == 2
        assert line.startswith(f"{workdir / where} is in use by zfjax train (process {process} on ")
        assert holders.contents(tmp_path) == before


def test_other_writers_and_readers_of_a_run_do_not_mind_its_training(capsys, folder, tmp_path):
    workdir = begun(folder, tmp_path / "run")
    with holders.holding(workdir):
        read_run(workdir)
        with claim.writing(workdir / "figures", "zfjax figures", None):
            assert (workdir / "figures").exists()
    assert not (workdir / "figures").exists()


def test_reading_a_run_writes_nothing_into_it(folder, tmp_path):
    """So a folder that may only be read, or that a training holds, is no hindrance."""
    workdir = begun(folder, tmp_path / "run")
    (workdir / "classes.json").unlink()
    (workdir / "scan.npz").unlink()
    before = holders.contents(workdir)
    with holders.holding(workdir):
        assert len(open_data(tiny_runs.tiny_config(folder), epath.Path(workdir)).train) == 66
    assert holders.contents(workdir) == before


def test_weights_and_imports_too(capsys, folder, weights, tmp_path):
    with holders.holding(tmp_path / "run"):
        code, line = said(capsys, import_weights.main, weights, f"--workdir={tmp_path / 'run'}", "--model=resnet18")
        assert (code, "is in use by" in line) == (2, True), line
    with holders.holding(tmp_path / "x.safetensors", "--beside"), pytest.raises(UserError, match="is in use by"):
        write(tmp_path / "x.safetensors", {}, {})
    assert not (tmp_path / "x.safetensors").exists()


def test_a_command_that_calls_another_holds_for_it(folder, tmp_path):
    with claim.held(tmp_path, "a", None), claim.held(tmp_path / "row", "a", None) as row:
        with claim.held(row, "b", None):
            (row / "x").write_text("")
        assert sorted(os.listdir(row)) == [".hold", "x"]
    assert os.listdir(row) == ["x"]


@pytest.mark.parametrize("name", ["lr[0.1]", "[x]/run", "what?", "*", "gs:", "gs:/run"])
def test_a_path_whose_checkpoints_could_not_be_read_is_refused(tmp_path, name):
    with (
        pytest.raises(UserError, match=r"expected a path without .*; rename it, or give a link to it elsewhere$"),
        claim.held(tmp_path / name, "zfjax train", None),
    ):
        pass
    assert os.listdir(tmp_path) == []
    with claim.held(tmp_path / "a[b", "zfjax train", None):  # no pattern
        pass


# What others wrote


@pytest.mark.parametrize("main", [train.main, import_weights.main])
@pytest.mark.parametrize(
    "files",
    [
        {"config.json": '{"architectures": ["ResNet"], "num_labels": 10}', "classes.json": '{"0": "cat"}'},
        {"config.json": "[1]"},
        {"config.json": "null"},
        {"config.json": '{"dataset": "coco", "lr": 0.1, "epochs": 3}', "weights.json": "{}"},
        *({name: "theirs"} for name in claim.WRITTEN if name not in ("config.json", "checkpoints")),
        {"checkpoints/7/x": "theirs"},  # also a run whose config.json was deleted
    ],
    ids=lambda files: "+".join(files),
)
def test_files_that_zfjax_did_not_write_stay(capsys, folder, weights, tmp_path, files, main):
    for name, text in files.items():
        (tmp_path / "hf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hf" / name).write_text(text)
    before = holders.contents(tmp_path)
    words = tiny_words(folder, tmp_path / "hf")
    if main is import_weights.main:
        words = (weights, f"--workdir={tmp_path / 'hf'}", "--model=resnet18")
    code, line = said(capsys, main, *words)
    assert code == 2
    assert line.startswith(f"workdir {tmp_path / 'hf'} ")
    assert holders.contents(tmp_path) == before


def test_an_ablation_overwrites_no_other_table(capsys, folder, tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "ablation.md").write_text("mine")
    words = [word for word in tiny_words(folder, tmp_path / "work", image_size=64) if "config.net=" not in word]
    code, line = said(capsys, ablate.main, *words)
    assert (code, "holds ablation.md, but no row's run" in line) == (2, True), line
    assert os.listdir(tmp_path / "work") == ["ablation.md"]


def test_a_folder_with_other_files_may_become_a_run(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "photos").mkdir()
    tiny_runs.begin(tmp_path, tiny_runs.tiny_config(folder))


def test_a_run_of_the_first_version_is_known(tmp_path):
    keys = "batch_size cache_dir checkpoint_steps cosine data_dir dataset dtype epochs filter_radius image_size"
    keys += " init_std log_steps lr max_broken momentum net num_classes plateau_factor plateau_patience random_crop"
    keys += " seed tensorboard threads warmup_epochs width"
    config = {key: as_json(default())[key] for key in keys.split()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert claim.is_begun(epath.Path(tmp_path), default())


@pytest.mark.parametrize("kind", ["new", "begun", "trained"])
def test_a_refused_training_changes_nothing(capsys, folder, tmp_path, kind):
    workdir = tmp_path / "runs" / "run"
    if kind != "new":
        begun(folder, workdir)
    if kind == "begun":
        (workdir / "checkpoints" / "5").rmdir()
    before = holders.contents(tmp_path)
    for changes, expected in (
        ({"threads": -1}, "threads=-1"),
        ({"max_broken": 7.0}, "max_broken=7"),
        ({"epochs": 0}, "epochs=0 must be"),
        ({"num_classes": 7}, "num_classes=7"),
        ({"batch_size": 8000}, "batch_size="),
        ({"dataset": "folder:nowhere"}, "nowhere"),
        ({"dataset": "tfds:nothing"}, "nothing"),
        *([({"lr": 0.5}, "lr=0.01 (now 0.5)")] if kind == "trained" else []),
    ):
        # Without the cache, and where a cache is to be.
        for more in ({}, {"cache_dir": tmp_path / "cache", "data_dir": tmp_path / "data"}):
            code, line = said(capsys, train.main, *tiny_words(folder, workdir, **changes | more))
            assert code == 2
            assert expected in line or (kind == "trained" and "holds a run with " in line)
            assert {key: value for key, value in holders.contents(tmp_path).items() if "cache" not in key} == before


def test_pictures_that_cannot_be_used_leave_no_folder(capsys, tmp_path):
    pictures = tiny_runs.make_folder(tmp_path / "pictures", per_class=8)
    for name in ("001", "002", "003"):
        (pictures / "noise" / f"{name}.png").write_bytes(b"no picture")
    code, line = said(capsys, train.main, *tiny_words(pictures, tmp_path / "runs" / "run"))
    assert (code, "max_broken" in line) == (2, True), line
    assert os.listdir(tmp_path) == ["pictures"]


# The dataset's own folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of pictures in the current one, with names for it and for what lies in it."""
    monkeypatch.chdir(tmp_path)
    tiny_runs.make_folder(tmp_path / "PHOTOS", per_class=4)
    (tmp_path / "link").symlink_to("PHOTOS")
    (tmp_path / "elsewhere" / "cats").mkdir(parents=True)
    (tmp_path / "PHOTOS" / "cats").symlink_to(tmp_path / "elsewhere" / "cats")
    return tmp_path / "PHOTOS"


INSIDE = (
    *("PHOTOS", "PHOTOS/run", "PHOTOS/noise/deep/run", "./PHOTOS/../PHOTOS/x", "link", "link/run"),
    *("elsewhere/cats", "elsewhere/cats/run", "PHOTOS/.hidden"),
)
OUTSIDE = (".", "PHOTOS-run", "PHOTOS/../run", "elsewhere", "elsewhere/cats2", "..")


@pytest.mark.parametrize("spelled", ["PHOTOS", "./PHOTOS/", "link", "{tmp}/PHOTOS", "elsewhere/../link"])
def test_what_lies_inside_is_known_however_it_is_spelled(photos, tmp_path, spelled):
    root = root_of(f"folder:{spelled.format(tmp=tmp_path)}")
    for path in INSIDE:
        for spelling in (path, tmp_path / path):
            with pytest.raises(UserError, match=rf"^--out .*{path} lies in the dataset's folder .*; give one outside$"):
                require_outside(spelling, "--out", root)
    for path in OUTSIDE:
        require_outside(path, "--out", root)
    with pytest.raises(UserError):
        require_outside("PHOTOS/run", "--out", root_of("folder:PHOTOS", str(tmp_path / "data")))


def test_a_dataset_that_is_found_in_data_dir_or_in_a_bucket(photos, tmp_path, monkeypatch):
    monkeypatch.chdir("elsewhere")
    with pytest.raises(UserError, match="lies in the dataset's folder"):
        require_outside("../PHOTOS/run", "workdir", root_of("folder:PHOTOS", ".."))
    for dataset in ("shapes", "tfds:cars", "folder:", "folder:gone"):
        assert root_of(dataset) is None
    monkeypatch.setitem(paths._PACKAGES, "gs", "fsspec")  # which is there, and gcsfs need not be
    monkeypatch.setattr("zfjax.data.outside.find_root", lambda path, data_dir: epath.Path(path))
    for path in ("gs://b/PHOTOS", "gs://b/PHOTOS/run", "gs://b/x/../PHOTOS//run/"):
        with pytest.raises(UserError, match="lies in the dataset's folder"):
            require_outside(path, "workdir", root_of("folder:gs://b/PHOTOS/"))
    for path in ("gs://b/PHOTOS2", "gs://c/PHOTOS/run", "gs://b", "PHOTOS/run", "gs://b/PHOTOS/../run"):
        require_outside(path, "workdir", root_of("folder:gs://b/PHOTOS"))


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (train.main, ("--workdir=PHOTOS/run", "--config.dataset=folder:PHOTOS", "--config.batch_size=8")),
        (train.main, ("--workdir=link", "--config.dataset=folder:PHOTOS", "--config.batch_size=8")),
        (ablate.main, ("--workdir=PHOTOS", "--config.dataset=folder:PHOTOS", "--config.batch_size=8")),
        (import_weights.main, ("{weights}", "--workdir=PHOTOS/run", "--dataset=folder:link", "--model=resnet18")),
        (figures.main, ("--workdir=run",)),
        (compare.main, ("--workdir=run", "--images=x.jpg")),
        (atlas.main, ("--workdir=outside", "--out=PHOTOS/site")),
        (atlas.main, ("--workdir=run",)),
        (export_weights.main, ("--workdir=outside", "--out=PHOTOS/x.safetensors")),
        (transfer.main, ("--workdir=run", "--dataset=folder:PHOTOS")),
        (probe.main, ("--workdir=run",)),
    ],
    ids=lambda value: getattr(value, "__module__", "").removeprefix("zfjax."),
)
def test_nothing_is_written_among_pictures(capsys, photos, weights, tmp_path, main, words):
    config = tiny_runs.tiny_config(photos)
    tiny_runs.begin(tmp_path / "outside", config)
    tiny_runs.begin(tmp_path / "elsewhere" / "cats", config)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere" / "cats")  # a run that an older version wrote there
    before = holders.contents(tmp_path)
    code, line = said(capsys, main, *(word.format(weights=weights) for word in words))
    assert code == 2
    assert "lies in the dataset's folder" in line
    assert holders.contents(tmp_path) == before


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_of_other_pictures_becomes_no_run(capsys, folder, weights, tmp_path, split):
    """Where the next command on these pictures would find checkpoints/ for a class."""
    others = tiny_runs.make_folder(tmp_path / "others" / ("train" if split else ""), per_class=1)
    workdir = tmp_path / "others"
    before = sorted(others.rglob("*"))
    words = [f"--workdir={workdir}", *tiny_runs.train_command(folder, workdir)[4:]]
    for main, given in ((train.main, words), (import_weights.main, [weights, "--model=resnet18", words[0]])):
        assert command.run(main, ["zfjax", *map(str, given)]) == 2
        assert f"workdir {workdir} holds folders of pictures, where folders are classes" in capsys.readouterr().err
    assert sorted(others.rglob("*")) == before


def test_the_cache_lies_among_no_pictures(capsys, photos, tmp_path):
    (photos / "cats").unlink()
    code, line = said(capsys, train.main, *tiny_words("link", tmp_path / "run", cache_dir=photos / "cache"))
    assert (code, f"cache_dir {photos / 'cache'} lies in" in line) == (2, True), line
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"^cache_dir PHOTOS/x lies in the dataset's folder"):
        scan(open_source("folder:link"), 16, cache_dir="PHOTOS/x")
    assert not (photos / "x").exists()

"""A run whose pictures have moved, or are spelled otherwise, and one whose pictures are others now."""

import json
import shutil

import pytest
import tiny_runs
from PIL import Image

import zfjax
from zfjax import atlas, compare, evaluate, figures, probe, train, transfer
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data import record
from zfjax.data.opening import open_source
from zfjax.experiments import features
from zfjax.runs.claim import is_begun
from zfjax.runs.folder import open_data, read_run


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run, the place where its pictures are now, and a copy of them in which one is another."""
    root = tmp_path_factory.mktemp("moved")
    folder, workdir = tiny_runs.make_folder(root / "before", per_class=12), root / "run"
    few = {"without": (3, 4, 7), "image_size": 32}  # layers
    words = tiny_runs.train_command(folder, workdir, epochs=1, batch_size=16, cosine=False, **few)[3:]
    assert command.run(train.main, ["train", *words]) == 0
    folder.rename(root / "after")
    shutil.copytree(root / "after", root / "others")
    Image.new("RGB", (40, 40)).save(root / "others" / "noise" / "003.png")
    return workdir, root / "after", root / "others", words


def said(capsys, main, *words):
    code = command.run(main, ["zfjax", *map(str, words)])
    return code, capsys.readouterr().err.splitlines()[-1:]


def test_a_missing_folder_is_a_question(moved):
    workdir, after, _, _ = moved
    with pytest.raises(UserError, match=r"before: not there; .*have moved, say where: --dataset=folder:PATH$"):
        zfjax.open_run(workdir)
    with pytest.raises(UserError, match=r"say where: --dataset=folder:PATH$"):
        features.open_pool(read_run(workdir))
    assert len(zfjax.open_run(workdir, dataset=f"folder:{after}/").train.labels) == 33


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (figures.main, ["--only=fig5", "--classes=noise"]),
        (atlas.main, ["--layers=relu1"]),
        (compare.main, ["--only=saliency", "--sanity_images=0", "--count=2", "--boxes=BOXES"]),
        (evaluate.main, []),
    ],
    ids=["figures", "atlas", "compare", "evaluate"],
)
def test_commands_take_the_pictures_where_they_are(moved, main, words, capsys, tmp_path):
    workdir, after, others, _ = moved
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({name: [0, 0, 20, 20] for name in open_source(f"folder:{after}").val.names}))
    words = [
        f"--workdir={workdir}",
        *(word.replace("BOXES", str(boxes)) for word in words),
    ]
    assert said(capsys, main, *words)[0] == 2
    assert said(capsys, main, *words, f"--dataset=folder:{after}")[0] == 0
    if main is not evaluate.main:  # which scores on any pictures of the classes
        code, (line,) = said(capsys, main, *words, f"--dataset=folder:{others}")
        assert code == 2
        assert line == (
            f"zfjax: folder:{others}: its images have changed since the run in {workdir} began;"
            f" the first that differs is {others}/noise/003.png"
        )


def test_runs_that_are_compared_find_the_pictures_too(moved, capsys, tmp_path):
    """Where the first run's are, however their path was spelled once; the others' own, if they are other ones."""
    workdir, after, _, _ = moved
    other = shutil.copytree(workdir, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"dataset": f"folder:{after}/../before/"}))
    words = [f"--workdir={workdir}", "--only=fig6", f"--compare={other}"]
    assert said(capsys, figures.main, *words, f"--dataset=folder:{after}")[0] == 0
    assert (workdir / "figures" / "fig6.npz").exists()
    for path in other.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {}}))
    kept = record.read(other)
    record.write(kept._replace(train_prints=kept.train_prints + 1), other)
    code, (line,) = said(capsys, figures.main, *words, f"--dataset=folder:{after}")
    assert code == 2
    assert line == (
        f"zfjax: image folder {after}/../before: not there; expected a folder that holds one folder per class;"
        f" --dataset says where the pictures of the run in {workdir} are, but the run in {other} has others"
    )


def test_a_copy_of_the_runs_own_pictures_is_its_val_split_alone(moved):
    workdir, after, others, _ = moved
    run = read_run(workdir)
    own, two = features.open_pool(run, f"folder:{after}"), features.open_pool(run, f"folder:{others}")
    assert (own.name, len(own.labels)) == ("after-val", 3)
    assert (two.name, len(two.labels)) == ("others", 36)
    with pytest.raises(UserError, match="have changed since the run"):
        features.open_pool(read_run(workdir, f"folder:{others}"))


@pytest.mark.parametrize("change", ["added", "removed", "swapped"])
def test_all_commands_refuse_pictures_that_changed_in_place(moved, tmp_path, capsys, change):
    workdir, after, _, _ = moved
    photos, run = shutil.copytree(after, tmp_path / "photos"), shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"dataset": f"folder:{photos}"}))
    picture, expected = photos / "noise" / "003.png", "expected 33 train images, as when the run began, found 3"
    if change == "added":
        shutil.copy(picture, photos / "noise" / "900.png")
    elif change == "removed":
        picture.unlink()
    else:
        shutil.copy(photos / "stripes" / "003.png", picture)
        expected = f"the first that differs is {picture}"
    for main, words in (
        (figures.main, ["--only=fig5"]),
        (atlas.main, []),
        (evaluate.main, []),
        (probe.main, ["--per_class=2"]),
        (transfer.main, ["--per_class=2", f"--dataset=folder:{photos}"]),
    ):
        code, (line,) = said(capsys, main, f"--workdir={run}", *words)
        assert (code, expected in line) == (2, True), line


def test_training_goes_on_with_the_same_pictures_elsewhere(moved, tmp_path, monkeypatch, capsys):
    before, after, others, words = moved
    workdir = shutil.copytree(before, tmp_path / "run")
    config = (workdir / "config.json").read_bytes()
    words = [word for word in words if "dataset" not in word and "workdir" not in word] + [f"--workdir={workdir}"]
    code, (line,) = said(capsys, train.main, *words, f"--config.dataset=folder:{others}", "--config.epochs=2")
    assert code == 2
    assert "its images have changed since the run in" in line
    assert (workdir / "config.json").read_bytes() == config
    monkeypatch.chdir(after.parent)
    assert said(capsys, train.main, *words, "--config.dataset=folder:after/", "--config.epochs=2")[0] == 0
    assert json.loads((workdir / "config.json").read_text())["dataset"] == "folder:after/"
    assert tiny_runs.final_weights(workdir)["step"] == 5


def test_an_older_run_knows_its_pictures_by_their_place(moved, tmp_path):
    before, after, others, _ = moved
    workdir = shutil.copytree(before, tmp_path / "run")
    kept = record.read(workdir)
    assert kept.known
    unknown = record.Record(*kept[:6])
    record.write(unknown, workdir)
    run = read_run(workdir, f"folder:{others}")
    assert not open_data(run.config, run.folder).record.known
    shutil.copytree(after, tmp_path / "photos")
    config = read_run(workdir).config
    config.dataset = f"folder:{tmp_path}/photos"
    (workdir / "config.json").write_text(json.dumps(config.to_dict()))
    config.dataset = f"folder:{tmp_path}/../{tmp_path.name}/photos/"
    assert is_begun(run.folder, config)
    config.dataset = f"folder:{after}"
    with pytest.raises(UserError, match=r"holds a run with dataset='folder:.*photos' \(now 'folder:.*after'\)"):
        is_begun(run.folder, config)


def test_a_run_without_pictures_does_not_take_any(moved, tmp_path):
    workdir = shutil.copytree(moved[0], tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text()) | {"dataset": ""}
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="has no pictures: its weights were imported without a --dataset"):
        read_run(workdir, f"folder:{moved[1]}")

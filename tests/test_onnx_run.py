"""`zfjax import-weights net.onnx` without --model: a run of the file as it is, on which all commands work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

import zfjax
from zfjax import (
    ablate,
    evaluate,
    export_weights,
    figures,
    import_weights,
    summary,
    train,
    transfer,
)
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.runs import onnx_run
from zfjax.runs.folder import read_run
from zfjax.runs.given import of_workdir
from zfjax.weights import Preprocessing

onnx = pytest.importorskip("onnx")

CAFFE = Preprocessing((104.0, 117.0, 124.0), (1.0, 1.0, 2.0), 255.0, True)
TAKES = ("--bgr", "--pixel_max=255", "--mean=104,117,124", "--std=1,1,2")


def write(path, sides=("h", "w"), outside=""):
    """Two convolutions and a dense layer for three classes, with the first kernel in a file beside it."""
    rng = np.random.default_rng(0)
    shapes = {"k1": (6, 3, 5, 5), "k2": (8, 6, 3, 3), "dense": (3, 8)}
    arrays = [onnx.numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 5, n) for n, s in shapes.items()]
    nodes = [
        onnx.helper.make_node("Conv", ["images", "k1"], ["a"], "low/Conv", strides=[2, 2], pads=[2, 2, 2, 2]),
        onnx.helper.make_node("Relu", ["a"], ["b"], "low/Relu"),
        onnx.helper.make_node("Conv", ["b", "k2"], ["c"], "high/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["d"], "high/Relu"),
        onnx.helper.make_node("GlobalAveragePool", ["d"], ["e"], "mean"),
        onnx.helper.make_node("Flatten", ["e"], ["f"], "flat"),
        onnx.helper.make_node("Gemm", ["f", "dense"], ["logits"], "classes", transB=1),
    ]
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ("n", 3, *sides))
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("n", 3))
    graph = onnx.helper.make_graph(nodes, "net", [images], [logits], arrays)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if outside:
        (path.parent / outside).parent.mkdir(exist_ok=True)
        onnx.save(made, path, save_as_external_data=True, location=outside, size_threshold=256)
    else:
        onnx.save(made, path)
    return path


def run(capsys, main, *words):
    """Exit code, what was printed, and the lines on stderr of zfjax."""
    code = command.run(main, ["zfjax", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if line.startswith("zfjax: ")]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures", per_class=20)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("nets") / "net.onnx", outside="weights/net.data")


@pytest.fixture(scope="module")
def imported(pictures, source, tmp_path_factory):
    """A run of the file; its outputs are the classes of the pictures, and one that is not."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "names.txt").write_text("stripes\ndogs\ncircles\n")
    words = (
        source,
        f"--workdir={folder / 'run'}",
        f"--dataset=folder:{pictures}",
        f"--class_names={folder / 'names.txt'}",
    )
    assert command.run(import_weights.main, ["zfjax", *map(str, words), *TAKES, "--image_size=32"]) == 0
    return folder / "run"


def test_a_run_gives_the_model_of_the_file(imported, source, pictures):
    splits = zfjax.open_run(imported)
    squares = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = zfjax.from_onnx(source, image_size=32)
    np.testing.assert_array_equal(splits.model.preprocess(squares), CAFFE(squares))
    np.testing.assert_array_equal(splits.model(CAFFE(squares)), expected(CAFFE(squares)))
    assert [*splits.model.layers] == [*expected.layers]
    assert splits.model.classes == ("stripes", "dogs", "circles")
    assert splits.model.image_shape == (32, 32, 3)
    assert (len(splits.train.labels), len(splits.val.labels)) == (54, 6)
    assert {*splits.val.labels.tolist()} == {-1, 0, 2}  # noise is none of the outputs
    assert {*content(imported)} == {Path("onnx/net.onnx"), Path("onnx/run.json"), Path("onnx/weights/net.data")}


def test_commands_give_what_they_give_of_the_file(capsys, imported, pictures, tmp_path):
    """The same numbers by --workdir as by --model with all that the run knows."""
    same = write(tmp_path / "net.onnx", (32, 32))
    of_file = (f"--model={same}", f"--dataset=folder:{pictures}", f"--class_names={imported.parent / 'names.txt'}")
    of_file += (*TAKES, f"--out={tmp_path / 'out'}")
    for main, words in ((figures.main, ("--only=fig2", "--layers=high/Relu", "--maps=2")), (evaluate.main, ())):
        code, said, errors = run(capsys, main, f"--workdir={imported}", *words)
        assert code == 0, errors
        code, expected, errors = run(capsys, main, *of_file, *words)
        assert code == 0, errors
    (one,), (other,) = ([line for line in text.splitlines() if " 10 " in line] for text in (said, expected))
    assert one.split()[1:] == other.split()[1:]
    assert "left out: 2 pictures whose class is none of the outputs" in said
    (name,) = (path.name for path in (imported / "figures").glob("*.npz"))
    with np.load(imported / "figures" / name) as found, np.load(tmp_path / "out" / name) as other:
        assert [*found] == [*other]
        for key in found:
            np.testing.assert_array_equal(found[key], other[key], err_msg=key)


def test_other_commands(capsys, imported, pictures):
    code, said, _ = run(capsys, summary.main, f"--workdir={imported}")
    assert (code, "high/Conv" in said) == (0, True)
    words = f"--dataset=folder:{pictures}", "--per_class=3", "--folds=1"
    code, said, errors = run(capsys, transfer.main, f"--workdir={imported}", *words)
    assert (code, "fig9_per_class-3_folds-1.png" in said) == (0, True)
    assert errors == ["zfjax: from scratch: not measured, since only nets of zfjax can be trained here"]
    assert (imported / "features").is_dir()


def test_what_cannot_be_is_one_line(capsys, imported, pictures, tmp_path):
    run_of = f"--workdir={imported}"
    before = content(imported)
    for main, words, expected in (
        (figures.main, [run_of, "--only=fig4"], "it needs the checkpoints of a run, which a model has not"),
        (figures.main, [run_of, "--checkpoint=best"], "is an ONNX file, which has no checkpoint 'best'"),
        (figures.main, [run_of, "--bgr"], "--bgr has no meaning without --model; a run knows its own"),
        (
            transfer.main,
            [run_of, "--dataset=shapes", "--scratch_epochs=2"],
            "--scratch_epochs has no meaning with a model",
        ),
        (export_weights.main, [run_of, f"--out={tmp_path / 'net.safetensors'}"], "is an ONNX file as it is; expected"),
        (train.main, [run_of, f"--config.dataset=folder:{pictures}"], "cannot be trained or edited here"),
        (ablate.main, [run_of, f"--config.dataset=folder:{pictures}"], "cannot be trained or edited here"),
        (evaluate.main, [run_of, f"--dataset=folder:{imported.parent / 'none'}"], "none"),
    ):
        code, _, errors = run(capsys, main, *words)
        assert (code, len(errors)) == (2, 1), (main, errors)
        assert expected in errors[0]
    assert content(imported) == before
    with pytest.raises(UserError, match="is an ONNX file as it is; expected a net of zfjax, with checkpoints"):
        read_run(imported)


def test_a_run_without_pictures_takes_any(capsys, source, pictures, tmp_path):
    workdir = tmp_path / "run"
    code, said, _ = run(capsys, import_weights.main, source, f"--workdir={workdir}")
    assert code == 0
    assert said.startswith("the net takes RGB in 0..1, less 0.485,0.456,0.406, divided by 0.229,0.224,0.225, at 224 px")
    splits = zfjax.open_run(workdir)
    assert (len(splits.val.pictures), splits.val.classes) == (0, ("output 0", "output 1", "output 2"))
    chosen = splits.val.of_files(pictures / "noise" / "000.png")
    assert chosen.images.shape == (1, 224, 224, 3)
    code, _, (line,) = run(capsys, evaluate.main, f"--workdir={workdir}")
    assert code == 2
    assert f"the run in {workdir} has no pictures of its own: expected --dataset=folder:PATH" in line
    found = of_workdir(workdir, "figures", dataset=f"folder:{pictures}").splits().val
    assert found.classes == tiny_runs.CLASSES  # as many as outputs, which have no names


def test_fig6_beside_another_run(capsys, imported, source, pictures, tmp_path):
    """A second file, without pictures of its own, is shown with the first's."""
    workdir = tmp_path / "second"
    run(capsys, import_weights.main, source, f"--workdir={workdir}", "--image_size=32")
    words = f"--workdir={imported}", f"--compare={workdir}", "--only=fig6", f"--out={tmp_path / 'out'}"
    code, _, errors = run(capsys, figures.main, *words)
    assert code == 0, errors
    rows = json.loads((tmp_path / "out" / "fig6.json").read_text())["rows"]
    assert [next(iter(row.values())) for row in rows] == ["1. net: 5×5 stride 2", "2. net: 5×5 stride 2"]
    code, _, (line,) = run(capsys, figures.main, f"--workdir={imported}", f"--compare={imported}", "--only=fig6")
    assert (code, "twice; expected different runs" in line) == (2, True)


def test_runs_are_scored_together(capsys, imported, source, pictures, tmp_path):
    names = f"--class_names={imported.parent / 'names.txt'}"
    run(capsys, import_weights.main, source, f"--workdir={tmp_path / 'second'}", "--image_size=32", names)
    code, said, errors = run(capsys, evaluate.main, f"--workdir={imported},{tmp_path / 'second'}")
    assert code == 0, errors
    assert "average of 2" in said


def test_importing_again(capsys, imported, source, pictures, tmp_path):
    """The same changes nothing; anything else is refused, and so is anything in the folder of another run."""
    before = {path: path.stat().st_mtime_ns for path in imported.rglob("*")}
    words = (f"--workdir={imported}", f"--dataset=folder:{pictures}", f"--class_names={imported.parent / 'names.txt'}")
    assert run(capsys, import_weights.main, source, *words, *TAKES, "--image_size=32")[0] == 0
    moved = shutil.copytree(source.parent, tmp_path / "moved") / "net.onnx"
    assert run(capsys, import_weights.main, moved, *words, *TAKES, "--image_size=32")[0] == 0
    other = write(tmp_path / "other.onnx")
    own = tiny_runs.untrained(pictures, tmp_path / "own")
    already = f"zfjax: workdir {imported} already holds a run; expected another --workdir"
    for file, more in ((source, (*words, "--image_size=32")), (other, (*words, *TAKES, "--image_size=32"))):
        assert run(capsys, import_weights.main, file, *more)[::2] == (2, [already])
    assert run(capsys, import_weights.main, "net.pth", "--model=alexnet", *words)[::2] == (2, [already])
    assert before == {path: path.stat().st_mtime_ns for path in imported.rglob("*")}
    kept = content(own)
    code, _, (line,) = run(capsys, import_weights.main, source, f"--workdir={own}")
    assert (code, line) == (2, f"zfjax: workdir {own} already holds a run; expected another --workdir")
    assert content(own) == kept


def test_an_import_that_was_killed_leaves_no_run(capsys, source, tmp_path, monkeypatch):
    """All appears at once, so before that there is none, and the same command can be given again."""
    workdir = tmp_path / "run"
    (workdir / ".onnx.draft" / "weights").mkdir(parents=True)
    (workdir / ".onnx.draft" / "net.onnx").write_bytes(b"half")
    with pytest.raises(UserError, match="no run in"):
        of_workdir(workdir, "figures")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(onnx_run.shutil, "copyfile", full)
        code, _, (line,) = run(capsys, import_weights.main, source, f"--workdir={workdir}")
    assert (code, "No space left on device" in line) == (2, True)
    assert content(workdir) == {}
    assert run(capsys, import_weights.main, source, f"--workdir={workdir}")[0] == 0
    assert len(content(workdir)) == 3


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("net.onnx", lambda old: old + b"\0", "onnx/net.onnx is damaged (it is not what was imported); import the"),
        ("weights/net.data", lambda old: old[:-4], "onnx/weights/net.data is damaged (it is not what was imported)"),
        ("weights/net.data", None, "onnx/weights/net.data is missing; import the file again, into another --workdir"),
        ("run.json", lambda old: old.replace(b"104.0", b"105.0"), "onnx/run.json is damaged (its content is not"),
        ("run.json", lambda old: b"[]", "onnx/run.json is damaged"),
        ("run.json", lambda old: b"{}", "onnx/run.json is damaged"),
        ("run.json", None, "onnx/run.json is missing; import the file again, into another --workdir"),
    ],
)
def test_damaged_files_are_named(capsys, imported, tmp_path, name, change, expected):
    path = shutil.copytree(imported / "onnx", tmp_path / "run" / "onnx") / name
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    code, _, (line,) = run(capsys, summary.main, f"--workdir={tmp_path / 'run'}")
    assert (code, expected in line) == (2, True), line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--image_size=64"], "--image_size=64: net.onnx is made for images of 48 px"),
        (["--width=0.5"], "--width has no meaning without --model, for a file that is kept as it is"),
        (["--mean=1,2"], "mean=1,2 must be three numbers"),
        (["--classes=two.txt"], "2 classes are named, but the model has 3 outputs; expected one name for each"),
        (["--dataset=folder:none"], "none"),
        (["--workdir=gs://bucket/run"], "expected a path on this disk, where ONNX files are read from"),
    ],
)
def test_mistakes_make_no_folder(capsys, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "net.onnx", (48, 48))
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    code, _, (line,) = run(capsys, import_weights.main, "net.onnx", "--workdir=run", *words)
    assert (code, expected in line) == (2, True), line
    assert not (tmp_path / "run").exists()


def test_files_that_cannot_be_used(capsys, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "flat.onnx", (48, 32))
    shutil.copy(source, tmp_path / "net.onnx")
    (tmp_path / "text.onnx").write_text("no net")
    for name, expected in (
        ("flat.onnx", "the model takes images of 48×32 px; expected as many rows as columns"),
        ("net.onnx", "lies in weights/net.data, which is not beside the model; copy it there too"),
        ("text.onnx", "it is damaged, cut short or no .onnx file"),
        ("none.onnx", "is not there; expected an .onnx file"),
    ):
        code, _, (line,) = run(capsys, import_weights.main, name, "--workdir=run")
        assert (code, expected in line) == (2, True), line
        assert not (tmp_path / "run").exists()

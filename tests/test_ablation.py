"""Table 3: its rows against the paper, and an ablation that is killed, stopped, fails in a row, and goes on."""

import csv
import json
import re
import signal
import sys

import numpy as np
import pytest
import tiny_runs
from etils import epath

import zfjax
from zfjax import ablate
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.experiments import ablation
from zfjax.experiments.ablation import ROWS, Ablation, Errors, Result
from zfjax.runs.folder import load_model, open_data, read_run
from zfjax.training.config import as_json, default
from zfjax.training.scoring import softmax_of
from zfjax.training.state import create_net

# Errors as in the paper's Table 3, train top-1 / val top-1 / val top-5, by rows.
PAPER = """35.1/40.5/18.1 41.8/45.4/22.1 27.4/40.0/18.4 27.4/44.8/22.4 71.1/71.3/50.1 40.3/41.7/18.8 26.8/40.0/18.1
33.1/38.4/16.5 38.2/40.2/17.6 22.0/38.8/17.0 18.8/37.5/16.0 10.0/38.3/16.9"""

FIRST, SECOND = "zfnet", "alexnet-without-3-4-6-7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures")


def words(folder, workdir, *flags, **changes):
    keys = tiny_runs.tiny_keys(folder) | {"image_size": 64, "width": 0.02, "epochs": 2} | changes
    return [f"--workdir={workdir}", *(f"--config.{key}={value}" for key, value in keys.items()), *flags]


def ablate_command(folder, workdir, *flags, **changes):
    return [sys.executable, "-m", "zfjax.ablate", *words(folder, workdir, *flags, **changes)]


def said(capsys, *given):
    code = command.run(ablate.main, ["zfjax", *given])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zfjax: ")]
    assert len(lines) == 1, lines
    return code, lines[0]


def full_size(row):
    config = default()
    config.update({"width": 1.0, "image_size": 224})
    return zfjax.layer_table(create_net(row.config(config), 1000))


def test_rows_are_the_papers():
    numbers = [Errors(*map(float, cell.split("/"))) for cell in PAPER.split()]
    assert [row.paper for row in ROWS] == numbers
    assert [row.net for row in ROWS] == ["alexnet"] * 7 + ["zfnet"] * 5
    assert len({row.slug for row in ROWS}) == len({row.name for row in ROWS}) == 12


def test_help_names_every_row_with_its_number():
    told = dict(re.findall(r"(\d+) ((?:alexnet|zfnet)[-\w]*)", ablate.__doc__.split("Rows,")[1]))
    assert told == {str(number): row.slug for number, row in enumerate(ROWS, start=1)}


@pytest.mark.parametrize(
    ("slug", "millions"),
    [
        ("zfnet", 62.36),
        ("zfnet-maps-512-1024-512", 107.6),
        ("zfnet-fc-2048", 28.8),
        ("zfnet-fc-8192", 154.5),
        ("zfnet-both", 237.6),
    ],
)
def test_fig_3s_nets_have_the_papers_parameters(slug, millions):
    (row,) = ablation.select([slug])
    assert sum(layer.parameters for layer in full_size(row)) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("row", ROWS, ids=[row.slug for row in ROWS])
def test_every_row_has_the_parameters_of_its_formula(row):
    """Counted by hand: what goes in, times the window, times what comes out, and the biases."""
    lowest = {"alexnet": 11, "zfnet": 7}[row.net]
    maps = row.edit.get("maps3to5", (384, 384, 256))
    units = row.edit.get("fc_units", 4096)
    left = set(range(1, 9)) - set(row.edit.get("without", ()))
    widths = dict(enumerate((96, 256, *maps, units, units, 1000), start=1))
    windows = dict(enumerate((lowest, 5, 3, 3, 3), start=1))
    coming, expected, below = 3, 0, 0
    for number in sorted(left):
        # A dense layer on maps sees pool5's 6×6; one on units sees each once.
        places = windows[number] ** 2 if number in windows else 36 if below == 5 else 1
        expected += (coming * places + 1) * widths[number]
        coming, below = widths[number], number
    assert sum(layer.parameters for layer in full_size(row)) == expected


def test_select_takes_numbers_and_names_in_the_papers_order():
    assert ablation.select([]) == ROWS
    assert [row.slug for row in ablation.select(["zfnet", "2", "8"])] == ["alexnet-without-3-4", "zfnet"]


def results(**val_top1):
    return {slug.replace("_", "-"): Result(10, Errors(1.0, top1, 2.0)) for slug, top1 in val_top1.items()}


def test_the_table_has_costs_against_the_whole_net_of_the_same_kind():
    done = Ablation(results(alexnet=30.0, alexnet_fc_2048=33.5, zfnet_fc_8192=20.0), {})
    table = ablation.to_table(done, [ROWS[0], ROWS[7]], "T")
    assert len(set(table.header)) == len(table.header)
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(rows) == ["AlexNet", "AlexNet, fc 2048", "Fig. 3", "Fig. 3, fc 8192"]
    assert rows["AlexNet, fc 2048"]["cost"] == 3.5
    assert rows["AlexNet, fc 2048"]["paper: cost"] == pytest.approx(1.2)
    assert rows["Fig. 3"]["val top-1"] is None
    assert rows["Fig. 3"]["paper: val top-1"] == 38.4
    assert rows["Fig. 3, fc 8192"]["cost"] is None  # the whole net is not there


def test_the_table_tells_the_papers_finding_in_numbers_and_what_failed():
    own = results(alexnet=30, alexnet_without_3_4=31, alexnet_without_6_7=32, alexnet_without_3_4_6_7=60)
    table = ablation.to_table(Ablation(own, {"zfnet": "training diverged"}, stopped="zfnet-both"), ROWS, "T")
    assert "cost 1.0 + 2.0 points, without all four 30.0 (paper: 4.9 + 4.3 and 30.8)." in table.note
    assert "Failed: zfnet (training diverged)." in table.note
    assert "Stopped in zfnet-both." in table.note


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--rows=zfnet-fc2048"], "Table 3 has no row 'zfnet-fc2048'; did you mean zfnet-fc-2048? there are 1 to 12"),
        (["--rows=13"], "Table 3 has no row '13'"),
        (["--config.image_size=48"], "row alexnet: image_size=48 is too small for this net: pool5"),
        (["--config.net=zfnet_post"], "net='zfnet_post': the rows of Table 3 set it themselves"),
        (["--config.without=3"], "without=(3,): the rows of Table 3 set it"),
        (["--config.dataset=folder:nowhere"], "nowhere"),
        (["--config.dropout=1"], "dropout=1 must be"),
        (["--config.batch_size=12"], "batch_size=12 does not split over 8 devices"),
        (["--row=1"], "unknown flag --row; did you mean --rows?"),
    ],
)
def test_what_cannot_be_is_named_before_any_training(capsys, folder, tmp_path, flags, expected):
    code, line = said(capsys, *words(folder, tmp_path / "work", *flags))
    assert (code, expected in line) == (2, True), line
    assert not list(tmp_path.glob("work/*/checkpoints"))
    assert not list(tmp_path.glob("work/ablation.*"))


def test_rows_of_another_configuration_are_refused_before_any_training(capsys, folder, tmp_path):
    (tmp_path / "zfnet" / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "zfnet" / "config.json").write_text(json.dumps(as_json(tiny_runs.tiny_config(folder, lr=0.5))))
    code, line = said(capsys, *words(folder, tmp_path))
    assert (code, "lr=0.5 (now 0.01)" in line) == (2, True), line
    assert not (tmp_path / "alexnet" / "checkpoints").exists()


@pytest.fixture
def compiled(tmp_path_factory, monkeypatch):
    """Processes share what they compile: most of the time of so small a run."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.mark.slow
def test_an_ablation_killed_in_one_row_and_stopped_in_the_next_ends_as_an_unbroken_one(folder, tmp_path, compiled):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    rows = f"--rows={FIRST},{SECOND}"
    done = tiny_runs.run(ablate_command(folder, whole, rows))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("row ") == 2
    command = ablate_command(folder, broken, rows)
    tiny_runs.killed(command, signal.SIGKILL, "zfjax.training.loop:Checkpoints.save:2")
    assert not (broken / "ablation.json").exists()
    # In the other row: of this one's 17 steps at most the first three were saved.
    said = tiny_runs.killed(command, signal.SIGTERM, "zfjax.training.loop:train_step:20")
    assert f"stopped in row {FIRST}; the same command goes on" in said.stderr
    assert "written to" in said.stdout
    partial = {row["net"]: row["val top-1"] for row in json.loads((broken / "ablation.json").read_text())["rows"]}
    assert (partial["Fig. 3"], partial["AlexNet without 3, 4, 6, 7"] is None) == (None, False)
    again = tiny_runs.run(ablate_command(folder, broken, rows))
    assert again.returncode == 0, again.stderr
    assert f": {SECOND}" not in again.stderr  # was finished, so neither trained nor scored again
    for row in (FIRST, SECOND):
        assert tiny_runs.same_bits(tiny_runs.final_weights(whole / row), tiny_runs.final_weights(broken / row))
    for kind in ("md", "csv", "json"):
        assert (whole / f"ablation.{kind}").read_text() == (broken / f"ablation.{kind}").read_text()


@pytest.mark.slow
def test_a_row_that_fails_keeps_no_other_from_its_result(capsys, folder, tmp_path, monkeypatch):
    """Trained in this process; the other row's training is made to fail as a diverging one does."""
    train = ablation.train_and_evaluate

    def diverging(config, workdir):
        if config.fc_units:
            raise UserError("training diverged at step 3")
        return train(config, workdir)

    monkeypatch.setattr(ablation, "train_and_evaluate", diverging)
    flags = words(folder, tmp_path, "--rows=alexnet-fc-2048,alexnet-without-3-4-6-7", epochs=1)
    code, line = said(capsys, *flags)
    assert (code, line) == (2, "zfjax: 1 of 2 rows failed: alexnet-fc-2048: training diverged at step 3")
    table = json.loads((tmp_path / "ablation.json").read_text())
    assert "Failed: alexnet-fc-2048 (training diverged at step 3)." in table["note"]
    trained, failed = table["rows"]
    run = read_run(tmp_path / "alexnet-without-3-4-6-7")
    assert failed["val top-1"] is None
    assert trained["parameters"] == sum(row.parameters for row in zfjax.layer_table(load_model(run).net))
    assert "conv3" not in load_model(run).variables["params"]
    _check_errors(tmp_path / run.folder.name, trained)
    # The failed row is tried again; the other is not even opened.
    monkeypatch.setattr(ablation, "train_and_evaluate", lambda config, workdir: pytest.fail(f"trained {workdir}"))
    assert command.run(ablate.main, ["zfjax", *words(folder, tmp_path, "--rows=5", epochs=1)]) == 0
    with (tmp_path / "ablation.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["val top-1"]) == trained["val top-1"]


def _check_errors(workdir, row):
    """The table's errors, counted again picture by picture; and weights from elsewhere are scored anew."""
    run = read_run(workdir)
    model, data = load_model(run), open_data(run.config, run.folder)
    for split, pictures in (("train", data.train), ("val", data.val)):
        squares, labels = pictures.load(np.arange(len(pictures)))
        guesses = np.argmax(softmax_of(model, squares), axis=1)
        assert row[f"{split} top-1"] == pytest.approx(100 * np.mean(guesses != labels))
    assert ablation._read_result(epath.Path(workdir), run.config).errors.train_top1 == row["train top-1"]
    (workdir / "checkpoints" / "99").mkdir()
    assert ablation._read_result(epath.Path(workdir), run.config) is None
    (workdir / "checkpoints" / "99").rmdir()
    run.config.lr = 0.5
    assert ablation._read_result(epath.Path(workdir), run.config) is None

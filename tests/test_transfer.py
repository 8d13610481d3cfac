"""Tables 4 and 5, and Figure 9: frozen layers against from scratch."""

import json
import shutil
import signal

import numpy as np
import pytest
import tiny_runs
from test_plots import ink

from zfjax import train, transfer
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data.pictures import CachedPictures
from zfjax.experiments import transfer as experiment
from zfjax.experiments.ledger import Ledger, fold_key
from zfjax.experiments.linear import SOFTMAX, Fold, classify, draw_fold
from zfjax.experiments.transfer import (
    PAPER,
    Transfer,
    dataset_of_the_paper,
    mean_and_std,
    scratch_config,
    to_table,
)
from zfjax.plots.transfer import plot_transfer
from zfjax.runs.folder import read_run
from zfjax.training import loop
from zfjax.training.config import default, paper

NAN = float("nan")
RESULT = Transfer(
    np.array([15, 45]), np.array([[0.5, 0.7, NAN], [0.8, NAN, NAN]]), np.array([[0.2, 0.4, 0.6], [NAN, NAN, NAN]])
)


# Tables and pictures


def test_mean_and_std_are_over_the_folds_there_are():
    mean, std = mean_and_std(np.array([0.5, 0.7, NAN]))
    assert (mean, std) == pytest.approx((60, np.sqrt(200)))  # n − 1
    assert mean_and_std(np.array([0.5, NAN])) == (50, None)
    assert mean_and_std(np.array([NAN])) == (None, None)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("caltech101", 101, "Caltech-101"),
        ("tfds-Caltech101", 102, "Caltech-101"),
        ("256_caltech", 257, "Caltech-256"),
        ("caltech_birds", 200, None),
        ("pets", 101, None),
    ],
)
def test_the_papers_datasets_are_known_by_name_and_classes(name, classes, expected):
    assert dataset_of_the_paper(name, classes) == expected


def test_the_table_stands_beside_the_papers_where_it_has_the_dataset():
    table = to_table(RESULT, "caltech101", 101)
    assert table.rows[0] == pytest.approx((15, 60, np.sqrt(200), 2, 40, 20, 3, 83.8, 22.8))
    assert table.rows[1] == pytest.approx((45, 80, None, 1, None, None, 0, None, None))
    assert table.header[-2:] == ("paper: pretrained", "paper: from scratch")
    assert len(to_table(RESULT, "pets", 37).header) == 7
    assert [len(row) for row in to_table(RESULT, "pets", 37).rows] == [7, 7]


def test_figure_9_has_a_curve_with_deviations_for_each_way():
    figure = plot_transfer(RESULT, "$caltech_", PAPER["Caltech-101"])
    (axes,) = figure.axes
    (own, own_scratch) = (container.lines[0] for container in axes.containers)
    np.testing.assert_allclose(own.get_xydata(), [[15, 60], [45, 80]])
    np.testing.assert_allclose(own_scratch.get_xydata()[0], [15, 40])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "paper: pretrained",
        "paper: from scratch",
        "pretrained",
        "from scratch",
    ]
    assert 0.01 < ink(figure) < 0.5
    nothing = RESULT._replace(scratch=np.full((2, 3), NAN))
    (axes,) = plot_transfer(nothing, "pets").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["pretrained"]


# What is kept


def test_the_ledger_keeps_results_and_names_a_damaged_file(tmp_path):
    path = tmp_path / "new" / "folds.json"
    Ledger(path).put("a", 0.1 + 0.2)
    Ledger(path).put("b", [[0.5, 1.0]])
    kept = Ledger(path)
    assert (kept.get("a"), kept.get("b"), kept.get("c")) == (0.1 + 0.2, [[0.5, 1.0]], None)
    path.write_text("{")
    with pytest.raises(UserError, match=r"folds.json is damaged .*; remove it"):
        Ledger(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Ledger(tmp_path / "file" / "folds.json").put("a", 1)


def test_what_another_command_kept_meanwhile_stays(tmp_path):
    one, other = Ledger(tmp_path / "folds.json"), Ledger(tmp_path / "folds.json")
    one.put("a", 1)
    other.put("b", 2)
    assert (Ledger(tmp_path / "folds.json").get("a"), other.get("a")) == (1, 1)


def test_features_that_tell_classes_apart_transfer_and_more_images_help():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    features = np.float32(np.eye(4)[labels].repeat(3, axis=1) + rng.normal(size=(120, 12)))
    few, many = (
        np.mean(
            [classify([SOFTMAX], features, labels, draw_fold(labels, count, 8, seed))[0].accuracy for seed in range(3)]
        )
        for count in (2, 20)
    )
    assert 0.25 < few < many
    with pytest.raises(ValueError, match="per_class: expected less than the 30 pictures"):
        draw_fold(labels, 30, 8, 0)


def test_a_key_is_of_the_folds_pictures_and_of_all_else():
    one = Fold(np.array([1, 2]), np.array([3]))
    folds = [one, Fold(np.array([1]), np.array([2, 3])), Fold(np.array([1, 2]), np.array([4]))]
    keys = {fold_key(fold, *parts) for fold in folds for parts in (("a", "b"), ("ab",), ("a", "c"))}
    assert len(keys) == 9
    assert fold_key(one, "a") == fold_key(Fold(*(part.astype(np.int32) for part in one)), "a")


# From scratch


def test_the_control_has_as_many_updates_as_the_run():
    config = default()  # 15 epochs, batches of 64
    changed = scratch_config(config, examples=400, run_examples=8000, epochs=0, seed=3)
    assert (changed.batch_size, changed.seed) == (64, 3)
    assert changed.epochs * 400 / 64 == pytest.approx(config.epochs * 8000 / 64, rel=0.01)
    assert changed.warmup_epochs / changed.epochs == pytest.approx(config.warmup_epochs / config.epochs)
    assert scratch_config(config, 20, 8000, epochs=7, seed=0).batch_size == 16  # of 8 devices
    assert scratch_config(config, 20, 8000, epochs=7, seed=0).epochs == 7
    assert config == default()  # the run's own stays as it was
    with pytest.raises(UserError, match="7 training pictures do not split over 8 devices"):
        scratch_config(config, 7, 8000, epochs=1, seed=0)


def test_no_annealing_by_the_error_on_test_pictures():
    changed = scratch_config(paper(), examples=1515, run_examples=10_000, epochs=3, seed=0)
    assert (changed.plateau_patience, changed.cosine) == (0, True)


def test_the_mean_is_of_the_training_pictures_alone():
    squares = np.random.default_rng(0).integers(0, 256, (70, 5, 5, 3), np.uint8)
    pictures = CachedPictures(squares, np.zeros(70, np.int32), np.arange(70))
    np.testing.assert_allclose(experiment.mean_square(pictures), squares.mean(axis=0), rtol=1e-6)


# The command


def said(capsys, *words):
    """Exit code, and what is on stdout or, where it fails, the line on stderr."""
    code = command.run(transfer.main, ["transfer", *map(str, words)])
    streams = capsys.readouterr()
    errors = [line for line in streams.err.splitlines() if line.startswith("zfjax: ")]
    return code, errors[0] if code else streams.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing --workdir=RUN"),
        (["--workdir=nowhere"], "missing --dataset=DATASET, dataset to transfer to"),
        (["--workdir=nowhere", "--dataset=shapes"], "no run in"),
        (
            ["--workdir=nowhere", "--dataset=shapes", "--per_class=15,x"],
            "--per_class: expected numbers of at least 2, separated by commas, got 'x'",
        ),
        (["--workdir=nowhere", "--dataset=shapes", "--per_class=1"], "of at least 2"),
        (["--workdir=nowhere", "--dataset=shapes", "--folds=0"], "folds"),
    ],
)
def test_what_is_missing_or_wrong_is_named(capsys, words, expected):
    code, line = said(capsys, *words)
    assert code == 2
    assert expected in line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run, and another folder of pictures of the same kinds."""
    root = tmp_path_factory.mktemp("transfer")
    folder = tiny_runs.make_folder(root / "pictures")
    words = tiny_runs.train_command(folder, root / "run", epochs=1, cosine=False)[3:]
    assert command.run(train.main, ["train", *words]) == 0
    return root / "run", tiny_runs.make_folder(root / "caltech", per_class=12, seed=1)


@pytest.mark.slow
def test_a_run_is_transferred_and_an_interrupted_transfer_goes_on(run, tmp_path, capsys, monkeypatch):
    workdir, folder = tmp_path / "run", run[1]
    shutil.copytree(run[0], workdir)
    words = (f"--workdir={workdir}", f"--dataset=folder:{folder}", "--per_class=8,3", "--folds=2", "--scratch_epochs=2")
    out = workdir / "transfer" / "caltech"
    trained = []

    def counting(config, *args, **options):
        trained.append(config.seed)
        return loop.train(config, *args, **options)

    def stopped(trainer, state):
        if len(trained) == 3:
            signal.raise_signal(signal.SIGTERM)
        return running(trainer, state)

    running = loop.Trainer.run
    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "run", stopped)
        patched.setattr(experiment, "train", counting)
        assert command.run(transfer.main, ["transfer", *words]) == 143
    assert "zfjax: stopped in the folds of caltech; the same command goes on from there" in capsys.readouterr().err
    assert len(list(out.glob("scratch/*/checkpoints/[0-9]*"))) == 1
    monkeypatch.setattr(experiment, "train", counting)
    rows = json.loads((out / "transfer_per_class-8-3_folds-2.json").read_text())["rows"]
    assert [row["images per class"] for row in rows] == [3, 8]
    # Partial results are kept: one fold of each was trained from scratch.
    assert [(row["folds"], row["folds of it"]) for row in rows] == [(2, 1), (2, 1)]
    assert all(row["from scratch %"] is not None for row in rows)
    assert all(row["± std of it"] is None for row in rows)
    code, text = said(capsys, *words)
    assert (code, len(trained)) == (0, 5)  # two before, one interrupted, two after
    assert "from scratch %" in text
    with np.load(out / "fig9_per_class-8-3_folds-2.npz") as arrays:
        assert np.isfinite(arrays["scratch"]).all()
        assert np.isfinite(arrays["pretrained"]).all()
    assert (out / "fig9_per_class-8-3_folds-2.pdf").exists()
    assert not list(out.glob("scratch/*/checkpoints"))
    # In Python it is one call; nothing is measured twice.
    protocol = experiment.Protocol(per_class=(3, 8), folds=2, scratch_epochs=2)
    found = experiment.transfer(read_run(workdir), f"folder:{folder}", protocol)
    with np.load(out / "fig9_per_class-8-3_folds-2.npz") as arrays:
        assert all(np.array_equal(arrays[name], value) for name, value in found._asdict().items())
    assert len(trained) == 5
    code, _ = said(capsys, *words[:-1], "--noscratch", "--layer=2")  # without --scratch_epochs
    assert code == 0
    assert "frozen up to layer 2" in (out / "transfer_per_class-8-3_folds-2_layer-2.md").read_text()


@pytest.mark.slow
def test_a_run_cannot_transfer_to_what_is_not_enough(run, capsys):
    workdir, folder = run
    code, line = said(capsys, f"--workdir={workdir}", f"--dataset=folder:{folder}", "--per_class=3,12")
    assert (code, "class 'circles' of caltech has 12 readable images, too few for 12 to train on" in line) == (2, True)
    code, line = said(
        capsys, f"--workdir={workdir}", f"--dataset=folder:{folder}", "--per_class=3", "--layer=8", "--noscratch"
    )
    assert (code, "layer 8: expected 1 to 7" in line) == (2, True)
    code, line = said(capsys, f"--workdir={workdir}", "--dataset=folder:nowhere")
    assert (code, "not there" in line) == (2, True)

"""Table 7: an SVM and a softmax on each layer."""

import json

import numpy as np
import pytest
import tiny_runs
from test_plots import ink

from zfjax import probe, train
from zfjax.console import command
from zfjax.experiments import linear, probing
from zfjax.experiments.linear import SOFTMAX, SVM, draw_fold
from zfjax.experiments.probing import Probing, to_table
from zfjax.plots.probing import plot_probing

NAMES = ("norm1", "norm2", "relu3", "relu4", "pool5", "relu6", "relu7")


def test_a_layer_that_tells_classes_apart_probes_better_than_noise():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    told = (np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))).astype(np.float32)
    noise = rng.normal(size=(60, 100)).astype(np.float32)
    for seed in range(2):
        fold = draw_fold(labels, 8, 50, seed)
        assert all(score.accuracy == 1 for score in linear.classify((SVM, SOFTMAX), told, labels, fold))
        assert all(score.accuracy < 0.65 for score in linear.classify((SVM, SOFTMAX), noise, labels, fold))


def some_result():
    accuracies = np.linspace(0.1, 0.8, 14).reshape(7, 2)
    return Probing(NAMES, accuracies, accuracies / 2)


def test_the_table_stands_beside_the_papers_where_the_protocol_is_the_papers():
    table = to_table(some_result(), "caltech101", 101, 30)
    assert table.header[-2:] == ("paper: SVM", "paper: softmax")
    assert [row[-2:] for row in table.rows[4:]] == [(86.2, 82.9), (None, None), (85.5, 85.4)]
    assert table.rows[0][0] == "1 (norm1)"
    assert table.rows[6][1] == pytest.approx(100 * np.mean(some_result().svm[6]))
    assert "2 folds" in table.note
    for name, classes, per_class in (("caltech101", 101, 15), ("pets", 101, 30), ("caltech", 256, 30)):
        assert len(to_table(some_result(), name, classes, per_class).header) == 5


def test_the_plot_has_a_curve_for_each_classifier_and_a_tick_for_each_layer():
    svm = np.array(some_result().svm)
    svm[3:] = np.nan  # not measured yet
    (axes,) = plot_probing(Probing(NAMES, svm, some_result().softmax), "$caltech_").axes
    assert [label.get_text() for label in axes.get_xticklabels()][4] == "5\npool5"
    first, second = (container.lines[0].get_ydata() for container in axes.containers)
    np.testing.assert_allclose(first[:3], 100 * svm[:3].mean(axis=1))
    assert np.isnan(first[3:]).all()
    np.testing.assert_allclose(second, 50 * some_result().svm.mean(axis=1))
    assert 0.01 < ink(axes.figure) < 0.5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing --workdir=RUN"),
        (["--workdir=nowhere"], "no run in"),
        (["--workdir=nowhere", "--per_class=1"], "per_class"),
    ],
)
def test_what_is_missing_or_wrong_is_named(capsys, words, expected):
    assert command.run(probe.main, ["probe", *words]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_probed_on_pictures_it_has_not_seen_and_an_interrupted_probing_goes_on(tmp_path, capsys, monkeypatch):
    """Of its own dataset only the val split is used."""
    folder = tmp_path / "pictures"
    tiny_runs.make_folder(folder / "train")
    tiny_runs.make_folder(folder / "val", per_class=10, seed=1)
    workdir = tmp_path / "run"
    words = tiny_runs.train_command(folder, workdir, epochs=1, cosine=False)[3:]
    assert command.run(train.main, ["train", *words]) == 0
    done = []

    classify = linear.classify

    def counting(kinds, features, labels, fold, **options):
        done.append(len(labels))
        if len(done) == 9:
            raise KeyboardInterrupt
        return classify(kinds, features, labels, fold, **options)

    monkeypatch.setattr(probing, "classify", counting)
    flags = ["probe", f"--workdir={workdir}", "--per_class=6", "--folds=2"]
    assert command.run(probe.main, flags) == 130
    rows = json.loads((workdir / "probe" / "pictures-val" / "probe_per_class-6_folds-2.json").read_text())["rows"]
    assert [row["layer"].split()[0] for row in rows] == list("1234567")
    assert all(row["SVM %"] is not None for row in rows)  # partial results are kept
    assert [row["± std"] is None for row in rows] == [False] + [True] * 6
    assert command.run(probe.main, flags) == 0
    assert len(done) == 15  # 14 of them came to an end
    assert set(done) == {30}  # of val alone
    assert "softmax %" in capsys.readouterr().out
    assert (workdir / "probe" / "pictures-val" / "probe_per_class-6_folds-2.png").exists()
    assert command.run(probe.main, [*flags[:2], "--per_class=10"]) == 2
    assert "class 'circles' of pictures-val has 10 readable images" in capsys.readouterr().err

"""Damaged files one by one, without a run: the scan, lines of metrics, kept results."""

import random

import numpy as np
import pytest
from damages import KINDS, attempt, damage
from etils import epath

from zfjax.atlas import build
from zfjax.console import sealed
from zfjax.console.errors import UserError
from zfjax.console.files import write_json
from zfjax.data import record
from zfjax.experiments import ablation
from zfjax.experiments.ledger import Ledger
from zfjax.training.config import default
from zfjax.training.metrics import FILE, read_metrics


@pytest.mark.parametrize(
    "line",
    [
        *("", "\0\0", "[1]", "7", "null", "{}", '{"step": 1', '{"step": "1"}', '{"step": 1.5}', '{"step": true}'),
        *('{"step": 1, "loss": "x"}', '{"step": 1, "loss": [1]}', '{"step": 1, "loss": 1e999}', "[" * 100_000),
        *('{"step": 1' + "0" * 5000 + "}", '{"step": 1' + "0" * 30 + "}", "\xe9", '{"loss": 1}'),
    ],
    ids=range(18),
)
def test_a_line_that_is_no_record_is_left_out_and_counted(tmp_path, capsys, line):
    good = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": null}']
    (tmp_path / FILE).write_bytes(b"\n".join([good[0], line.encode("latin-1"), good[1]]) + b"\n")
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    assert f"{tmp_path / FILE}: 1 of its 3 lines are damaged and left out" in capsys.readouterr().err


def test_a_damaged_scan_is_equal_or_named(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.integers(0, 3, size, dtype=np.int32) for size in (90, 10))
    mean = rng.uniform(0, 255, (40, 40, 3)).astype(np.float32)
    record.write(record.all_readable(mean, *labels)._replace(notes=np.array(["3 files are left out"])), tmp_path)
    whole, wanted = (tmp_path / record.FILE).read_bytes(), record.read(tmp_path)
    refused = 0
    for seed in range(1000):
        rng = random.Random(seed)
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 4))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / record.FILE).write_bytes(content[: rng.choice((len(content), len(content), rng.randrange(1, 999)))])
        found, error = attempt(record.read, tmp_path)
        assert error.startswith(f"{tmp_path / record.FILE} is damaged (") if error else found.equals(wanted)
        refused += bool(error)
    assert refused > 500


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.zeros((4, 5, 3), np.float32)},
        {"mean": np.zeros((4, 4, 1), np.float32)},
        {"mean": np.zeros((4, 4, 3), np.float64)},
        {"mean": np.full((4, 4, 3), np.nan, np.float32)},
        {"mean": np.float32(3)},
        {"train_labels": np.zeros((2, 2), np.int32)},
        {"train_labels": np.array([0, -1], np.int32)},
        {"train_labels": np.array([0.0, 1.0])},
        {"train_labels": np.array(["a", "b"])},
        {"train_labels": np.array([{}, 1], object)},
        {"val_broken": np.array([2], np.int64)},
        {"train_broken": np.array([1, 0], np.int64)},
        {"train_broken": np.array([-1], np.int64)},
        {"messages": np.array(["one", "two"])},
        {"messages": np.array([1])},
        {"notes": np.array([1])},
        {"more": np.zeros(1)},
        {"val_labels": None},
    ],
    ids=str,
)
def test_a_scan_that_no_scan_finds_is_refused(tmp_path, changes):
    whole = record.Record(
        np.zeros((4, 4, 3), np.float32),
        *(np.array([0, 1], np.int32), np.array([1, 0], np.int32)),
        *(np.array([1], np.int64), np.zeros(0, np.int64)),
        np.array(["b.png: broken"]),
    )
    record.write(whole, tmp_path)
    assert record.read(tmp_path).equals(whole)
    arrays = {name: value for name, value in {**whole._asdict(), **changes}.items() if value is not None}
    np.savez(tmp_path / record.FILE, **arrays)
    with pytest.raises(UserError, match=r"scan\.npz is damaged .*; remove it to scan the dataset again"):
        record.read(tmp_path)


@pytest.mark.parametrize(("kind", "seed"), [*((kind, 0) for kind in KINDS), *(("flipped", seed) for seed in range(9))])
def test_damaged_results_are_equal_or_made_again_or_named(tmp_path, kind, seed):
    """Of transfer and probe, of ablate, and the list of an atlas' files."""
    ledger = tmp_path / "folds.json"
    Ledger(ledger).put("scratch", 0.1 + 0.2)
    Ledger(ledger).put("probe", [[0.5, 1.0]])
    damage(ledger, kind, seed)
    found, error = attempt(Ledger, ledger)
    if error:
        assert error.startswith(f"{ledger} is damaged (")
        assert error.endswith("; remove it to measure its folds again")
    else:
        assert found.get("scratch") in (0.1 + 0.2, None)
        assert found.get("probe") in ([[0.5, 1.0]], None)
        assert found.get_or("probe", lambda: [[0.5, 1.0]]) == [[0.5, 1.0]]

    result = ablation.Result(3, ablation.Errors(1.0, 2.0, 3.0))
    ablation._write_result(epath.Path(tmp_path), default(), -1, result)
    assert ablation._read_result(epath.Path(tmp_path), default()) == result
    damage(tmp_path / ablation.RESULT, kind, seed)
    assert ablation._read_result(epath.Path(tmp_path), default()) in (result, None)

    atlas = tmp_path / "atlas"
    write_json(atlas / build.MARK, sealed.seal({"zfjax": "0.1.0", "files": ["index.html"]}))
    (atlas / "index.html").touch()
    build.require_free(atlas)
    damage(atlas / build.MARK, kind, seed)
    _, error = attempt(build.require_free, atlas)
    assert not error or str(atlas / build.MARK) in error


def test_results_from_before_they_were_sealed_are_kept(tmp_path):
    (tmp_path / "folds.json").write_text('{"scratch": 0.25, "probe": [["x"]], "digest": {}}')
    old = Ledger(tmp_path / "folds.json")
    assert (old.get("scratch"), old.get("probe"), old.get("digest")) == (0.25, None, None)


@pytest.mark.parametrize(
    "value", [None, [1], 7, "x", sealed.seal({"a": 1}) | {"a": 2}, sealed.seal({"a": 1}) | {"b": 2}]
)
def test_what_was_not_sealed_so_is_refused(value):
    with pytest.raises(ValueError, match=r"expected an object|not what was written"):
        sealed.unseal(value)

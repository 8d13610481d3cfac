"""Damaged files in a run's folder: what is read is equal, or one line says which file; nothing whole is set aside.

One tiny run is trained; each case damages a copy of it, and reads it in this process.
"""

import dataclasses
import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from damages import KINDS, attempt, damage, mend

from zfjax.console.errors import UserError
from zfjax.data import record
from zfjax.runs.folder import load_model, read_run
from zfjax.runs.training import train_and_evaluate
from zfjax.runs.written import CLASSES, CONFIG
from zfjax.training.checkpoints import CHECKPOINTS, Checkpoints, _saved
from zfjax.training.config import FREE_KEYS, as_json
from zfjax.training.metrics import FILE, read_metrics

pytestmark = pytest.mark.slow

NEWEST = 9  # steps of the run's checkpoints: 5 (the best), 6, 9


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished run, its configuration, and how it ended."""
    pictures = tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures", per_class=12)
    config = tiny_runs.tiny_config(pictures, epochs=2)
    workdir = tmp_path_factory.mktemp("run")
    outcome = train_and_evaluate(config, workdir)
    assert outcome.step == NEWEST
    return workdir, config, outcome


@pytest.fixture(scope="module", autouse=True)
def blank_states():
    with tiny_runs.shapes_traced_once():
        yield


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(trained[0], tmp_path / "run")


def everything(workdir):
    """What the results of commands depend on: configuration, classes, mean image, weights."""
    found = read_run(workdir)
    config = {key: value for key, value in as_json(found.config).items() if key not in {"dataset", *FREE_KEYS}}
    return config, found.classes, found.mean, jax.tree.leaves(load_model(found).variables)


def equal(one, two):
    return jax.tree.structure(one) == jax.tree.structure(two) and jax.tree.all(jax.tree.map(np.array_equal, one, two))


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "tensorboard" not in path.parts)


SMALL = (CONFIG, CLASSES, record.FILE)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("sealed_run", [True, False], ids=["sealed", "older"])
def test_a_damaged_small_file_is_read_from_the_checkpoints_or_named(trained, run, capsys, name, sealed_run):
    """Without a seal, as an older zfjax wrote checkpoints, more must be refused, but as little goes unnoticed."""
    if not sealed_run:
        unseal(run)
    whole, wanted = (run / name).read_bytes(), everything(trained[0])
    for kind, seed in [(kind, 0) for kind in KINDS] + [("flipped", seed) for seed in range(1, 40)]:
        damage(run / name, kind, seed)
        before = names_in(run)
        capsys.readouterr()
        found, error = attempt(everything, run)
        if error:
            assert name in error, kind
            assert "\n" not in error, kind
            assert len(error) < 500, kind
            assert not sealed_run or name == record.FILE, kind
        else:
            assert equal(found, wanted) or (not sealed_run and kind in UNSEEN[name]), kind
            assert not sealed_run or name in capsys.readouterr().err or kind == "flipped", kind
        assert names_in(run) == before, kind
        mend(run / name, kind, whole)


# What cannot be known without a seal: another name for a class, another value of a key.
UNSEEN = {CONFIG: {"flipped", "no object"}, CLASSES: {"flipped", "other names"}, record.FILE: set()}


def unseal(run):
    """Makes a run's checkpoints those of a zfjax that kept no seals."""
    for path in run.glob(f"{CHECKPOINTS}/*/_CHECKPOINT_METADATA"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {}}))


@pytest.fixture(scope="module")
def states(trained):
    """What each checkpoint of the whole run holds, by step, on the host as commands have it; None: a state to fill."""
    workdir, _, outcome = trained
    state = outcome.state
    blank = jax.tree.map(lambda leaf: leaf if leaf is state.key else np.zeros_like(leaf), state)
    with Checkpoints(workdir / CHECKPOINTS, create=False) as checkpoints:
        assert checkpoints.steps() == [5, 6, NEWEST]
        return {None: blank} | {step: checkpoints.restore(blank, step) for step in checkpoints.steps()}


def restored(run, states):
    """The step of the newest whole checkpoint, whose content is as it was saved."""
    with Checkpoints(run / CHECKPOINTS, create=False) as checkpoints:
        state = checkpoints.restore_latest(states[None])
    step = int(state.step)
    assert equal(_saved(state), _saved(states[step]))
    return step


def said_by(capfd):
    """The lines on stderr, all of them zfjax's own."""
    lines = capfd.readouterr().err.splitlines()
    assert all(line.startswith("zfjax: ") for line in lines), lines
    return "\n".join(lines)


def test_arrays_are_those_that_orbax_reads(trained, states):
    saved = tiny_runs.final_weights(trained[0])
    del saved["step"]
    ours = jax.tree.leaves(_saved(states[NEWEST]) | {"step": None, "plateau": None})
    assert len(ours) == len(saved)
    assert {value.tobytes() for value in saved.values()} == {np.asarray(value).tobytes() for value in ours}


@pytest.mark.parametrize("sealed_run", [True, False], ids=["sealed", "older"])
def test_a_damaged_file_of_a_checkpoint_changes_nothing_or_is_said(run, states, capfd, sealed_run):
    if not sealed_run:
        unseal(run)
    newest, before = run / CHECKPOINTS / str(NEWEST), names_in(run)
    for name in [str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()]:
        whole, readable = (newest / name).read_bytes(), name in ("_CHECKPOINT_METADATA", "metrics/metrics")
        for kind in KINDS if readable else ("cut", "empty", "zeros", "flipped", "deleted", "folder", "pipe", "loop"):
            if kind == "flipped" and not sealed_run:
                continue  # nobody could know
            damage(newest / name, kind)
            step = restored(run, states)
            said = said_by(capfd)
            assert (step == NEWEST) or f"checkpoint {newest} is damaged: " in said, (name, kind)
            assert (step == NEWEST) == ("using the checkpoint before it, of step 6" not in said), (name, kind)
            assert not readable or step == NEWEST, (name, kind)
            mend(newest / name, kind, whole)
    assert names_in(run) == before


def test_one_flipped_bit_never_gives_other_weights(run, states, capfd):
    newest = run / CHECKPOINTS / str(NEWEST)
    data = max(newest.glob("default/ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    noticed = unlike_seal = 0
    for seed in range(60):
        damage(data, "flipped", seed)
        step = restored(run, states)  # checks the arrays: a bit that no array uses changes none
        said = said_by(capfd)
        assert ("is damaged" in said) == (step == 6)
        noticed += step == 6
        # A few bits are of a block's header; Orbax lays the file out anew in each run, so which ones differs.
        unlike_seal += "its arrays are not those that were saved" in said
        data.write_bytes(whole)
    assert noticed > 50
    assert unlike_seal > 30
    assert restored(run, states) == NEWEST


@pytest.mark.parametrize("name", ["", "default", "default/d", "default/ocdbt.process_0"])
@pytest.mark.parametrize("file", [False, True], ids=["empty", "file"])
def test_a_newest_checkpoint_without_its_folders_leaves_the_older_ones_whole(run, states, capfd, name, file):
    folder = run / CHECKPOINTS / "9" / name
    shutil.rmtree(folder)
    folder.write_text("") if file else folder.mkdir()
    assert restored(run, states) == 6
    assert f"checkpoint {run / CHECKPOINTS / '9'} is damaged" in said_by(capfd)


def test_a_file_in_place_of_all_checkpoints_is_named(run):
    shutil.rmtree(run / CHECKPOINTS)
    (run / CHECKPOINTS).write_text("")
    for create in (True, False):
        with pytest.raises(UserError, match=f"{run / CHECKPOINTS} is not a folder"):
            Checkpoints(run / CHECKPOINTS, create=create)
    with pytest.raises(UserError, match="is not a folder"):
        load_model(read_run(run))


@pytest.mark.parametrize("target", ["not-mounted", CHECKPOINTS])
def test_checkpoints_on_a_disk_that_is_not_there_are_no_new_run(trained, run, target):
    """Or a circle of links: another configuration would be taken for the correction of a failed start."""
    shutil.rmtree(run / CHECKPOINTS)
    (run / CHECKPOINTS).symlink_to(run / target)
    config = (run / CONFIG).read_bytes()
    for changes in ({}, {"lr": 0.5}):
        with pytest.raises(UserError, match=f"^{run / CHECKPOINTS} leads nowhere; it should hold the run's"):
            train_and_evaluate(tiny_runs.tiny_config(run, **as_json(trained[1]) | changes), run)
    with pytest.raises(UserError, match="leads nowhere"):
        read_run(run)
    assert (run / CONFIG).read_bytes() == config
    assert (run / CHECKPOINTS).is_symlink()


def test_a_checkpoint_under_another_name_is_not_the_one_of_that_step(run, states, capfd):
    newest = run / CHECKPOINTS / str(NEWEST)
    newest.rename(run / CHECKPOINTS / "90")
    assert restored(run, states) == 6
    said = said_by(capfd)
    assert f"checkpoint {run / CHECKPOINTS / '90'} is damaged: it is the one of step 9, under another name" in said


def test_what_lies_in_place_of_the_best_checkpoint_is_said(run, capfd):
    shutil.rmtree(run / CHECKPOINTS / "5")
    (run / CHECKPOINTS / "5").write_text("")
    assert load_model(read_run(run), "best").step in (6, NEWEST)
    assert f"checkpoint {run / CHECKPOINTS / '5'} is damaged: it is no folder" in said_by(capfd)


def test_what_may_not_be_read_is_not_called_damaged(trained, run, states, capfd, monkeypatch):
    """It may be whole: nothing is set aside, and no other run is looked for."""
    denied, stat = [run / CHECKPOINTS / str(NEWEST) / "default"], os.stat

    def refusing(path, *args, **options):
        if any(str(path).startswith(str(one)) for one in denied):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refusing)  # tests may run as root, who is never refused
    with pytest.raises(UserError, match=f"^cannot read {denied[0]}: Permission denied$"):
        restored(run, states)
    for name in SMALL:
        denied[:] = [run / name]
        _, error = attempt(everything, run)
        assert f"{run / name} cannot be read (Permission denied)" in error + capfd.readouterr().err
    denied[:] = [run]
    with pytest.raises(UserError, match=rf"^{run / CONFIG} cannot be read \(Permission denied\)$"):
        read_run(run)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_in_place_of_the_newest_checkpoint_is_set_aside(run, states, capfd, kind):
    newest = run / CHECKPOINTS / str(NEWEST)
    shutil.rmtree(newest)
    newest.symlink_to("nowhere") if kind == "link" else os.mkfifo(newest)
    with Checkpoints(run / CHECKPOINTS) as checkpoints:
        state = checkpoints.restore_latest(states[None])
        assert int(state.step) == 6
        checkpoints.save(dataclasses.replace(state, step=jnp.int32(NEWEST)))
    assert newest.is_dir()
    assert os.path.lexists(run / CHECKPOINTS / f"{NEWEST}.damaged")
    assert f"checkpoint {newest} is damaged: its folder default is missing" in said_by(capfd)


def test_what_else_lies_among_checkpoints_is_left_alone(run, states, capfd):
    for name in ("007", "²", "x", "14.damaged"):
        (run / CHECKPOINTS / name).mkdir()
    assert restored(run, states) == NEWEST
    assert read_run(run).classes == tiny_runs.CLASSES
    assert not said_by(capfd)


def test_a_checkpoint_of_another_net_is_not_called_damaged(run, states, capfd):
    other = dataclasses.replace(states[None], params={"conv1": states[None].params["conv1"]})
    for _ in range(2):
        with (
            Checkpoints(run / CHECKPOINTS, create=False) as checkpoints,
            pytest.raises(UserError, match="is of another net than config"),
        ):
            checkpoints.restore_latest(other)
        unseal(run)
        wider = jnp.zeros((7, 7, 3, 6))
        other = dataclasses.replace(states[None], params=states[None].params | {"conv1": {"kernel": wider}})
    assert not said_by(capfd)


def test_the_best_is_kept_and_found_whatever_became_of_its_metrics(run, states, capfd):
    for path in run.glob(f"{CHECKPOINTS}/*/metrics/metrics"):
        path.write_text("[")
    with Checkpoints(run / CHECKPOINTS) as checkpoints:
        assert checkpoints.best_step() == 5
        for step in (10, 11, 12):
            checkpoints.save(dataclasses.replace(states[NEWEST], step=jnp.int32(step)), 0.1)
        checkpoints.wait()
        assert checkpoints.steps() == [5, 11, 12]
    assert not said_by(capfd)


@pytest.mark.parametrize("text", ["[", "[]", "{}", '{"val_top1": null}', '{"val_top1": NaN}', '{"val_top1": "x"}'])
def test_metrics_of_an_older_checkpoint_that_are_damaged_are_named(run, capfd, text):
    unseal(run)
    damaged = run / CHECKPOINTS / "5" / "metrics" / "metrics"
    damaged.write_text(text)
    with Checkpoints(run / CHECKPOINTS, create=False) as checkpoints:
        assert checkpoints.best_step() == NEWEST
    assert f"{damaged} is damaged" in said_by(capfd)


def test_damaged_checkpoints_are_set_aside_once_each(run, states, capfd):
    for step in (20, 21):
        with Checkpoints(run / CHECKPOINTS) as checkpoints:
            state = checkpoints.restore_latest(states[None])
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)))
            checkpoints.wait()
        shutil.rmtree(run / CHECKPOINTS / str(step) / "default")
        (run / CHECKPOINTS / str(step)).rename(run / CHECKPOINTS / "30")
    names = {path.name for path in (run / CHECKPOINTS).iterdir()}
    assert {"30", "30.damaged"} <= names
    with Checkpoints(run / CHECKPOINTS) as checkpoints:
        checkpoints.save(checkpoints.restore_latest(states[None]))
    assert {"30.damaged", "30.damaged.2"} <= {path.name for path in (run / CHECKPOINTS).iterdir()}
    said_by(capfd)


def test_a_damaged_run_goes_on_to_the_same_weights(trained, run, capfd):
    newest = run / CHECKPOINTS / str(NEWEST)
    damage(max(newest.glob("default/ocdbt.process_0/d/*"), key=lambda path: path.stat().st_size), "zeros")
    assert load_model(read_run(run)).step == 6
    (run / CHECKPOINTS / "6" / "metrics" / "metrics").write_text("")
    (run / CONFIG).write_text("[1]")
    (run / CLASSES).write_text("null")
    (run / record.FILE).unlink()
    lines = (run / FILE).read_bytes().splitlines()
    (run / FILE).write_bytes(b"\n".join([lines[0], b"", bytes(9), *lines[1:], lines[-1][:7]]))
    capfd.readouterr()
    train_and_evaluate(trained[1], run)
    said = capfd.readouterr().err
    assert f"checkpoint {newest} is damaged: " in said
    assert "using the checkpoint before it, of step 6" in said
    assert f"{run / CONFIG} is damaged" in said
    assert f"{run / FILE}: 3 of its 9 lines are damaged and left out" in said
    assert tiny_runs.same_bits(tiny_runs.final_weights(run), tiny_runs.final_weights(trained[0]))
    assert (run / CHECKPOINTS / f"{NEWEST}.damaged").is_dir()
    for name in (CONFIG, CLASSES):
        assert (run / name).read_bytes() == (trained[0] / name).read_bytes()
    steps = [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(run)]
    assert steps == [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(trained[0])]


def test_a_run_without_its_config_goes_on_as_it_was_or_not_at_all(trained, run):
    (run / CONFIG).unlink()
    for changes in ({"lr": 0.02}, {"seed": 1}):
        with pytest.raises(UserError, match=f"holds a run with {next(iter(changes))}="):
            tiny_runs.begin(run, tiny_runs.tiny_config(run, **as_json(trained[1]) | changes))
        assert not (run / CONFIG).exists()
    tiny_runs.begin(run, trained[1])
    assert (run / CONFIG).read_bytes() == (trained[0] / CONFIG).read_bytes()
    unseal(run)
    (run / CONFIG).unlink()
    with pytest.raises(UserError, match=r"holds checkpoints, but no config\.json"):
        tiny_runs.begin(run, trained[1])


@pytest.mark.parametrize("gone", [(CONFIG,), (CONFIG, record.FILE)], ids=["config", "config and scan"])
@pytest.mark.parametrize("pictures", ["other classes", "others", "relabeled"])
def test_a_run_without_its_files_goes_on_with_its_own_pictures_alone(trained, run, tmp_path, pictures, gone):
    """Other ones are refused, by classes, by content or, if other files are gone too, by the checkpoints' copies."""
    for name in gone:
        (run / name).unlink()
    if pictures == "relabeled":  # has the same mean image
        there = shutil.copytree(trained[1].dataset.removeprefix("folder:"), tmp_path / "there")
        one, two = there / "noise" / "004.png", there / "stripes" / "004.png"
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
    else:
        there = tiny_runs.make_folder(tmp_path / "there", per_class=12, seed=1)
    if pictures == "other classes":
        (there / "noise").rename(there / "dots")
    config = tiny_runs.tiny_config(run, **as_json(trained[1]) | {"dataset": f"folder:{there}"})
    before = names_in(run)
    with pytest.raises(UserError, match=r"are no longer those of|have changed since|of the run's checkpoints"):
        train_and_evaluate(config, run)
    assert names_in(run) == before


def test_metrics_that_changed_are_said_and_do_not_stop_a_run(trained, run, capfd):
    text = (run / FILE).read_text()
    at = text.index('"loss": ') + len('"loss": ')
    (run / FILE).write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])
    capfd.readouterr()
    assert train_and_evaluate(trained[1], run).scores == trained[2].scores
    assert f"{run / FILE} has changed or lost lines up to step {NEWEST}" in capfd.readouterr().err
    (run / FILE).unlink()
    (run / FILE).mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged \(expected a file, found a folder\); move"):
        train_and_evaluate(trained[1], run)

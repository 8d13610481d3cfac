"""The train step, the annealing, the scores, and what a run writes; all in this process, in seconds."""

import dataclasses
import errno
import functools
import json
import math
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from compiles import compiles
from devices import ON_CPU, assert_same, eight_devices, tolerance

from zfjax.console.errors import UserError
from zfjax.data.crops import ten_crops
from zfjax.data.pipeline import Batch
from zfjax.experiments import evaluation
from zfjax.runs.folder import load_model, read_run
from zfjax.runs.training import train_and_evaluate
from zfjax.training import loop, sharding
from zfjax.training.checkpoints import Checkpoints
from zfjax.training.config import default, paper
from zfjax.training.loop import Schedule
from zfjax.training.metrics import MetricsLog, StepRecorder, read_metrics
from zfjax.training.scoring import Scores, Trained, score, score_together, softmax_of
from zfjax.training.state import anneal, create_state, learning_rate
from zfjax.training.step import StepMetrics, count_right, train_step

SIDE = 55  # of the squares for 48 px images
FEW = {"without": (3, 4, 5)}  # layers, but each kind is left: most tests have steps of their own to compile


def small_config(**changes):
    config = default()
    config.update({"image_size": 48, "width": 0.05, "batch_size": 8} | FEW | changes)
    return config


def small_batch(n=8, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
    return Batch(image, rng.integers(0, classes, n, dtype=np.int32), np.ones(n, np.float32))


def small_state(**changes):
    """A fresh copy, since steps donate it; of one template, since another would be compiled again."""
    return jax.tree.map(jnp.copy, _template(tuple(sorted(changes.items()))))


@functools.cache
def _template(changes):
    mean = np.full((SIDE, SIDE, 3), 128, np.float32)
    return create_state(small_config(**dict(changes)), 3, mean, steps_per_epoch=10.0)


# The step


def test_steps_lower_the_loss_on_one_batch():
    state, batch = small_state(lr=0.003), small_batch()
    brighter = batch.image // 4 + 90 * batch.label[:, None, None, None].astype(np.uint8)  # there is something to learn
    batch = batch._replace(image=brighter)
    losses = []
    for _ in range(30):
        state, metrics = train_step(state, batch)
        losses.append(float(metrics.loss))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert int(state.step) == 30


def test_a_step_is_a_function_of_state_and_batch():
    (one, _), (two, _) = (train_step(small_state(), small_batch()) for _ in range(2))
    (other, _) = train_step(small_state(seed=1), small_batch())
    assert_same((one.params, one.opt_state), (two.params, two.opt_state))  # the state of Adam shows the gradient
    assert not np.array_equal(one.params["fc6"]["kernel"], other.params["fc6"]["kernel"])


def test_the_state_is_donated():
    state = small_state()
    train_step(state, small_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_filters_stay_within_the_radius_and_units_do_not():
    state = small_state(lr=0.1, adam=False, filter_radius=0.05, init_std=0.2)
    state, _ = train_step(state, small_batch())
    for name, layer in state.params.items():
        rms = np.sqrt(np.mean(np.square(layer["kernel"]), axis=tuple(range(layer["kernel"].ndim - 1))))
        if name.startswith("conv"):
            assert rms.max() <= 0.05 * (1 + 1e-5)
        else:
            assert rms.max() > 0.05


def test_bfloat16_trains_with_float32_weights():
    state, metrics = train_step(small_state(dtype="bfloat16"), small_batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert math.isfinite(float(metrics.loss))


@pytest.mark.parametrize("adam", [True, False])
def test_annealing_scales_the_first_update(adam):
    """Whatever the rule: half the rate is half the step."""
    updates = []
    for scale in (1.0, 0.5):
        state = small_state(adam=adam, filter_radius=0.0, cosine=False, warmup_epochs=0.0)
        before = jax.tree.map(np.asarray, state.params)
        state = dataclasses.replace(state, plateau=state.plateau._replace(scale=jnp.float32(scale)))
        state, metrics = train_step(state, small_batch())
        assert float(metrics.lr) == pytest.approx(scale * state.rate(0))
        updates.append(np.asarray(state.params["fc8"]["bias"]) - before["fc8"]["bias"])
    assert np.all(updates[0])
    np.testing.assert_allclose(updates[1], 0.5 * updates[0], rtol=1e-4)


def test_weight_decay_pulls_kernels_and_leaves_biases():
    """By SGD's first step: minus rate times decay times the weights."""
    steps = {}
    for decay in (0.0, 0.1):
        state = small_state(adam=False, filter_radius=0.0, cosine=False, warmup_epochs=0.0, lr=0.1, weight_decay=decay)
        params = {name: layer | {"bias": layer["bias"] + 0.01} for name, layer in state.params.items()}  # not 0
        state = dataclasses.replace(state, params=params)
        before = jax.tree.map(np.asarray, state.params)
        state, _ = train_step(state, small_batch())
        steps[decay] = jax.tree.map(lambda new, old: np.asarray(new) - old, state.params, before)
    for name, layer in before.items():
        pulled = steps[0.1][name]["kernel"] - steps[0.0][name]["kernel"]
        np.testing.assert_allclose(pulled, -0.01 * layer["kernel"], atol=tolerance(1e-6))
        # To what two programs round, a hundredth of what decay would take.
        np.testing.assert_allclose(steps[0.1][name]["bias"], steps[0.0][name]["bias"], rtol=0, atol=tolerance(1e-6))


@eight_devices
def test_a_batch_over_eight_devices_gives_the_gradient_of_one():
    mesh = sharding.data_mesh()
    one, _ = train_step(small_state(), small_batch())
    eight, _ = train_step(sharding.replicate(small_state(), mesh), sharding.place(small_batch(), mesh))
    # Adam's state, which holds the gradient: the first step has a rate of 0.
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(eight.opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


# Schedules


def test_learning_rate_warms_up_and_falls_to_zero():
    config = small_config(lr=0.1, warmup_epochs=1.0, cosine=True, epochs=4)
    rate = learning_rate(config, 10.0)
    assert [round(float(rate(step)), 4) for step in (0, 5, 10, 40)] == [0.0, 0.05, 0.1, 0.0]
    assert float(learning_rate(small_config(lr=0.1, cosine=False), 10.0)(1000)) == pytest.approx(0.1)
    assert float(learning_rate(small_config(lr=0.1, warmup_epochs=0.0, epochs=4), 10.0)(0)) == pytest.approx(0.1)


def test_annealing_divides_after_patience_epochs_without_a_better_error():
    config = small_config(plateau_patience=2, plateau_factor=0.1)
    state = create_state(config, 3, np.zeros((SIDE, SIDE, 3), np.float32), 10.0)
    scales = []
    for error in (0.9, 0.8, 0.8, 0.81, 0.7, 0.75, 0.72):
        state = anneal(config, state, error)
        scales.append(round(float(state.plateau.scale), 6))
    assert scales == [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01]


def test_schedule_counts_epochs_that_are_no_whole_number_of_steps():
    schedule = Schedule(examples=66, batch_size=8, epochs=3)
    assert [schedule.end_of(epoch) for epoch in (1, 2, 3)] == [9, 17, 25]
    assert Schedule(examples=11, batch_size=10, epochs=50).end_of(50) == 55  # 50 * 1.1 rounds up to 56
    assert list(schedule.epochs_after(0)) == [1, 2, 3]
    assert list(schedule.epochs_after(8)) == [1, 2, 3]
    assert list(schedule.epochs_after(9)) == [2, 3]
    assert list(schedule.epochs_after(25)) == []


def test_the_papers_recipe_is_the_papers():
    config = paper()
    assert (config.batch_size, config.lr, config.momentum, config.init_std, config.epochs) == (128, 0.01, 0.9, 0.01, 70)
    assert (config.filter_radius, config.random_crop, config.adam, config.cosine) == (0.1, False, False, False)
    assert config.plateau_patience > 0
    assert config.weight_decay == 0


# Scores


def test_count_right_against_sorting():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), 40).astype(np.float32)
    label = rng.integers(0, 12, 40, dtype=np.int32)
    mask = (rng.random(40) < 0.8).astype(np.float32)
    counts = jax.device_get(count_right(probabilities, label, mask))
    order = np.argsort(-probabilities, axis=1)
    kept = mask > 0
    assert counts.examples == kept.sum()
    assert counts.top1 == (order[kept, 0] == label[kept]).sum()
    assert counts.top5 == (order[kept, :5] == label[kept, None]).sum()
    np.testing.assert_array_equal(counts.likelihood, np.where(kept, probabilities[np.arange(40), label], 1))


def test_a_net_that_says_the_same_of_all_classes_has_nothing_right():
    for same in (0.1, np.nan):
        softmax = np.full((4, 10), same, np.float32)
        counts = count_right(softmax, np.arange(4, dtype=np.int32), np.ones(4, np.float32))
        assert int(counts.top1) == int(counts.top5) == 0


def test_ten_crop_is_the_mean_of_ten_softmaxes():
    state, batch = small_state(), small_batch(n=4)
    ten = softmax_of(Trained(state.net, state.variables, state.mean), batch.image, ten_crop=True)
    crops = ten_crops(batch.image.astype(np.float32) - np.asarray(state.mean)[None], 48)
    by_hand = [jax.nn.softmax(state.net.apply({"params": state.params}, crop)[0]) for crop in crops]
    np.testing.assert_allclose(ten, np.mean(by_hand, axis=0), rtol=1e-4, atol=1e-6)


def test_every_example_counts_once_and_the_padding_never():
    state = small_state()
    model = Trained(state.net, state.variables, state.mean)
    whole = small_batch(n=16)
    padded = Batch(whole.image[8:], whole.label[8:], np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32))
    first = Batch(whole.image[:8], whole.label[:8], np.ones(8, np.float32))
    mesh = sharding.data_mesh()
    in_two = score(model, [first, padded], mesh)
    probabilities = softmax_of(model, whole.image[:11])
    assert in_two.examples == 11
    assert in_two.top1 == pytest.approx(np.mean(np.argmax(probabilities, 1) == whole.label[:11]))


@eight_devices
def test_the_loss_is_the_same_to_the_last_bit_on_one_device_and_on_eight():
    state, whole = small_state(), small_batch(n=32)
    model, many = Trained(state.net, state.variables, state.mean), sharding.data_mesh()

    def on(mesh, each=2):
        rows, mask = each * mesh.size, np.ones(32, np.float32)
        mask[29:] = 0
        parts = (slice(first, first + rows) for first in range(0, 32, rows))
        return score(model, [Batch(whole.image[some], whole.label[some], mask[some]) for some in parts], mesh)

    assert on(sharding.first_of(many, 1)) == on(sharding.first_of(many, 4)) == on(many)


def test_an_ensemble_averages_softmaxes():
    states = [small_state(seed=seed) for seed in (0, 1)]
    models = [Trained(state.net, state.variables, state.mean) for state in states]
    batch, mesh = small_batch(n=16), sharding.data_mesh()
    one, two, both = score_together(models, [batch], mesh)
    assert one == pytest.approx(score(models[0], [batch], mesh))
    assert two == pytest.approx(score(models[1], [batch], mesh))
    average = sum(softmax_of(model, batch.image) for model in models) / 2
    assert both.top1 == pytest.approx(np.mean(np.argmax(average, 1) == batch.label))
    assert both.loss == pytest.approx(-np.mean(np.log(average[np.arange(16), batch.label])), rel=1e-5)


def test_accuracy_and_error_are_named_and_add_up():
    scores = Scores(examples=200, top1=0.75, top5=0.95, loss=1.0, classes=10)
    assert str(scores) == ("top-1 accuracy 75.00% (error 25.00%), top-5 accuracy 95.00% (error 5.00%), 200 examples")
    text = evaluation.to_text([evaluation.Row("runs/a", scores, scores)])
    assert "top-1 accuracy" in text
    assert "top-5 error" in text
    assert len(text.splitlines()) == 3


def test_top_5_of_five_classes_says_nothing_and_is_left_out():
    scores = Scores(examples=200, top1=0.75, top5=1.0, loss=1.0, classes=5)
    assert str(scores) == "top-1 accuracy 75.00% (error 25.00%), 200 examples"
    header, one, ten = evaluation.to_text([evaluation.Row("runs/a", scores, scores)]).splitlines()
    assert header.split() == ["net", "crops", "top-1", "accuracy", "top-1", "error", "examples"]
    assert one.split() == ["runs/a", "1", "75.00", "%", "25.00", "%", "200"]
    assert ten.split()[1] == "10"


# What is written


def test_metrics_log_drops_what_a_resumed_run_does_again(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.add(step, {"loss": 1.0 / step})
    log.flush()
    again = MetricsLog(tmp_path, 4)
    again.add(6, {"loss": float("nan")})
    again.flush()
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 6]
    assert math.isnan(read_metrics(tmp_path)[-1]["loss"])
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with MetricsLog(tmp_path, 0, tensorboard=True) as log:
        log.add(3, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_recorder_averages_over_the_window_and_counts_only_training(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("zfjax.training.metrics.time.monotonic", lambda: now[0])
    log = MetricsLog(tmp_path, 0)
    recorder = StepRecorder(log, log_steps=2, batch_size=8)
    losses = (1.0, 3.0, 5.0, 7.0)
    steps = [
        StepMetrics(*map(jnp.float32, (loss, 0.5, 1.0, 1.0, 1.0, 0.1 * n))) for n, loss in enumerate(losses, start=1)
    ]
    with compiles() as lines:
        for step, metrics in enumerate(steps, start=1):
            now[0] += 100.0 if step == 3 else 0.5  # a validation, and then a step
            if step == 3:
                recorder.resume()
                now[0] += 0.5
            recorder.add(step, metrics)
        recorder.settle()
    assert not lines  # the chip would wait
    assert [(line["step"], line["loss"]) for line in log.records] == [(2, 2.0), (4, 6.0)]
    assert log.records[0]["lr"] == pytest.approx(0.2)  # of the last step
    assert log.records[1]["images_per_second"] == pytest.approx(8 / 0.5)


@pytest.mark.parametrize(
    ("step", "values", "remedy"),
    [
        (7, (math.nan, 1.0), "lr"),
        (7, (1.0, math.inf), "lr"),
        (1, (1.0, math.inf), "lr"),
        (1, (math.nan, 1.0), "init_std"),
    ],
)
def test_a_loss_or_weights_that_are_not_finite_stop_and_name_the_step(tmp_path, step, values, remedy):
    recorder = StepRecorder(MetricsLog(tmp_path, 0), log_steps=2, batch_size=8)
    loss, norm = values
    recorder.add(step, StepMetrics(*map(jnp.float32, (loss, 0.5, 1.0, norm, 1.0, 1.0))))
    with pytest.raises(UserError, match=f"diverged at step {step}: .* try a smaller {remedy}"):
        recorder.settle()


def test_checkpoints_keep_the_latest_two_the_best_and_the_chosen(tmp_path):
    state = small_state()
    with Checkpoints(tmp_path, keep_steps=[2]) as checkpoints:
        for step, top1 in enumerate((0.1, 0.2, 0.9, 0.3, 0.4, 0.5), start=1):
            checkpoints.save(dataclasses.replace(state, step=jnp.int32(step)), top1)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3, 5, 6]
        assert checkpoints.best_step() == 3
    with Checkpoints(tmp_path) as again:
        assert again.best_step() == 3
        assert int(again.restore_latest(state).step) == 6


def test_a_failed_save_is_told_and_leaves_no_thread_waiting(tmp_path):
    """Orbax's own would wait for minutes for a folder that cannot be made, and keep the process alive."""

    def save(folder):
        with Checkpoints(folder) as checkpoints:
            folder.rmdir()
            folder.write_text("in its place")
            checkpoints.save(small_state())

    before, folder = set(threading.enumerate()), tmp_path / "checkpoints"
    with pytest.raises(UserError) as caught:
        save(folder)
    # Orbax lists the folder and writes to it, in two threads: the reason is that of the first one that fails.
    reason = "(Not a directory|No such file or directory)"
    assert re.match(f"cannot save a checkpoint in {folder}: {reason}; earlier checkpoints are kept", str(caught.value))
    waiting = [thread for thread in set(threading.enumerate()) - before if not thread.daemon]
    for thread in waiting:
        thread.join(10)
    assert not [thread for thread in waiting if thread.is_alive()]


def test_what_fails_at_the_end_does_not_hide_what_failed_before(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def closed_in_vain():
        close()
        full()

    def fail(error):
        with checkpoints, MetricsLog(tmp_path, 0) as log:
            log.add(1, {"loss": 1.0})
            if error:
                raise error

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    close = checkpoints._manager.close
    monkeypatch.setattr(checkpoints._manager, "close", closed_in_vain)
    monkeypatch.setattr(type(checkpoints.folder), "write_bytes", full)
    with pytest.raises(UserError, match="diverged"):
        fail(UserError("diverged"))
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        fail(None)
    assert not list(tmp_path.glob(".*.part"))


def test_a_run_that_is_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="no run in"):
        read_run(tmp_path)


def test_another_configuration_in_the_same_folder_is_refused_by_key(tmp_path):
    tiny_runs.begin(tmp_path, small_config(lr=0.1, cosine=False))
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    tiny_runs.begin(tmp_path, small_config(lr=0.1, cosine=False, epochs=99, threads=7))
    with pytest.raises(UserError, match=r"lr=0\.1 \(now 0\.2\)"):
        tiny_runs.begin(tmp_path, small_config(lr=0.2, cosine=False))
    (tmp_path / "config.json").write_text("")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        tiny_runs.begin(tmp_path, small_config())


def test_a_dataset_without_its_kind_is_refused_before_the_folder_is_opened(tmp_path):
    with pytest.raises(UserError, match="dataset 'photos': expected shapes, folder:PATH or tfds:"):
        train_and_evaluate(small_config(dataset="photos"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny finished run on 8 fake devices, and its folder of pictures."""
    folder = tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures")
    workdir = tmp_path_factory.mktemp("run")
    return train_and_evaluate(tiny_runs.tiny_config(folder, epochs=2, **FEW), workdir), folder, workdir


def test_a_run_ends_with_scores_and_a_model_that_can_be_loaded(finished):
    outcome, _, workdir = finished
    assert outcome.finished
    assert outcome.scores.examples == 6
    assert json.loads((workdir / "classes.json").read_text()) == list(tiny_runs.CLASSES)
    model = load_model(read_run(workdir))
    for a, b in zip(jax.tree.leaves(model.variables), jax.tree.leaves(outcome.state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="no checkpoint '5'; expected latest, best or one of"):
        load_model(read_run(workdir), "5")


def test_a_finished_run_is_not_trained_again_but_scored(finished):
    outcome, folder, workdir = finished
    again = train_and_evaluate(tiny_runs.tiny_config(folder, epochs=2, **FEW), workdir)
    assert (again.step, again.finished) == (outcome.step, True)
    assert again.scores == outcome.scores


def test_the_loop_sends_nothing_but_batches_to_the_device(finished, tmp_path, monkeypatch):
    """A NumPy number in the step would stop it for a transfer each time."""

    def with_a_number(state, batch):
        state, metrics = train_step(state, batch)
        return state, metrics._replace(loss=metrics.loss + np.float32(0))

    monkeypatch.setattr(loop, "train_step", with_a_number)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train_and_evaluate(tiny_runs.tiny_config(finished[1], epochs=1, **FEW), tmp_path)


def test_evaluate_scores_runs_and_their_average(finished):
    outcome, folder, workdir = finished
    shutil.copytree(workdir, workdir.with_name("copy"))
    # Batches of 5 are of 8, as many as there are devices.
    one, same, average = evaluation.evaluate_runs([workdir, workdir.with_name("copy")], batch_size=5)[0]
    # Not the same bits: training scores other numbers of pictures at a time.
    assert one.single_crop == pytest.approx(outcome.scores, rel=1e-6 if ON_CPU else 1e-5)
    assert same[1:] == one[1:]
    assert average.single_crop.top1 == one.single_crop.top1
    assert average.name == "average of 2"
    with pytest.raises(UserError, match=r"--workdir names the run in .* twice; expected different runs"):
        evaluation.evaluate_runs([workdir, f"{workdir}/."])
    (other,), _ = evaluation.evaluate_runs([workdir], dataset=f"folder:{folder}", checkpoint="best", batch_size=8)
    assert other.single_crop.examples == 6

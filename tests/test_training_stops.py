"""Runs that are killed, stopped, spread over devices and processes, or find a damaged checkpoint."""

import os
import random
import signal
import socket

import numpy as np
import pytest
import tiny_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    """The workdir of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("unbroken")
    done = tiny_runs.run(tiny_runs.train_command(folder, workdir))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.mark.parametrize(
    ("number", "checkpoints"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGINT, 1)]
)
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(folder, unbroken, tmp_path, number, checkpoints):
    # The moment is meant to differ from one run of the tests to the next: from the start, or from a checkpoint on.
    seconds = random.uniform(0.0, 1.0 if checkpoints else 12.0)
    process = tiny_runs.start(tiny_runs.train_command(folder, tmp_path))
    tiny_runs.stop_after(process, tmp_path, checkpoints, seconds, number)
    out, err = process.communicate(timeout=200)
    if process.returncode:  # else it was over before
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), err
        assert ("the same command goes on from there" in err) == (number != signal.SIGKILL)
    else:
        assert "written to" in out
    again = tiny_runs.run(tiny_runs.train_command(folder, tmp_path))
    assert again.returncode == 0, again.stderr
    assert tiny_runs.same_bits(tiny_runs.final_weights(tmp_path), tiny_runs.final_weights(unbroken)), (
        f"stopped after {seconds} s"
    )
    steps = [line["step"] for line in tiny_runs.metrics(tmp_path)]
    assert steps == sorted(steps)
    assert [line["epoch"] for line in tiny_runs.metrics(tmp_path) if "epoch" in line] == [1, 2, 3]


def test_a_damaged_newest_checkpoint_is_passed_over_and_said_so(folder, unbroken, tmp_path):
    done = tiny_runs.run(tiny_runs.train_command(folder, tmp_path, epochs=2))
    assert done.returncode == 0, done.stderr
    steps = sorted(int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*"))
    newest = tmp_path / "checkpoints" / str(steps[-1]) / "default"
    for path in newest.rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)
    again = tiny_runs.run(tiny_runs.train_command(folder, tmp_path, epochs=2))
    assert again.returncode == 0, again.stderr
    assert f"{steps[-1]} is damaged" in again.stderr
    assert f"of step {steps[-2]}" in again.stderr
    assert "Traceback" not in again.stderr
    assert tiny_runs.final_weights(tmp_path)["step"] == steps[-1]
    assert (tmp_path / "checkpoints" / f"{steps[-1]}.damaged").exists()


def test_eight_devices_train_like_one(folder, unbroken, tmp_path):
    done = tiny_runs.run(tiny_runs.train_command(folder, tmp_path), devices=8)
    assert done.returncode == 0, done.stderr
    _assert_close(tiny_runs.final_weights(tmp_path), tiny_runs.final_weights(unbroken))


def test_two_processes_train_together(folder, unbroken, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [
        tiny_runs.start(
            tiny_runs.train_command(
                folder, tmp_path, f"--coordinator={address}", "--processes=2", f"--process={process}"
            )
        )
        for process in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "written to" in said[0][0]
    assert "written to" not in said[1][0]
    _assert_close(tiny_runs.final_weights(tmp_path), tiny_runs.final_weights(unbroken))


def _assert_close(one, two):
    assert one.keys() == two.keys()
    for path in one:
        np.testing.assert_allclose(one[path], two[path], rtol=2e-3, atol=2e-5, err_msg=path)

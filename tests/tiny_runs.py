"""Tiny runs for tests: a folder of pictures in easily separable classes, and commands on it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import quick
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from zfjax.data.record import all_readable
from zfjax.runs import claim
from zfjax.runs import folder as folders
from zfjax.runs.folder import open_data
from zfjax.training.checkpoints import CHECKPOINTS, Checkpoints
from zfjax.training.config import as_json, default, square_size
from zfjax.training.seals import describe
from zfjax.training.state import create_state

CLASSES = ("circles", "noise", "stripes")


def make_folder(folder: Path, per_class: int = 24, seed: int = 0) -> Path:
    """Three classes of 40×40 PNGs, without train/ and val/."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :40]
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            phase = rng.uniform(0, 6)
            pattern = {
                "circles": np.sin(np.hypot(rows - 20, columns - 20) / 2 + phase),
                "noise": rng.normal(size=(40, 40)),
                "stripes": np.sin((rows + columns) / 2 + phase),
            }[name]
            color = rng.uniform(20, 60, 3)
            picture = np.clip(128 + pattern[..., None] * color + rng.normal(size=(40, 40, 3)) * 8, 0, 255)
            Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


def tiny_keys(folder: Path) -> dict[str, object]:
    """The configuration of a run that takes seconds."""
    return {
        "dataset": f"folder:{folder}",
        "image_size": 48,
        "net": "zfnet",
        "width": 0.05,
        "batch_size": 8,
        "epochs": 3,
        "lr": 0.01,
        "cache_dir": "",
        "log_steps": 2,
        "checkpoint_steps": 3,
    }


def tiny_config(folder: Path, **changes: object):
    """`tiny_keys` as a configuration."""
    config = default()
    config.update(tiny_keys(folder) | changes)
    return config


def begin(workdir: Path, config: ConfigDict) -> None:
    """Write a run's folder as it is before its first checkpoint, without pictures. Raises if another run owns it."""
    side, none = square_size(config.image_size), np.zeros(0, np.int32)
    claim.is_begun(epath.Path(workdir), config)
    claim.begin(epath.Path(workdir), config, CLASSES, all_readable(np.zeros((side, side, 3), np.float32), none, none))


def untrained(pictures: Path, workdir: Path, **changes: object) -> Path:
    """A run with a checkpoint that nobody trained."""
    config = tiny_config(pictures, **changes)
    with claim.held(workdir, "a test", None) as folder:
        data = open_data(config, None)
        claim.begin(folder, config, data.classes, data.record)
        with Checkpoints(folder / CHECKPOINTS, run=describe(config, data.classes, data.mean)) as checkpoints:
            checkpoints.save(create_state(config, len(data.classes), data.mean, 1.0))
    return Path(folder)


@contextlib.contextmanager
def shapes_traced_once() -> Iterator[None]:
    """Meanwhile shapes of a run's arrays are traced once for each configuration; files are read as ever."""
    make, made = folders._blank_state, {}

    def blank_state(run: folders.RunInfo):
        key = json.dumps(as_json(run.config)), run.classes, run.mean.shape
        if key not in made:
            made[key] = make(run)
        return made[key]

    with mock.patch.object(folders, "_blank_state", blank_state):
        yield


def train_command(folder: Path, workdir: Path, *flags: str, **changes: object) -> list[str]:
    """The command that trains a tiny run."""
    keys = tiny_keys(folder) | changes
    return [
        *(sys.executable, "-m", "zfjax.train", f"--workdir={workdir}"),
        *(f"--config.{key}={value}" for key, value in keys.items()),
        *flags,
    ]


def environment(devices: int = 1) -> dict[str, str]:
    """The environment of a command on `devices` fake devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {quick.FLAGS}",
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",  # as in conftest.py
        "PYTHONUNBUFFERED": "1",
    }


def run(command: list[str], devices: int = 1, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it."""
    return subprocess.run(command, env=environment(devices), capture_output=True, text=True, timeout=timeout)


def start(command: list[str], devices: int = 1) -> subprocess.Popen[str]:
    """Start a command."""
    return subprocess.Popen(
        command, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killing(command: list[str], number: signal.Signals, moment: str) -> list[str]:
    """A command that sends itself a signal at one of the moments in `killed.py`."""
    program = str(Path(__file__).with_name("killed.py"))
    return [sys.executable, program, str(int(number)), moment, command[2].removeprefix("zfjax."), *command[3:]]


def killed(command: list[str], number: signal.Signals, moment: str) -> subprocess.CompletedProcess[str]:
    """Run a `killing` command, and assert that the signal ends it."""
    done = run(killing(command, number, moment))
    expected = -number if number == signal.SIGKILL else 128 + number
    assert done.returncode == expected, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def final_weights(workdir: Path) -> dict[str, np.ndarray]:
    """The weights in the newest checkpoint, by path, and its step under `step`."""
    step = max(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())
    path = (workdir / "checkpoints" / str(step) / "default").resolve()
    with ocp.PyTreeCheckpointer() as checkpointer:
        # As NumPy arrays, whatever devices they were saved from.
        leaves = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
        saved = checkpointer.restore(path, restore_args=as_numpy)
    leaves = jax.tree.leaves_with_path({"params": saved["params"], "opt_state": saved["opt_state"]})
    return {"step": np.asarray(step)} | {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def same_bits(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    """Whether two runs ended at the same step with the same weights, bit for bit."""
    return one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]

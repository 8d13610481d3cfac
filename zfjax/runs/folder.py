"""A run's folder: configuration, classes and scan beside the checkpoints, written at the start and read back."""

import json
import textwrap
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Float
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.files import write_json
from zfjax.data import record
from zfjax.data.opening import open_source
from zfjax.data.scan import scan_once
from zfjax.data.source import Source
from zfjax.training.checkpoints import CHECKPOINTS, Checkpoints
from zfjax.training.config import FREE_KEYS, as_json, default, square_size
from zfjax.training.loop import RunData
from zfjax.training.scoring import Model
from zfjax.training.state import State, create_state


class RunInfo(NamedTuple):
    """What a run is, apart from its weights."""

    folder: epath.Path
    config: ConfigDict
    classes: tuple[str, ...]
    mean: Float[np.ndarray, "side side 3"]


def open_folder(workdir: epath.PathLike, config: ConfigDict) -> epath.Path:
    """Makes a run's folder, or opens it again for the same configuration; absolute, as checkpoints need it.

    Raises:
      UserError: it cannot be written, or has checkpoints of another configuration; the keys that differ are named.
    """
    folder = _absolute(workdir)
    if jax.process_index() == 0:
        try:
            _claim(folder, as_json(config))
        except OSError as error:
            raise UserError(f"cannot write in workdir {folder}: {error.strerror or error}") from error
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("workdir")
    return folder


def open_data(config: ConfigDict, folder: epath.Path) -> RunData:
    """The pictures of the run in `folder`; they are scanned at its first start, and what was found is kept there.

    Raises:
      UserError: the dataset cannot be used, has another number of classes than configured, or is no longer the one
        that the run began with.
    """
    if not config.dataset and (folder / record.FILE).exists():
        raise UserError(f"the run in {folder} has no pictures: its weights were imported without a --dataset")
    source = open_source(config.dataset, data_dir=config.data_dir, seed=config.seed)
    _check_classes(config, source, folder)
    scanned = scan_once(
        folder,
        source,
        square_size(config.image_size),
        max_broken=config.max_broken,
        cache_dir=config.cache_dir,
        threads=config.threads,
    )
    return RunData(source.classes, scanned.train, scanned.val, scanned.mean, len(scanned.broken))


def read_run(workdir: epath.PathLike) -> RunInfo:
    """What is known of the run in `workdir`.

    Raises:
      UserError: no run was started there.
    """
    folder = _absolute(workdir)
    try:
        config = default()
        config.update(_read_json(folder / "config.json"))
        classes = tuple(_read_json(folder / "classes.json"))
        scanned = record.read(folder)
    except (AttributeError, OSError, KeyError, TypeError) as error:
        why = textwrap.shorten(str(error), 120, placeholder=" …")
        raise UserError(f"no run in {folder}: expected a --workdir of zfjax train ({why})") from error
    if scanned is None:
        raise UserError(f"the run in {folder} has not looked at its pictures yet: {record.FILE} is missing")
    return RunInfo(folder, config, classes, scanned.mean)


def load_model(run: RunInfo, checkpoint: str = "latest") -> Model:
    """The net of a run with the weights of one of its checkpoints: `latest`, `best` (on the val split) or a step.

    Weights and mean lie on the host.

    Raises:
      UserError: there is no such checkpoint; those that there are are named.
    """
    if not (run.folder / CHECKPOINTS).exists():
        raise UserError(f"the run in {run.folder} has no checkpoint yet")
    state = _blank_state(run)
    with Checkpoints(run.folder / CHECKPOINTS, create=False) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise UserError(f"the run in {run.folder} has no checkpoint yet")
        if checkpoint == "latest":
            state = checkpoints.restore_latest(state)
        else:
            step = checkpoints.best_step() if checkpoint == "best" else checkpoint
            if str(step) not in map(str, steps):
                raise UserError(
                    f"the run in {run.folder} has no checkpoint {checkpoint!r}; expected latest, best or one of"
                    f" {', '.join(map(str, steps))}"
                )
            try:
                state = checkpoints.restore(state, int(step or 0))
            except Exception as error:  # as in Checkpoints.restore_latest
                raise UserError(f"checkpoint {step} in {run.folder} is damaged: {error}".splitlines()[0]) from error
    return Model(state.net, jax.device_get(state.variables), run.mean)


def _blank_state(run: RunInfo) -> State:
    """A state of the run's shapes for a checkpoint to fill. Not drawn: compiling the draw takes seconds."""
    # Any length of an epoch will do: the schedule is not used, but must be one.
    shapes = jax.eval_shape(lambda: create_state(run.config, len(run.classes), run.mean, steps_per_epoch=1000.0))
    return jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.zeros(leaf.shape, leaf.dtype), shapes)


def _is_key(leaf: jax.ShapeDtypeStruct) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _absolute(workdir: epath.PathLike) -> epath.Path:
    try:
        folder = epath.Path(workdir).expanduser()
    except RuntimeError as error:  # ~NAME where nobody has that name
        raise UserError(f"workdir {workdir}: {error}") from error
    return folder if "://" in str(workdir) else folder.resolve()


def _check_classes(config: ConfigDict, source: Source, folder: epath.Path) -> None:
    if config.num_classes not in (0, len(source.classes)):
        raise UserError(
            f"num_classes={config.num_classes}, but {source.name} has {len(source.classes)} classes;"
            " expected the same number, or 0 for as many as there are"
        )
    path = folder / "classes.json"
    if path.exists() and _read_json(path) != list(source.classes):
        raise UserError(f"the classes of {source.name} are no longer those of the run in {folder}")
    if not path.exists() and jax.process_index() == 0:
        write_json(path, source.classes)


def _claim(folder: epath.Path, config: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    changed = _changed(as_json(default()) | _read_json(path), config) if path.exists() else []
    if changed and any(step.name.isdigit() for step in (folder / CHECKPOINTS).glob("*")):
        raise UserError(
            f"workdir {folder} holds a run with {', '.join(changed)};"
            " give the same values to go on, or another --workdir"
        )
    if changed:  # a start that came to nothing, mended since
        for name in ("classes.json", record.FILE):
            (folder / name).unlink(missing_ok=True)
    write_json(path, config)


def _read_json(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); expected what zfjax train wrote") from error


def _changed(old: dict[str, object], new: dict[str, object]) -> list[str]:
    return [
        f"{key}={old.get(key)!r} (now {new.get(key)!r})"
        for key in sorted(old.keys() | new.keys())
        if key not in FREE_KEYS - ({"epochs"} if new["cosine"] else set()) and old.get(key) != new.get(key)
    ]

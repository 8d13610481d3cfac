"""A run's folder: configuration, classes and scan beside the checkpoints, written at the start and read back."""

from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Float
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.files import read_json, write_json
from zfjax.data import record
from zfjax.data.opening import open_source
from zfjax.data.scan import scan_once
from zfjax.data.source import Source
from zfjax.runs.written import CLASSES, CONFIG, ORIGIN, free_keys, read_classes, read_config, require_record
from zfjax.training.checkpoints import CHECKPOINTS, Checkpoints
from zfjax.training.config import as_json, square_size
from zfjax.training.loop import RunData
from zfjax.training.scoring import Model
from zfjax.training.seals import Seal, newest_seal, steps_in
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
    seal = newest_seal(folder / CHECKPOINTS)
    _check_classes(config, source, folder, seal)
    scanned = scan_once(
        folder,
        source,
        square_size(config.image_size),
        max_broken=config.max_broken,
        cache_dir=config.cache_dir,
        threads=config.threads,
    )
    require_record(folder, seal, config, source.classes, scanned.record)
    return RunData(source.classes, scanned.train, scanned.val, scanned.record)


def read_run(workdir: epath.PathLike) -> RunInfo:
    """What is known of the run in `workdir`.

    A damaged config.json or classes.json is named on stderr where the run's checkpoints say what was in it.

    Raises:
      UserError: no run was started there, or its files are damaged.
    """
    folder = _absolute(workdir)
    seal = newest_seal(folder / CHECKPOINTS)
    try:
        config, classes = read_config(folder, seal), read_classes(folder, seal)
    except UserError as error:
        if seal or any((folder / name).exists() for name in (CLASSES, record.FILE, CHECKPOINTS)):
            raise
        raise UserError(f"no run in {folder}: expected a --workdir of zfjax train ({error})") from error
    if (folder / ORIGIN).exists():
        again = "import the weights again, into another --workdir"
    else:
        again = f"without {record.FILE}, the command that began the run looks at its pictures again"
    found = record.read(folder, again)
    if found is None:
        raise UserError(f"the run in {folder} has not looked at its pictures yet: {record.FILE} is missing; {again}")
    require_record(folder, seal, config, classes, found)
    return RunInfo(folder, config, classes, found.mean)


def load_model(run: RunInfo, checkpoint: str = "latest") -> Model:
    """The net of a run with the weights of one of its checkpoints: `latest`, `best` (on the val split) or a step.

    Weights and mean lie on the host.

    Raises:
      UserError: there is no such checkpoint; those that there are are named. Its weights are not finite.
    """
    if not (run.folder / CHECKPOINTS).is_dir():
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
            state = checkpoints.restore(state, int(step or 0))
    variables = jax.device_get(state.variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():  # training saves none, but weights of others were once let in
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"checkpoint {checkpoint} of the run in {run.folder} holds NaN or infinity in {name};"
                " expected finite weights"
            )
    return Model(state.net, variables, run.mean, int(state.step))


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


def _check_classes(config: ConfigDict, source: Source, folder: epath.Path, seal: Seal | None) -> None:
    if config.num_classes not in (0, len(source.classes)):
        raise UserError(
            f"num_classes={config.num_classes}, but {source.name} has {len(source.classes)} classes;"
            " expected the same number, or 0 for as many as there are"
        )
    path = folder / CLASSES
    known = source.classes
    if seal:
        known = tuple(seal.run["classes"])
    elif path.exists():
        known = read_classes(folder, None)
    if known != source.classes:
        raise UserError(f"the classes of {source.name} are no longer those of the run in {folder}")
    try:
        whole = read_json(path) == list(source.classes)
    except UserError:
        whole = False
    if not whole and jax.process_index() == 0:
        write_json(path, source.classes)


def _claim(folder: epath.Path, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path, seal = folder / CONFIG, newest_seal(folder / CHECKPOINTS)
    saved = bool(steps_in(folder / CHECKPOINTS))
    if saved and seal is None and not path.exists():
        raise UserError(
            f"workdir {folder} holds checkpoints, but no {CONFIG} that says what they were trained with;"
            " put it back, or give another --workdir"
        )
    changed = _changed(as_json(read_config(folder, seal)), config) if seal or path.exists() else []
    if changed and saved:
        raise UserError(
            f"workdir {folder} holds a run with {', '.join(changed)};"
            " give the same values to go on, or another --workdir"
        )
    if changed:  # a start that came to nothing, mended since
        for name in (CLASSES, record.FILE):
            (folder / name).unlink(missing_ok=True)
    write_json(path, config)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    free = free_keys(new)
    return [f"{key}={old[key]!r} (now {new[key]!r})" for key in sorted(old) if key not in free and old[key] != new[key]]

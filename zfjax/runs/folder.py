"""A run's folder read back: configuration, classes and scan, its pictures, and the weights in its checkpoints."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.paths import absolute_path
from zfjax.console.text import readable, shown_by_shape
from zfjax.data import record
from zfjax.data.folder import NotThere
from zfjax.data.opening import open_source
from zfjax.data.outside import root_of
from zfjax.data.scan import Scanned, scan, scan_once
from zfjax.data.source import Source
from zfjax.runs.first import our_share
from zfjax.runs.written import CLASSES, ONNX, ORIGIN, SAID, read_classes, read_config, require_record
from zfjax.training.checkpoints import CHECKPOINTS, Checkpoints
from zfjax.training.config import square_size
from zfjax.training.loop import RunData
from zfjax.training.scoring import Trained
from zfjax.training.seals import Seal, newest_seal
from zfjax.training.state import State, create_state

_NO_PICTURES = "the run in {folder} has no pictures: its weights were imported without a --dataset"


@shown_by_shape
class RunInfo(NamedTuple):
    """A run without its weights."""

    folder: epath.Path
    config: ConfigDict
    classes: tuple[str, ...]
    mean: Float[np.ndarray, "side side 3"]

    @property
    def root(self) -> epath.Path | None:
        """The folder of its pictures, where nothing may be written; None for other datasets."""
        return root_of(self.config.dataset, self.config.data_dir)


def open_data(config: ConfigDict, folder: epath.Path | None) -> RunData:
    """Open the pictures of a run, with the record of their scan, which `claim.begin` writes.

    Args:
        config: names the dataset.
        folder: a run that was begun, whose pictures these must still be; None for a new run, which scans them.

    Raises:
        UserError: the dataset cannot be used, has another number of classes than configured, or is no longer the one
            that the run began with.
    """
    if not config.dataset and folder is not None and (folder / record.FILE).exists():
        raise UserError(_NO_PICTURES.format(folder=folder))
    source = open_own(config, folder)
    if config.num_classes not in (0, len(source.classes)):
        raise UserError(
            f"num_classes={config.num_classes}, but {source.name} has {len(source.classes)} classes;"
            " expected the same number, or 0 for as many as there are"
        )
    seal = None if folder is None else newest_seal(folder / CHECKPOINTS)
    if folder is not None:
        _require_classes(source, folder, seal)
    scanned = scan_once(
        folder,
        source,
        square_size(config.image_size),
        max_broken=config.max_broken,
        cache_dir=config.cache_dir,
        threads=config.threads,
        share=our_share(),
    )
    if folder is not None:
        require_record(folder, seal, config, source.classes, scanned.record)
    return RunData(source.classes, scanned.train, scanned.val, scanned.record, source.annotations)


def open_own(config: ConfigDict, folder: epath.Path | None) -> Source:
    """Open the dataset of a configuration, that of the run in `folder` if there is one.

    Raises:
        UserError: there is no such dataset.
    """
    try:
        return open_source(config.dataset, data_dir=config.data_dir, seed=config.seed)
    except NotThere as error:
        if folder is None:
            raise
        raise UserError(
            f"{error}; if the pictures of the run in {folder} have moved, say where: --dataset=folder:PATH"
        ) from error


def scan_for(run: RunInfo, source: Source) -> Scanned:
    """The pictures of another dataset as squares of the run's size, decoded and cached like the run's own."""
    config, size = run.config, square_size(run.config.image_size)
    return scan(
        source,
        size,
        max_broken=config.max_broken,
        cache_dir=config.cache_dir,
        threads=config.threads,
        share=our_share(),
    )


def read_run(workdir: epath.PathLike, dataset: str = "") -> RunInfo:
    """Read everything about the run in `workdir` but its weights.

    A damaged config.json or classes.json is reported on stderr if the run's checkpoints have a copy.

    Args:
        workdir: the run's folder.
        dataset: where its pictures are now; default where they were.

    Raises:
        UserError: no run was started there, or its files are damaged.
    """
    folder = absolute(workdir)
    if (folder / ONNX / SAID).exists():
        raise UserError(f"the run in {folder} is an ONNX file as it is; expected a net of zfjax, with checkpoints")
    seal = newest_seal(folder / CHECKPOINTS)
    try:
        config, classes = read_config(folder, seal), read_classes(folder, seal)
    except UserError as error:
        begun = seal or any((folder / name).exists() for name in (CLASSES, record.FILE, CHECKPOINTS))
        if begun or isinstance(error.__cause__, PermissionError):
            raise
        raise UserError(f"no run in {folder}: expected a --workdir of zfjax train ({error})") from error
    if (folder / ORIGIN).exists():
        again = "import the weights again, into another --workdir"
    else:
        again = f"without {record.FILE}, the command that began the run scans its pictures again"
    found = record.read(folder, again)
    if found is None:
        raise UserError(f"the run in {folder} has not scanned its pictures yet: {record.FILE} is missing; {again}")
    require_record(folder, seal, config, classes, found)
    if dataset:
        if not config.dataset:
            raise UserError(_NO_PICTURES.format(folder=folder))
        config.dataset = dataset
    return RunInfo(folder, config, classes, found.mean)


def require_different(flag: str, folders: Sequence[epath.Path]) -> None:
    """Raise a UserError if two of the runs' folders are the same, however they are spelled."""
    seen = set[str]()
    for folder in folders:
        place = os.fspath(folder) if "://" in os.fspath(folder) else os.path.realpath(folder)
        if place in seen:
            raise UserError(f"{flag} names the run in {folder} twice; expected different runs")
        seen.add(place)


def load_model(run: RunInfo, checkpoint: str = "latest") -> Trained:
    """Load a run's net with the weights of one of its checkpoints: `latest`, `best` (on the val split) or a step.

    Weights and mean are on the host.

    Raises:
        UserError: there is no such checkpoint (the existing ones are named), or its weights are not finite.
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
            state = checkpoints.restore(state, int(step or 0))
    variables = jax.device_get(state.variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():  # training saves none, but earlier versions imported such weights
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                f"checkpoint {checkpoint} of the run in {run.folder} holds NaN or infinity in {name};"
                " expected finite weights"
            )
    return Trained(state.net, variables, run.mean, int(state.step), run.config.matmul_precision)


def _blank_state(run: RunInfo) -> State:
    """A state of the run's shapes for a checkpoint to fill. Not drawn: compiling the draw takes seconds."""
    # Any epoch length will do: the schedule is unused, but must be valid.
    shapes = jax.eval_shape(lambda: create_state(run.config, len(run.classes), run.mean, steps_per_epoch=1000.0))
    return jax.tree.map(lambda leaf: leaf if _is_key(leaf) else np.zeros(leaf.shape, leaf.dtype), shapes)


def _is_key(leaf: jax.ShapeDtypeStruct) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def absolute(workdir: epath.PathLike) -> epath.Path:
    """A run's folder as an absolute path, as checkpoints need it. Raises a UserError if it can't be one."""
    folder = absolute_path(workdir, "workdir")
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        shown = readable(str(folder))
        raise UserError(f"workdir {shown}: expected a path in UTF-8, which checkpoints need; rename it") from error
    if os.sep == "/" and "\\" in str(folder):
        raise UserError(f"workdir {folder}: expected a path without a backslash, which checkpoints cannot have")
    return folder


def _require_classes(source: Source, folder: epath.Path, seal: Seal | None) -> None:
    """Raise a UserError if the dataset's classes are not those that the run in `folder` began with."""
    known = source.classes
    if seal:
        known = tuple(map(readable, seal.run["classes"]))
    elif (folder / CLASSES).exists():
        known = read_classes(folder, None)
    if known != source.classes:
        raise UserError(f"the classes of {source.name} are no longer those of the run in {folder}")

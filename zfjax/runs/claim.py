"""Who owns a folder: one command writes at a time, overwrites only what zfjax wrote, and stays out of datasets."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.files import read_json, write_json
from zfjax.console.hold import hold
from zfjax.data import record
from zfjax.data.folder import holds_classes
from zfjax.data.outside import require_outside, root_of
from zfjax.data.together import require_shared
from zfjax.runs.first import on_first, our_share
from zfjax.runs.folder import absolute
from zfjax.runs.written import CLASSES, CONFIG, ONNX, ORIGIN, SAID, free_keys, read_config
from zfjax.training.checkpoints import CHECKPOINTS
from zfjax.training.config import as_json
from zfjax.training.metrics import FILE
from zfjax.training.seals import Seal, newest_seal, steps_in

# What a run writes at the top of its folder; it must not overwrite anyone else's files of these names.
WRITTEN = (
    *(CHECKPOINTS, CONFIG, CLASSES, record.FILE, record.NOTES, FILE, ORIGIN),
    *("curves.png", "filters.png", "predictions.png"),
)
_OURS = {"dataset", "net", "image_size", "filter_radius", "max_broken"}  # some keys of every version's config.json


@contextlib.contextmanager
def held(workdir: epath.PathLike, command: str, pictures: epath.Path | None) -> Iterator[epath.Path]:
    """Hold a run's folder, new or old, and yield its absolute path; the first process holds it for all.

    Args:
        workdir: the folder.
        command: the holder.
        pictures: where no run may be, from `zfjax.data.outside.root_of`.

    Raises:
        UserError: another command holds it, it cannot be written, lies in the dataset, or is not on a shared disk.
    """
    folder = absolute(workdir)
    # Orbax looks for parts of a checkpoint with `glob`, which does not escape the path, and TensorStore takes gs: for a
    # bucket; what they write could not be read.
    if re.search(r"[*?]|\[.*\]|/gs:/", f"{re.sub('^gs://', '', str(folder))}/"):
        raise UserError(
            f"workdir {folder}: expected a path without [ ], *, ? or a folder gs:, which checkpoints cannot have;"
            " rename it, or give a link to it elsewhere"
        )
    require_outside(folder, "workdir", pictures)
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(hold(folder, command)))
        require_shared(our_share(), folder)
        yield folder


@contextlib.contextmanager
def writing(folder: epath.Path, command: str, pictures: epath.Path | None) -> Iterator[epath.Path]:
    """Hold and yield a folder that a command writes into, such as one in a run; the first process holds for all.

    A run itself is not held: it may be trained meanwhile, and other commands may write into its other folders.

    Args:
        folder: new or old.
        command: the holder.
        pictures: as in `held`.

    Raises:
        UserError: as in `held`.
    """
    require_outside(folder, "the folder", pictures)
    with contextlib.ExitStack() as stack:
        on_first(lambda: stack.enter_context(hold(folder, command)))
        yield folder


def is_begun(folder: epath.Path, config: ConfigDict) -> bool:
    """Whether a run of this configuration was begun in `folder`; only then are its files there used.

    Raises:
        UserError: the folder has checkpoints of another configuration, whose keys are named, or files that no run
            wrote.
    """
    seal = newest_seal(folder / CHECKPOINTS)
    require_ours(folder, seal)
    if not seal and not (folder / CONFIG).exists():
        return False
    before = read_config(folder, seal)
    changed = _changed(as_json(before), as_json(config))
    if not changed or not steps_in(folder / CHECKPOINTS):
        return not changed  # else a failed start, corrected since
    if changed.keys() == {"dataset"} and _may_be_moved(folder, before, config):
        return True
    raise UserError(
        f"workdir {folder} holds a run with {', '.join(changed.values())};"
        " give the same values to go on, or another --workdir"
    )


def require_ours(folder: epath.Path, seal: Seal | None) -> None:
    """Raise a UserError if a run in `folder` would overwrite files that no run wrote.

    A checkpoint with a seal proves a run; without one, config.json must be a run's.
    """
    if seal:
        return
    require_trainable(folder)
    if (folder / CONFIG).exists():
        config = read_json(folder / CONFIG, "put back what zfjax train wrote there, or use another --workdir")
        if not (isinstance(config, dict) and config.keys() >= _OURS):
            raise UserError(f"workdir {folder} holds a {CONFIG} that is not of zfjax train; give another --workdir")
        return
    for name in WRITTEN:
        if (folder / name).exists():
            raise UserError(
                f"workdir {folder} holds {name}, but no {CONFIG} that says what run it is of;"
                " put that back, or give another --workdir"
            )
    if "://" not in os.fspath(folder) and holds_classes(folder):
        raise UserError(
            f"workdir {folder} holds folders of pictures, where folders are classes; give another --workdir"
        )


def require_trainable(folder: epath.Path) -> None:
    """Raise a UserError if the run in `folder` is an ONNX file."""
    if (folder / ONNX / SAID).exists():
        raise UserError(
            f"workdir {folder} holds the run of an ONNX file, which cannot be trained or edited here;"
            " give another --workdir"
        )


def begin(folder: epath.Path, config: ConfigDict, classes: Sequence[str], found: record.Record) -> None:
    """Write what identifies a run, the configuration first; a resumed run writes the same again.

    Every process calls this, and the first one writes. Nothing is written before, so a start that is refused, for its
    values or its pictures, changes nothing.

    Raises:
        UserError: it cannot be written.
    """

    def write() -> None:
        write_json(folder / CONFIG, as_json(config))
        write_json(folder / CLASSES, classes)
        record.write(found, folder)

    on_first(write)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """The keys that differ, each with its description."""
    keys = [key for key in sorted(old) if key not in free_keys(new) and old[key] != new[key]]
    return {key: f"{key}={old[key]!r} (now {new[key]!r})" for key in keys}


def _may_be_moved(folder: epath.Path, old: ConfigDict, new: ConfigDict) -> bool:
    """Whether two datasets can hold the same pictures, which are compared when they are opened.

    An older run did not record its pictures: there, only another spelling of the same folder qualifies.
    """
    kept = record.read(folder)
    if kept is None or kept.known:
        return True
    one, two = root_of(old.dataset, old.data_dir), root_of(new.dataset, new.data_dir)
    return one is not None and two is not None and one.resolve() == two.resolve()

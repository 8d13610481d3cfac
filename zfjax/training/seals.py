"""Seals: digests and copies kept with each checkpoint to tell whether it, and the files next to it, are intact."""

import contextlib
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from zfjax.console import sealed
from zfjax.console.errors import UserError
from zfjax.console.files import damaged, read_json
from zfjax.console.text import say
from zfjax.training import stored
from zfjax.training.config import as_json

NOT_SCORED = -1.0  # the accuracy of a checkpoint inside an epoch, so that any scored one is better
_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file, which holds its `custom_metadata`
_OURS = "zfjax"  # our key there


class Seal(NamedTuple):
    """What is kept with a checkpoint to tell whether it, and the files next to it, are intact."""

    arrays: str  # digest of its arrays
    layout: str  # digest of their names, shapes and types
    val_top1: float
    log: str  # digest of metrics.jsonl at that time
    run: dict[str, Any]  # description of the run: JSON values by name


def describe(
    config: ConfigDict, classes: Sequence[str], mean: Float[np.ndarray, "side side 3"], **more: Any
) -> dict[str, Any]:
    """Describe a run by the content of its small files, to be kept with its checkpoints.

    Args:
        config: its configuration.
        classes: names of its classes.
        mean: per-pixel mean of its training squares; only a digest is kept.
        more: JSON values of further files.
    """
    return {"config": as_json(config), "classes": list(classes), "mean": stored.digest({"mean": mean}), **more}


def metadata_of(seal: Seal) -> dict[str, Any]:
    """A seal as Orbax stores it with a checkpoint: the two appear at the same moment."""
    return {_OURS: sealed.seal(seal._asdict())}


def require_folder(folder: epath.Path) -> None:
    """Raise a UserError if there is something in place of a folder of checkpoints, if only a broken link."""
    if not folder.is_dir() and (folder.exists() or os.path.islink(folder)):
        what = "leads nowhere" if os.path.islink(folder) else "is not a folder"
        raise UserError(f"{folder} {what}; it should hold the run's checkpoints")


def steps_in(folder: epath.Path) -> list[int]:
    """The steps in a folder of checkpoints, oldest first; none if it does not exist.

    Raises:
        UserError: it is not a folder, such as a link to a disk that is not mounted.
    """
    require_folder(folder)
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,17}", name))


def read_seal(folder: epath.Path) -> Seal | None:
    """The seal of the checkpoint in `folder`; None if an older zfjax wrote it.

    Raises:
        UserError: Orbax's file with it is missing or damaged.
    """
    path = folder / _METADATA
    value = read_json(path)
    try:
        kept = value["custom_metadata"].get(_OURS)
        return None if kept is None else Seal(**sealed.unseal(kept))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error


def newest_seal(folder: epath.Path) -> Seal | None:
    """The newest intact seal in a folder of checkpoints; None if there is none."""
    for step in reversed(steps_in(folder)):
        with contextlib.suppress(UserError):  # reported when the checkpoint itself is read
            seal = read_seal(folder / str(step))
            if seal is not None:
                return seal
    return None


def read_score(folder: epath.Path) -> float:
    """The accuracy kept with the checkpoint in `folder`; if damaged, report that and return `NOT_SCORED`."""
    with contextlib.suppress(UserError):
        seal = read_seal(folder)
        if seal is not None:
            return seal.val_top1
    path, so = folder / "metrics" / "metrics", "its checkpoint does not count as the best"
    try:
        score = float(read_json(path, so)["val_top1"])
        if not math.isfinite(score):
            raise damaged(path, f"val_top1 is {score}", so)
        return score
    except UserError as error:
        say(str(error))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        say(str(damaged(path, error, so)))
    return NOT_SCORED

"""Which splits of a dataset to train and validate on, by their usual names."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zfjax.console.errors import UserError

TRAIN = ("train", "training", "trn", "trainval")
VALIDATION = ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation")
TEST = ("test", "testing", "tst")
_HELD_OUT = VALIDATION + TEST  # a test split validates only if there is no other


class Choice(NamedTuple):
    """The splits of a dataset, by name."""

    train: str
    val: str | None  # None: part of the training split must be held out


def is_split(name: str) -> bool:
    """Whether a name is that of a training, validation or test split, in any case, with or without `set`.

    >>> [name for name in ("Train", "valid", "test_set", "testament") if is_split(name)]
    ['Train', 'valid', 'test_set']
    """
    return _plain(name) in (*TRAIN, *_HELD_OUT)


def choose(dataset: str, names: Iterable[str]) -> Choice | None:
    """Choose the split to train on and the one to validate on; a validation split is preferred to a test split.

    If several names mean the same, such as val and dev, the first in this module's lists is chosen.

    Args:
        dataset: what errors call it.
        names: the names of its splits; those that are not `is_split` are left aside.

    Returns:
        The choice; None if no name is a split's.

    Raises:
        UserError: there is a split to validate on but none to train on.

    >>> choose("photos", ["test", "train", "Valid", "extra"])
    Choice(train='train', val='Valid')
    """
    names = sorted(names)
    train, val = _first(names, TRAIN), _first(names, _HELD_OUT)
    if train is None and val is None:
        return None
    if train is None:
        raise UserError(f"{dataset}: expected a split called train next to {val}, found {', '.join(names)}")
    return Choice(train, val)


def note(
    dataset: str, train: str, val: str, counts: tuple[int, int], aside: Sequence[str] = (), drawn_from: str = "all"
) -> str:
    """The line that says which split became what.

    Args:
        dataset: what to call it.
        train: the split to train on; empty if there are none.
        val: the split to validate on; empty if a tenth of the other is held out.
        counts: how many images each has.
        aside: unused splits.
        drawn_from: what a tenth is held out of, such as `each class`.
    """
    of_train = train if val else f"nine tenths of {drawn_from}" + (f" in {train}" if train else "")
    line = f"{dataset}: trains on {of_train} ({counts[0]:,} images), validates on {val or 'the rest'} ({counts[1]:,})"
    return f"{line}; left aside: {', '.join(aside)}" if aside else line


def _first(names: list[str], wanted: tuple[str, ...]) -> str | None:
    known = [name for name in names if _plain(name) in wanted]
    return min(known, key=lambda name: wanted.index(_plain(name)), default=None)


def _plain(name: str) -> str:
    """The name in lower case without `set` after it."""
    return re.sub(r"[ _-]?(set|split)$", "", name.casefold())

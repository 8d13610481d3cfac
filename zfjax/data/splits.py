"""Which parts of a dataset train and validate, by the names that people give them."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zfjax.console.errors import UserError

TRAIN = ("train", "training", "trn")
VALIDATION = ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation")
TEST = ("test", "testing", "tst")
_HELD_OUT = VALIDATION + TEST  # a test split validates only where there is no other


class Choice(NamedTuple):
    """The splits of a dataset, by name."""

    train: str
    val: str | None  # None: a part of the training split has to be held out
    aside: tuple[str, ...]  # those that are not used


def is_split(name: str) -> bool:
    """Whether a folder or split is called so as to train, validate or test, in any case, with or without `set`.

    >>> [name for name in ("Train", "valid", "test_set", "testament") if is_split(name)]
    ['Train', 'valid', 'test_set']
    """
    return _plain(name) in (*TRAIN, *_HELD_OUT)


def choose(dataset: str, names: Iterable[str]) -> Choice | None:
    """Choose the split to train on, and the one to validate on: a validation split before a test split.

    Of several with names of one kind, such as val and dev, the first in the order of this module's lists is taken.

    Args:
        dataset: what errors call it.
        names: of its splits; others than those of `is_split` are left aside.

    Returns:
        The choice; None where no name is a split's.

    Raises:
        UserError: there is a split to validate on but none to train on.

    >>> choose("photos", ["test", "train", "Valid", "extra"])
    Choice(train='train', val='Valid', aside=('extra', 'test'))
    """
    names = sorted(names)
    train, val = _first(names, TRAIN), _first(names, _HELD_OUT)
    if train is None and val is None:
        return None
    if train is None:
        raise UserError(f"{dataset}: expected a split called train beside {val}, found {', '.join(names)}")
    return Choice(train, val, tuple(name for name in names if name not in (train, val)))


def note(
    dataset: str, train: str, val: str, counts: tuple[int, int], aside: Sequence[str] = (), drawn_from: str = "all"
) -> str:
    """The line that says which split became what.

    Args:
        dataset: what to call it.
        train: the split to train on; empty where there are none.
        val: the split to validate on; empty where a tenth of the other is held out.
        counts: how many images each has.
        aside: splits that are not used.
        drawn_from: of what a tenth is held out, such as `each class`.
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

"""Choose the tensors in a file that belong to a net.

Files often name them differently than the net does: a training script stores them in a dictionary next to the optimizer
("state_dict.fc.bias"), a net is part of another ("backbone.fc.bias"), DataParallel and torch.compile wrap it
("module.fc.bias") or its parts ("features.module.0.bias"), and averaged weights are next to the last ones. All of these
are prefixes, and the right one has the most of the net's names below it.
"""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import brief, did_you_mean, listed, shown_by_shape

Tensors = Mapping[str, np.ndarray]

# What wrappers put between names: DataParallel, torch.compile, FSDP, activation checkpoints.
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
COUNT = "num_batches_tracked"  # BatchNorm2d's number of training steps
DEEPEST = 64  # levels of prefix that are searched
TOP = "."  # the key for tensors without a prefix
_AVERAGED = frozenset(("ema", "swa", "avg", "average", "averaged", "polyak", "shadow"))
_NOT = frozenset(("no", "non", "not", "without", "raw", "before", "pre"))  # model_without_ema


@shown_by_shape
class Chosen(NamedTuple):
    """The tensors below one prefix."""

    tensors: dict[str, np.ndarray]  # by the net's own names, without step counts
    called: dict[str, str]  # each tensor's name in the file, by the net's name
    aside: tuple[str, ...]  # names in the file of all other tensors, except those of other nets
    notes: tuple[str, ...]  # what was left out of names, and which were taken if there was a choice; one sentence each


class _Group(NamedTuple):
    prefix: str
    called: dict[str, str]
    matched: frozenset[str]  # the net's own tensors, by their names in the file


def choose(tensors: Tensors, names: Callable[[Tensors], Collection[str]], key: str = "") -> Chosen:
    """Choose the tensors of a net, by the net's own names.

    If several nets fit equally well, take the averaged one. If none fits completely, take the one that fits best.

    Args:
        tensors: all tensors of a file, by their names there.
        names: given some tensors, returns what the net calls its own.
        key: the prefix, or some of its names, to override the choice; `TOP` for no prefix.

    Raises:
        UserError: several fit and none of them is averaged, several fit the key, or no prefix contains the key.
    """
    wanted = len(names({}))
    groups = _groups(tensors, names, wanted)
    asked = _asked(groups, key) if key else groups
    if not asked:
        known = sorted({part for name in tensors for part in name.split(".")[:-1]})
        hint = "" if key in known else did_you_mean(key, known)
        raise UserError(f"it has no net under {reprlib.repr(key)}{hint}; it has {listed(list(tensors))}")
    most = max(len(group.matched) for group in asked)
    tied = [group for group in asked if len(group.matched) == most]
    averaged = [group for group in tied if _is_averaged(group.prefix) and not key]
    if len(averaged) != 1 and most == wanted and not all(_equal(tensors, tied[0], group) for group in tied[1:]):
        prefixes = [group.prefix or f"the top of the file (--key={TOP})" for group in tied]
        raise UserError(f"it holds several nets that fit: {listed(prefixes)}; expected --key=NAME for one")
    group = averaged[0] if averaged else tied[0]
    others = [other for other in groups if other is not group and 2 * len(other.matched) >= wanted]
    different = [other for other in others if other not in tied or not _equal(tensors, group, other)]
    return Chosen(*_divided(tensors, group, others), _notes(group, () if key else different, wanted))


def _asked(groups: Sequence[_Group], key: str) -> list[_Group]:
    """The groups whose prefix, with or without wrappers, is the key; if none is, begins with it; else has it in it."""
    if key == TOP:
        top = [group for group in groups if not group.prefix]
        return top or [group for group in groups if not _bare(group.prefix)]
    for fits in (str.__eq__, str.startswith, str.__contains__):
        found = [
            group
            for group in groups
            if any(fits(f".{prefix}.", f".{key}.") for prefix in (group.prefix, _bare(group.prefix)))
        ]
        if found:
            return found
    return []


def _groups(tensors: Tensors, names: Callable[[Tensors], Collection[str]], wanted: int) -> list[_Group]:
    """One group for each prefix with room for at least half a net; the whole file if there is none."""
    below: dict[str, list[str]] = {"": []}
    for name in tensors:
        parts = name.split(".")
        for place in range(min(len(parts), DEEPEST)):
            below.setdefault(".".join(parts[:place]), []).append(name)
    large = {prefix: inside for prefix, inside in below.items() if 2 * len(inside) >= wanted or not prefix}
    found: dict[frozenset[str], _Group] = {}
    for prefix in sorted(large, key=len):  # if prefixes hold the same tensors, the longest wins
        called: dict[str, str] = {}
        for name in large[prefix]:
            bare = _bare(name[len(prefix) :])
            called[bare] = min(called.get(bare, name), name, key=len)  # conv.weight rather than module.conv.weight
        own = names({bare: tensors[name] for bare, name in called.items()})
        matched = frozenset(called[name] for name in own if name in called)
        if matched or not found:
            found[matched] = _Group(prefix, called, matched)
    return list(found.values())


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part and part not in WRAPPERS)


def _is_averaged(prefix: str) -> bool:
    words = prefix.lower().replace(".", "_").split("_")
    return any(word in _AVERAGED and before not in _NOT for before, word in zip(["", *words], words, strict=False))


def _equal(tensors: Tensors, one: _Group, other: _Group) -> bool:
    """Whether two groups that fit hold the same weights: a net saved under two names."""
    return all(
        np.array_equal(tensors[name], tensors[other.called[bare]])
        for bare, name in one.called.items()
        if name in one.matched and bare in other.called
    )


def _divided(
    tensors: Tensors, group: _Group, others: Sequence[_Group]
) -> tuple[dict[str, np.ndarray], dict[str, str], tuple[str, ...]]:
    theirs = frozenset[str]().union(*(frozenset(other.called.values()) for other in others if other.prefix))
    theirs |= frozenset[str]().union(*(other.matched for other in others))

    def is_weight(name: str) -> bool:
        return name in group.matched or not (name in theirs or _counts(name, tensors[name]))

    called = {bare: name for bare, name in group.called.items() if is_weight(name)}
    inside = frozenset(group.called.values())
    aside = tuple(name for name in tensors if name not in inside and is_weight(name))
    return {bare: tensors[name] for bare, name in called.items()}, called, aside


def _counts(name: str, tensor: np.ndarray) -> bool:
    """Whether this is a step count rather than a weight."""
    return name.endswith(COUNT) or (tensor.ndim == 0 and tensor.dtype.kind in "iub")


def _notes(group: _Group, others: Sequence[_Group], wanted: int) -> tuple[str, ...]:
    taken = f"took the weights under {brief(group.prefix)}" if group.prefix else "took those at the top of the file"
    notes = []
    for other in others:
        if len(other.matched) < len(group.matched):
            notes.append(f"{taken}; of {brief(other.prefix)} only {len(other.matched)} of {wanted} tensors are there")
        else:
            notes.append(f"{taken}, which are averaged; --key={brief(other.prefix or TOP)} takes the others")
    if group.prefix and not notes:
        notes.append(taken)
    inside = {part for name in group.matched for part in name.removeprefix(group.prefix).split(".")} & WRAPPERS
    return (*notes, *(f"left {name} out of names" for name in sorted(inside)))

"""A scan by several processes: each looks at its share of the pictures, and all get what one would have seen."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from zfjax.console import hold
from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.data.prints import SIZE, digest_of
from zfjax.data.source import Examples, Source

Arrays = Mapping[str, np.ndarray]
SEEN_AFTER = 60.0  # seconds within which a network disk shows a new file to all hosts


@shown_by_shape
class Seen(NamedTuple):
    """What was seen of successive pictures of a split; sums are of whole numbers, whose order makes no difference."""

    labels: Int32[np.ndarray, "n"]
    prints: Int64[np.ndarray, "n 3"]
    total: UInt64[np.ndarray, "size size 3"]
    broken: Int64[np.ndarray, "broken"]  # their numbers in the split
    messages: np.ndarray  # one for each of these


@shown_by_shape
class Share(NamedTuple):
    """Which of several processes this one is, and how they tell each other what they have seen."""

    process: int = 0
    processes: int = 1
    gather: Callable[[Arrays], Sequence[Arrays]] = lambda mine: [mine]  # from each, in order; all must call it

    def of(self, pictures: int) -> range:
        """The numbers of the pictures of a split that this process looks at."""
        return range(self.process * pictures // self.processes, (self.process + 1) * pictures // self.processes)

    def all_say(self, yes: bool) -> list[bool]:
        """What each process says."""
        return [bool(one["said"]) for one in self.gather({"said": np.array(yes)})]


ALONE = Share()


def looked(share: Share, look: Callable[[], Sequence[Seen]]) -> list[Seen]:
    """What all processes have seen of some splits, of which `look` looks at this one's share.

    Raises:
        UserError: `look` raised it in one of the processes, of several the first; all raise it.
    """
    if share.processes == 1:
        return list(look())
    mine: dict[str, np.ndarray] = {}
    try:
        for number, seen in enumerate(look()):
            mine |= {f"{number} {name}": array for name, array in seen._asdict().items()}
    except UserError as error:
        mine = {"failed": np.array(str(error))}
    every = share.gather(mine)
    for one in every:
        if "failed" in one:
            raise UserError(str(one["failed"]))
    return [
        Seen(*(_put_together(name, [one[f"{number} {name}"] for one in every]) for name in Seen._fields))
        for number in range(len(mine) // len(Seen._fields))
    ]


def _put_together(name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.add.reduce(np.stack(parts)) if name == "total" else np.concatenate(parts)


def require_same_pictures(share: Share, source: Source) -> None:
    """Raise a UserError in all processes if one finds more pictures than most do, fewer, or others.

    Pictures are compared by their names, where they have any, and their sizes in bytes.
    """
    splits = ("train", "val")
    every = share.gather({split: _listed(getattr(source, split)) for split in splits})
    for split in splits:
        found = [one[split].tolist() for one in every]
        usual = max(found, key=found.count)  # of as many, the first
        other = next((number for number, one in enumerate(found) if one != usual), None)
        if other is None:
            continue
        like = found.index(usual)
        if found[other][0] != usual[0]:
            what = f"process {other} finds {found[other][0]} {split} images, process {like} finds {usual[0]}"
        else:
            what = f"process {other} finds {split} images of other names or sizes than process {like}"
        raise UserError(f"{source.name}: expected the same pictures on all hosts; {what}")


def _listed(examples: Examples) -> Int64[np.ndarray, "2"]:
    """How many pictures there are, and a digest of their names and sizes."""
    names = "\0".join(getattr(examples, "names", ()))
    return np.array([len(examples), digest_of(names.encode() + examples.stamps[:, SIZE].tobytes())], np.int64)


def require_shared(share: Share, folder: os.PathLike[str]) -> None:
    """Raise a UserError in all processes if one has another disk at a folder that the first process holds."""
    first = str(share.gather({"token": np.array(hold.token(folder))})[0]["token"])
    deadline = time.monotonic() + SEEN_AFTER
    while hold.token(folder) != first and time.monotonic() < deadline:
        time.sleep(0.2)
    sees = share.all_say(hold.token(folder) == first)
    if not all(sees):
        raise UserError(
            f"{folder}: process {sees.index(False)} does not find there what process 0 writes; expected a folder that"
            " all hosts share"
        )

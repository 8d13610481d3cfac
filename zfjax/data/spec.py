"""How users name a dataset: `shapes`, `folder:PATH` or `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`."""

import os
import re
from typing import NamedTuple

from zfjax.console.errors import UserError
from zfjax.console.text import readable

_VERSION = re.compile(r"(\d+|\*)\.(\d+|\*)\.(\d+|\*)")


class DatasetSpec(NamedTuple):
    """A dataset's name in its parts, from `parse_spec`."""

    kind: str  # shapes, folder or tfds
    place: str = ""  # the folder's path as written, or NAME[/CONFIG][:VERSION] in TFDS
    split: str = ""  # of TFDS: TRAIN,VAL, or one split expression to divide

    @property
    def title(self) -> str:
        """What to call it in text: the name of its folder, else the spec."""
        if self.kind == "folder":
            return self.place.replace("\\", "/").rstrip("/").rpartition("/")[2]
        return ":".join(filter(None, self))

    @property
    def short_name(self) -> str:
        """The title as the name of a folder, without the kind of dataset in front."""
        name = self.title.removeprefix("tfds:")
        return re.sub(r"[^\w.-]+", "-", readable(name)).strip("-.") or "dataset"


def parse_spec(text: str) -> DatasetSpec:
    """Parse a dataset's name; does not check that the dataset exists.

    Raises:
        UserError: the text is not a dataset's name.

    >>> parse_spec("tfds:voc/2012:1.0.0:train,test")
    DatasetSpec(kind='tfds', place='voc/2012:1.0.0', split='train,test')
    """
    kind, _, place = text.partition(":")
    if text == "shapes" or (kind == "folder" and place):
        return DatasetSpec(kind, place)
    if kind == "tfds" and place:
        name, _, split = place.partition(":")
        version, _, rest = split.partition(":")
        if _VERSION.fullmatch(version):
            return DatasetSpec(kind, f"{name}:{version}", rest)
        return DatasetSpec(kind, name, split)
    hint = f" (did you mean folder:{text}?)" if os.path.isdir(text) else ""
    raise UserError(f"dataset {text!r}: expected shapes, folder:PATH or tfds:NAME[/CONFIG][:SPLIT]{hint}")

"""TFDS datasets with several labels per image, such as PASCAL VOC (`tfds:voc`)."""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.console.text import shown_by_shape
from zfjax.data import catalog, splits
from zfjax.data.catalog import RecordExamples
from zfjax.data.source import BrokenImage, Example, Source
from zfjax.data.spec import parse_spec

SURE = "labels_no_difficult"  # PASCAL's labels, without classes whose objects in the image are all difficult


@shown_by_shape
class Truth(NamedTuple):
    """The true labels of the images of a split."""

    present: Bool[np.ndarray, "images classes"]
    counted: Bool[np.ndarray, "images classes"]  # False: only difficult objects, which scores ignore


@dataclasses.dataclass(frozen=True)
class MultiLabelExamples(RecordExamples):
    """Records with several labels: an example's own label is 0, and `truth` has all of them."""

    def __getitem__(self, index: int) -> Example:
        number = int(self.kept[index])
        name = f"{self.name} example {number}"
        try:
            return Example(name, bytes(self.records[number]["image"]), 0)
        except (OSError, RuntimeError, ValueError) as error:
            raise BrokenImage(f"{name}: {error}") from error

    def truth(self, numbers: Int[np.ndarray, " images"], num_classes: int) -> Truth:
        """Which classes the images with these numbers show."""
        present = np.zeros((len(numbers), num_classes), bool)
        counted = np.ones_like(present)
        for row, number in enumerate(numbers):
            record = self.records[int(self.kept[number])]
            present[row, _labels(record)] = True
            if SURE in record:
                counted[row] = ~present[row]
                counted[row, np.asarray(record[SURE], int)] = True
        return Truth(present, counted)


class MultiLabelSet(NamedTuple):
    """A dataset as an ordinary source, and its two splits with all their labels."""

    source: Source
    train: MultiLabelExamples
    val: MultiLabelExamples


def open_multilabel(spec: str, *, data_dir: str = "") -> MultiLabelSet | None:
    """Open `tfds:NAME[/CONFIG][:TRAIN,VAL]` if it has several labels per image; otherwise return None.

    The labels are the feature `labels`, else those of `objects`. Without TRAIN,VAL, the splits train and validation
    (else test) are used.

    Raises:
        UserError: `spec` is not a dataset's name, there is no such dataset or split, it is not prepared, or it has no
            second split.
    """
    parsed = parse_spec(spec)
    if parsed.kind != "tfds":
        return None
    data_dir = os.fspath(user_path(data_dir, "data_dir")) if data_dir else ""
    builder = catalog.open_builder(parsed.place, data_dir)
    classes = _classes(builder)
    if classes is None:
        return None
    parts = catalog.split_names(spec, parsed.split, builder)
    if len(parts) != 2:
        raise UserError(
            f"{spec}: expected a split to train on and one to test on, as TRAIN,VAL; found {parts[0]} alone"
        )
    halves = [catalog.read_split(f"tfds:{parsed.place}", part, builder) for part in parts]
    train, val = (MultiLabelExamples(half.name, half.records, half.kept, half.stored) for half in halves)
    note = splits.note(spec, parts[0], parts[1], (len(train), len(val)))
    return MultiLabelSet(Source(spec, classes, train, val, (note,)), train, val)


def _classes(builder: Any) -> tuple[str, ...] | None:
    """The class names, if the features are an image and a sequence of labels."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    named = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    if "label" in named or not isinstance(named.get("image"), tfds.features.Image):
        return None
    several = named.get("labels", named.get("objects"))
    if not isinstance(several, tfds.features.Sequence):
        return None
    label = several.feature
    label = label["label"] if isinstance(label, tfds.features.FeaturesDict) and "label" in label else label
    return tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None


def _labels(record: Any) -> Int[np.ndarray, " labels"]:
    return np.asarray(record["labels"] if "labels" in record else record["objects"]["label"], int).reshape(-1)

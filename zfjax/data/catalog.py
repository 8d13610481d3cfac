"""TFDS datasets, read without TensorFlow: images stay encoded until they are needed."""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int, Int64

from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean, readable
from zfjax.data import splits
from zfjax.data.source import BrokenImage, Example, Source, held_out
from zfjax.data.squares import Numbers, ReadExamples, read_parts

_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")


@dataclasses.dataclass(frozen=True)
class RecordExamples:
    """The records numbered `kept` of a TFDS data source that leaves its images encoded."""

    name: str
    records: Any
    kept: Int[np.ndarray, "n"]
    stored: str  # a hash of the files that hold the records

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Example:
        number = int(self.kept[index])
        name = f"{self.name} example {number}"
        try:
            record = self.records[number]
        except (OSError, RuntimeError, ValueError) as error:
            raise BrokenImage(f"{name}: {error}") from error
        return Example(name, bytes(record["image"]), int(record["label"]))

    def parts(self, numbers: Numbers) -> Iterator[ReadExamples]:
        """The records with these numbers, read here, since their files may be open in this process alone."""
        return read_parts(self, numbers)

    @functools.cached_property
    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Sizes are unknown (0); each record has its own number, which changes with the dataset's files."""
        of_set = int.from_bytes(hashlib.sha256(f"{self.name}\0{self.stored}".encode()).digest()[:4], "big")
        numbers = (of_set << 24) + np.asarray(self.kept, np.int64) + 1
        return np.stack([np.zeros_like(numbers), numbers], axis=1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the split's name, the chosen records, and the sizes and times of the dataset's files."""
        digest = hashlib.sha256(f"{self.name}\0{self.stored}".encode())
        digest.update(np.asarray(self.kept, np.int64).tobytes())
        return digest.hexdigest()


def from_builder(name: str, builder: Any, *, split: str = "", seed: int = 0) -> Source:
    """Open the dataset of a TFDS builder.

    Args:
        name: what messages call the dataset.
        builder: a `tfds.core.DatasetBuilder` prepared as array_record (or parquet).
        split: TRAIN,VAL, or a single split expression, of which a random tenth is kept for validation. If empty,
            `splits.choose` picks splits by name, and a training split without a validation split is divided.
        seed: seeds the division. It is not stratified, since that would mean reading every record.

    Raises:
        UserError: the dataset is not prepared, or without random access, or has no such split, or no image and label.
    """
    classes = _classes(name, builder)
    parts = split_names(name, split, builder)
    examples = [read_split(name, part, builder) for part in parts]
    if len(examples) == 1:
        whole = examples[0]
        out = held_out([str(i) for i in range(len(whole))], np.zeros(len(whole), np.int32), seed=seed)
        examples = [dataclasses.replace(whole, kept=np.flatnonzero(mask)) for mask in (~out, out)]
    full_name = f"{name}:{split}" if split else name
    aside = [] if split else [other for other in builder.info.splits if other not in parts]
    counts = (len(examples[0]), len(examples[1]))
    note = splits.note(full_name, parts[0], parts[1] if len(parts) > 1 else "", counts, aside)
    return Source(full_name, classes, examples[0], examples[1], (note,))


def open_builder(name: str, data_dir: str) -> Any:
    """The TFDS builder of NAME[/CONFIG][:VERSION]. Raises a UserError if there is none."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        hint = did_you_mean(re.split("[/:]", name)[0], known) or "; expected one of tensorflow.org/datasets"
        where = data_dir or "TFDS's own folder"
        raise UserError(f"tfds:{name}: no such dataset in TFDS or in {where}{hint}") from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tensorflow":
            raise
        raise UserError(f"tfds:{name}: TFDS needs TensorFlow for this set: pip install 'zfjax[tf]'") from error
    except (ValueError, AssertionError) as error:
        expected = "NAME[/CONFIG][:VERSION]" + _configs(name)
        raise UserError(f"tfds:{name}: {_reason(error)}; expected {expected}") from error


def _reason(error: Exception) -> str:
    """What went wrong, in one line: TFDS prefixes its own call and appends pages of help."""
    text = re.sub(r"^Failed to construct dataset .*?}\": ", "", str(error).strip())
    return text.splitlines()[0].rstrip(".: ") if text else type(error).__name__


def _configs(name: str) -> str:
    import tensorflow_datasets as tfds

    try:
        configs = tfds.builder_cls(re.split("[/:]", name)[0]).builder_configs
    except Exception:  # this only makes a message clearer
        return ""
    return f", CONFIG one of {', '.join(list(configs)[:8])}" if configs else ""


def _classes(name: str, builder: Any) -> tuple[str, ...]:
    import tensorflow_datasets as tfds

    features = builder.info.features
    named = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = named.get("image"), named.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        has = ", ".join(named) or "none by name"
        raise UserError(f"{name}: expected the features image (Image) and label (ClassLabel); it has {has}")
    if not label.num_classes or label.num_classes < 2:
        raise UserError(f"{name}: expected two or more classes, found {label.num_classes}")
    return tuple(map(readable, label.names))


def split_names(name: str, split: str, builder: Any) -> tuple[str, ...]:
    """One split expression, or those of train and val. Raises a UserError if there is neither."""
    if not split:
        _require_prepared(name, builder)
        choice = splits.choose(name, builder.info.splits)
        if choice is None:
            raise UserError(
                f"{name}: expected a split called train, found {', '.join(builder.info.splits)}; choose: {name}:SPLIT"
            )
        return (choice.train, choice.val) if choice.val else (choice.train,)
    parts = tuple(part.strip() for part in _OUTSIDE_BRACKETS.split(split))
    if len(parts) > 2 or not all(parts):
        raise UserError(f"{name}: split {split!r}: expected one TFDS split expression, or two as TRAIN,VAL")
    return parts


def _require_prepared(name: str, builder: Any) -> None:
    if not builder.info.splits:
        raise UserError(f"{name}: not prepared in {builder.data_dir}; prepare it with: {_command(builder)}")


def read_split(name: str, split: str, builder: Any) -> RecordExamples:
    """The records of a split expression, with their images still encoded.

    Raises:
        UserError: the dataset is not prepared, has no random access, or has no such split.
    """
    import tensorflow_datasets as tfds

    _require_prepared(name, builder)
    # Every image stays encoded: decode.py decodes the one that is needed, and others (masks) are not needed.
    images = [key for key, value in builder.info.features.items() if isinstance(value, tfds.features.Image)]
    try:
        records = builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding() for key in images})
    except NotImplementedError as error:
        raise UserError(
            f"{name}: prepared in {builder.data_dir} as {builder.info.file_format.value}, which has no random"
            f" access; remove that folder and prepare it again with: {_command(builder)}"
        ) from error
    except (ValueError, KeyError) as error:
        has = ", ".join(builder.info.splits)
        raise UserError(f"{name}: split {split!r}: {_reason(error)}; it has {has}") from error
    full_name = f"{name}:{split}"
    return RecordExamples(full_name, records, np.arange(len(records)), _stored(builder))


def _stored(builder: Any) -> str:
    digest = hashlib.sha256(builder.info.full_name.encode())
    for path in sorted(builder.data_path.iterdir()):
        stat = path.stat()
        digest.update(f"\0{path.name} {stat.length} {stat.mtime}".encode())
    return digest.hexdigest()


def _command(builder: Any) -> str:
    """The command that prepares a dataset so that it can be read without TensorFlow."""
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    file_format = "parquet" if os.name == "nt" else "array_record"  # there is no array_record for Windows
    default = os.path.expanduser(os.path.join("~", "tensorflow_datasets"))
    root = os.fspath(builder.data_dir).removesuffix(builder.info.full_name).rstrip(os.sep)
    where = "" if root == default else f", data_dir='{root}'"
    manual = " (its files have to be fetched by hand first: tensorflow.org/datasets/catalog says how)"
    return (
        "pip install 'zfjax[tf]' && python -c \"import tensorflow_datasets as tfds; "
        f"tfds.builder('{builder.name}{config}'{where}, file_format='{file_format}').download_and_prepare()\""
        + (manual if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else "")
    )

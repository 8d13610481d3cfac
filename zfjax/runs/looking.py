"""Any model with pictures, for all that looks at a run's net."""

import dataclasses
import os
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Int, UInt8

from zfjax.console.errors import UserError
from zfjax.data import loose
from zfjax.data.opening import open_source
from zfjax.data.pictures import CachedPictures
from zfjax.data.scan import scan
from zfjax.data.source import Source
from zfjax.data.spec import parse_spec
from zfjax.models.display import display_of
from zfjax.models.model import Model
from zfjax.runs import subject
from zfjax.runs.first import our_share
from zfjax.runs.subject import Splits, Subject
from zfjax.training.config import square_size
from zfjax.training.loop import RunData
from zfjax.weights.outputs import distinct

Squares = UInt8[Array | np.ndarray, "n side side 3"]


def look(model: Model, pictures: epath.PathLike | Sequence[epath.PathLike] | Squares, data_dir: str = "") -> Splits:
    """Any model with pictures, as `zfjax.open_run` gives a run: `zfjax.look(model, "folder:PHOTOS").val.load([0])`.

    Args:
        model: takes images of equal height and width, and knows its `preprocess`.
        pictures: a dataset by name, such as shapes, folder:PATH or tfds:NAME; image files or folders of them, whose
            classes nobody knows; or RGB squares [n, side, side, 3] in 0..255, at least as large as the images.
        data_dir: where datasets of TFDS are.

    Returns:
        Both splits of a dataset. Loose pictures are both splits.

    Raises:
        UserError: the model does not know what to make of pictures, or they cannot be read.
    """
    bare = alone(model)
    if isinstance(pictures, np.ndarray | jax.Array):
        return _of_squares(bare, np.asarray(pictures))
    if isinstance(pictures, str) and _is_dataset(pictures):
        return with_dataset(bare, open_source(pictures, data_dir=data_dir))
    paths = [pictures] if isinstance(pictures, str | os.PathLike) else pictures
    return subject.of_images(bare, loose.readable_pictures(loose.picture_files(paths), bare.side))


def alone(model: Model) -> Subject:
    """A model without pictures, for `Subject.of_files`.

    Raises:
        UserError: its images are not square, it does not know what to make of pictures, or its classes are not as many
            as its outputs.
    """
    model = model.logits
    height, width, _ = model.image_shape
    if height != width:
        raise UserError(f"the model takes images of {height}×{width} px; expected as many rows as columns")
    display = display_of(model.preprocess, (height, width))
    return subject.of_model(model, square_size(height), display, _names(model))


def with_dataset(bare: Subject, source: Source, *, train: bool = True) -> Splits:
    """A model with the splits of a dataset.

    A label is the output of the same name. A model whose outputs have no names has those of the dataset if it has as
    many. The labels of other pictures are -1.

    Args:
        bare: from `alone`.
        source: the dataset.
        train: whether the training split is needed too; if not, both splits are the validation split.

    Raises:
        UserError: too many of its pictures are broken.
    """
    if not train:
        source = dataclasses.replace(source, train=source.val)
    scanned = scan(source, bare.side, share=our_share())
    data = RunData(source.classes, scanned.train, scanned.val, scanned.record, source.annotations)
    named, label_of = matched(bare, source)
    splits = subject.with_pictures(bare._replace(classes=named), data)
    return Splits(*(split._replace(labels=label_of[split.labels]) for split in splits))


def matched(bare: Subject, source: Source) -> tuple[tuple[str, ...], Int[np.ndarray, " classes"]]:
    """The names of the model's outputs, and which of them each class of a dataset is; -1 for none."""
    if bare.model.classes is None and len(bare.classes) == len(source.classes):
        return source.classes, np.arange(len(source.classes), dtype=np.int32)
    numbers = {_plain(name): number for number, name in enumerate(bare.classes)}
    return bare.classes, np.array([numbers.get(_plain(name), -1) for name in source.classes], np.int32)


def _plain(name: str) -> str:
    return name.replace("_", " ").strip().casefold()


def _names(model: Model) -> tuple[str, ...]:
    """One name for each output, its number where it has none; no names if the model does not give logits."""
    shape = np.shape(model.output) if isinstance(model.output, jax.ShapeDtypeStruct) else ()
    if len(shape) != 2:
        return ()
    if model.classes is None:
        return tuple(f"output {number}" for number in range(shape[1]))
    if len(model.classes) != shape[1]:
        raise UserError(
            f"{len(model.classes)} classes are named, but the model has {shape[1]} outputs; expected one name for each"
        )
    return distinct(model.classes)


def _is_dataset(text: str) -> bool:
    try:
        parse_spec(text)
    except UserError:
        return False
    return True


def _of_squares(bare: Subject, squares: np.ndarray) -> Splits:
    if squares.dtype != np.uint8 or squares.ndim != 4 or squares.shape[1] != squares.shape[2] or not len(squares):
        raise UserError(f"pictures: expected RGB uint8 [n, side, side, 3], got {squares.dtype} {list(squares.shape)}")
    if squares.shape[1] < bare.size:
        raise UserError(f"pictures: expected at least the {bare.size} px of the model's images, got {squares.shape[1]}")
    numbers, unknown = np.arange(len(squares)), np.full(len(squares), -1, np.int32)
    one = bare._replace(
        pictures=CachedPictures(squares, unknown, numbers), labels=unknown, kept=numbers, side=squares.shape[1]
    )
    return Splits(one, one)

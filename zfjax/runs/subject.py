"""What experiments work on: a model, and images as it expects them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt8

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.console.text import did_you_mean, listed, readable, shown_by_shape
from zfjax.data.annotations import Annotations, PartBoxes
from zfjax.data.crops import center_crop, subtract_mean
from zfjax.data.decode import BrokenImage, decode_square
from zfjax.data.loose import LooseExamples
from zfjax.data.pictures import DecodedPictures, Pictures
from zfjax.data.pipeline import eval_batches
from zfjax.data.reading import read_picture
from zfjax.models import ConvNet
from zfjax.models.display import Display
from zfjax.models.model import Model
from zfjax.models.nets import NetModel
from zfjax.runs.folder import RunInfo, load_model, open_data
from zfjax.training import sharding
from zfjax.training.loop import RunData
from zfjax.training.sharding import Numbered
from zfjax.transform import functions


@shown_by_shape
class Chosen(NamedTuple):
    """Some images, as the net expects them."""

    images: Float[Array, "n size size channels"]
    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]  # one per image
    numbers: Int[np.ndarray, " n"]  # in the split; -1 for files
    guessed: Bool[np.ndarray, " n"]  # true if the class is unknown, and the label is what the net says

    def titles(self, classes: Sequence[str]) -> list[str]:
        """A title for each: its class or, if that is unknown, its name and what the net says."""
        return [
            f"{name} (net: {classes[label]})" if guess else classes[label]
            for name, label, guess in zip(self.names, self.labels, self.guessed, strict=True)
        ]


@shown_by_shape
class Seen(NamedTuple):
    """Images split over the devices of a mesh, as `Numbered`, with the pictures that they are made of."""

    images: Float[Array, "n size size channels"]
    numbers: Int[Array, " n"]  # ascending on each device; -1 for padding
    squares: UInt8[Array, "n side side 3"]


@shown_by_shape
class Subject(NamedTuple):
    """A model and a split of pictures; images are their center crops as the model takes them."""

    model: Model
    pictures: Pictures  # squares of `side` pixels
    labels: Int[np.ndarray, " pictures"]
    kept: Int[np.ndarray, " pictures"]  # the pictures' numbers in the dataset's split, counting broken ones
    classes: tuple[str, ...]
    side: int  # pixels of the squares that images are the centers of
    display: Display  # the model's images as RGB pictures
    step: int | None = None  # of the checkpoint that a net was read from
    annotations: Annotations | None = None  # if the dataset knows more about the split than classes
    fingerprint: str = ""  # of the pictures

    @property
    def net(self) -> ConvNet:
        """The net of a run; other models have none."""
        return self._own.net

    @property
    def variables(self) -> PyTree:
        """The variables of a run's net; other models have none."""
        return self._own.variables

    @property
    def _own(self) -> NetModel:
        if not isinstance(self.model, NetModel):
            raise UserError("this model is not a net of zfjax: use subject.model, its layers and its function")
        return self.model

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return self.model.image_shape[0]

    def load(self, numbers: Int[np.ndarray, " n"] | Sequence[int]) -> Float[Array, "n size size channels"]:
        """The images with these numbers in the split. Raises an IndexError if there is no such number."""
        numbers = np.asarray(numbers)
        for number in numbers[(numbers < 0) | (numbers >= len(self.pictures))]:
            count = len(self.pictures)
            raise IndexError(f"numbers: expected some of the split's {count} pictures, 0 and up; got {number}")
        squares, _ = self.pictures.load(numbers)
        return self.images_of(squares)

    def spread(self, most: int) -> Float[Array, "n size size channels"]:
        """Up to `most` images, spread evenly over the split."""
        count = len(self.pictures)
        return self.load(np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)))

    def images_of(self, squares: UInt8[Array | np.ndarray, "n side side 3"]) -> Float[Array, "n size size channels"]:
        """Squares as the model takes them."""
        return _images(functions.live(self.model.preprocess, name="preprocess"), squares, size=self.size)

    def batches(self, batch_size: int) -> Iterator[Float[Array, "n size size channels"]]:
        """All images, in order; the last batch may be smaller."""
        for batch in eval_batches(self.pictures, batch_size):
            yield self.images_of(batch.image[batch.mask > 0])

    def numbered(self, each: int, mesh: Mesh, begin: int = 0, end: int | None = None) -> Iterator[Numbered]:
        """All images split over the devices of all processes; arguments as in `sharding.one_pass`."""
        for seen in self.seen(each, mesh, begin, end):
            yield Numbered(seen.images, seen.numbers)

    def seen(self, each: int, mesh: Mesh, begin: int = 0, end: int | None = None) -> Iterator["Seen"]:
        """The same, with the pictures that the images are made of."""
        place = functools.partial(sharding.replicate, mesh=mesh)
        preprocess = functions.live(self.model.preprocess, place, name="preprocess")
        for rows in sharding.one_pass(self.pictures, each, mesh, begin, end):
            yield Seen(_images(preprocess, rows.image, size=self.size), rows.number, rows.image)

    @property
    def image_mean(self) -> Float[np.ndarray, "size size 3"]:
        """The picture whose image is zero; of a run what was subtracted from the images."""
        return self.display.image_mean

    def masks(self, numbers: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n size size"]:
        """The objects' pixels in the images with these numbers in the split; there must be annotations."""
        assert self.annotations is not None
        return self.annotations.masks(self.kept[numbers], square=self.side, size=self.size)

    def pixels(self, numbers: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n size size kinds"]:
        """What the images' pixels show, as `Annotations.pixels` gives it; there must be annotations."""
        assert self.annotations is not None
        return self.annotations.pixels(self.kept[numbers], square=self.side, size=self.size)

    def part_boxes(self, numbers: Int[np.ndarray, " n"], names: Sequence[str]) -> PartBoxes:
        """Boxes of the named parts, in those images that show all of them; there must be annotations.

        `numbers` of the result are numbers in the split.
        """
        assert self.annotations is not None
        found = self.annotations.part_boxes(self.kept[numbers], names, square=self.side, size=self.size)
        return found._replace(numbers=numbers[found.numbers])

    def label_of(self, name: str) -> int:
        """The number of the class called `name`. Raises a UserError if there is none."""
        name = readable(name)
        if name not in self.classes:
            several = [
                known for known in self.classes if known.startswith(f"{name} (")
            ]  # distinguished by output number
            hint = f"; expected one of {listed(several)}" if several else did_you_mean(name, self.classes)
            in_parts = [known for known in self.classes if name in map(str.strip, known.split(","))]
            if in_parts:  # the flag was split at its comma
                hint = f"; a name with a comma needs quotes: --classes='\"{in_parts[0]}\"'"
            hint = hint or f"; there are {', '.join(self.classes[:20])}"
            raise UserError(f"no class {name!r} in the run's {len(self.classes)}{hint}")
        return self.classes.index(name)

    def one_of_each(self, labels: Sequence[int], rng: np.random.Generator) -> Chosen:
        """One image of each class: of a few drawn by `rng`, the first that the net gets right, else the first.

        Raises:
            UserError: the split has no image of a class.
        """
        numbers = []
        for label in labels:
            of_class = np.flatnonzero(self.labels == label)
            if not len(of_class):
                raise UserError(f"the split has no image of class {self.classes[label]!r}")
            drawn = rng.permutation(of_class)[:16]
            squares, _ = self.pictures.load(drawn)
            right = self._said(self.images_of(squares)) == label
            numbers.append(drawn[np.argmax(right)])
        return Chosen(
            self.load(np.array(numbers)),
            np.array(labels, np.int32),
            tuple(self.classes[label] for label in labels),
            np.array(numbers),
            np.zeros(len(labels), bool),
        )

    def unlabeled(self, numbers: Int[np.ndarray, " n"]) -> Chosen:
        """The images with these numbers in the split, each with the class that the model says."""
        squares, _ = self.pictures.load(numbers)
        names = tuple(f"image {self.kept[number]}" for number in numbers)
        images = self.images_of(squares)
        return Chosen(
            images, self._said(images).astype(np.int32), names, np.asarray(numbers), np.ones(len(numbers), bool)
        )

    def of_files(self, paths: epath.PathLike | Sequence[epath.PathLike]) -> Chosen:
        """Load one image file or several. A file's class is its folder's name if the net knows it, else what it says.

        Raises:
            UserError: there is no file, or one is missing or not an image; the error names it.
        """
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not paths:
            raise UserError("images: expected one file or more")
        files = [user_path(path, "image") for path in paths]
        squares = np.stack([_square(file, self.side) for file in files])
        images = self.images_of(squares)
        said = self._said(images)
        folders = [readable(file.parent.name) for file in files]
        labels = [
            self.classes.index(folder) if folder in self.classes else int(first)
            for folder, first in zip(folders, said, strict=True)
        ]
        return Chosen(
            images,
            np.array(labels, np.int32),
            tuple(readable(file.stem) for file in files),
            np.full(len(paths), -1),
            np.array([folder not in self.classes for folder in folders]),
        )

    def _said(self, images: Float[Array, "n size size channels"]) -> Int[np.ndarray, " n"]:
        """The most probable class of each."""
        return np.asarray(_most_probable(functions.live(self.model.function), images))


@shown_by_shape
class Splits(NamedTuple):
    """The same model with each split of a dataset."""

    train: Subject
    val: Subject

    @property
    def model(self) -> Model:
        """The model."""
        return self.val.model


def of_run(run: RunInfo, checkpoint: str = "latest") -> Splits:
    """The net of a finished run, and its pictures.

    Raises:
        UserError: there is no such checkpoint, or the run's dataset is no longer there.
    """
    bare = without_pictures(run, checkpoint)
    return with_pictures(bare, open_data(run.config, run.folder))


def with_pictures(bare: Subject, data: RunData) -> Splits:
    """A model with both splits of a dataset, whose classes are in the order of the model's outputs."""
    seen = data.record

    def subject(split: str, pictures: Pictures, labels: np.ndarray, kept: np.ndarray) -> Subject:
        of_split = f"{split} of {seen.fingerprint}"
        return bare._replace(pictures=pictures, labels=labels[kept], kept=kept, fingerprint=of_split)

    train = subject("train", data.train, seen.train_labels, seen.train_kept)
    val = subject("val", data.val, seen.val_labels, seen.val_kept)
    return Splits(train, val._replace(annotations=data.annotations))


def of_model(model: Model, side: int, display: Display, classes: Sequence[str], step: int | None = None) -> Subject:
    """A model alone, for `Subject.of_files`, or to be given pictures.

    Args:
        model: from images of equal height and width to logits [N, classes].
        side: pixels of the squares whose centers are the images.
        display: of the images.
        classes: one name for each output.
        step: of the checkpoint that a net was read from.
    """
    none = np.zeros(0, np.int64)
    return Subject(model, _NoPictures(), none, none, tuple(classes), side, display, step)


def of_net(
    net: ConvNet,
    variables: PyTree,
    mean: Float[Array | np.ndarray, "side side 3"],
    classes: Sequence[str],
    step: int | None = None,
) -> Subject:
    """A net alone, as `of_model`; `mean` is the mean of the squares that it was trained on."""
    cropped = jnp.asarray(center_crop(jnp.asarray(mean)[None], net.image_size)[0])
    model = NetModel(net, variables, classes=classes, preprocess=Partial(LessMean(), cropped))
    black = -np.asarray(cropped)
    return of_model(model, len(mean), Display(black, np.eye(3, dtype=np.float32)), classes, step)


@dataclasses.dataclass(frozen=True)
class LessMean(functions.Fixed):
    """What a net of zfjax takes of pictures, as the `func` of a Partial that holds the mean of the center crops."""

    def __call__(
        self, mean: Float[Array, "size size 3"], squares: UInt8[Array | np.ndarray, "n size size 3"]
    ) -> Float[Array, "n size size 3"]:
        """The pictures less the mean."""
        return subtract_mean(jnp.asarray(squares), mean)


def without_pictures(run: RunInfo, checkpoint: str = "latest") -> Subject:
    """The net of a run alone, for `Subject.of_files`: the run's dataset may be gone, or never have existed.

    Raises:
        UserError: there is no such checkpoint.
    """
    model = load_model(run, checkpoint)
    # To the device once, not with each batch.
    return of_net(model.net, jax.device_put(model.variables), model.mean, run.classes, model.step)


def of_images(bare: Subject, images: LooseExamples) -> Splits:
    """A model without pictures of its own, and image files as both its splits; nobody knows their classes."""
    numbers = np.arange(len(images))
    one = bare._replace(
        pictures=DecodedPictures(images, numbers, bare.side),
        labels=np.full(len(images), -1, np.int32),
        kept=numbers,
        fingerprint=images.fingerprint,
    )
    return Splits(one, one)


class _NoPictures:
    def __len__(self) -> int:
        return 0

    def load(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise IndexError(f"indices: expected none, got {indices}")


def _square(file: epath.Path, size: int) -> np.ndarray:
    try:
        return decode_square(read_picture(file), size, readable(os.fspath(file)))
    except BrokenImage as error:
        raise UserError(f"cannot read the image {error}") from error


@functions.jit
def _images(preprocess: Callable[[Array], Array], squares: Array, *, size: int) -> Array:
    images = preprocess(center_crop(squares, size))
    if images.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16) or images.shape[:1] != squares.shape[:1]:
        raise UserError(
            f"preprocess: expected float images [{len(squares)}, H, W, C] for as many pictures,"
            f" got {images.dtype} {list(images.shape)}"
        )
    return images


@functions.jit
def _most_probable(fun: Callable[[Array], Array], images: Array) -> Array:
    return jnp.argmax(fun(images), axis=1)

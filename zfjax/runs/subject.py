"""What experiments work on: a trained net, and images as it expects them."""

import functools
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

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
from zfjax.models.specs import Dropout, ReLU, Residual
from zfjax.runs.folder import RunInfo, load_model, open_data, read_run
from zfjax.training import sharding
from zfjax.training.sharding import Numbered
from zfjax.training.step import predict


@shown_by_shape
class Chosen(NamedTuple):
    """Some images, as the net expects them."""

    images: Float[Array, "n size size 3"]  # mean subtracted
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
class Subject(NamedTuple):
    """A net, its variables, and a split of pictures; images are their center crops with the mean subtracted."""

    net: ConvNet
    variables: PyTree
    pictures: Pictures
    labels: Int[np.ndarray, " pictures"]
    kept: Int[np.ndarray, " pictures"]  # the pictures' numbers in the dataset's split, counting broken ones
    classes: tuple[str, ...]
    mean: Float[Array, "side side 3"]  # of the squares, before cropping
    step: int | None = None  # of the checkpoint that the net was read from
    annotations: Annotations | None = None  # if the dataset knows more about the split than classes
    fingerprint: str = ""  # of the pictures

    def load(self, numbers: Int[np.ndarray, " n"] | Sequence[int]) -> Float[Array, "n size size 3"]:
        """The images with these numbers in the split. Raises an IndexError if there is no such number."""
        numbers = np.asarray(numbers)
        for number in numbers[(numbers < 0) | (numbers >= len(self.pictures))]:
            count = len(self.pictures)
            raise IndexError(f"numbers: expected some of the split's {count} pictures, 0 and up; got {number}")
        squares, _ = self.pictures.load(numbers)
        return _images(squares, self.mean, self.net.image_size)

    def batches(self, batch_size: int) -> Iterator[Float[Array, "n size size 3"]]:
        """All images, in order; the last batch may be smaller."""
        for batch in eval_batches(self.pictures, batch_size):
            yield _images(batch.image[batch.mask > 0], self.mean, self.net.image_size)

    def numbered(self, each: int, mesh: Mesh, begin: int = 0, end: int | None = None) -> Iterator[Numbered]:
        """All images split over the devices of all processes; arguments as in `sharding.one_pass`."""
        mean = sharding.replicate(self.mean, mesh)
        for rows in sharding.one_pass(self.pictures, each, mesh, begin, end):
            yield Numbered(_images(rows.image, mean, self.net.image_size), rows.number)

    @property
    def image_mean(self) -> Float[np.ndarray, "size size 3"]:
        """What was subtracted from the images."""
        return np.asarray(center_crop(self.mean[None], self.net.image_size)[0])

    def masks(self, numbers: Int[np.ndarray, " n"]) -> Bool[np.ndarray, "n size size"]:
        """The objects' pixels in the images with these numbers in the split; there must be annotations."""
        assert self.annotations is not None
        return self.annotations.masks(self.kept[numbers], square=self.mean.shape[0], size=self.net.image_size)

    def part_boxes(self, numbers: Int[np.ndarray, " n"], names: Sequence[str]) -> PartBoxes:
        """Boxes of the named parts, in those images that show all of them; there must be annotations.

        `numbers` of the result are numbers in the split.
        """
        assert self.annotations is not None
        found = self.annotations.part_boxes(
            self.kept[numbers], names, square=self.mean.shape[0], size=self.net.image_size
        )
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
            right = np.asarray(jnp.argmax(self._predict(squares), axis=1) == label)
            numbers.append(drawn[np.argmax(right)])
        return Chosen(
            self.load(np.array(numbers)),
            np.array(labels, np.int32),
            tuple(self.classes[label] for label in labels),
            np.array(numbers),
            np.zeros(len(labels), bool),
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
        squares = np.stack([_square(file, self.mean.shape[0]) for file in files])
        said = np.asarray(jnp.argmax(self._predict(squares), axis=1))
        folders = [readable(file.parent.name) for file in files]
        labels = [
            self.classes.index(folder) if folder in self.classes else int(first)
            for folder, first in zip(folders, said, strict=True)
        ]
        return Chosen(
            _images(squares, self.mean, self.net.image_size),
            np.array(labels, np.int32),
            tuple(readable(file.stem) for file in files),
            np.full(len(paths), -1),
            np.array([folder not in self.classes for folder in folders]),
        )

    def _predict(self, squares: np.ndarray) -> Float[Array, "n classes"]:
        return predict(self.net, self.variables, self.mean, squares)


@shown_by_shape
class Splits(NamedTuple):
    """The same net with each split of its run."""

    train: Subject
    val: Subject


def of_run(run: RunInfo, checkpoint: str = "latest") -> Splits:
    """The net of a finished run, and its pictures.

    Raises:
        UserError: there is no such checkpoint, or the run's dataset is no longer there.
    """
    bare = without_pictures(run, checkpoint)
    data = open_data(run.config, run.folder)
    seen = data.record

    def subject(split: str, pictures: Pictures, labels: np.ndarray, kept: np.ndarray) -> Subject:
        of_split = f"{split} of {seen.fingerprint}"
        return bare._replace(pictures=pictures, labels=labels[kept], kept=kept, fingerprint=of_split)

    train = subject("train", data.train, seen.train_labels, seen.train_kept)
    val = subject("val", data.val, seen.val_labels, seen.val_kept)
    return Splits(train, val._replace(annotations=data.annotations))


def without_pictures(run: RunInfo, checkpoint: str = "latest") -> Subject:
    """The net of a run alone, for `Subject.of_files`: the run's dataset may be gone, or never have existed.

    Raises:
        UserError: there is no such checkpoint.
    """
    model, none = load_model(run, checkpoint), np.zeros(0, np.int64)
    # To the device once, not with each batch.
    variables, mean = jax.device_put((model.variables, model.mean))
    return Subject(model.net, variables, _NoPictures(), none, none, run.classes, mean, model.step)


def of_images(run: RunInfo, images: LooseExamples, checkpoint: str = "latest") -> Splits:
    """The net of a run without pictures of its own, and image files as both its splits; nobody knows their classes.

    Raises:
        UserError: there is no such checkpoint.
    """
    bare, numbers = without_pictures(run, checkpoint), np.arange(len(images))
    one = bare._replace(
        pictures=DecodedPictures(images, numbers, bare.mean.shape[0]),
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


def open_run(workdir: epath.PathLike, checkpoint: str = "latest", dataset: str = "") -> Splits:
    """Open the run in `workdir`, its net and its pictures: `zfjax.open_run("runs/shapes").val.net`.

    Args:
        workdir: a folder that `zfjax train` or `zfjax import-weights` wrote.
        checkpoint: latest, best (on the validation split) or a step.
        dataset: where the run's pictures are now, such as folder:PATH; default where they were.

    Raises:
        UserError: no run was started there, there is no such checkpoint, or the run's dataset is gone or has
            other pictures.
    """
    return of_run(read_run(workdir, dataset), checkpoint)


def feature_layers(net: ConvNet) -> list[str]:
    """The paper's layers 1 to 5: the rectified maps, by name, bottom first; in a ResNet relu1 and each block.

    Raises:
        UserError: the net has none.
    """
    names = []
    for spec in net.layers:
        if spec.mixes_all:
            break
        if isinstance(spec, ReLU | Residual):
            names.append(spec.name)
    if not names:
        raise UserError("the net has no rectified maps: expected a ReLU below its first dense layer")
    return names


def last_hidden_layer(net: ConvNet) -> str:
    """The paper's layer 7, from which the classes are read; in a ResNet the means of the last maps."""
    return [spec.name for spec in net.layers[:-1] if not isinstance(spec, Dropout)][-1]


def _square(file: epath.Path, size: int) -> np.ndarray:
    try:
        return decode_square(read_picture(file), size, readable(os.fspath(file)))
    except BrokenImage as error:
        raise UserError(f"cannot read the image {error}") from error


@functools.partial(jax.jit, static_argnames="size")
def _images(squares: Array, mean: Array, size: int) -> Array:
    return center_crop(subtract_mean(squares, mean), size)

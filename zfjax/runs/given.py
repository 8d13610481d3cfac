"""What commands are given to look at: a run by `--workdir`, or any model by `--model`, with `--dataset` and `--out`."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from absl import flags
from etils import epath

from zfjax.console import command, options
from zfjax.console.errors import UserError
from zfjax.console.paths import absolute_path
from zfjax.console.text import listed, say
from zfjax.data.loose import picture_files, readable_pictures
from zfjax.data.opening import open_source
from zfjax.data.outside import root_of
from zfjax.data.pictures import ChosenPictures, LabeledPictures, Pictures
from zfjax.data.scan import Scanned, scan
from zfjax.data.source import Examples, Source
from zfjax.data.spec import parse_spec
from zfjax.models.model import Model
from zfjax.ops.arguments import described
from zfjax.runs import claim, looking, onnx_run, subject
from zfjax.runs.first import our_share
from zfjax.runs.folder import RunInfo, load_model, open_data, open_own, read_run, scan_for
from zfjax.runs.model_files import model_given
from zfjax.runs.subject import Splits, Subject
from zfjax.training.precision import matmul_precision
from zfjax.training.scoring import AnyModel, Scored, Trained
from zfjax.weights.onnx import from_onnx
from zfjax.weights.outputs import read_names
from zfjax.weights.preprocessing import TORCHVISION, asked_for


@dataclasses.dataclass(frozen=True)
class Given(abc.ABC):
    """What a command looks at: `OfRun`, a net that zfjax trained or imported, or `OfModel`, any other model.

    Attributes:
        name: of the run's folder or the model's file, for titles.
        out: the folder for what the command writes.
        dataset: the pictures, by name; empty for none.
        data_dir: where datasets of TFDS are.
        title: what the model is.
        folder: of the run; None for a model that is in none.
    """

    name: str
    out: epath.Path
    dataset: str
    data_dir: str
    title: str
    folder: epath.Path | None

    @property
    @abc.abstractmethod
    def precision(self) -> str:
        """Of products of float32, as `config.matmul_precision` says it."""

    @property
    @abc.abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs."""

    @property
    @abc.abstractmethod
    def image_size(self) -> int:
        """Height and width of the images in pixels."""

    @abc.abstractmethod
    def scored(self) -> Scored:
        """The model for tables: with what it sees of squares.

        Raises:
            UserError: as `alone`.
        """

    @abc.abstractmethod
    def scanned(self, source: Source) -> Scanned:
        """The pictures of a dataset as squares of the model's size.

        Raises:
            UserError: too many are broken.
        """

    @abc.abstractmethod
    def examples(self) -> Examples:
        """The dataset's validation split as it is stored. Raises a UserError if there is no such dataset."""

    @abc.abstractmethod
    def labeled(self) -> tuple[Pictures, int]:
        """The validation pictures whose class is one of the outputs, with its number; and how many others there are.

        Raises:
            UserError: there is no such dataset, or none of its pictures is of such a class.
        """

    @abc.abstractmethod
    def alone(self) -> Subject:
        """The model without pictures.

        Raises:
            UserError: the run has no such checkpoint, or the model does not know what to make of pictures.
        """

    @abc.abstractmethod
    def splits(self, *, train: bool = False) -> Splits:
        """The model with its dataset.

        Args:
            train: whether the training split is needed; if not, it may be the validation split.

        Raises:
            UserError: as `alone`, or there is no such dataset.
        """

    @property
    def dataset_title(self) -> str:
        """The dataset without the path of its folder."""
        return parse_spec(self.dataset).title if self.dataset else "pictures"

    @property
    def is_drawn(self) -> bool:
        """Whether the pictures are the package's own drawings."""
        return bool(self.dataset) and parse_spec(self.dataset).kind == "shapes"

    @property
    def passes(self) -> epath.Path:
        """The folder for the parts of passes that are done."""
        if self.folder is not None:
            return self.folder / "passes"
        return self.out.parent / f".{self.out.name}-passes"  # beside the folder, which may be replaced as a whole

    @property
    def home(self) -> epath.Path:
        """The folder for what is kept of the model itself, whatever it is looked at with."""
        return self.folder or self.out

    @property
    def root(self) -> epath.Path | None:
        """The folder of its pictures, where nothing may be written; None for other datasets."""
        return root_of(self.dataset, self.data_dir)

    def with_images(self, paths: Sequence[str]) -> tuple[Splits, tuple[epath.Path, ...]]:
        """The model with image files, and files in folders, instead of a dataset; and those that can be read.

        Raises:
            UserError: as `alone`, or none can be read.
        """
        bare = self.alone()
        images = readable_pictures(picture_files(paths), bare.side)
        return subject.of_images(bare, images), images.files

    @contextmanager
    def writing(self, by: str) -> Iterator[None]:
        """Hold the folder `out` for a command, and compute in the run's precision.

        Raises:
            UserError: as `claim.writing`.
        """
        pictures = root_of(self.dataset, self.data_dir)
        with claim.writing(self.out, by, pictures), matmul_precision(self.precision):
            yield


@dataclasses.dataclass(frozen=True)
class OfRun(Given):
    """A net of zfjax in a run.

    Attributes:
        run: the run.
        checkpoint: latest, best or a step.
    """

    run: RunInfo
    checkpoint: str

    @property
    def root(self) -> epath.Path | None:
        """The folder of the run's own pictures."""
        return self.run.root

    @property
    def precision(self) -> str:
        """The run's own."""
        return self.run.config.matmul_precision

    @property
    def classes(self) -> tuple[str, ...]:
        """The run's classes."""
        return self.run.classes

    @property
    def image_size(self) -> int:
        """As configured."""
        return int(self.run.config.image_size)

    def scored(self) -> Trained:
        """The net for tables. Raises a UserError if there is no such checkpoint."""
        return load_model(self.run, self.checkpoint)

    def scanned(self, source: Source) -> Scanned:
        """The pictures of a dataset, decoded and cached like the run's own."""
        return scan_for(self.run, source)

    def examples(self) -> Examples:
        """The validation split of the run's own dataset."""
        return open_own(self.run.config, self.run.folder).val

    def labeled(self) -> tuple[Pictures, int]:
        """All validation pictures of the run's own dataset, or of another with the same classes."""
        config = self.run.config
        if self.dataset in ("", config.dataset):
            return open_data(config, self.run.folder).val, 0
        source = open_source(self.dataset, data_dir=config.data_dir, seed=config.seed)
        if source.classes != self.classes:
            raise UserError(
                f"{self.dataset} has other classes than the run in {self.run.folder}:"
                f" {listed(source.classes, 5)} instead of {listed(self.classes, 5)}"
            )
        return scan_for(self.run, source).val, 0

    def alone(self) -> Subject:
        """The net without pictures. Raises a UserError if there is no such checkpoint."""
        return subject.without_pictures(self.run, self.checkpoint)

    def splits(self, *, train: bool = False) -> Splits:
        """The net with both splits of its own pictures."""
        return subject.of_run(self.run, self.checkpoint)


@dataclasses.dataclass(frozen=True)
class OfModel(Given):
    """Any model.

    Attributes:
        model: the model.
    """

    model: Model

    @property
    def precision(self) -> str:
        """JAX's own."""
        return ""

    @property
    def classes(self) -> tuple[str, ...]:
        """As the model names them, else by their numbers."""
        return self.alone().classes

    @property
    def image_size(self) -> int:
        """As the model takes them."""
        return self.alone().size

    def scored(self) -> AnyModel:
        """The model for tables."""
        return AnyModel(self.alone().model)

    def source(self) -> Source:
        """The dataset. Raises a UserError if there is no such dataset, or none was given."""
        if not self.dataset:
            if self.folder:
                raise UserError(
                    f"the run in {self.folder} has no pictures of its own: expected --dataset=folder:PATH, or another"
                )
            raise UserError("--model needs pictures: expected --dataset=folder:PATH, or another dataset")
        return open_source(self.dataset, data_dir=self.data_dir)

    def scanned(self, source: Source) -> Scanned:
        """The pictures of a dataset as squares of the model's size."""
        return scan(source, self.alone().side, share=our_share())

    def examples(self) -> Examples:
        """The dataset's validation split."""
        return self.source().val

    def labeled(self) -> tuple[Pictures, int]:
        """Those validation pictures whose class has the name of an output."""
        val = self.splits().val
        if not val.classes:
            raise UserError(f"expected a model that gives logits [N, classes], got {described(val.model.output)}")
        known = np.flatnonzero(val.labels >= 0)
        if not len(known):
            raise UserError(
                f"no class of {self.dataset} is one of the outputs of {self.name}, which are {listed(val.classes, 5)};"
                " expected the same names: Model(…, classes=), or --class_names says them"
            )
        pictures = ChosenPictures(LabeledPictures(val.pictures, val.labels), known)
        return pictures, len(val.labels) - len(known)

    def alone(self) -> Subject:
        """The model without pictures."""
        return looking.alone(self.model)

    def splits(self, *, train: bool = False) -> Splits:
        """The model with its dataset."""
        source = self.source()  # before the model is asked for anything
        return looking.with_dataset(self.alone(), source, train=train)


def of_run(run: RunInfo, folder: str, out: epath.Path | None = None, checkpoint: str = "latest") -> OfRun:
    """A run to look at, and the folder in it for what is written if that is not `out`."""
    config, at = run.config, out or run.folder / folder
    title = f"{config.net} at {config.width:g} × full width" if config.width != 1 else config.net
    return OfRun(run.folder.name, at, config.dataset, config.data_dir, title, run.folder, run, checkpoint)


def of_workdir(
    workdir: epath.PathLike,
    folder: str,
    out: epath.Path | None = None,
    *,
    checkpoint: str = "latest",
    dataset: str = "",
    other: bool = False,
) -> Given:
    """A run to look at, whatever it holds: a net of zfjax, or an ONNX file.

    Args:
        workdir: the run's folder.
        folder: in the run, for what the command writes if `out` does not say where.
        out: the folder for what the command writes.
        checkpoint: latest, best or a step; of an ONNX file only latest.
        dataset: where the run's pictures are now, or the pictures to look at an ONNX file with; default the run's own.
        other: whether `dataset` names other pictures than the run's own.

    Raises:
        UserError: no run was started there, its files are damaged, or it has no pictures of its own.
    """
    kept = onnx_run.read(workdir)
    if kept is None:
        found = of_run(read_run(workdir, "" if other else dataset), folder, out, checkpoint)
        return dataclasses.replace(found, dataset=dataset) if other else found
    if checkpoint != "latest":
        raise UserError(f"the run in {kept.folder} is an ONNX file, which has no checkpoint {checkpoint!r}")
    pictures = (dataset, "") if dataset else (kept.said.dataset, kept.said.data_dir)
    at = out or kept.folder / folder
    return OfModel(kept.folder.name, at, *pictures, kept.file.stem, kept.folder, kept.model)


def open_run(workdir: epath.PathLike, checkpoint: str = "latest", dataset: str = "") -> Splits:
    """Open the run in `workdir`, its net and its pictures: `zfjax.open_run("runs/shapes").model`.

    Args:
        workdir: a folder that `zfjax train` or `zfjax import-weights` wrote.
        checkpoint: latest, best (on the validation split) or a step.
        dataset: where the run's pictures are now, such as folder:PATH; default where they were. For the run of an ONNX
            file any pictures.

    Returns:
        Both splits; of a run without pictures of its own, both are empty, and `val.of_files` opens some.

    Raises:
        UserError: no run was started there, there is no such checkpoint, or the run's dataset is gone or has
            other pictures.
    """
    found = of_workdir(workdir, "", checkpoint=checkpoint, dataset=dataset)
    if found.dataset:
        return found.splits(train=True)
    bare = found.alone()
    return Splits(bare, bare)


def given(values: flags.FlagValues, folder: str, *, local: str = "", other: bool = False, writes: bool = True) -> Given:
    """What the flags of `command.run_flags` say.

    Args:
        values: the flags, parsed.
        folder: the folder in a run for what the command writes, where --out does not say it.
        writes: whether a model needs --out.
        other: whether --dataset names other pictures than the run's own; if not, where these are now.
        local: as in `user_path`, for --out.

    Raises:
        UserError: neither or both of --workdir and --model, --model without --out, no such run or model.
    """
    out = absolute_path(values.out, "--out", local=local) if values.out else None
    if not values.model:
        command.reject_unused(values, ("data_dir", *options.OF_ONNX), "without --model; a run knows its own")
        how = {"checkpoint": values.checkpoint, "dataset": values.dataset, "other": other}
        return of_workdir(values.workdir, folder, out, **how)
    command.reject_unused(values, ("workdir",), "with --model, which is looked at")
    command.reject_unused(values, ("checkpoint",), "with --model, which has no checkpoints")
    if out is None and writes:
        raise UserError("--model needs a folder for what is written: expected --out=FOLDER")
    out = out or epath.Path()
    name = Path(values.model.rpartition(":")[2] or values.model).stem
    if values.model.lower().endswith(".onnx"):
        classes = _class_names(values.class_names) if values.class_names else None
        model = from_onnx(values.model, classes=classes, preprocess=asked_for(values, TORCHVISION).__call__)
    else:
        command.reject_unused(values, options.OF_ONNX, "with a model from a Python file, which says what it takes")
        model = model_given(values.model)
    return OfModel(name, out, values.dataset, values.data_dir, name, None, model)


def _class_names(path: str) -> tuple[str, ...]:
    """The names in a file, as in `read_names`, with what was unusual about it said."""
    found = read_names(path)
    for note in found.notes:
        say(note)
    return found.names

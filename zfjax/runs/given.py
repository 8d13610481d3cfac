"""What commands are given to look at: a run by `--workdir`, or any model by `--model`, with `--dataset` and `--out`."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from absl import flags
from etils import epath

from zfjax.console import command, options, scripts
from zfjax.console.errors import UserError
from zfjax.console.paths import absolute_path
from zfjax.console.text import did_you_mean, first_line, say
from zfjax.data.loose import picture_files, readable_pictures
from zfjax.data.opening import open_source
from zfjax.data.outside import root_of
from zfjax.data.scan import Scanned, scan
from zfjax.data.source import Examples, Source
from zfjax.data.spec import parse_spec
from zfjax.models.model import Model
from zfjax.runs import claim, looking, subject
from zfjax.runs.first import our_share
from zfjax.runs.folder import RunInfo, load_model, open_own, read_run, scan_for
from zfjax.runs.subject import Splits, Subject
from zfjax.runs.written import CONFIG
from zfjax.training.precision import matmul_precision
from zfjax.training.scoring import AnyModel, Scored
from zfjax.weights import layouts
from zfjax.weights.onnx import from_onnx
from zfjax.weights.outputs import read_names
from zfjax.weights.preprocessing import TORCHVISION, asked_for


class Given(NamedTuple):
    """A run, or a model with what to look at it with.

    Attributes:
        name: of the run's folder or the model's file, for titles.
        out: the folder for what the command writes.
        dataset: the pictures, by name; empty for none.
        data_dir: where datasets of TFDS are.
        run: where it is one.
        model: where it is none.
        checkpoint: of the run.
    """

    name: str
    out: epath.Path
    dataset: str
    data_dir: str
    run: RunInfo | None
    model: Model | None
    checkpoint: str

    @property
    def title(self) -> str:
        """The net of the run, or the name of the model."""
        if self.run is None:
            return self.name
        config = self.run.config
        return f"{config.net} at {config.width:g} × full width" if config.width != 1 else config.net

    @property
    def dataset_title(self) -> str:
        """The dataset without the path of its folder."""
        return parse_spec(self.dataset).title if self.dataset else "pictures"

    @property
    def precision(self) -> str:
        """Of products of float32, by the run's `config.matmul_precision`."""
        return self.run.config.matmul_precision if self.run else ""

    @property
    def passes(self) -> epath.Path:
        """The folder for the parts of passes that are done."""
        if self.run is not None:
            return self.run.folder / "passes"
        return self.out.parent / f".{self.out.name}-passes"  # beside the folder, which may be replaced as a whole

    @property
    def home(self) -> epath.Path:
        """The folder for what is kept of the model itself, whatever it is looked at with."""
        return self.run.folder if self.run else self.out

    @property
    def root(self) -> epath.Path | None:
        """The folder of its pictures, where nothing may be written; None for other datasets."""
        return self.run.root if self.run else root_of(self.dataset, self.data_dir)

    def scored(self) -> Scored:
        """The model for tables: with what it sees of squares.

        Raises:
            UserError: as `alone`.
        """
        if self.run is not None:
            return load_model(self.run, self.checkpoint)
        return AnyModel(self.alone().model)

    def source(self) -> Source:
        """The dataset of a model. Raises a UserError if there is no such dataset, or none was given."""
        if not self.dataset:
            raise UserError("--model needs pictures: expected --dataset=folder:PATH, or another dataset")
        return open_source(self.dataset, data_dir=self.data_dir)

    def scanned(self, source: Source) -> Scanned:
        """The pictures of a dataset as squares of the model's size.

        Raises:
            UserError: too many are broken.
        """
        return scan_for(self.run, source) if self.run else scan(source, self.alone().side, share=our_share())

    def examples(self) -> Examples:
        """The dataset's validation split as it is stored. Raises a UserError if there is no such dataset."""
        if self.run is not None:
            return open_own(self.run.config, self.run.folder).val
        return self.source().val

    def alone(self) -> Subject:
        """The model without pictures.

        Raises:
            UserError: the run has no such checkpoint, or the model does not know what to make of pictures.
        """
        if self.run is not None:
            return subject.without_pictures(self.run, self.checkpoint)
        assert self.model is not None
        return looking.alone(self.model)

    def splits(self, *, train: bool = False) -> Splits:
        """The model with its dataset.

        Args:
            train: whether the training split is needed; if not, that of a model may be the validation split.

        Raises:
            UserError: as `alone`, or there is no such dataset.
        """
        if self.run is not None:
            return subject.of_run(self.run, self.checkpoint)
        source = self.source()  # before the model is asked for anything
        return looking.with_dataset(self.alone(), source, train=train)

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


def of_run(run: RunInfo, folder: str, out: epath.Path | None = None, checkpoint: str = "latest") -> Given:
    """A run to look at, and the folder in it for what is written if that is not `out`."""
    at = out or run.folder / folder
    return Given(run.folder.name, at, run.config.dataset, run.config.data_dir, run, None, checkpoint)


def given(values: flags.FlagValues, folder: str, *, local: str = "", other: bool = False) -> Given:
    """What the flags of `command.run_flags` say.

    Args:
        values: the flags, parsed.
        folder: the folder in a run for what the command writes, where --out does not say it.
        other: whether --dataset names other pictures than the run's own; if not, where these are now.
        local: as in `user_path`, for --out.

    Raises:
        UserError: neither or both of --workdir and --model, --model without --out, no such run or model.
    """
    out = absolute_path(values.out, "--out", local=local) if values.out else None
    if not values.model:
        command.reject_unused(values, ("data_dir", *options.OF_ONNX), "without --model; a run knows its own")
        run = read_run(values.workdir, "" if other else values.dataset)
        found = of_run(run, folder, out, values.checkpoint)
        return found._replace(dataset=values.dataset) if other else found
    command.reject_unused(values, ("workdir",), "with --model, which is looked at")
    command.reject_unused(values, ("checkpoint",), "with --model, which has no checkpoints")
    if out is None:
        raise UserError("--model needs a folder for what is written: expected --out=FOLDER")
    name = Path(values.model.rpartition(":")[2] or values.model).stem
    if values.model.lower().endswith(".onnx"):
        classes = _class_names(values.class_names) if values.class_names else None
        model = from_onnx(values.model, classes=classes, preprocess=asked_for(values, TORCHVISION).__call__)
    else:
        command.reject_unused(values, options.OF_ONNX, "with a model from a Python file, which says what it takes")
        model = model_given(values.model)
    return Given(name, out, values.dataset, values.data_dir, None, model, "latest")


def model_given(words: str) -> Model:
    """A model in a Python file, or the one that a function there returns; or that of an ONNX file.

    Args:
        words: FILE.py:NAME, or a file's name that ends in .onnx.

    Raises:
        UserError: there is no such file or function, or it makes no model.
    """
    if words.lower().endswith(".onnx"):
        return from_onnx(words)
    parts = re.fullmatch(r"(.*\.py):(\w+)", words, re.DOTALL)
    if not parts:
        raise _no_model(words)
    file, name = parts.groups()
    made = _function(file, name)
    called = name if isinstance(made, Model) else f"{name}()"
    try:
        model = made if isinstance(made, Model) else made()
        if isinstance(model, Model):
            model.layers  # noqa: B018  (its function runs for the first time)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a program, and the user's
        raise UserError(f"--model: {called} of {file}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, Model):
        raise UserError(f"--model: {name}() of {file} returned {type(model).__name__}; expected a zfjax.Model")
    return model


def _no_model(words: str) -> UserError:
    """What to do with a run, weights, the name of a net, or anything else that is no model."""
    path = Path(os.path.expanduser(words))  # of no user, it stays as it is
    if (path / CONFIG).is_file():
        return UserError(f"--model={words}: it is a run; expected --workdir={words}")
    if path.suffix != ".py" and path.is_file():
        run = f"zfjax import-weights {words} --model=MODEL --workdir=RUN makes a run"
        return UserError(f"--model={words}: a file of weights is no model; {run}")
    if words in layouts.MODELS:
        run = f"zfjax import-weights FILE --model={words} --workdir=RUN makes a run"
        return UserError(f"--model={words}: it is a net without weights; {run}")
    return UserError(
        f"--model={words}: expected FILE.py:NAME, where NAME is a zfjax.Model or a function that returns one, or"
        " NAME.onnx"
    )


def _class_names(path: str) -> tuple[str, ...]:
    """The names in a file, as in `read_names`, with what was unusual about it said."""
    found = read_names(path, "--class_names")
    for note in found.notes:
        say(note)
    return found.names


def _function(file: str, name: str) -> Callable[[], object]:
    module = scripts.executed(file, "--model", "nets.py:NAME")
    functions = {key: value for key, value in vars(module).items() if callable(value) and not isinstance(value, type)}
    if name not in functions:
        raise UserError(f"--model: no function {name!r} in {file}{did_you_mean(name, list(functions)) or ''}")
    return functions[name]

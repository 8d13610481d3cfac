"""An ONNX file as a run: kept whole in a folder, with what it does not say itself."""

import hashlib
import os
import pathlib
import shutil
from typing import Any, NamedTuple

from etils import epath

from zfjax.console import sealed, signals
from zfjax.console.errors import UserError
from zfjax.console.files import damaged, draft, read_json, write_json
from zfjax.console.paths import absolute_path
from zfjax.data.outside import root_of
from zfjax.models.model import Model
from zfjax.runs import looking
from zfjax.runs.claim import held
from zfjax.runs.folder import absolute
from zfjax.runs.imported import already, require_no_run
from zfjax.runs.subject import Subject
from zfjax.runs.written import CONFIG, ONNX, ORIGIN, SAID
from zfjax.weights.onnx import from_onnx
from zfjax.weights.onnx.reading import files_of
from zfjax.weights.preprocessing import Preprocessing

_LOCAL = "where ONNX files are read from"
_AGAIN = "import the file again, into another --workdir"


class Said(NamedTuple):
    """What a file does not say itself.

    Attributes:
        preprocessing: what its net takes.
        classes: names of its outputs, or None.
        image_size: height and width in pixels of its images; None for its own, or 224 where it leaves them open.
        dataset: the run's pictures, by name; empty for none.
        data_dir: where datasets of TFDS are.
    """

    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None
    image_size: int | None = None
    dataset: str = ""
    data_dir: str = ""


class Kept(NamedTuple):
    """A run that keeps an ONNX file.

    Attributes:
        folder: of the run.
        file: the ONNX file.
        model: what it computes.
        said: what it does not say itself.
    """

    folder: epath.Path
    file: pathlib.Path
    model: Model
    said: Said


def keep(workdir: epath.PathLike, source: str | os.PathLike[str], said: Said) -> tuple[epath.Path, Subject]:
    """Copy a file, with the files of its weights beside it, into a run of its own.

    The run appears at once when all is there, so that nothing is left of an import that was killed. If exactly this was
    imported before, nothing is written.

    Args:
        workdir: the run's folder, on this disk.
        source: the file.
        said: what it does not say.

    Returns:
        The folder, and the model without pictures.

    Raises:
        UserError: the file cannot be used; or the folder holds a run, or cannot be written.
    """
    absolute_path(workdir, "workdir", local=_LOCAL)
    with held(workdir, "zfjax import-weights", root_of(said.dataset, said.data_dir)) as folder:
        there = read_said(folder)
        if there is None:
            if (folder / ORIGIN).exists():  # of an import that was stopped, which may go on
                raise already(folder)
            require_no_run(folder, "")
        bare = _checked(source, said)
        file, *beside = files_of(source)
        names = {path.relative_to(file.parent).as_posix(): path for path in (file, *beside)}
        if SAID in names:
            raise UserError(f"cannot use {source}: its weights are in {SAID}, a name that a run has itself; rename it")
        made = {**_as_json(said), "file": file.name}
        if there is not None:
            if {**made, "digests": {name: _digest(path) for name, path in names.items()}} != there:
                raise already(folder)
            return folder, bare
        with draft(pathlib.Path(folder) / f".{ONNX}.draft") as new:
            digests = {name: _copied(path, new / name) for name, path in names.items()}
            write_json(new / SAID, sealed.seal({**made, "digests": digests}))
            with signals.held():
                new.rename(folder / ONNX)
    return folder, bare


def _checked(source: str | os.PathLike[str], said: Said) -> Subject:
    bare = looking.alone(_model(source, said))
    if said.image_size not in (None, bare.size):
        raise UserError(f"--image_size={said.image_size}: {source} is made for images of {bare.size} px")
    return bare


def _model(file: str | os.PathLike[str], said: Said) -> Model:
    size = said.image_size or 224
    return from_onnx(file, classes=said.classes, preprocess=said.preprocessing.__call__, image_size=size)


def _copied(source: pathlib.Path, target: pathlib.Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return _digest(target)


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(workdir: epath.PathLike) -> Kept | None:
    """Read the run in `workdir`; None if it keeps no ONNX file.

    Raises:
        UserError: it is damaged.
    """
    folder = absolute(workdir)
    kept = read_said(folder)
    if kept is None:
        return None
    absolute_path(workdir, "workdir", local=_LOCAL)
    home = pathlib.Path(folder / ONNX)
    for name, digest in kept["digests"].items():
        try:
            if _digest(home / name) != digest:
                raise damaged(home / name, "it is not what was imported", _AGAIN)
        except OSError as error:
            raise damaged(home / name, error, _AGAIN) from error
    before = Preprocessing.of(kept["preprocessing"])
    said = Said(before, *(kept[name] for name in Said._fields[1:]))
    return Kept(folder, home / kept["file"], _model(home / kept["file"], said), said)


def read_said(folder: epath.Path) -> dict[str, Any] | None:
    """What is written beside the ONNX file that a run keeps; None if it keeps none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / ONNX / SAID
    if (folder / CONFIG).exists() or not path.parent.is_dir():
        return None
    value = read_json(path, _AGAIN)
    try:
        if sealed.DIGEST not in value:
            raise ValueError("it has no digest")
        return sealed.unseal(value)
    except (TypeError, ValueError) as error:
        raise damaged(path, error, _AGAIN) from error


def _as_json(said: Said) -> dict[str, Any]:
    """As a file of JSON gives it back."""
    classes = None if said.classes is None else list(said.classes)
    before = {
        **said.preprocessing._asdict(),
        "mean": list(said.preprocessing.mean),
        "std": list(said.preprocessing.std),
    }
    return {**said._asdict(), "preprocessing": before, "classes": classes}

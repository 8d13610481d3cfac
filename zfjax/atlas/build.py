"""Joins a run, the experiments, the pictures and the pages; the folder is put in place when all is written."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from zfjax.atlas import collect, site
from zfjax.atlas.pictures import Sheet, pictures
from zfjax.errors import UserError
from zfjax.experiments import subject
from zfjax.experiments.subject import Subject, feature_layers
from zfjax.progress import Progress
from zfjax.training.run import read_run
from zfjax.version import __version__

MARK = "atlas.json"  # lists what was written, so that nothing else is ever deleted
_LITTER = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))  # what file managers leave behind


def build(workdir: str, out: str, checkpoint: str, layers: Sequence[str], batch_size: int) -> str:
    """Writes the atlas of a run into a folder, and says what was written.

    Args:
        workdir: folder of a run.
        out: folder to write; empty for `atlas` in the run.
        checkpoint: latest, best or a step.
        layers: names of layers; none for the paper's layers 1 to 5.
        batch_size: images at once.

    Raises:
        UserError: no such run, checkpoint or layer; `out` holds something else than an atlas or cannot be written.
    """
    run = read_run(workdir)
    folder = _local(out or str(run.folder / "atlas"))
    require_free(folder)
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)  # before anything is computed
        with Progress("opening the run"):
            val = subject.of_run(run, checkpoint).val
        names = tuple(dict.fromkeys(layers)) or feature_layers(val.net)
        survey = collect.survey(run, val, checkpoint, names, batch_size)
        sheets = _write_pictures(survey, val, part)
        pages = site.write(part, survey, sheets)
        files = [path for path in part.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        _put_in_place(part, folder, sorted(path.relative_to(part).as_posix() for path in files))
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    images = sum(path.suffix == ".webp" for path in files)
    return f"written to {folder}: index.html, {pages:,} pages, {images:,} pictures, {size / 1e6:.1f} MB"


def require_free(folder: Path) -> None:
    """Raises a UserError where `folder` is there and holds anything but an atlas."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--out={folder} is no folder; expected a new one, or one with an earlier atlas")
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    there = {path.relative_to(folder).as_posix() for path in paths if path.name not in _LITTER}
    if not there:
        return
    try:
        files = json.loads((folder / MARK).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"--out={folder} holds files but no atlas; expected a new folder, or an earlier atlas"
        ) from None
    others = sorted(there - set(files) - {MARK})
    if others:
        raise UserError(
            f"--out={folder} holds {others[0]!r}, which no atlas wrote; move it away, or give another folder"
        )


def _local(out: str) -> Path:
    if "://" in out:
        raise UserError(f"--out: expected a folder on this disk, got {out}; copy the atlas there afterwards")
    return Path(out).expanduser().resolve()


def _write_pictures(survey: collect.Survey, val: Subject, folder: Path) -> tuple[Sheet, ...]:
    """The pictures of all maps; of each layer how they are laid out."""
    sheets = []
    with Progress("projections", sum(layer.maps for layer in survey.layers), unit="map") as progress:
        for layer in survey.layers:
            (folder / site.PICTURES / layer.name).mkdir(parents=True)
            for found in collect.galleries(val, layer):
                for picture in pictures(found, val.image_mean):
                    (folder / site.picture_path(layer.name, picture.map)).write_bytes(picture.full)
                    if picture.thumbnail:
                        (folder / site.thumbnail_path(layer.name, picture.map)).write_bytes(picture.thumbnail)
                progress.advance(len(found.maps), layer.name)
            sheets.append(picture.sheet)
    return tuple(sheets)


def _put_in_place(part: Path, folder: Path, files: Sequence[str]) -> None:
    (part / MARK).write_text(json.dumps({"zfjax": __version__, "files": files}, indent=1) + "\n")
    require_free(folder)  # again: minutes have passed
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)

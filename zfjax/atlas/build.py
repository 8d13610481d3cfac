"""Build an atlas from a run, the experiments, the pictures and the pages; the folder appears when complete."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from etils import epath

from zfjax.atlas import collect, deconvolutional, site
from zfjax.atlas.features import can_have, features
from zfjax.atlas.pictures import Sheet, pictures
from zfjax.console import sealed, signals
from zfjax.console.errors import UserError
from zfjax.console.files import damaged, read_json, remove, write_json
from zfjax.console.hold import hold
from zfjax.console.paths import user_path
from zfjax.console.progress import Progress
from zfjax.console.text import reason
from zfjax.data.outside import require_outside, root_of
from zfjax.experiments.concepts import projections
from zfjax.experiments.gallery import Gallery, in_rgb
from zfjax.experiments.passes import Parts
from zfjax.runs.boxes import with_boxes
from zfjax.runs.first import from_first, is_first, on_first
from zfjax.runs.given import Given
from zfjax.runs.subject import Subject
from zfjax.training import memory
from zfjax.training.precision import matmul_precision
from zfjax.version import __version__

LOCAL = "where it can be copied from"  # why the folder must be on this disk
MARK = "atlas.json"  # lists what was written, so that nothing else is ever deleted
_LITTER = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))  # what file managers leave behind
# Of a layer: galleries to look at, and where their pictures are to be.
Galleries = Callable[[collect.Layer], Iterator[tuple[Callable[[str, int], str], Iterator[Gallery]]]]
_NEW, _OLD = "new", "old"  # subfolders of the folder in which the atlas is built


def build(given: Given, layers: Sequence[str], batch_size: int, boxes: str = "", *, with_features: bool = False) -> str:
    """Write the atlas of a run or a model; return a line on what was written, empty in all processes but the first.

    Args:
        given: the run or model, and the folder to write.
        layers: names of layers, in any order; empty for those that are like the paper's layers 1 to 5.
        batch_size: images on a device at a time.
        boxes: a file of the objects' boxes, for labels; empty for none.
        with_features: also find a picture that each map responds to.

    Raises:
        UserError: no such checkpoint or layer; the folder holds something other than an atlas, or cannot be written.
        OSError: the run or its images cannot be read.
    """
    folder = _local(str(given.out))
    require_outside(folder, "--out", root_of(given.dataset, given.data_dir))
    with contextlib.ExitStack() as stack:
        # Lock before anything is computed.
        on_first(lambda: stack.enter_context(_held(folder)))
        stack.enter_context(matmul_precision(given.precision))
        with Progress("opening the run"):
            val = given.splits().val
            val = with_boxes(given, val, boxes) if boxes else val
            memory.require_batches(val.model, batch_size)
        parts = Parts(given.passes)
        survey = collect.survey(given, val, layers or val.model.feature_layers, batch_size, parts)
        sheets = _write_pictures(survey, functools.partial(_galleries, val), _aside_of(folder) / _NEW, folder)
        if with_features:
            survey = survey._replace(features=tuple(one.name for one in survey.layers if can_have(one, val)))
            _write_features(survey, val, batch_size, _aside_of(folder) / _NEW, folder)
        line = from_first(lambda: _write(survey, sheets, _aside_of(folder), folder).encode())
        parts.clear()
    return line.decode() if is_first() else ""


def build_deconvolutional(workdir: epath.Path, out: str, dataset: str, layers: Sequence[str]) -> str:
    """Write the atlas of a network that `zfjax adn` learned; return a line on what was written.

    Args:
        workdir: of the network.
        out: the folder to write; by default one in `workdir`.
        dataset: where its pictures are now; by default where they were.
        layers: names of layers; empty for all.

    Raises:
        UserError: no such layer or pictures; the folder holds something other than an atlas, or cannot be written.
    """
    folder = _local(out or str(workdir / "atlas"))
    network = deconvolutional.opened(workdir, dataset)
    require_outside(folder, "--out", network.root)
    with _held(folder):
        coded, survey = deconvolutional.survey(network, layers)

        def galleries(layer: collect.Layer) -> Iterator[tuple[Callable[[str, int], str], Iterator[Gallery]]]:
            yield site.picture_path, deconvolutional.galleries(network, coded, layer)

        sheets = _write_pictures(survey, galleries, _aside_of(folder) / _NEW, folder)
        return _write(survey, sheets, _aside_of(folder), folder)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold `folder`, and a new one beside it; the lock lies beside it too, since the folder itself is moved."""
    require_free(folder)
    with hold(folder, "zfjax atlas", beside=True), _aside(folder):
        yield


def _write(survey: collect.Survey, sheets: Sequence[Sheet], aside: Path, folder: Path) -> str:
    """Write the pages beside the pictures, and put the atlas in place; return a line on what was written."""
    new = aside / _NEW
    with _writing(folder):
        pages = site.write(new, survey, sheets)
        files = [path for path in new.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        _put_in_place(aside, folder, sorted(path.relative_to(new).as_posix() for path in files))
    images = sum(path.suffix == ".webp" for path in files)
    return f"written to {folder}: index.html, {pages:,} pages, {images:,} pictures, {size / 1e6:.1f} MB"


def require_free(folder: Path) -> None:
    """Raise a UserError if `folder` exists and holds anything but an atlas, or cannot be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--out={folder} is not a folder; expected a new one, or one with an earlier atlas")
    try:
        written = _written(folder)
    except UserError as error:
        # Do not list everything below: it may be a home folder.
        if any(path.name not in _LITTER for path in folder.iterdir()):
            raise UserError(
                f"--out={folder} holds files but no atlas ({error}); expected a new folder, or an earlier atlas"
            ) from error
    else:
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            # An atlas has no links, wherever they lead.
            if path.name not in _LITTER and name not in written and (path.is_symlink() or not path.is_dir()):
                raise UserError(
                    f"--out={folder} holds {name!r}, which no atlas wrote; move it away, or give another folder"
                )
    # The folder is replaced as a whole: a shell would stay in the old one, and a mount point cannot move.
    if folder.is_mount():
        raise UserError(f"--out={folder} is a mount point, which cannot be replaced; give a folder in it")
    if Path.cwd().is_relative_to(folder):
        raise UserError(
            f"--out={folder} is the current folder, or one above; give a folder in it, or call from outside"
        )


def _written(folder: Path) -> frozenset[str]:
    """The files that an atlas wrote there. Raises a UserError if their list is missing or damaged."""
    path = folder / MARK
    value = read_json(path)
    try:
        files = sealed.unseal(value)["files"]
        if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
            raise TypeError("files: expected a list of names")
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error
    return frozenset((*files, MARK))


def _local(out: str) -> Path:
    try:
        folder = Path(user_path(out, "--out", local=LOCAL)).resolve()
    except RuntimeError as error:  # a circle of links
        raise UserError(f"--out={out}: {error}") from error
    if not folder.name:
        raise UserError(f"--out={out}: expected a folder with a name, got {folder}")
    return folder


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn OSErrors into UserErrors about `folder`; wrap only code that writes, since reading has its own errors."""
    try:
        yield
    except OSError as error:
        above = error.filename and folder.is_relative_to(error.filename)  # else a temporary name
        raise UserError(f"cannot write {error.filename if above else folder}: {reason(error)}") from error


def _aside_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.draft")


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[None]:
    """A temporary folder beside `folder` (which is locked), with an empty subfolder for the new atlas.

    The subfolder has the user's default mode; the outer folder's mode keeps other users out.
    """
    aside = _aside_of(folder)
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear(aside, folder)  # what a killed build left behind
        aside.mkdir(mode=0o700)
    with signals.at_end(functools.partial(_clear, aside, folder)):
        try:
            with _writing(folder):
                (aside / _NEW).mkdir()
            yield
        finally:
            with contextlib.suppress(OSError):
                _clear(aside, folder)


def _clear(aside: Path, folder: Path) -> None:
    """Remove what a build wrote beside `folder`, first moving an old atlas back."""
    if not aside.exists():
        return
    if not {path.name for path in aside.iterdir()} <= {_NEW, _OLD}:
        raise UserError(f"--out={folder}: {aside} holds what no atlas wrote; move it away, or give another folder")
    if (aside / _OLD).exists() and not folder.exists():
        (aside / _OLD).rename(folder)
    remove(aside)


def _write_pictures(survey: collect.Survey, galleries: Galleries, new: Path, folder: Path) -> tuple[Sheet, ...]:
    """Write the pictures of all maps into the `new` atlas of `folder`; return each layer's layout.

    All processes project; the first writes, and alone returns something.
    """
    if not is_first():
        for layer in survey.layers:
            for _, found in galleries(layer):
                for _ in found:
                    pass
        return ()
    count = sum(layer.maps * (2 if layer.relevant else 1) for layer in survey.layers)
    count += sum(len(layer.concepts.directions) for layer in survey.layers if layer.concepts)
    with Progress("projections", count, unit="map") as progress:
        return tuple(_write_layer(layer, galleries, new, folder, progress) for layer in survey.layers)


def _write_layer(layer: collect.Layer, galleries: Galleries, new: Path, folder: Path, progress: Progress) -> Sheet:
    """Write the pictures of a layer's maps; return their common layout."""
    with _writing(folder):
        (new / site.PICTURES / layer.slug).mkdir(parents=True)
    sheets = set()
    for path_of, parts in galleries(layer):
        for found in parts:
            for picture in pictures(found):
                with _writing(folder):
                    (new / path_of(layer.slug, picture.map)).write_bytes(picture.full)
                    if picture.thumbnail and path_of is site.picture_path:
                        (new / site.thumbnail_path(layer.slug, picture.map)).write_bytes(picture.thumbnail)
                sheets.add(picture.sheet)
            progress.advance(len(found.maps), layer.name)
    (sheet,) = sheets
    return sheet


def _write_features(survey: collect.Survey, val: Subject, batch_size: int, new: Path, folder: Path) -> None:
    """Write a picture that each map responds to; the first process alone finds and writes them."""
    layers = [layer for layer in survey.layers if layer.name in survey.features]
    if not is_first():
        return
    with Progress("features", sum(layer.maps for layer in layers), unit="map") as progress:
        for layer in layers:
            for number, file in features(layer, val, batch_size, progress.advance):
                with _writing(folder):
                    (new / site.feature_path(layer.slug, number)).write_bytes(file)


def _galleries(val: Subject, layer: collect.Layer) -> Iterator[tuple[Callable[[str, int], str], Iterator[Gallery]]]:
    """All galleries of a layer, and where their pictures are to be: of maps, of what matters, of concepts."""

    def shown(parts: Iterator[Gallery]) -> Iterator[Gallery]:
        return (in_rgb(found, val.display) for found in parts)

    yield site.picture_path, shown(collect.galleries(val, layer, layer.top))
    if layer.relevant is not None:
        yield site.relevant_path, shown(collect.galleries(val, layer, layer.relevant))
    if layer.concepts is not None:
        yield site.concept_path, shown(iter([projections(val, layer.concepts)]))


def _put_in_place(aside: Path, folder: Path, files: Sequence[str]) -> None:
    new, old = aside / _NEW, aside / _OLD
    write_json(new / MARK, sealed.seal({"zfjax": __version__, "files": files}))
    require_free(folder)  # again: minutes have passed
    with signals.held():
        try:
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise

"""Features for transfer and probing: frozen layers' outputs for a set of pictures, computed once and cached."""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int32, UInt8

from zfjax.console.errors import UserError
from zfjax.console.files import read_whole
from zfjax.console.hold import hold
from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.data import cache, record
from zfjax.data.opening import open_source
from zfjax.data.outside import require_outside, root_of
from zfjax.data.pictures import JoinedPictures, Pictures
from zfjax.data.scan import Scanned, require_same
from zfjax.data.source import Source
from zfjax.data.spec import parse_spec
from zfjax.data.together import require_shared
from zfjax.models import Model
from zfjax.runs.first import from_first, on_first, our_share
from zfjax.runs.folder import RunInfo, open_own, scan_for
from zfjax.runs.given import Given, OfModel, OfRun
from zfjax.training import memory, sharding
from zfjax.training.precision import matmul_precision
from zfjax.training.scoring import Scored
from zfjax.transform import functions

_FILE = "features.npy"
_DIGEST = "features.sha256"  # of the file, in hexadecimal


@shown_by_shape
class Pool(NamedTuple):
    """All pictures of a dataset, numbered from 0, from which folds are drawn."""

    name: str  # short, usable as a folder name
    classes: tuple[str, ...]
    pictures: Pictures
    labels: Int32[np.ndarray, " pictures"]
    fingerprint: str  # changes whenever the pictures do


def layer_named(model: Model, number: int) -> str:
    """The output that represents layer `number`, counted from 1; 0 is the last hidden layer.

    Raises:
        UserError: the model has no such layer.
    """
    names = model.numbered_layers
    if not 0 <= number <= len(names):
        raise UserError(f"layer {number}: expected 1 to {len(names)}, or 0 for the last")
    return names[number - 1]


def require_pictures(pool: Pool, per_class: int) -> None:
    """Raise a UserError if a class has fewer than `per_class` pictures plus one to test on."""
    for name, count in zip(pool.classes, np.bincount(pool.labels, minlength=len(pool.classes)), strict=True):
        if count <= per_class:
            raise UserError(
                f"class {name!r} of {pool.name} has {count} readable images, too few for {per_class} to train on"
                " and one to test on; give a smaller per_class"
            )


def pool_of(given: Given) -> Pool:
    """The pictures that a command was given, as squares of the model's size.

    Those of a run are from `open_pool`; those of any model are both splits of its dataset.

    Raises:
        UserError: as `open_pool`.
    """
    if isinstance(given, OfRun):
        return open_pool(given.run, given.dataset)
    assert isinstance(given, OfModel)
    require_outside(given.out, "--out", root_of(given.dataset, given.data_dir))
    source = given.source()
    return join_splits(source, given.scanned(source))


def folder_of(given: Given, pool: Pool) -> epath.Path:
    """The folder for results on a pool of pictures."""
    return given.out / pool.name


def open_pool(run: RunInfo, dataset: str = "") -> Pool:
    """The pictures of `dataset` as squares of the run's size.

    The pool joins its train and val splits. For the run's own dataset, however it is spelled, the pool is the val split
    alone: features of training pictures say nothing about new ones.

    Raises:
        UserError: there is no such dataset, it cannot be used, or the run's folder, which gets all results, lies in it.
    """
    config = run.config
    require_outside(run.folder, "workdir", root_of(dataset or config.dataset, config.data_dir))
    if dataset:
        source = open_source(dataset, data_dir=config.data_dir, seed=config.seed)
    else:
        source = open_own(config, run.folder)
    scanned, kept = scan_for(run, source), record.read(run.folder)
    named = dataset in ("", config.dataset)
    if kept is not None and kept.known and named:
        require_same(run.folder, source, kept, scanned.record)
    if named or (kept is not None and kept.equals(scanned.record)):
        labels = scanned.record.val_labels[scanned.record.val_kept]
        pictures_are = f"val of {scanned.record.fingerprint}"
        return Pool(f"{parse_spec(source.name).short_name}-val", source.classes, scanned.val, labels, pictures_are)
    return join_splits(source, scanned)


def join_splits(source: Source, scanned: Scanned) -> Pool:
    """Both splits of a dataset as one pool, train pictures first, then val."""
    found = scanned.record
    labels = np.concatenate([found.train_labels[found.train_kept], found.val_labels[found.val_kept]])
    pictures = JoinedPictures(scanned.train, scanned.val)
    return Pool(parse_spec(source.name).short_name, source.classes, pictures, labels, found.fingerprint)


@shown_by_shape
class Block(NamedTuple):
    """Features of successive pictures."""

    first: int  # number of the first picture
    outputs: dict[str, Float32[np.ndarray, "n _"]]  # by layer


def features(model: Scored, pictures: Pictures, names: Sequence[str], batch_size: int = 64) -> Iterator[Block]:
    """Layer outputs for the center crops of all pictures, in order: one pass on all devices of all processes.

    Each process gets those of the pictures that its own devices saw, in as many blocks as the others.

    Args:
        model: a net with its weights and mean, or any other model.
        pictures: squares of the size that the model sees.
        names: the layers to output, such as `model.model.numbered_layers`; each output is flattened.
        batch_size: pictures on a device at a time.

    Raises:
        UserError: the model has no such layer, or the batch needs more memory than there is.
    """
    memory.require_batches(model.model, batch_size)
    mesh = sharding.data_mesh()
    place = functools.partial(sharding.replicate, mesh=mesh)
    fun = functions.live(model.model.activations(names), place)
    views = functions.live(model.views(ten_crop=False), place, name="preprocess")
    for rows in sharding.one_pass(pictures, batch_size, mesh):
        with matmul_precision(model.precision):
            acts = _activations(fun, views, rows.image, mesh=mesh)
        numbers = sharding.own_rows(rows.number)
        count = int(np.sum(numbers >= 0))
        own = {name: np.asarray(sharding.own_rows(values), np.float32) for name, values in acts.items()}
        flat = {name: values.reshape(len(values), -1)[:count] for name, values in own.items()}
        yield Block(int(numbers[0]) if count else 0, flat)


def kept_features(
    model: Scored,
    pool: Pool,
    names: Sequence[str],
    folder: epath.PathLike,
    *,
    batch_size: int = 64,
) -> dict[str, Float32[np.ndarray, "pictures _"]]:
    """`features` of a whole pool, memory-mapped from files in `folder`, which are written if missing.

    A file's name identifies what it depends on: the model, its weights and mean, the layer and the pictures. A damaged
    file is written again. Files are written as drafts, each process its pictures, and renamed when complete.

    Raises:
        UserError: as in `features`, or `folder` is remote, full, not shared by all processes, or cannot be written.
    """
    if "://" in os.fspath(folder):
        raise UserError(f"features cannot be kept in {folder}: expected a local folder, since they are memory-mapped")
    digest, count = model.fingerprint(pool.fingerprint), len(pool.labels)
    places = {name: pathlib.Path(folder) / f"{name.replace('/', '-')}-{digest}" for name in names}

    def missing() -> list[str]:
        found = from_first(lambda: json.dumps([name for name in names if not _is_whole(places[name], count)]).encode())
        return list(json.loads(found))

    if missing():
        with contextlib.ExitStack() as stack:
            holding = hold(folder, "another command that computes features", wait=True)
            on_first(lambda: stack.enter_context(holding))
            require_shared(our_share(), pathlib.Path(folder))
            still = missing()  # others may have been written while this one waited
            if still:
                _write(model, pool, {name: places[name] for name in still}, batch_size)
    try:
        return {name: np.load(place / _FILE, mmap_mode="r") for name, place in places.items()}
    except FileNotFoundError as error:
        raise UserError(
            f"features in {folder}: removed since they were written, or not on a disk that all hosts share"
        ) from error


@functions.jit
def _activations(
    fun: Callable, views: Callable, squares: UInt8[Array, "n side side 3"], *, mesh: Mesh
) -> dict[str, Array]:
    def on_one(fun: Callable, views: Callable, squares: Array) -> dict[str, Array]:
        return fun(views(squares)[0])

    return sharding.on_each(on_one, mesh, whole=2)(fun, views, squares)


def _write(model: Scored, pool: Pool, places: Mapping[str, pathlib.Path], batch_size: int) -> None:
    """One pass for all layers; plain writes, since on a full disk they raise, while a memory map kills the process."""
    count = len(pool.labels)
    with contextlib.ExitStack() as whole, Progress(f"features of {pool.name}", count) as progress:
        with contextlib.ExitStack() as stack:
            files: dict[str, IO[bytes]] = {}
            for block in features(model, pool.pictures, list(places), batch_size):
                if not files:
                    widths = {places[name]: values.shape[1] for name, values in block.outputs.items()}
                    on_first(functools.partial(_begin, whole, widths, count))
                    files = {name: stack.enter_context(_file_in(place).open("r+b")) for name, place in places.items()}
                for name, values in block.outputs.items():
                    files[name].seek(-4 * values.shape[1] * (count - block.first), os.SEEK_END)
                    files[name].write(np.ascontiguousarray(values, "<f4").data)
                progress.advance(min(len(values) * jax.process_count(), count))
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        on_first(functools.partial(_end, whole, list(places.values())))


def _begin(whole: contextlib.ExitStack, widths: Mapping[pathlib.Path, int], count: int) -> None:
    """Make draft files of the sizes that they will have; `whole` renames their folders when it is closed."""
    for place, width in widths.items():
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        draft = whole.enter_context(cache.writing(place, 4 * count * width))
        with (draft / _FILE).open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 4 * count * width)


def _end(whole: contextlib.ExitStack, places: Sequence[pathlib.Path]) -> None:
    for place in places:
        file = _file_in(place)
        file.with_name(_DIGEST).write_text(_digest(file))
    whole.close()


def _file_in(place: pathlib.Path) -> pathlib.Path:
    return cache.draft_of(place) / _FILE


def _is_whole(place: pathlib.Path, count: int) -> bool:
    kept = place / _DIGEST
    try:
        if not (place / _FILE).is_file() or (kept.exists() and read_whole(kept).decode() != _digest(place / _FILE)):
            return False
        values = np.load(place / _FILE, mmap_mode="r")
    except Exception:  # missing, truncated or overwritten; the header is a Python literal, which can fail in many ways
        return False
    return values.ndim == 2 and len(values) == count and values.dtype == np.float32


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

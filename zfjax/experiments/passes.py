"""Passes over a whole split for what an atlas or a gallery shows: on all devices of all processes, part by part.

What was found is written after each part, so that a command that was killed, or that lost a host, goes on from there.
"""

import contextlib
import functools
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from zfjax.attribution import unit_relevance
from zfjax.console.files import read_whole, write_whole
from zfjax.console.progress import Progress
from zfjax.experiments import dissection
from zfjax.experiments.dissection import Concept, Label, Overlaps, Pictured
from zfjax.experiments.gallery import Top, top_activations
from zfjax.experiments.lenses import Grid
from zfjax.experiments.responses import LabeledImages, Responses, Sums, responses_of, summed
from zfjax.models.digest import digest_of
from zfjax.runs.first import from_first, is_first, on_first
from zfjax.runs.subject import Seen, Subject
from zfjax.training import sharding
from zfjax.training.sharding import Numbered
from zfjax.transform import functions

PARTS = 64  # of a pass at most
ROUNDS = 8  # in which all devices take images, in a part at the least
_PRECISION = "jax_default_matmul_precision"  # of which JAX does not say that its configuration has it
_END = "images"  # in a file: how many images the pass has seen
PerLayer = TypeVar("PerLayer", Top, Sums, Overlaps)  # what a pass keeps of each layer
Batch = TypeVar("Batch", Numbered, Seen)


class Parts:
    """The parts of passes that a command has done, as files in a folder until the command is through."""

    def __init__(self, folder: epath.PathLike) -> None:
        """Nothing is written before the first part is done."""
        self._folder = epath.Path(folder)
        self._files: list[epath.Path] = []

    def read(self, key: str, kind: type[PerLayer]) -> tuple[dict[str, PerLayer], int] | None:
        """What the pass with this key found in its first images, and how many these are; the same in all processes."""
        path = self._path(key)
        self._files.append(path)
        return _unpacked(from_first(lambda: _content(path)), kind)

    def write(self, key: str, found: dict[str, PerLayer], images: int) -> None:
        """Keep what a pass has found in its first images."""
        if is_first():
            write_whole(self._path(key), _packed(found, images))

    def clear(self) -> None:
        """Remove the files of the passes read so far: what they were for is done."""

        def remove() -> None:
            for path in self._files:
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another command has some there
                self._folder.rmdir()

        on_first(remove)

    def _path(self, key: str) -> epath.Path:
        return self._folder / f"{key}.npz"


def strongest(
    subject: Subject,
    names: Sequence[str],
    k: int,
    each: int,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> dict[str, Top]:
    """The k strongest activations of each map of some layers, over all images of a split; see `top_activations`.

    Which devices there are, in how many processes, and whether the pass was interrupted makes no difference to a bit.

    Args:
        subject: the model and its images.
        names: the layers.
        k: images per map.
        each: images on a device at a time.
        parts: where the parts that are done are kept; None: nowhere.
        progress: advanced by the number of images.

    Returns:
        By layer, on the host.
    """
    return strongest_of(subject, subject.model.activations(names), names, k, each, parts, progress)


def strongest_of(
    subject: Subject,
    fun: Callable[[Array], Mapping[str, Float[Array, "n *grid maps"]]],
    words: Sequence[str],
    k: int,
    each: int,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> dict[str, Top]:
    """The same for any function from the subject's images to maps by name.

    Args:
        subject: the model and its images.
        fun: of the model alone; from `functions.live` if it should not be traced anew for each part of the pass.
        words: say which function of the model it is, for what is kept in `parts`.
        k: as for `strongest`.
        each: as for `strongest`.
        parts: as for `strongest`.
        progress: as for `strongest`.
    """
    mesh = sharding.data_mesh()

    def go_on(images: Iterator[Numbered], _: int, tops: dict[str, Top] | None) -> dict[str, Top]:
        return jax.device_get(top_activations(fun, images, k, mesh, before=tops))

    return _part_by_part(subject, Top, _key(subject, words, k, each), go_on, each, parts, progress)


def most_relevant(
    subject: Subject,
    names: Sequence[str],
    k: int,
    each: int,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> dict[str, Top]:
    """The k images in which each map of some layers matters most for what the model says of them.

    In place of activations, `strongest` finds relevance: the share of the highest logit that one cell has. What fires
    most need not matter most, since the layers above may not care.

    Args:
        subject: a model that gives logits, and its images.
        names: the layers.
        k: images per map.
        each: images on a device at a time.
        parts: as for `strongest`.
        progress: advanced by the number of images.

    Returns:
        By layer, on the host; values are of the logit, and positions where the cells are.

    Paper: Achtibat et al. 2023, "From Attribution Maps to Human-Understandable Explanations through Concept Relevance
    Propagation": relevance maximization.
    """
    splits = {name: subject.model.split(name) for name in names}

    def relevance(images: Array) -> dict[str, Array]:
        # The same program up to the splits and down to them, which XLA computes once.
        return {name: unit_relevance(split, images, _highest) for name, split in splits.items()}

    fun = functions.live(relevance, functools.partial(sharding.replicate, mesh=sharding.data_mesh()))
    return strongest_of(subject, fun, ("relevance", *names), k, each, parts, progress)


def _highest(logits: Float[Array, "n classes"]) -> Float[Array, " n"]:
    return logits.max(axis=1)


def responded(
    subject: Subject,
    tops: Mapping[str, Top],
    each: int,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> dict[str, Responses]:
    """The histograms of each map of some layers and the classes that excite it, over all images; see `responses`.

    Args:
        subject: the model and its images.
        tops: by layer, from `strongest`.
        each: images on a device at a time.
        parts: as for `strongest`.
        progress: advanced by the number of images.
    """
    mesh, names = sharding.data_mesh(), tuple(tops)
    fun = subject.model.activations(names)

    def go_on(images: Iterator[Numbered], begin: int, sums: dict[str, Sums] | None) -> dict[str, Sums]:
        batches = _labeled(images, subject.labels[begin:])
        return summed(fun, batches, tops, len(subject.classes), mesh=mesh, before=sums)

    key = _key(subject, ("responses", *names), len(subject.classes), each)
    return responses_of(_part_by_part(subject, Sums, key, go_on, each, parts, progress), tops)


class Dissected(NamedTuple):
    """How the maps of one layer overlap with what the pictures show."""

    overlaps: Overlaps
    concepts: tuple[Concept, ...]
    labels: tuple[Label | None, ...]  # of each map


def dissected(
    subject: Subject,
    found: Mapping[str, Responses],
    each: int,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> dict[str, Dissected]:
    """What each map of some layers detects, over all images of a split; see `dissection.overlaps`.

    Concepts are those of the dataset's annotations, if it has any, and colors.

    Args:
        subject: the model and its images.
        found: by layer, from `responded`; layers without positions have no labels and are left out.
        each: images on a device at a time.
        parts: as for `strongest`.
        progress: advanced by the number of images.
    """
    mesh, places = sharding.data_mesh(), {name: subject.model.place(name) for name in found}
    grids = {
        name: Grid(place.offset, place.stride)
        for name, place in places.items()
        if place.offset is not None and place.stride is not None and len(place.shape) == 3
    }
    if not grids:
        return {}
    thresholds = {name: found[name].threshold(dissection.SHARE) for name in grids}
    known = subject.annotations.pixel_names if subject.annotations else {}
    fun, counts = subject.model.activations(tuple(grids)), tuple(map(len, known.values()))

    def pictured(seen: Seen) -> Pictured:
        numbers = sharding.own_rows(seen.numbers)
        pixels = np.zeros((len(numbers), subject.size, subject.size, len(known)), np.uint8)
        if known:
            pixels[numbers >= 0] = subject.pixels(numbers[numbers >= 0])
        return Pictured(*seen, sharding.place(pixels, mesh))

    def go_on(seen: Iterator[Seen], _: int, before: dict[str, Overlaps] | None) -> dict[str, Overlaps]:
        return dissection.overlaps(fun, map(pictured, seen), thresholds, grids, counts, mesh, before)

    cut = hashlib.sha256(b"".join(one.tobytes() for one in thresholds.values())).hexdigest()
    key = _key(subject, ("overlaps", cut, *grids), len(counts), each)
    sums = _part_by_part(subject, Overlaps, key, go_on, each, parts, progress, read=subject.seen)
    concepts = dissection.concepts_of(known)
    return {name: Dissected(one, concepts, dissection.labels_of(one, concepts)) for name, one in sums.items()}


def _part_by_part(
    subject: Subject,
    kind: type[PerLayer],
    key: str,
    go_on: Callable[[Iterator[Any], int, dict[str, PerLayer] | None], dict[str, PerLayer]],
    each: int,
    parts: Parts | None,
    progress: Progress | None,
    *,
    read: Callable[..., Iterator[Any]] | None = None,
) -> dict[str, PerLayer]:
    """A pass over all images; `go_on` takes those of a part, the number of the first, and what was found before.

    They are read by `subject.numbered`, or by `read`.
    """
    mesh, count = sharding.data_mesh(), len(subject.pictures)
    found, begin = (parts and parts.read(key, kind)) or (None, 0)
    if progress:
        progress.advance(begin)
    at_once = min(each, count) * mesh.size
    step = at_once * max(ROUNDS, math.ceil(count / at_once / PARTS))
    while found is None or begin < count:
        end = min(begin + step, count)
        images = counted((read or subject.numbered)(each, mesh, begin, end), end - begin, progress)
        found = go_on(images, begin, found)
        begin = end
        if parts is not None:
            parts.write(key, found, begin)
    return found


def _labeled(batches: Iterator[Numbered], labels: np.ndarray) -> Iterator[LabeledImages]:
    first = 0
    for images in batches:
        yield LabeledImages(images, labels[first : first + len(images.numbers)])
        first += len(images.numbers)


def counted(batches: Iterable[Batch], count: int, progress: Progress | None) -> Iterator[Batch]:
    """The batches of `count` images, with progress."""
    for batch in batches:
        yield batch
        seen = min(len(batch.numbers), count)
        count -= seen
        if progress:
            progress.advance(seen)


def _key(subject: Subject, names: Sequence[str], k: int, each: int) -> str:
    """A short hash of what a pass depends on: the model, its weights, the pictures, and what is asked."""
    words = (getattr(jax.config, _PRECISION), subject.fingerprint, len(subject.pictures), *names, k, each)
    return hashlib.sha256("\0".join(map(str, words)).encode() + digest_of(subject.model)).hexdigest()[:16]


def _packed(found: dict[str, PerLayer], images: int) -> bytes:
    arrays = {f"{name}/{part}": array for name, one in found.items() for part, array in one._asdict().items()}
    # NumPy's files have no bfloat16; float32 holds each of its values.
    arrays = {name: array.astype(np.float32) if name.endswith("/values") else array for name, array in arrays.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{_END: np.array(images)}, **arrays)
    content = file.getvalue()
    return hashlib.sha256(content).digest() + content


def _content(path: epath.Path) -> bytes:
    try:
        return read_whole(path)
    except OSError:  # not there, or not to be read: that pass begins anew
        return b""


def _unpacked(content: bytes, kind: type[PerLayer]) -> tuple[dict[str, PerLayer], int] | None:
    digest, rest = content[:32], content[32:]
    if hashlib.sha256(rest).digest() != digest:
        return None
    with np.load(io.BytesIO(rest)) as file:
        names = dict.fromkeys(name.rpartition("/")[0] for name in file.files if name != _END)
        return {name: kind(*(file[f"{name}/{part}"] for part in kind._fields)) for name in names}, int(file[_END])

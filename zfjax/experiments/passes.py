"""Passes over a whole split for what an atlas or a gallery shows: on all devices of all processes, part by part.

What was found is written after each part, so that a command that was killed, or that lost a host, goes on from there.
"""

import contextlib
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np
from etils import epath

from zfjax.console.files import read_whole, write_whole
from zfjax.console.progress import Progress
from zfjax.experiments.gallery import Top, top_activations
from zfjax.experiments.responses import LabeledImages, Responses, Sums, responses_of, summed
from zfjax.models.digest import digest_of
from zfjax.runs.first import from_first, is_first, on_first
from zfjax.runs.subject import Subject
from zfjax.training import sharding
from zfjax.training.sharding import Numbered

PARTS = 64  # of a pass at most
ROUNDS = 8  # in which all devices take images, in a part at the least
_PRECISION = "jax_default_matmul_precision"  # of which JAX does not say that its configuration has it
_END = "images"  # in a file: how many images the pass has seen
Kept = TypeVar("Kept", Top, Sums)  # what a pass keeps of each layer


class Parts:
    """The parts of passes that a command has done, as files in a folder until the command is through."""

    def __init__(self, folder: epath.PathLike) -> None:
        """Nothing is written before the first part is done."""
        self._folder = epath.Path(folder)
        self._files: list[epath.Path] = []

    def read(self, key: str, kind: type[Kept]) -> tuple[dict[str, Kept], int] | None:
        """What the pass with this key found in its first images, and how many these are; the same in all processes."""
        path = self._path(key)
        self._files.append(path)
        return _unpacked(from_first(lambda: _content(path)), kind)

    def write(self, key: str, found: dict[str, Kept], images: int) -> None:
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
    mesh = sharding.data_mesh()
    fun = subject.model.activations(names)

    def go_on(images: Iterator[Numbered], _: int, tops: dict[str, Top] | None) -> dict[str, Top]:
        return jax.device_get(top_activations(fun, images, k, mesh, before=tops))

    return _part_by_part(subject, Top, _key(subject, names, k, each), go_on, each, parts, progress)


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


def _part_by_part(
    subject: Subject,
    kind: type[Kept],
    key: str,
    go_on: Callable[[Iterator[Numbered], int, dict[str, Kept] | None], dict[str, Kept]],
    each: int,
    parts: Parts | None,
    progress: Progress | None,
) -> dict[str, Kept]:
    """A pass over all images; `go_on` takes those of a part, the number of the first, and what was found before."""
    mesh, count = sharding.data_mesh(), len(subject.pictures)
    found, begin = (parts and parts.read(key, kind)) or (None, 0)
    if progress:
        progress.advance(begin)
    at_once = min(each, count) * mesh.size
    step = at_once * max(ROUNDS, math.ceil(count / at_once / PARTS))
    while found is None or begin < count:
        end = min(begin + step, count)
        images = counted(subject.numbered(each, mesh, begin, end), end - begin, progress)
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


def counted(batches: Iterable[Numbered], count: int, progress: Progress | None) -> Iterator[Numbered]:
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


def _packed(found: dict[str, Kept], images: int) -> bytes:
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


def _unpacked(content: bytes, kind: type[Kept]) -> tuple[dict[str, Kept], int] | None:
    digest, rest = content[:32], content[32:]
    if hashlib.sha256(rest).digest() != digest:
        return None
    with np.load(io.BytesIO(rest)) as file:
        names = dict.fromkeys(name.rpartition("/")[0] for name in file.files if name != _END)
        return {name: kind(*(file[f"{name}/{part}"] for part in kind._fields)) for name in names}, int(file[_END])

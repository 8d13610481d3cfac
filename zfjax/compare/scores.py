"""Score lenses on images with known objects: how good their maps are, and whether they depend on the weights."""

import concurrent.futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from zfjax.compare import objects
from zfjax.compare.asked import Asked, as_arrays, ask, chosen, maps_of
from zfjax.compare.request import Request
from zfjax.console import tables
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.experiments import comparison, sanity
from zfjax.experiments.comparison import Comparison, Labeled
from zfjax.experiments.lenses import BASELINES, LENSES, Lens, Options, given_to
from zfjax.experiments.sanity import Sanity, Similarity, randomized_layers, sanity_check
from zfjax.plots.comparison import plot_comparison, plot_sanity
from zfjax.plots.files import save
from zfjax.runs.first import from_all, is_first
from zfjax.runs.subject import Subject
from zfjax.training.precision import matmul_precision

SANITY = tuple(f"sanity.{kind}" for kind in ("csv", "json", "md", "npz", "pdf", "png"))


class Drawn(NamedTuple):
    """Images of the val split, with known objects inside the crop."""

    numbers: Int[np.ndarray, " n"]  # in the split
    labels: Int[np.ndarray, " n"]  # the outputs to explain
    unknown: int  # of these, for how many it is what the model says, since no output has the name of the class
    masks: Bool[np.ndarray, "n size size"]  # the objects' pixels


def open_model(request: Request) -> tuple[Asked, Drawn]:
    """Open the model with its pictures, and draw images of the val split by the seed.

    Raises:
        UserError: no such checkpoint, lens or layer, or the objects are not known.
    """
    lenses = chosen(request.only, LENSES + BASELINES)
    subject = request.given.splits().val
    known = objects.known_objects(request.given, subject, request.boxes)
    asked = ask(subject, lenses, request)
    drawn = np.random.default_rng(request.seed).permutation(known.numbers)[: request.drawn]
    masks = known.masks(drawn)
    seen = masks.any(axis=(1, 2))
    if not seen.any():
        raise UserError("none of the pictures shows its object inside the center crop, which is what the net sees")
    labels, unknown = _targets(subject, drawn[seen], request.batch_size)
    return asked, Drawn(drawn[seen], labels, unknown, masks[seen])


def _targets(subject: Subject, numbers: Int[np.ndarray, " n"], batch_size: int) -> tuple[Int[np.ndarray, " n"], int]:
    """Each image's class, or what the model says where it has no output for it; and how many those are."""
    labels = subject.labels[numbers]
    unknown = np.flatnonzero(labels < 0)
    for first in range(0, len(unknown), batch_size):
        some = unknown[first : first + batch_size]
        labels[some] = subject.unlabeled(numbers[some]).labels
    return labels, len(unknown)


def write_scores(asked: Asked, drawn: Drawn, rows: int) -> list[str]:
    """Write the table over all images and the picture of up to `rows`; print the table, return the files' names.

    Also deletes earlier results on randomized nets, which may use other images and lenses.
    """
    subject, count, size = asked.subject, len(drawn.numbers), asked.batch_size
    labels, folder = drawn.labels, asked.given.out
    found = _compared(asked, drawn, labels)
    if not is_first():
        return []
    shown = _one_of_each(labels, rows)
    images = subject.load(drawn.numbers[shown])
    maps = maps_of(asked, images, labels[shown], min(size, count))
    names = [subject.classes[label] for label in labels[shown]]
    titled = {lens.title: of_lens for lens, of_lens in maps.items()}
    with Progress("drawing"):
        figure = plot_comparison(subject.display.pixels(images), drawn.masks[shown], titled, names)
        arrays = {"shown": drawn.numbers[shown], "masks": drawn.masks[shown], "images": drawn.numbers}
        table = comparison.to_table(found, asked.lenses, asked.given.dataset, asked.layer, drawn.unknown)
        for stale in SANITY:
            (folder / stale).unlink(missing_ok=True)
        files = tables.write(table, folder, "lenses")
        files += save(figure, folder / "lenses", arrays | as_arrays(maps) | found._asdict())
    print(table.text(), end="\n\n")
    return files


def _compared(asked: Asked, drawn: Drawn, labels: Int[np.ndarray, " n"]) -> Comparison:
    """Compare the lenses batch by batch, each device of each process with its share; every process gets the result."""
    devices, firsts = jax.local_devices(), range(0, len(labels), asked.batch_size)
    before = jax.process_index() * len(devices)
    shares = [firsts[before + number :: jax.device_count()] for number in range(len(devices))]
    with Progress("lenses", len(labels) * len(asked.lenses), unit="map") as progress:

        def of_share(device: jax.Device, share: range) -> dict[str, np.ndarray]:
            found = _compared_on(device, asked, drawn, labels, share, progress)
            images = np.concatenate([_batch(first, asked, labels) for first in share])
            return {**found._asdict(), "images": images}

        # A lens is many programs, with work on the host in between; so each device takes whole batches, in a thread.
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            at_work = [one for one in zip(devices, shares, strict=True) if one[1]]
            parts = list(pool.map(lambda one: of_share(*one), at_work))
    mine = {f"{number}/{name}": array for number, part in enumerate(parts) for name, array in part.items()}
    every = from_all(mine)

    def of_all(name: str) -> list[np.ndarray]:
        return [array for arrays in every for key, array in arrays.items() if key.partition("/")[2] == name]

    order = np.argsort(np.concatenate(of_all("images")))
    scores = {name: np.concatenate(of_all(name), axis=1)[:, order] for name in Comparison._fields if name != "seconds"}
    return Comparison(**scores, seconds=np.mean(of_all("seconds"), axis=0))


def _batch(first: int, asked: Asked, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " batch"]:
    """Which of the drawn images are in the batch that begins with this one."""
    return np.arange(first, min(first + asked.batch_size, len(labels)))


def _compared_on(
    device: jax.Device, asked: Asked, drawn: Drawn, labels: Int[np.ndarray, " n"], share: range, progress: Progress
) -> Comparison:
    """Compare the lenses on the batches that begin with the images in `share`, on one device."""
    subject, size = asked.subject, asked.batch_size
    # Settings of JAX are a thread's own.
    with jax.default_device(device), matmul_precision(asked.given.precision):
        chunks = ((first, _batch(first, asked, labels)) for first in share)
        batches = (
            Labeled(subject.load(drawn.numbers[some]), labels[some], drawn.masks[some], first) for first, some in chunks
        )
        return comparison.compare(
            subject.model.on(device),
            batches,
            asked.lenses,
            layer=asked.layer,
            options=asked.options,
            rows=min(size, len(labels)),
            progress=progress,
        )


def write_sanity(asked: Asked, drawn: Drawn, count: int) -> list[str]:
    """Write the table and plot of the model-randomization check, for lenses that depend on the net.

    Prints the table, or why there is none, and returns the names of the written files.
    """
    lenses = [lens for lens in asked.lenses if lens not in BASELINES]
    if not lenses:
        return []
    model, mine, numbers = asked.subject.model, dict[str, np.ndarray](), drawn.numbers[:count]
    try:
        names = randomized_layers(model)
    except UserError as reason:
        if is_first():
            print(f"sanity: not checked: {reason}", flush=True)
        return []
    images, target = asked.subject.load(numbers), jnp.asarray(drawn.labels[:count], jnp.int32)
    weights_key, lens_key = jax.random.split(jax.random.key(asked.seed))
    with Progress("randomized nets", len(lenses) * (1 + 2 * len(names)) * len(numbers), unit="map") as progress:
        for lens in lenses[jax.process_index() :: jax.process_count()]:
            of = _counted(lens, asked.options._replace(key=lens_key), progress)
            layer = asked.layer if lens.at_cut else ""
            one = sanity_check(of, model, images, target, weights_key, layer=layer)
            mine |= {
                f"{lens.name}_{way}_{kind}": values
                for way, similarity in (("cascade", one.cascade), ("alone", one.alone))
                for kind, values in similarity._asdict().items()
            }
    of_all = {name: array for arrays in from_all(mine) for name, array in arrays.items()}
    if not is_first():
        return []

    def similarity(lens: Lens, way: str) -> Similarity:
        return Similarity(*(of_all[f"{lens.name}_{way}_{kind}"] for kind in Similarity._fields))

    titled = {lens.title: Sanity(names, similarity(lens, "cascade"), similarity(lens, "alone")) for lens in lenses}
    with Progress("drawing"):
        table = sanity.to_table(titled, asked.given.dataset)
        files = tables.write(table, asked.given.out, "sanity")
        files += save(plot_sanity(titled), asked.given.out / "sanity", {"images": numbers, **of_all})
    print(table.text(), end="\n\n")
    return files


def _counted(lens: Lens, options: Options, progress: Progress) -> sanity.Lens:
    """A lens in batches, with progress for each map."""

    def of(fun: Any, images: Array, target: Array) -> np.ndarray:
        maps = []
        for first in range(0, len(images), options.batch_size):
            progress.advance(0, lens.title)
            some = slice(first, first + options.batch_size)
            maps.append(np.asarray(given_to(lens, options, first)(fun, images[some], target[some])))
            progress.advance(len(maps[-1]), lens.title)
        return np.concatenate(maps)

    return of


def _one_of_each(labels: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " shown"]:
    """Indices of up to `count` images: the first of each class, then others."""
    _, first = np.unique(labels, return_index=True)
    return np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(labels)), first)])[:count]

"""Score lenses on images with known objects: how good their maps are, and whether they depend on the weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PyTree

from zfjax.compare import objects
from zfjax.compare.asked import Asked, as_arrays, ask, chosen, maps_of
from zfjax.compare.request import Request
from zfjax.console import tables
from zfjax.console.errors import UserError
from zfjax.console.files import matching
from zfjax.console.progress import Progress
from zfjax.experiments import comparison, sanity
from zfjax.experiments.comparison import BASELINES, LENSES, Labeled, for_sanity
from zfjax.experiments.sanity import randomized_layers, sanity_check
from zfjax.models import ConvNet
from zfjax.plots.comparison import plot_comparison, plot_sanity
from zfjax.plots.files import save
from zfjax.runs import folder as runs
from zfjax.runs import subject as subjects


class Drawn(NamedTuple):
    """Images of the val split, with known objects inside the crop."""

    numbers: Int[np.ndarray, " n"]  # in the split
    masks: Bool[np.ndarray, "n size size"]  # the objects' pixels


def open_run(request: Request) -> tuple[Asked, Drawn]:
    """Open the net of the run, and draw images of its val split by the seed.

    Raises:
        UserError: no such run, checkpoint, lens or layer, or the objects are not known.
    """
    lenses = chosen(request.only, LENSES + BASELINES)
    run = runs.read_run(request.workdir, request.dataset)
    subject = subjects.of_run(run, request.checkpoint).val
    known = objects.known_objects(run, subject, request.boxes)
    asked = ask(run, subject, lenses, request)
    drawn = np.random.default_rng(request.seed).permutation(known.numbers)[: request.drawn]
    masks = known.masks(drawn)
    seen = masks.any(axis=(1, 2))
    if not seen.any():
        raise UserError("none of the pictures shows its object inside the center crop, which is what the net sees")
    return asked, Drawn(drawn[seen], masks[seen])


def write_scores(asked: Asked, drawn: Drawn, rows: int) -> list[str]:
    """Write the table over all images and the picture of up to `rows`; print the table, return the files' names.

    Also deletes earlier results on randomized nets, which may use other images and lenses.
    """
    subject, count, size = asked.subject, len(drawn.numbers), asked.batch_size
    labels = subject.labels[drawn.numbers]
    chunks = (np.arange(first, min(first + size, count)) for first in range(0, count, size))
    batches = (Labeled(subject.load(drawn.numbers[some]), labels[some], drawn.masks[some]) for some in chunks)
    with Progress("lenses", count * len(asked.lenses), unit="map") as progress:
        found = comparison.compare(
            subject.net,
            subject.variables,
            batches,
            asked.lenses,
            layer=asked.layer,
            key=jax.random.key(asked.seed),
            batch_size=size,
            progress=progress,
        )
    shown = _one_of_each(labels, rows)
    images = subject.load(drawn.numbers[shown])
    maps = maps_of(asked, images, labels[shown], min(size, count))
    names = [subject.classes[label] for label in labels[shown]]
    titled = {lens.title: of_lens for lens, of_lens in maps.items()}
    with Progress("drawing"):
        figure = plot_comparison(np.asarray(images) + subject.image_mean[None], drawn.masks[shown], titled, names)
        arrays = {"shown": drawn.numbers[shown], "masks": drawn.masks[shown], "images": drawn.numbers}
        table = comparison.to_table(found, asked.lenses, asked.run.config.dataset, asked.layer)
        for stale in matching(asked.folder, "sanity.*"):
            stale.unlink()
        files = tables.write(table, asked.folder, "lenses")
        files += save(figure, asked.folder / "lenses", arrays | as_arrays(maps) | found._asdict())
    print(table.text(), end="\n\n")
    return files


def write_sanity(asked: Asked, drawn: Drawn, count: int) -> list[str]:
    """Write the table and plot of the model-randomization check, for lenses that depend on the net.

    Prints the table and returns the names of the written files.
    """
    lenses = [lens for lens in asked.lenses if lens not in BASELINES]
    if not lenses:
        return []
    subject, found, numbers = asked.subject, {}, drawn.numbers[:count]
    images, target = subject.load(numbers), jnp.asarray(subject.labels[numbers], jnp.int32)
    weights_key, lens_key = jax.random.split(jax.random.key(asked.seed))
    nets = 1 + 2 * len(randomized_layers(subject.net))
    with Progress("randomized nets", len(lenses) * nets * len(numbers), unit="map") as progress:
        for lens in lenses:
            of_weights = _counted(for_sanity(lens, asked.layer, lens_key, asked.batch_size), lens.title, progress)
            found[lens] = sanity_check(of_weights, subject.net, subject.variables, images, target, weights_key)
    titled = {lens.title: one for lens, one in found.items()}
    arrays = {
        f"{lens.name}_{way}_{kind}": values
        for lens, one in found.items()
        for way, similarity in (("cascade", one.cascade), ("alone", one.alone))
        for kind, values in similarity._asdict().items()
    }
    with Progress("drawing"):
        table = sanity.to_table(titled, asked.run.config.dataset)
        files = tables.write(table, asked.folder, "sanity")
        files += save(plot_sanity(titled), asked.folder / "sanity", {"images": numbers, **arrays})
    print(table.text(), end="\n\n")
    return files


def _counted(lens: sanity.Lens, title: str, progress: Progress) -> sanity.Lens:
    """The same lens, with progress for each map."""

    def of(net: ConvNet, variables: PyTree, images: Array, target: Array) -> Array | np.ndarray:
        progress.advance(0, title)
        maps = lens(net, variables, images, target)
        progress.advance(len(maps), title)
        return maps

    return of


def _one_of_each(labels: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " shown"]:
    """Indices of up to `count` images: the first of each class, then others."""
    _, first = np.unique(labels, return_index=True)
    return np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(labels)), first)])[:count]

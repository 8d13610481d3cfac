"""Score lenses on the images of a split: how good their maps are, and whether they depend on the weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from zfjax.compare import devices, drawings
from zfjax.compare.asked import Asked, as_arrays, ask, chosen, maps_of
from zfjax.compare.request import Request
from zfjax.console import tables
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.experiments import comparison, randomization, sanity
from zfjax.experiments.comparison import Comparison, Labeled
from zfjax.experiments.lenses import BASELINES, LENSES, Lens, Options, given_to
from zfjax.experiments.randomization import Forms, forms
from zfjax.experiments.sanity import Sanity, Similarity, randomized_layers, sanity_check
from zfjax.plots.comparison import plot_comparison, plot_sanity
from zfjax.plots.files import save
from zfjax.runs.boxes import known_objects
from zfjax.runs.first import from_all, is_first
from zfjax.runs.subject import Subject

SANITY = (
    *(f"sanity.{kind}" for kind in ("csv", "json", "md", "npz", "pdf", "png")),
    *(f"randomized.{kind}" for kind in ("csv", "json", "md")),
)
SAMPLES = 8  # noisy copies of each image, in the smooth form


class Drawn(NamedTuple):
    """Images of the val split; where objects are known, those that show theirs inside the crop."""

    numbers: Int[np.ndarray, " n"]  # in the split
    labels: Int[np.ndarray, " n"]  # the outputs to explain
    unknown: int  # of these, for how many it is what the model says, since no output has the name of the class
    masks: Bool[np.ndarray, "n size size"] | None  # the objects' pixels, if known


def open_model(request: Request) -> tuple[Asked, Drawn]:
    """Open the model with its pictures, and draw images of the val split by the seed.

    Raises:
        UserError: no such checkpoint, lens or layer, the file of boxes cannot be used, or no object is in the crops.
    """
    lenses = chosen(request.only, LENSES + BASELINES)
    subject = request.given.splits().val
    known = known_objects(request.given, subject, request.boxes)
    asked = ask(subject, lenses, request)
    numbers = known.numbers if known else np.arange(len(subject.pictures))
    drawn, masks = np.random.default_rng(request.seed).permutation(numbers)[: request.drawn], None
    if known:
        masks = known.masks(drawn)
        seen = masks.any(axis=(1, 2))
        if not seen.any():
            raise UserError("none of the pictures shows its object inside the center crop, which is what the net sees")
        drawn, masks = drawn[seen], masks[seen]
    labels, unknown = _targets(subject, drawn, request.batch_size)
    return asked, Drawn(drawn, labels, unknown, masks)


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

    Also deletes earlier results on randomized nets and on drawings, which may use other images and lenses.
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
        masks = None if drawn.masks is None else drawn.masks[shown]
        figure = plot_comparison(subject.display.pixels(images), masks, titled, names)
        arrays = {"shown": drawn.numbers[shown], "images": drawn.numbers} | ({} if masks is None else {"masks": masks})
        table = comparison.to_table(found, asked.lenses, asked.given.dataset, asked.layer, drawn.unknown)
        for stale in SANITY + drawings.FILES:
            (folder / stale).unlink(missing_ok=True)
        files = tables.write(table, folder, "lenses")
        files += save(figure, folder / "lenses", arrays | as_arrays(maps) | found._asdict())
    print(table.text(), end="\n\n")
    return files


def _compared(asked: Asked, drawn: Drawn, labels: Int[np.ndarray, " n"]) -> Comparison:
    """Compare the lenses batch by batch, on all devices of all processes."""
    subject, size, count = asked.subject, asked.batch_size, len(labels)
    with Progress("lenses", count * len(asked.lenses), unit="map") as progress:

        def batch(some: np.ndarray) -> Labeled:
            masks = None if drawn.masks is None else drawn.masks[some]
            return Labeled(subject.load(drawn.numbers[some]), labels[some], masks, int(some[0]))

        def work(device: jax.Device, share: range) -> dict[str, np.ndarray]:
            return comparison.compare(
                subject.model.on(device),
                map(batch, devices.batches(share, size, count)),
                asked.lenses,
                layer=asked.layer,
                options=asked.options,
                rows=min(size, count),
                progress=progress,
            )._asdict()

        found = devices.on_all_devices(count, size, asked.given.precision, work)
    scores = {name: found.joined(name) for name in Comparison._fields if name != "seconds"}
    return Comparison(**scores, seconds=found.mean("seconds"))


def write_sanity(asked: Asked, drawn: Drawn, count: int) -> list[str]:
    """Write the tables and plot of the model-randomization check, for lenses that depend on the net.

    Prints the tables, or why there is none, and returns the names of the written files.
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
    each = 2 * len(names) + 2 * (1 + SAMPLES)  # nets, and copies of images
    with Progress("randomized nets", len(lenses) * each * len(numbers), unit="map") as progress:
        for lens in lenses[jax.process_index() :: jax.process_count()]:
            of = _counted(lens, asked.options._replace(key=lens_key), progress)
            layer = asked.layer if lens.at_cut else ""
            one = sanity_check(of, model, images, target, weights_key, layer=layer)
            mine |= {
                f"{lens.name}_{way}_{kind}": values
                for way, similarity in (("cascade", one.cascade), ("alone", one.alone))
                for kind, values in similarity._asdict().items()
            }
            size = asked.batch_size
            two = forms(of, model, images, target, weights_key, layer=layer, n_samples=SAMPLES, batch_size=size)
            smooth = {f"{lens.name}_smooth_{kind}": values for kind, values in two.smooth._asdict().items()}
            mine |= {**smooth, f"{lens.name}_efficient": two.efficient}
    of_all = {name: array for arrays in from_all(mine) for name, array in arrays.items()}
    if not is_first():
        return []

    def similarity(lens: Lens, way: str) -> Similarity:
        return Similarity(*(of_all[f"{lens.name}_{way}_{kind}"] for kind in Similarity._fields))

    titled = {lens.title: Sanity(names, similarity(lens, "cascade"), similarity(lens, "alone")) for lens in lenses}
    of_forms = {lens.title: Forms(similarity(lens, "smooth"), of_all[f"{lens.name}_efficient"]) for lens in lenses}
    with Progress("drawing"):
        table = sanity.to_table(titled, asked.given.dataset)
        second = randomization.to_table(of_forms, asked.given.dataset)
        files = tables.write(table, asked.given.out, "sanity") + tables.write(second, asked.given.out, "randomized")
        files += save(plot_sanity(titled), asked.given.out / "sanity", {"images": numbers, **of_all})
    print(table.text(), second.text(), sep="\n\n", end="\n\n")
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

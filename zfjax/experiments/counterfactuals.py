"""Which lens tells what a net depends on: parts of a drawing are left out, and the score falls by so much.

The set `shapes` is drawn by the package, so each thing in a picture can be left out of the drawing while all else stays
as it was to the last bit. What the class's logit loses is then known, not estimated by covering or filling in, which
show the net something it has never seen. A lens claims something of the same thing: the sum of its map over the pixels
that change. A good lens has both in the same order.

The things are the object's parts, three to eight, and what stands around it: clutter, regions of the background, what
covers a corner of the object. A tree's three parts alone have six orders, which is too few to tell much by; and a lens
should also know that clutter does not matter.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from zfjax.attribution.asked import Asked, asked, scores
from zfjax.attribution.metrics import rank_agreement, sums_inside
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.console.text import listed, shown_by_shape
from zfjax.data import shapes
from zfjax.data.crops import center_crop
from zfjax.data.decode import resized_square
from zfjax.experiments.bootstrap import mean_of
from zfjax.experiments.comparison import filled
from zfjax.experiments.lenses import BASELINES, Case, Lens, Options, case_of, heat, maps_by
from zfjax.models import Model
from zfjax.runs.subject import Subject
from zfjax.transform import functions

KINDS = ("magnitude", "signed")  # of maps
_SEEDS = 2  # drawings of the set's own splits have 0 and 1 here


@shown_by_shape
class Drawings(NamedTuple):
    """Images of drawings, and the same drawings without one thing each."""

    images: Float[Array, "n size size channels"]  # as the model takes them
    labels: Int[np.ndarray, " n"]
    others: Float[Array, "m size size channels"]  # with one thing left out
    rows: Int[np.ndarray, " m"]  # of which image
    changed: Bool[np.ndarray, "m size size"]  # the pixels that differ from that image's
    is_part: Bool[np.ndarray, " m"]  # whether the thing is part of the object
    first: int = 0  # number of the first image


@shown_by_shape
class Agreement(NamedTuple):
    """How well what each lens claims of things agrees with what is lost without them, drawing by drawing.

    Maps count as they are (signed) and by their magnitudes, in the order of `KINDS`.
    """

    things: Float[np.ndarray, "lenses 2 images"]  # rank agreement, −1..1, over all things
    parts: Float[np.ndarray, "lenses 2 images"]  # over the object's parts alone
    per_pixel: Float[np.ndarray, "lenses 2 images"]  # over all things, of means and of what is lost by pixel
    first: Float[np.ndarray, "lenses 2 images"]  # whether the lens names the thing without which most is lost: 1 or 0
    negative: Bool[np.ndarray, "lenses images"]  # whether the map has numbers below 0


def known_classes(subject: Subject) -> list[str]:
    """The classes of `shapes` that the model has an output for. Raises a UserError if there is none."""
    known = [name for name in shapes.CLASSES if name in subject.classes]
    if not known:
        raise UserError(
            f"drawings have parts left out of shapes: no output of the model is named {listed(shapes.CLASSES)}"
        )
    return known


def drawings(subject: Subject, numbers: Sequence[int] | Int[np.ndarray, " n"], *, seed: int = 0) -> Drawings:
    """Draw pictures of `shapes`, and each without one thing after another, as a model's images.

    None of them is in the set's own splits. They are the drawings themselves, without the JPEG compression of these.

    Args:
        subject: the model; its outputs have names of `shapes.CLASSES`, at least some.
        numbers: which drawings; classes take turns.
        seed: of the drawings.

    Raises:
        UserError: the model has no output with such a name.
    """
    known = known_classes(subject)
    squares: list[np.ndarray] = []
    rows, is_part, labels, whole = [], [], [], []
    for row, number in enumerate(numbers):
        name = known[int(number) % len(known)]
        rng = np.random.default_rng((seed, _SEEDS, int(number)))
        picture, without = shapes.counterfactuals(rng, shapes.CLASSES.index(name))
        whole.append(resized_square(picture, subject.side))
        labels.append(subject.classes.index(name))
        squares += [resized_square(other.image, subject.side) for other in without]
        rows += [row] * len(without)
        is_part += [other.is_part for other in without]
    at = np.array(rows)
    seen, others = (np.asarray(center_crop(np.stack(some), subject.size)) for some in (whole, squares))
    changed = (others != seen[at]).any(axis=-1)
    shown = changed.any(axis=(1, 2))  # a thing may be outside of the crop
    return Drawings(
        subject.images_of(np.stack(whole)),
        np.array(labels),
        subject.images_of(np.stack(squares)[shown]),
        at[shown],
        changed[shown],
        np.array(is_part)[shown],
        int(numbers[0]),
    )


def agreement(
    model: Model,
    batches: Iterable[Drawings],
    lenses: Sequence[Lens],
    *,
    layer: str,
    options: Options,
    rows: int = 0,
    progress: Progress | None = None,
) -> Agreement:
    """Compare what lenses claim of things with what the score loses without them. One batch is in memory at a time.

    Args:
        model: a classifier.
        batches: from `drawings`.
        lenses: as in `zfjax.experiments.comparison.compare`.
        layer: as there.
        options: as there.
        rows: as there.
        progress: as there.

    Raises:
        ValueError: there are no batches, or a lens raises it.
        UserError: the model has no such layer.
    """
    model = model.logits
    parts: list[Agreement] = []
    for batch in batches:
        rows = rows or len(batch.images)
        lost = _lost(model, batch, options.batch_size)
        numbers = filled(len(batch.images), max(rows, len(batch.images)))
        target = jnp.asarray(batch.labels, jnp.int32)[numbers]
        case = case_of(model, layer, batch.images[numbers], target, options, first=batch.first)
        found = []
        for lens in lenses:
            if progress:
                progress.advance(0, lens.title)
            found.append(_agreement_of(batch, _readings(lens, case)[:, : len(batch.images)], lost))
            if progress:
                progress.advance(len(batch.images), lens.title)
        parts.append(Agreement(*map(np.stack, zip(*found, strict=True))))
    if not parts:
        raise ValueError("batches: expected at least one batch of drawings, got none")
    return Agreement(*(np.concatenate(of_all, axis=-1) for of_all in zip(*parts, strict=True)))


@functions.jit
def _scores(question: Asked) -> Float[Array, " n"]:
    return scores(question).astype(jnp.float32)


def _lost(model: Model, batch: Drawings, batch_size: int) -> Float[np.ndarray, " m"]:
    """How far the class's logit falls with each thing left out."""

    def said(images: Array, target: Int[np.ndarray, " n"]) -> np.ndarray:
        found = []
        for start in range(0, len(images), batch_size):
            some = np.minimum(np.arange(start, start + batch_size), len(images) - 1)
            found.append(np.asarray(_scores(asked(model.function, images[some], target[some], has_slope=False))))
        return np.concatenate(found)[: len(images)]

    return said(batch.images, batch.labels)[batch.rows] - said(batch.others, batch.labels[batch.rows])


def _readings(lens: Lens, case: Case) -> Float[np.ndarray, "2 n height width"]:
    """A lens's maps as one number per pixel: by magnitude, and with signs."""
    given = np.asarray(maps_by(lens, case), np.float32)
    signed = heat(case, given.sum(axis=-1) if given.ndim == 4 else given)
    return np.stack([np.abs(heat(case, given)), signed])


def _agreement_of(batch: Drawings, readings: Float[np.ndarray, "2 n h w"], lost: Float[np.ndarray, " m"]) -> Agreement:
    """One lens's; without the axis of lenses."""
    found = np.full((4, 2, len(batch.images)), np.nan)
    area = batch.changed.sum(axis=(1, 2))
    for number in range(len(batch.images)):
        mine = np.flatnonzero(batch.rows == number)
        if not len(mine):
            continue
        regions = np.broadcast_to(batch.changed[mine], (2, *batch.changed[mine].shape))
        claims, part = sums_inside(readings[:, number], regions), batch.is_part[mine]
        found[0, :, number] = rank_agreement(claims, lost[mine])
        found[1, :, number] = rank_agreement(claims[:, part], lost[mine][part])
        found[2, :, number] = rank_agreement(claims / area[mine], lost[mine] / area[mine])
        found[3, :, number] = claims.argmax(axis=1) == lost[mine].argmax()
    things, parts, per_pixel, first = found
    return Agreement(things, parts, per_pixel, first, (readings[1] < 0).any(axis=(1, 2)))


class Row(NamedTuple):
    """One way to read one lens."""

    title: str
    is_baseline: bool  # which ignores the net
    agreement: Agreement  # of the lens and the reading alone: [images]


def readings(found: Agreement, lenses: Sequence[Lens]) -> list[Row]:
    """Each lens by magnitude and, where its maps have signs, with them: best first, by the mean over all things."""
    rows = []
    for number, lens in enumerate(lenses):
        kinds = KINDS if found.negative[number].any() else KINDS[:1]
        for kind, name in enumerate(kinds):
            title = f"{lens.title} ({name})" if len(kinds) > 1 else lens.title
            one = Agreement(*(array[number, kind] if array.ndim == 3 else array[number] for array in found))
            rows.append(Row(title, lens in BASELINES, one))
    return sorted(rows, key=lambda row: -mean_of(row.agreement.things).value)


def to_table(found: Agreement, lenses: Sequence[Lens], layer_name: str) -> Table:
    """One row for each way to read each lens, best first: means over drawings, in percent.

    Args:
        found: from `agreement`.
        lenses: the compared lenses.
        layer_name: the layer whose maps the CAMs weighted.
    """
    rows: list[tuple[Cell, ...]] = [
        (row.title, *(mean_of(100 * array) for array in row.agreement[:-1])) for row in readings(found, lenses)
    ]
    return Table(
        f"What is lost without each thing, by lenses: {found.things.shape[-1]} drawings of shapes",
        ("lens", "things", "parts", "per pixel", "first"),
        rows,
        "In percent; after ± half of the 95 % interval of the mean, by a bootstrap over drawings. Each thing in a"
        " drawing is left out, and what the class's logit loses is compared with the sum of the map over the pixels"
        " that change. things: Kendall's rank correlation over all things in a drawing (parts, clutter, background,"
        " what covers the object): pairs of them in the right order less those in the wrong one; equal sums are"
        " neither. parts: over the object's parts alone. Larger things have larger sums, and more is lost without them,"
        " so a random map has more than 0; per pixel: of means, and of what is lost by pixel. first: the thing without"
        f" which most is lost has the largest sum. CAMs use {layer_name}. Random map and center Gaussian ignore the"
        " net.\n\n" + believed(found, lenses),
    )


def believed(found: Agreement, lenses: Sequence[Lens]) -> str:
    """Which reading of which lens to believe, and which others are as good or no better than without the net.

    Two readings are told apart if the 95 % interval of the mean difference, over the same drawings, does not hold 0.
    That is narrower than what two separate intervals say.
    """
    rows = readings(found, lenses)
    asked = [row for row in rows if not row.is_baseline]
    if not asked:
        return "No lens was asked that looks at the net."
    best, others = asked[0], asked[1:]
    blind = [row for row in rows if row.is_baseline]
    value, low, high = mean_of(100 * best.agreement.things)
    sentences = []
    if any(not _is_above(best, row) for row in blind):
        sentences.append(f"None is better than a map that ignores the net; the best is {best.title}")
    else:
        sentences.append(f"Best: {best.title}, {value:.1f} ({low:.1f} to {high:.1f})")
        close = [row.title for row in others if not _is_above(best, row)]
        sentences[0] += f"; not to be told apart from it: {', '.join(close)}" if close else ""
        if not close and others:
            sentences[0] += "; all others are told apart from it"
        useless = [row.title for row in others if any(not _is_above(row, one) for one in blind)]
        if useless:
            sentences.append(f"No better than a map that ignores the net: {', '.join(useless)}")
    return "".join(f"{sentence}. " for sentence in sentences).strip()


def _is_above(one: Row, other: Row) -> bool:
    return mean_of(one.agreement.things - other.agreement.things).low > 0

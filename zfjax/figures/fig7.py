"""Figure 7: a square slid over some images."""

from collections.abc import Callable, Iterator

import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.experiments.gallery import Top
from zfjax.experiments.occlusion import Sensitivity, hiding, sensitivities
from zfjax.experiments.passes import strongest as strongest_of
from zfjax.figures.request import Drawing, Request
from zfjax.models.fields import project_units
from zfjax.plots.occlusion import Occluded, plot_occlusion
from zfjax.runs.subject import Subject
from zfjax.training.sharding import data_mesh
from zfjax.transform import functions
from zfjax.transform.backprojection import deconvnet
from zfjax.transform.seeds import strongest

OTHERS = 3  # projections of the same map on other images
SCORED = 50  # images compared with their masks


def draw(request: Request) -> Iterator[Drawing]:
    """Yield one drawing, one row per image; if the run has masks, with a table of the effect of hiding the object."""
    window, stride = _square(request)
    rows, labels = _rows(request, window, stride)
    arrays = {"labels": labels}
    for name in ("image", "projection", "others"):
        arrays[name] = np.stack([getattr(row, name) for row in rows])
    for name in rows[0].found._fields:
        arrays[name] = np.stack([np.asarray(getattr(row.found, name)) for row in rows])
    has_masks = request.subject.annotations is not None and request.files is None
    table = _against_masks(request, window, 2 * stride) if has_masks else None
    yield Drawing(
        "fig7_occlusion", plot_occlusion(rows, request.subject.classes), arrays, table and ("fig7_masks", table)
    )


def _square(request: Request) -> tuple[int, int]:
    """The side of the square and the distance between positions in pixels; by default 48 and 8 of 224."""
    size = request.subject.size
    return request.window or max(1, round(size * 48 / 224)), request.stride or max(1, round(size * 8 / 224))


def _rows(request: Request, window: int, stride: int) -> tuple[list[Occluded], np.ndarray]:
    """The rows to show, one per image, and the images' classes."""
    subject, chosen = request.subject, request.chosen(7)
    top = subject.model.feature_layers[-1]
    fun = subject.model.layer(top)
    with Progress("strongest activations", len(subject.pictures)) as progress:
        winners = strongest_of(subject, [top], OTHERS + 1, request.batch_size, request.parts, progress)[top]
    with Progress("occlusion", len(chosen.images)) as progress:
        sweeps = _sweeps(request, chosen.images, chosen.labels, window, stride, progress)
    rows = []
    with Progress("projections", len(chosen.images)) as progress:
        titles = chosen.titles(subject.classes)
        each = zip(chosen.images, chosen.labels, chosen.numbers, titles, sweeps, strict=True)
        for image, label, number, title, found in each:
            projection = _strongest_projected(functions.live(fun), image[None], found.unit)[0]
            projection = subject.display.signals(projection)
            others = subject.display.signals(_others(subject, fun, winners, found.unit, int(number)))
            shown = subject.display.pixels(image)
            rows.append(Occluded(shown, int(label), projection, others, found, title))
            progress.advance(1)
    return rows, chosen.labels


def _sweeps(
    request: Request,
    images: Float[Array, "n size size 3"],
    labels: Int[np.ndarray, " n"],
    window: int,
    stride: int,
    progress: Progress,
) -> list[Sensitivity]:
    """The images' positions split over all devices of all processes."""
    subject = request.subject
    return sensitivities(
        subject.model,
        images,
        labels,
        window,
        stride,
        subject.display.cover,
        layer=subject.model.feature_layers[-1],
        batch_size=request.batch_size,
        mesh=data_mesh(),
        progress=progress,
    )


def _others(subject: Subject, fun: Partial, winners: Top, unit: int, number: int) -> Float[np.ndarray, "n h w c"]:
    """The map's projections on the images that excite it most, except the current one."""
    numbers, positions = np.asarray(winners.images)[unit], np.asarray(winners.positions)[unit]
    kept = [i for i, winner in enumerate(numbers) if winner not in (number, -1)][:OTHERS]
    return np.asarray(project_units(fun, subject.load(numbers[kept]), np.full(len(kept), unit), positions[kept])[1])


@functions.jit
def _strongest_projected(fun: Callable, images: Array, unit: Array) -> Float[Array, "n h w c"]:
    """The unit's strongest activation on each image, projected down to pixels."""
    y, project = deconvnet(fun, images)
    return project(strongest(y, unit))


def _against_masks(request: Request, window: int, stride: int) -> Table:
    """Measure whether the probability falls where the object is hidden."""
    subject = request.subject
    numbers = request.rng(7).choice(len(subject.pictures), min(SCORED, len(subject.pictures)), replace=False)
    objects = subject.masks(numbers)
    images, rows = subject.load(numbers), list[tuple[Cell, ...]]()
    sides = [side for side in (window, 2 * window) if side <= subject.size]
    with Progress("occlusion compared with masks", len(numbers) * len(sides)) as progress:
        for side in sides:
            scores = [
                (found.clean_probability, *hiding(found, mask))
                for found, mask in zip(
                    _sweeps(request, images, subject.labels[numbers], side, stride, progress), objects, strict=True
                )
                if mask.any()  # the crop may have left the object outside
            ]
            rows.append((side, *(100 * float(share) for share in np.mean(scores, axis=0))))
    return Table(
        f"Fig. 7d compared with the masks of {len(numbers)} validation images",
        ("square, px", "unhidden", "third that hides least", "third that hides most", "lowest on object", "by chance"),
        rows,
        "Mean probability of the true class, in percent: without the square, and over the third of its positions that"
        " hide the least and the most of the object. Then how often the position with the lowest probability hides some"
        " of the object, and how many of all positions do.",
    )

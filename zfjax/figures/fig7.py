"""Figure 7: a square slid over some images."""

from collections.abc import Iterator

import numpy as np

from zfjax.data import record, shapes
from zfjax.data.shapes.masks import masks
from zfjax.errors import UserError
from zfjax.experiments.fields import project_units
from zfjax.experiments.gallery import Top, top_activations
from zfjax.experiments.occlusion import hiding, sensitivity
from zfjax.experiments.subject import Subject, feature_layers
from zfjax.figures.request import Drawing, Request
from zfjax.models import layer
from zfjax.plots.occlusion import Occluded, plot_occlusion
from zfjax.progress import Progress
from zfjax.tables import Table

OTHERS = 3  # images of the same map beside the projection
SCORED = 50  # images whose masks are compared


def draw(request: Request) -> Iterator[Drawing]:
    """One picture, a row an image.

    Raises:
      UserError: a square that is larger than the image.
    """
    subject = request.subject
    size = subject.net.image_size
    window = request.window or max(1, round(size * 48 / 224))
    stride = request.stride or max(1, round(size * 8 / 224))
    if window > size:
        raise UserError(f"--window={window} is larger than the run's images of {size}×{size} px")
    top = feature_layers(subject.net)[-1]
    fun = layer(subject.net, subject.variables, top)
    chosen = request.chosen(7)
    with Progress("strongest activations", len(subject.pictures)) as progress:
        winners = top_activations(fun, progress.over(subject.batches(request.batch_size)), OTHERS + 1)
    rows = []
    with Progress("occluded images", len(chosen.images)) as progress:
        for image, label, number in zip(chosen.images, chosen.labels, chosen.numbers, strict=True):
            found = sensitivity(
                subject.net,
                subject.variables,
                image,
                int(label),
                window,
                stride,
                layer=top,
                batch_size=request.batch_size,
            )
            on_map = np.asarray(fun(image[None])[0, ..., found.unit])
            cell = np.unravel_index(np.argmax(on_map), on_map.shape)
            projection = project_units(fun, image[None], np.array([found.unit]), np.array([cell]))[1][0]
            others = _others(subject, fun, winners, found.unit, int(number))
            whole = np.asarray(image) + subject.image_mean
            rows.append(Occluded(whole, int(label), np.asarray(projection), others, found))
            progress.advance(1)
    arrays = {"images": np.stack([row.image for row in rows]), "labels": chosen.labels}
    for name in rows[0].found._fields:
        arrays[name] = np.stack([np.asarray(getattr(row.found, name)) for row in rows])
    arrays["projections"] = np.stack([row.projection for row in rows])
    figure = plot_occlusion(rows, subject.classes)
    table = (
        _against_masks(request, (window, 2 * window), 2 * stride) if request.run.config.dataset == "shapes" else None
    )
    yield Drawing("fig7_occlusion", figure, arrays, table and ("fig7_masks", table))


def _against_masks(request: Request, windows: tuple[int, ...], stride: int) -> Table:
    """Whether the probability falls where the object is hidden: `shapes` knows which pixels those are."""
    subject, run, rng = request.subject, request.run, request.rng(7)
    numbers = rng.choice(len(subject.pictures), min(SCORED, len(subject.pictures)), replace=False)
    seen = record.read(run.folder)
    assert seen is not None  # or there would be no subject
    builder = shapes.prepared_builder(run.config.data_dir)
    size = subject.net.image_size
    objects = masks(builder, "validation", seen.val_kept[numbers], square=subject.mean.shape[0], size=size)
    images, rows = subject.load(numbers), []
    with Progress("occluded images with masks", len(numbers) * len(windows)) as progress:
        for window in windows:
            scores = []
            for image, label, mask in zip(images, subject.labels[numbers], objects, strict=True):
                found = sensitivity(
                    subject.net, subject.variables, image, int(label), window, stride, batch_size=request.batch_size
                )
                scores.append((found.clean_probability, *hiding(found, mask)))
                progress.advance(1)
            rows.append((window, *(100 * float(share) for share in np.mean(scores, axis=0))))
    return Table(
        f"Fig. 7d against the masks of {len(numbers)} validation images",
        (
            "square, px",
            "nothing hidden",
            "third that hides least",
            "third that hides most",
            "lowest on the object",
            "by chance",
        ),
        rows,
        "Mean probability of the true class, in percent: without the square, and over the third of its positions that"
        " hide the least and the most of the object. Then how often the position with the lowest probability hides some"
        " of the object, and how many of all positions do.",
    )


def _others(subject: Subject, fun, winners: Top, unit: int, number: int) -> np.ndarray:
    """The map's projections on those images that excite it most, but for the one at hand."""
    numbers, positions = np.asarray(winners.images)[unit], np.asarray(winners.positions)[unit]
    kept = [i for i, winner in enumerate(numbers) if winner not in (number, -1)][:OTHERS]
    images = subject.load(numbers[kept])
    return np.asarray(project_units(fun, images, np.full(len(kept), unit), positions[kept])[1])

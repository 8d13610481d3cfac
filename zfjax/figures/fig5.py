"""Figure 5: features and predictions under vertical translation, scale and rotation."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from zfjax.console.tables import Cell, Table
from zfjax.experiments.invariance import (
    invariance,
    mean_probabilities,
    paper_steps,
    relative_changes,
    rotations,
    scalings,
    transformed,
    translations,
)
from zfjax.figures.request import Drawing, Request
from zfjax.plots.invariance import plot_invariance, shown_steps
from zfjax.training.sharding import data_mesh

TRANSFORMS = (translations, scalings, rotations)


def draw(request: Request) -> Iterator[Drawing]:
    """Yield one drawing; its arrays include the changes under small transforms."""
    subject, chosen = request.subject, request.chosen(5)
    model = subject.model
    hidden = (model.feature_layers[0], model.last_hidden)
    fun = model.activations((*hidden, model.result))
    steps = paper_steps(subject.size)
    fill, mesh, size = subject.display.cover, data_mesh(), request.batch_size
    found = invariance(fun, hidden, model.result, chosen.images, chosen.labels, steps, size, mesh, fill)
    examples = []
    for parameters, maps_of in zip(steps, TRANSFORMS, strict=True):
        maps = maps_of(parameters[shown_steps(len(parameters))])
        pictures = np.stack([np.asarray(transformed(image, maps, fill)) for image in chosen.images])
        examples.append(np.clip(subject.display.pixels(pictures) / 255, 0, 1))
    titles = (f"the first layer ({hidden[0]})", f"the last hidden layer ({hidden[1]})")
    figure = plot_invariance(found, examples, chosen.titles(subject.classes), titles)
    arrays = {
        f"{transform}_{part}": array
        for transform, one in zip(steps._fields, found[:3], strict=True)
        for part, array in one._asdict().items()
    }
    arrays |= {f"{transform}_images": shown for transform, shown in zip(steps._fields, examples, strict=True)}
    arrays |= {
        "layers": np.array(hidden),
        "untransformed": found.untransformed,
        "apart": found.apart,
        "relative_changes": relative_changes(found, subject.size),
        "mean_probabilities": mean_probabilities(found),
    }
    yield Drawing("fig5_invariance", figure, arrays, ("fig5_invariance", _table(arrays, steps._fields, hidden)))


def _table(arrays: Mapping[str, np.ndarray], transforms: Sequence[str], hidden: Sequence[str]) -> Table:
    header = ("transform", *(f"{name} moved (%)" for name in hidden), "its class (%)")
    rows: list[tuple[Cell, ...]] = [
        (transform, *(100 * float(change) for change in changes), 100 * float(probability))
        for transform, changes, probability in zip(
            transforms, arrays["relative_changes"], arrays["mean_probabilities"], strict=True
        )
    ]
    note = (
        "Moved: under small transforms (up to 10 of 224 px, ratio 1.1, 10°), in percent of the mean distance between"
        " two different images. Its class: the mean probability over all steps of the image's class, or of what the net"
        " says if the class of a file is unknown; untransformed"
        f" {100 * arrays['untransformed'].mean():.1f} %."
    )
    return Table("Invariance (Figure 5)", header, rows, note)

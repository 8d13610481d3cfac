"""Figure 2: what makes the maps of each layer fire, projected down to pixels."""

from collections.abc import Iterator

import numpy as np

from zfjax.experiments.gallery import gallery, some_maps, top_activations
from zfjax.experiments.subject import feature_layers
from zfjax.figures.request import Drawing, Request
from zfjax.models import layer, layer_table
from zfjax.models.cut import layers
from zfjax.plots.gallery import plot_gallery
from zfjax.progress import Progress


def draw(request: Request) -> Iterator[Drawing]:
    """A picture a layer."""
    subject = request.subject
    names = request.layers or tuple(feature_layers(subject.net))
    rows = {row.name: row for row in layer_table(subject.net)}
    with Progress("strongest activations", len(subject.pictures)) as progress:
        batches = progress.over(subject.batches(request.batch_size))
        k = min(9, len(subject.pictures))
        tops = top_activations(layers(subject.net, subject.variables, names), batches, k)
    for number, name in enumerate(names, start=1):
        chosen = some_maps(tops[name], request.maps or 8, np.random.default_rng((request.seed, number)))
        result = gallery(layer(subject.net, subject.variables, name), tops[name], chosen, subject.load, rows[name])
        title = (
            f"layer {number} ({name}), {len(chosen)} of {len(tops[name].values)} maps:"
            " projections of the strongest activations, and their patches"
        )
        yield Drawing(f"fig2_layer{number}", plot_gallery(result, subject.image_mean, title), result._asdict())

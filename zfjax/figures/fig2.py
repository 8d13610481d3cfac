"""Figure 2: what makes the maps of each layer fire, projected down to pixels."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Float

from zfjax.console.progress import Progress
from zfjax.console.text import as_file
from zfjax.experiments.gallery import Top, gallery, in_rgb, some_maps
from zfjax.experiments.passes import strongest
from zfjax.figures.request import Drawing, Request
from zfjax.models.edits import layer_number, layer_title
from zfjax.plots.gallery import plot_gallery
from zfjax.runs.subject import Subject
from zfjax.training.sharding import data_mesh


def draw(request: Request) -> Iterator[Drawing]:
    """Yield one drawing per layer.

    Raises:
        UserError: no such layer, or no such map in a layer.
    """
    subject, names = request.subject, request.names
    count = len(subject.pictures)
    with Progress("strongest activations", count) as progress:
        tops = strongest(subject, names, min(9, count), request.batch_size, request.parts, progress)
    for i, name in enumerate(names):
        chosen = _maps(request, tops[name], i + 1)
        fun = subject.model.layer(name)
        with Progress(f"projections of {name}", len(chosen) * tops[name].values.shape[1], unit="map") as progress:
            result = gallery(fun, tops[name], chosen, _counted(subject, progress), mesh=data_mesh())
        title = (
            f"{layer_title(name)}, {len(chosen)} of {len(tops[name].values)} maps:"
            " projections of the strongest activations, and their patches"
        )
        figure = plot_gallery(in_rgb(result, subject.display), title=title)
        yield Drawing(_file(subject, name), figure, result._asdict())


def _file(subject: Subject, name: str) -> str:
    """Such as fig2_layer3 for relu3, and fig2_block1-conv2 for block1/conv2."""
    number = layer_number(name) if name in subject.model.feature_layers else None
    return f"fig2_layer{number}" if number else f"fig2_{as_file(name)}"


def _counted(subject: Subject, progress: Progress) -> Callable[[np.ndarray], Float[Array, "n size size 3"]]:
    """`subject.load` with progress: the processes together load as many images as the gallery projects."""

    def load(numbers: np.ndarray) -> Float[Array, "n size size 3"]:
        progress.advance(len(numbers) * jax.process_count())
        return subject.load(numbers)

    return load


def _maps(request: Request, top: Top, number: int) -> np.ndarray:
    """The maps asked for by number, all maps, or some drawn by the seed."""
    if request.units:
        return np.array(request.units)
    return some_maps(top, request.maps or len(top.values), np.random.default_rng((request.seed, number)))

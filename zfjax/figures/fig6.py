"""Figure 6: filters of layer 1 and projections of layer 2, for one run or several side by side."""

from collections.abc import Iterator, Mapping

import numpy as np

from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.experiments.filters import FirstLayers, first_layers, first_two
from zfjax.experiments.passes import strongest
from zfjax.figures.request import Drawing, Opened, Request
from zfjax.plots.filters import plot_first_layers
from zfjax.runs.given import Given, OfRun


def draw(request: Request) -> Iterator[Drawing]:
    """Yield one drawing of all runs, with a table of its counts."""
    opened = (Opened(request.given, request.splits), *request.compare)
    found = {}
    for number, one in enumerate(opened, start=1):
        subject = one.splits.val
        with Progress(f"layers 1 and 2 of {one.given.name}", len(subject.pictures)) as progress:
            tops = strongest(subject, first_two(subject.model), 1, request.batch_size, request.parts, progress)
        layers = first_layers(subject.model, tops, subject.load, request.rng(6))
        title = _title(one.given, layers)
        # Numbered if there are several, since folders in different places may share a name.
        found[f"{number}. {title}" if len(opened) > 1 else title] = layers
    arrays = {
        f"run{number}_{name}": np.asarray(value)
        for number, layers in enumerate(found.values(), start=1)
        for name, value in {**layers._asdict(), **layers.filters._asdict()}.items()
        if name != "filters"
    }
    yield Drawing("fig6", plot_first_layers(found), arrays, ("fig6", _table(found)))


def _title(given: Given, layers: FirstLayers) -> str:
    """Such as `shapes: zfnet, 7×7 stride 2, RMS ≤ 0.1`."""
    height, width = layers.filters.kernel.shape[:2]
    shape = f"{height}×{width} stride {layers.strides[0]}"
    if not isinstance(given, OfRun):
        return f"{given.title}: {shape}"
    radius = given.run.config.filter_radius
    return f"{given.name}: {given.run.config.net}, {shape}, {f'RMS ≤ {radius:g}' if radius else 'RMS free'}"


def _table(found: Mapping[str, FirstLayers]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for title, layers in found.items():
        rms, (down, across) = layers.filters.rms, layers.strides
        rows.append(
            (
                title,
                len(rms),
                f"{np.median(rms):.3g}",
                f"{rms.max():.3g}",
                int(layers.filters.dead.sum()),
                int(layers.silent.sum()),
                int(layers.filters.dominating.sum()),
                100 * float(layers.filters.aliased_total),
                100 * float(layers.aliased_projections.mean()),
                100 * (1 - 1 / (down * across)),
            )
        )
    header = (
        *("run", "filters", "median RMS", "largest RMS", "dead", "silent", "dominating"),
        *("filters aliased %", "projections aliased %", "noise aliased %"),
    )
    note = (
        "dead: RMS up to 5 % of the median; silent: fires for no image of the val split; dominating: RMS above 3 times"
        " the median. aliased: energy beyond the Nyquist limit of layer 1's stride, for all its filters and the drawn"
        " projections of layer 2; the last column is the share of noise."
    )
    return Table("Layer 1's filters (Figure 6)", header, rows, note)

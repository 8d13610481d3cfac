"""Figure 6: filters of layer 1 and projections of layer 2, for one run or several side by side."""

from collections.abc import Iterator, Mapping

import numpy as np

from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.experiments.filters import FirstLayers, first_layers
from zfjax.experiments.passes import strongest
from zfjax.figures.request import Drawing, Opened, Request
from zfjax.models.specs import Conv
from zfjax.plots.filters import plot_first_layers
from zfjax.runs.subject import feature_layers


def draw(request: Request) -> Iterator[Drawing]:
    """Yield one drawing of all runs, with a table of its counts."""
    runs = (Opened(request.run, request.splits), *request.compare)
    found = {}
    for number, run in enumerate(runs, start=1):
        subject = run.splits.val
        with Progress(f"layers 1 and 2 of {run.run.folder.name}", len(subject.pictures)) as progress:
            names = feature_layers(subject.net)[:2]
            tops = strongest(subject, names, 1, request.batch_size, request.parts, progress)
        layers = first_layers(subject.net, subject.variables, tops, subject.load, request.rng(6))
        # Numbered if there are several, since folders in different places may share a name.
        found[f"{number}. {_title(run)}" if len(runs) > 1 else _title(run)] = layers
    strides = [_first_conv(run).strides for run in runs]
    arrays = {
        f"run{number}_{name}": value
        for number, layers in enumerate(found.values(), start=1)
        for name, value in {**layers._asdict(), **layers.filters._asdict()}.items()
        if name != "filters"
    }
    yield Drawing("fig6", plot_first_layers(found), arrays, ("fig6", _table(found, strides)))


def _title(run: Opened) -> str:
    """Such as `shapes: zfnet, 7×7 stride 2, RMS ≤ 0.1`."""
    conv = _first_conv(run)
    radius = run.run.config.filter_radius
    bound = f"RMS ≤ {radius:g}" if radius else "RMS free"
    shape = f"{conv.kernel[0]}×{conv.kernel[1]} stride {conv.strides[0]}"
    return f"{run.run.folder.name}: {run.run.config.net}, {shape}, {bound}"


def _first_conv(run: Opened) -> Conv:
    return next(spec for spec in run.splits.val.net.layers if isinstance(spec, Conv))


def _table(found: Mapping[str, FirstLayers], strides: list[tuple[int, int]]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (title, layers), (down, across) in zip(found.items(), strides, strict=True):
        rms = layers.filters.rms
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

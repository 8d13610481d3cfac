"""Compare lenses on drawings of `shapes` with one thing left out after another."""

import jax

from zfjax.compare import devices
from zfjax.compare.asked import Asked
from zfjax.console import tables
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.experiments import counterfactuals
from zfjax.experiments.counterfactuals import Agreement, believed, drawings, known_classes, to_table
from zfjax.plots.comparison import plot_agreement
from zfjax.plots.files import save
from zfjax.runs.first import is_first

FILES = tuple(f"drawings.{kind}" for kind in ("csv", "json", "md", "npz", "pdf", "png"))


USUAL = 500


def planned(asked: Asked, count: int | None) -> int:
    """How many drawings to compare by, where `count` may be left open; says why there are none of shapes.

    Raises:
        UserError: some are asked for, but the model has no output with the name of a class of `shapes`.
    """
    if count == 0 or (count is None and not asked.given.is_drawn):
        return 0
    try:
        known_classes(asked.subject)
    except UserError as reason:
        if count is not None:
            raise
        if is_first():
            print(f"drawings: not compared: {reason}", flush=True)
        return 0
    return USUAL if count is None else count


def write_drawings(asked: Asked, count: int) -> list[str]:
    """Write the table and plot of what lenses tell of drawings; print the table and which lens to believe.

    Returns:
        The names of the written files.
    """
    subject, size = asked.subject, asked.batch_size
    with Progress("drawings without one thing", count * len(asked.lenses), unit="map") as progress:

        def work(device: jax.Device, share: range) -> Agreement:
            return counterfactuals.agreement(
                subject.model.on(device),
                (drawings(subject, some, seed=asked.seed) for some in devices.batches(share, size, count)),
                asked.lenses,
                layer=asked.layer,
                options=asked.options,
                rows=min(size, count),
                progress=progress,
            )

        found = devices.on_all_devices(count, size, asked.given.precision, lambda *share: work(*share)._asdict())
    if not is_first():
        return []
    agreement = Agreement(*map(found.joined, Agreement._fields))
    with Progress("drawing"):
        table = to_table(agreement, asked.lenses, asked.layer)
        files = tables.write(table, asked.given.out, "drawings")
        arrays = {**agreement._asdict(), "lenses": [lens.name for lens in asked.lenses]}
        files += save(plot_agreement(agreement, asked.lenses), asked.given.out / "drawings", arrays)
    print(table.text(), believed(agreement, asked.lenses), sep="\n\n", end="\n\n")
    return files

"""Figure 4: how projections and features change from checkpoint to checkpoint."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.experiments.evolution import (
    Evolution,
    Snapshot,
    convergence_epochs,
    joined,
    mean_distances,
    require_maps,
    snapshots_of,
)
from zfjax.experiments.gallery import some_maps, top_activations
from zfjax.experiments.passes import strongest
from zfjax.figures.request import Drawing, NotForThisRun, Request
from zfjax.models.nets import NetModel
from zfjax.plots.evolution import plot_convergence, plot_evolution
from zfjax.runs.folder import load_model
from zfjax.training.checkpoints import CHECKPOINTS, FIG4_EPOCHS, Checkpoints
from zfjax.training.loop import Schedule
from zfjax.training.sharding import data_mesh

PROBES = 64  # images of the validation split on which features are compared


class Kept(NamedTuple):
    """The checkpoints to compare, oldest first."""

    steps: tuple[int, ...]
    epochs: tuple[float, ...]  # whole numbers unless the run stopped within an epoch


def draw(request: Request) -> Iterator[Drawing]:
    """Yield the strongest projections at each checkpoint, and curves of how far features moved."""
    subject, train = request.subject, request.splits.train
    kept = kept_checkpoints(request)
    names = request.names
    numbers = np.sort(request.rng(4).permutation(len(subject.pictures))[:PROBES])
    probes = [subject.load(part) for part in np.array_split(numbers, -(-len(numbers) // request.batch_size))]
    maps = _maps(request, names, probes)
    require_maps(subject.net, maps, probes)
    with Progress("strongest activations of each checkpoint", len(kept.steps) * len(train.pictures)) as progress:

        def at(variables: PyTree) -> list[Snapshot]:
            model = NetModel(train.net, variables, classes=train.classes, preprocess=train.model.preprocess)
            seen = train._replace(model=model)
            tops = strongest(seen, tuple(maps), 1, request.batch_size, request.parts, progress)
            return snapshots_of(subject.net, variables, maps, tops, train.load, probes, data_mesh())

        found = joined(tuple(maps), [at(variables) for variables in _variables(request, kept.steps)])
    yield Drawing("fig4_evolution", plot_evolution(found, kept.epochs), _projections(found, kept))
    curves, table = _curves(found, kept), _table(found, kept)
    yield Drawing("fig4_convergence", plot_convergence(found, kept.epochs), curves, ("fig4_convergence", table))


def kept_checkpoints(request: Request) -> Kept:
    """The run's checkpoints at the paper's epochs, and its latest.

    Raises:
        NotForThisRun: there are fewer than two; the message names the missing epochs.
    """
    config = request.run.config
    schedule = Schedule(len(request.splits.train.pictures), config.batch_size, config.epochs)
    with Checkpoints(request.run.folder / CHECKPOINTS, create=False) as checkpoints:
        there = checkpoints.steps()
    wanted = {schedule.end_of(epoch) for epoch in FIG4_EPOCHS} | {*there[-1:]}
    steps = tuple(step for step in there if step in wanted)
    epochs = tuple(schedule.epoch_at(step) for step in steps)
    if len(steps) < 2:
        missing = [str(epoch) for epoch in FIG4_EPOCHS if schedule.end_of(epoch) not in there]
        has = f"the one after epoch {epochs[0]:.3g}" if steps else "none"
        raise NotForThisRun(
            f"fig4 compares checkpoints of at least two epochs, but of these the run in {request.run.folder} has"
            f" {has}; missing are those after epochs {', '.join(missing)}"
        )
    return Kept(steps, epochs)


def _variables(request: Request, steps: tuple[int, ...]) -> Iterator[PyTree]:
    """Yield the checkpoints one at a time, so that only one is in memory."""
    for step in steps:
        yield jax.device_put(load_model(request.run, str(step)).variables)


def _maps(request: Request, names: tuple[str, ...], probes: list[Array]) -> dict[str, Int[np.ndarray, " _"]]:
    """The maps, the same at all checkpoints: as asked for, or drawn from those that fire in the end."""
    if request.units:
        return {name: np.array(request.units) for name in names}
    tops = top_activations(request.subject.model.activations(names), probes, k=1)
    return {
        name: some_maps(
            tops[name], request.maps or len(tops[name].values), np.random.default_rng((request.seed, number))
        )
        for number, name in enumerate(names, start=1)
    }


def _projections(found: Evolution, kept: Kept) -> dict[str, np.ndarray]:
    arrays = {"epochs": np.array(kept.epochs), "steps": np.array(kept.steps)}
    for name, layer in zip(found.names, found.evolved, strict=True):
        arrays |= {f"{name}_{part}": array for part, array in layer._asdict().items()}
    return arrays


def _curves(found: Evolution, kept: Kept) -> dict[str, np.ndarray]:
    return {
        "epochs": np.array(kept.epochs),
        "steps": np.array(kept.steps),
        "layers": np.array(found.names),
        "jumps": found.jumps,
        "distances": found.distances,
        "moved": found.moved,
        "to_final": found.to_final,
        "mean_distances": mean_distances(found, kept.epochs),
        "convergence_epochs": convergence_epochs(found, kept.epochs),
    }


def _table(found: Evolution, kept: Kept) -> Table:
    header = ("layer", "converged (epoch)", "mean distance (%)", *(f"after {e:g} (%)" for e in kept.epochs))
    numbers = zip(
        found.names,
        convergence_epochs(found, kept.epochs),
        mean_distances(found, kept.epochs),
        found.to_final,
        strict=True,
    )
    rows: list[tuple[Cell, ...]] = [
        (name, float(epoch), 100 * float(mean), *(100 * float(one) for one in line))
        for name, epoch, mean, line in numbers
    ]
    note = (
        "Distances to the features of the last checkpoint: 1 − the correlation of a map's responses, mean over maps;"
        " on average over epochs, and after each. Converged: below 25 % from there on."
    )
    return Table("Convergence (Figure 4)", header, rows, note)

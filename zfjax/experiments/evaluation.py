"""Table 2: 1-crop and 10-crop error of runs, or of any model, and of the average of their softmaxes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.tables import Table
from zfjax.console.text import align
from zfjax.data.pictures import Pictures
from zfjax.data.pipeline import Batch, eval_batches
from zfjax.runs.folder import require_different
from zfjax.runs.given import Given, of_workdir
from zfjax.training import memory, sharding
from zfjax.training.scoring import Scored, Scores, score_together


class Row(NamedTuple):
    """One line of Table 2."""

    name: str
    single_crop: Scores  # the center crop
    ten_crop: Scores  # average softmax over corners and center and their mirror images


def evaluate(models: Mapping[str, Scored], batches: Callable[[], Iterable[Batch]], mesh: Mesh) -> tuple[Row, ...]:
    """One row per model, and one for the average of all if there are several.

    Args:
        models: by name, with the same classes and squares of the same size.
        batches: starts a pass over the split, with each example once.
        mesh: the devices to use.
    """
    nets = list(models.values())
    single = score_together(nets, batches(), mesh)
    ten = score_together(nets, batches(), mesh, ten_crop=True)
    names = [*models, f"average of {len(models)}"]
    return tuple(Row(name, *scores) for name, *scores in zip(names, single, ten, strict=False))


def evaluate_runs(
    workdirs: Sequence[epath.PathLike], *, dataset: str = "", checkpoint: str = "latest", batch_size: int = 64
) -> tuple[tuple[Row, ...], int]:
    """`evaluate_given` for finished runs, on the val split of `dataset`, or by default of the first run's dataset.

    Raises:
        UserError: a run is missing or named twice; or as `evaluate_given`.
    """
    runs = [of_workdir(one, "evaluate", checkpoint=checkpoint, dataset=dataset, other=True) for one in workdirs]
    require_different("--workdir", [one.folder for one in runs if one.folder])
    return evaluate_given(dict(zip(map(str, workdirs), runs, strict=True)), batch_size)


def evaluate_given(given: Mapping[str, Given], batch_size: int = 64) -> tuple[tuple[Row, ...], int]:
    """`evaluate` for runs or any models, on the first's pictures whose class is one of its outputs.

    All devices of all processes share the pictures.

    Args:
        given: by name; models are from images of equal height and width to logits or probabilities.
        batch_size: pictures on a device at a time.

    Returns:
        The rows, and how many pictures were left out.

    Raises:
        UserError: a checkpoint or the dataset is missing, a model cannot be scored, no picture's class is one of the
            outputs, or the models' classes or image sizes differ.
    """
    first, *others = given.values()
    for one in others:
        if one.classes != first.classes:
            raise UserError(f"the runs in {first.folder} and {one.folder} know different classes")
        if one.image_size != first.image_size:
            raise UserError(
                f"the runs in {first.folder} and {one.folder} have different image sizes:"
                f" {first.image_size} and {one.image_size}"
            )
    pictures, left_out = first.labeled()
    models = {name: one.scored() for name, one in given.items()}
    return _on_pictures(models, pictures, batch_size), left_out


def _on_pictures(models: Mapping[str, Scored], pictures: Pictures, batch_size: int) -> tuple[Row, ...]:
    """`evaluate` on all devices of all processes."""
    for model in models.values():
        memory.require_batches(model.model, batch_size)
    mesh = sharding.data_mesh()
    rows = sharding.rows_at_once(pictures, batch_size, mesh)
    with Progress("scoring", 2 * len(pictures)) as progress:  # one pass for 1 crop, one for 10

        def batches() -> Iterator[Batch]:
            mine = eval_batches(pictures, rows, shard=sharding.process_of_all())
            return progress.over(mine, lambda batch: int(batch.mask.sum()) * jax.process_count())

        return evaluate(models, batches, mesh)


def to_table(rows: Iterable[Row], dataset: str) -> Table:
    """Table 2: one row per net and number of crops, in percent; top-5 only of more than five classes."""
    shares = [
        (row.name, crops, 100 * scores.top1, 100 * scores.top5 if scores.top5_tells else None, scores.examples)
        for row in rows
        for crops, scores in ((1, row.single_crop), (10, row.ten_crop))
    ]
    header = ("net", "crops", "top-1 accuracy %", "top-5 accuracy %", "examples")
    return Table(f"Accuracy on the validation split of {dataset}", header, shares)


def to_text(rows: Iterable[Row]) -> str:
    """The rows as aligned text: top-1 and, of more than five classes, top-5 accuracy and error in percent."""
    rows = list(rows)
    kinds = ("top-1", "top-5") if any(row.single_crop.top5_tells for row in rows) else ("top-1",)
    shown = [f"{kind} {what}" for what in ("accuracy", "error") for kind in kinds]
    lines: list[tuple[str, ...]] = [("net", "crops", *shown, "examples")]
    for row in rows:
        for crops, scores in (("1", row.single_crop), ("10", row.ten_crop)):
            accuracies = (scores.top1, scores.top5)[: len(kinds)]
            shares = (*accuracies, *(1 - accuracy for accuracy in accuracies))
            lines.append((row.name, crops, *(f"{100 * share:.2f} %" for share in shares), f"{scores.examples:,}"))
    return align(lines)

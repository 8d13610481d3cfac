"""Tables 4 and 5, Figure 9: a softmax on the frozen layers 1-7, compared with the same net trained from scratch."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Float32, Int
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.signals import Stopped
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.data import record
from zfjax.data.pictures import ChosenPictures, Pictures
from zfjax.data.pipeline import eval_batches
from zfjax.data.together import require_shared
from zfjax.experiments.features import Pool, folder_of, kept_features, layer_named, open_pool, require_pictures
from zfjax.experiments.ledger import Ledger, fold_key
from zfjax.experiments.linear import SOFTMAX, Fold, classify, draw_fold, mean_class_accuracy
from zfjax.runs import claim
from zfjax.runs.first import on_first, our_share
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import Given, OfRun, of_run
from zfjax.training.checkpoints import CHECKPOINTS
from zfjax.training.config import check, settings
from zfjax.training.loop import RunData, train
from zfjax.training.scoring import Trained, softmax_of

# The paper's accuracies in percent by training images per class: (pretrained, from scratch).
PAPER: Mapping[str, Mapping[int, tuple[float, float]]] = {
    "Caltech-101": {15: (83.8, 22.8), 30: (86.5, 46.5)},
    "Caltech-256": {15: (65.7, 9.0), 30: (70.6, 22.5), 45: (72.7, 31.2), 60: (74.2, 38.8)},
}

_OF_SCRATCH = ("from scratch %", "± std of it", "folds of it", "paper: from scratch")
Measure = Callable[[Fold, tuple[int, int]], float]  # a fold, and the seed that drew it, to an accuracy


@shown_by_shape
class Transfer(NamedTuple):
    """Mean per-class accuracies, 0..1; NaN for folds not measured."""

    per_class: Int[np.ndarray, " sizes"]  # training images of each class
    pretrained: Float[np.ndarray, "sizes folds"]
    scratch: Float[np.ndarray, "sizes folds"]


class Protocol(NamedTuple):
    """How accuracies are measured; the defaults are the paper's protocol for Caltech-101."""

    per_class: tuple[int, ...] = (15, 30)  # training images of each class
    max_test: int = 50  # maximum test images of each class
    folds: int = 5
    layer: int = 0  # number of the frozen layer to use, counted from 1; 0: the last hidden one
    scratch: bool = True  # also train the same net from scratch
    scratch_epochs: int = 0  # of the nets from scratch; 0: as many as needed for the run's number of updates
    seed: int = 0  # draws the folds


def transfer(
    run: RunInfo,
    dataset: str,
    protocol: Protocol = Protocol(),  # noqa: B008  (immutable)
    *,
    checkpoint: str = "latest",
    batch_size: int = 64,
) -> Transfer:
    """Measure how well a run's frozen features do on another dataset, and the same net from scratch.

    Folds are measured only once: results are saved in the run's folder.

    Args:
        run: from `zfjax.runs.folder.read_run`.
        dataset: shapes, folder:PATH or tfds:NAME.
        protocol: what to measure.
        checkpoint: the run's checkpoint: latest, best or a step.
        batch_size: pictures on a device at a time, for the features.

    Raises:
        UserError: the dataset cannot be used or has too few pictures, or the net has no such layer.
        KeyboardInterrupt: a signal stopped it; the same call resumes from there.

    Paper: tables 4 and 5.
    """
    pool = open_pool(run, dataset)
    given = of_run(run, "transfer", checkpoint=checkpoint)
    *_, result = fold_by_fold(given, pool, protocol, batch_size=batch_size)
    return result


def fold_by_fold(given: Given, pool: Pool, protocol: Protocol, *, batch_size: int = 64) -> Iterator[Transfer]:
    """Yield the results so far after each fold, for a run or any model; see `transfer`.

    Nets from scratch are trained only for runs.

    All folds of the frozen features come first: they take minutes, while the nets from scratch take hours. The results'
    folder stays locked until the last one.
    """
    require_pictures(pool, max(protocol.per_class))
    with claim.writing(folder_of(given, pool), "zfjax transfer", given.root) as folder:
        require_shared(our_share(), folder)  # for the checkpoints of nets from scratch
        ledger = Ledger(folder / "folds.json")
        measures = [_on_frozen_layers(given, pool, protocol, ledger, batch_size)]
        if protocol.scratch and isinstance(given, OfRun):
            measures.append(_from_scratch(given.run, folder, pool, protocol, ledger))
        accuracies = np.full((2, len(protocol.per_class), protocol.folds), np.nan)
        with Progress("folds", len(measures) * accuracies[0].size, unit="fold") as progress:
            for which, measure in enumerate(measures):
                for number in range(protocol.folds):
                    seed = (protocol.seed, number)
                    for row, count in enumerate(protocol.per_class):
                        fold = draw_fold(pool.labels, count, protocol.max_test, seed)
                        accuracies[which, row, number] = measure(fold, seed)
                        progress.advance(1)
                        yield Transfer(np.array(protocol.per_class), *accuracies.copy())


def _on_frozen_layers(given: Given, pool: Pool, protocol: Protocol, ledger: Ledger, batch_size: int) -> Measure:
    with Progress("features"):
        model = given.scored()
        layer = layer_named(model.model, protocol.layer)
        kept = kept_features(model, pool, [layer], given.home / "features", batch_size=batch_size)[layer]
        behind = model.fingerprint(pool.fingerprint)

    def measure(fold: Fold, seed: tuple[int, int]) -> float:
        key = fold_key(fold, "softmax", SOFTMAX.strengths, layer, behind)
        return ledger.get_or_first(key, lambda: classify([SOFTMAX], kept, pool.labels, fold, seed=seed)[0].accuracy)

    return measure


def _from_scratch(run: RunInfo, results: epath.Path, pool: Pool, protocol: Protocol, ledger: Ledger) -> Measure:
    scanned = record.read(run.folder)
    run_examples = len(scanned.train_kept) if scanned else 0
    if not (run_examples or protocol.scratch_epochs):
        raise UserError(
            f"the run in {run.folder} has no pictures of its own, which would tell how long to train from scratch;"
            " expected --scratch_epochs=N, or --noscratch"
        )

    def measure(fold: Fold, seed: tuple[int, int]) -> float:
        config = scratch_config(run.config, len(fold.train), run_examples, protocol.scratch_epochs, seed[1])
        made_by = {**settings(config), "dataset": ""}  # which the pool's fingerprint stands for, wherever it lies
        key = fold_key(fold, "scratch", sorted(made_by.items()), pool.fingerprint)
        folder = results / "scratch" / key
        accuracy = ledger.get_or_all(key, lambda: train_from_scratch(config, pool, fold, folder))
        # Only after the result is in the ledger: otherwise a kill in between would lose the training.
        on_first(lambda: (folder / CHECKPOINTS).rmtree(missing_ok=True))
        return accuracy

    return measure


def dataset_of_the_paper(name: str, num_classes: int) -> str | None:
    """`Caltech-101` or `Caltech-256` if the dataset is one of them, with or without its background class."""
    if "caltech" not in name.lower():
        return None
    return {101: "Caltech-101", 102: "Caltech-101", 256: "Caltech-256", 257: "Caltech-256"}.get(num_classes)


def mean_and_std(values: Float[np.ndarray, " folds"]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over the measured folds, in percent; None if there are too few."""
    values = 100 * values[~np.isnan(values)]
    return (
        float(np.mean(values)) if len(values) else None,
        float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def to_table(result: Transfer, name: str, num_classes: int, *, scratch: bool = True) -> Table:
    """Tables 4 and 5: one row per number of training images per class, beside the paper's accuracies if it has them.

    Without `scratch` there are no columns for nets trained from scratch.
    """
    paper = PAPER.get(dataset_of_the_paper(name, num_classes) or "", {})
    header: tuple[str, ...] = ("images per class", "pretrained %", "± std", "folds", *_OF_SCRATCH[:3])
    rows: list[tuple[Cell, ...]] = []
    for count, *both in zip(*result, strict=True):
        row = (int(count), *(cell for folds in both for cell in (*mean_and_std(folds), _measured(folds))))
        rows.append(row + (paper.get(int(count), (None, None)) if paper else ()))
    header += ("paper: pretrained", "paper: from scratch") if paper else ()
    shown = [number for number, name in enumerate(header) if scratch or name not in _OF_SCRATCH]
    return Table(
        f"Transfer to {name}: mean per-class accuracy",
        tuple(header[number] for number in shown),
        [tuple(row[number] for number in shown) for row in rows],
        "Pretrained: a softmax on the frozen net."
        + (" From scratch: the same net trained on the same images alone." if scratch else "")
        + " ± is the sample standard deviation over folds.",
    )


def _measured(values: Float[np.ndarray, " folds"]) -> int:
    return int(np.sum(~np.isnan(values)))


def scratch_config(config: ConfigDict, examples: int, run_examples: int, epochs: int, seed: int) -> ConfigDict:
    """A run's configuration, adapted to training from scratch on a few pictures.

    Args:
        config: the run's configuration.
        examples: number of training pictures.
        run_examples: number of the run's training pictures.
        epochs: 0 for as many as needed for the run's number of updates, so that the comparison is fair.
        seed: the fold's seed.

    Raises:
        UserError: there are fewer pictures than devices.
    """
    batch_size = min(config.batch_size, examples) // jax.device_count() * jax.device_count()
    if not batch_size:
        raise UserError(f"{examples} training pictures do not split over {jax.device_count()} devices")
    updates = config.epochs * run_examples / config.batch_size
    changed = config.copy_and_resolve_references()
    changed.epochs = epochs or max(1, round(updates * batch_size / examples))
    changed.warmup_epochs = float(config.warmup_epochs * changed.epochs / config.epochs)
    changed.batch_size = batch_size
    changed.seed = seed
    changed.num_classes = 0
    # Annealing by the validation error would let the fold's test pictures influence training.
    changed.cosine = bool(config.cosine or config.plateau_patience)
    changed.plateau_patience = 0
    changed.tensorboard = False
    check(changed)
    return changed


def train_from_scratch(config: ConfigDict, pool: Pool, fold: Fold, folder: epath.Path) -> float:
    """Train the net on a fold's training pictures only, and return its mean per-class accuracy on the test pictures.

    Training resumes from the checkpoints in `folder`.

    Args:
        config: from `scratch_config`.
        pool: the pictures.
        fold: from `linear.draw_fold`.
        folder: an absolute path, used by this fold only.

    Raises:
        UserError: as in `zfjax.training.loop.train`.
        KeyboardInterrupt: a signal stopped it.

    Paper: tables 4 and 5, "non-pretrained".
    """
    pictures = ChosenPictures(pool.pictures, fold.train)
    # The validation after each epoch is only for monitoring; one test picture per class is enough.
    _, firsts = np.unique(pool.labels[fold.test], return_index=True)
    watched = fold.test[firsts]
    folder.mkdir(parents=True, exist_ok=True)
    seen = record.all_readable(mean_square(pictures), pool.labels[fold.train], pool.labels[watched])
    data = RunData(pool.classes, pictures, ChosenPictures(pool.pictures, watched), seen)
    outcome = train(config, folder, data, kept_epochs=())
    if not outcome.finished:
        raise Stopped(f"in the folds of {pool.name}")
    state = outcome.state
    test = ChosenPictures(pool.pictures, fold.test)
    model = Trained(state.net, state.variables, state.mean, precision=config.matmul_precision)
    predicted = answers(model, test, config.batch_size)
    return mean_class_accuracy(predicted, pool.labels[fold.test])


def answers(model: Trained, pictures: Pictures, batch_size: int) -> Int[np.ndarray, " pictures"]:
    """The most probable class of each picture, from its center crop."""
    found = []
    for batch in eval_batches(pictures, batch_size):
        softmax = softmax_of(model, batch.image)
        found.append(np.argmax(np.asarray(softmax)[batch.mask > 0], axis=-1))
    return np.concatenate(found)


def mean_square(pictures: Pictures) -> Float32[np.ndarray, "side side 3"]:
    """The per-pixel mean of the pictures' squares, 0..255."""
    numbers = np.array_split(np.arange(len(pictures)), -(-len(pictures) // 64))
    total = sum(pictures.load(part)[0].sum(axis=0, dtype=np.uint64) for part in numbers)
    return np.asarray(total / len(pictures), np.float32)

"""Transfer a run's features to another dataset (the paper's Tables 4 and 5, and Fig. 9).

Examples:
  python -m zfjax.transfer --workdir=runs/photos --dataset=folder:caltech101 --per_class=15,30
      trains a softmax on the run's frozen layers 1-7 with 15 and 30 images of each class, and beside it the run's net
      from scratch on the same images; tests on up to 50 others of each class, in 5 folds
  python -m zfjax.transfer --workdir=runs/photos --dataset=folder:caltech101 --noscratch
      the frozen layers alone, which takes minutes and not hours
  python -m zfjax.transfer --workdir=runs/photos --dataset=tfds:voc/2012
      several labels an image: one classifier a class, average precision (the paper's Table 6)

Tables and Fig. 9 go into the folder transfer/DATASET of the run after each fold, under names that tell which flags
differ from their defaults; the same command goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import written

if TYPE_CHECKING:
    from etils import epath

    from zfjax.console.tables import Table
    from zfjax.data.multilabel import MultiLabelSet
    from zfjax.experiments.features import Pool
    from zfjax.experiments.ledger import Ledger
    from zfjax.experiments.linear import Fold
    from zfjax.experiments.transfer import Transfer
    from zfjax.runs.folder import RunInfo

    # From a fold, what was measured before, and a seed to a mean per-class accuracy; None where it was stopped.
    Measure = Callable[[Fold, Ledger, tuple[int, int]], float | None]


# Flags whose values, where they are not the default, stand in the names of what is written.
SETTINGS = ("per_class", "test", "folds", "layer", "seed", "checkpoint")


def main(argv: Sequence[str]) -> None:
    """Measures what the flags in `argv` ask for, and prints a table."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64)
    flags.DEFINE_string("dataset", "", "Where to transfer to: folder:PATH or tfds:NAME.", flag_values=values)
    flags.DEFINE_list(
        "per_class", ["15", "30"], "Training images per class, some numbers with commas between.", flag_values=values
    )
    flags.DEFINE_integer("test", 50, "Test images per class at most.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("folds", 5, "How many draws.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "layer", 0, "On top of which layer, counted from 1; default the last hidden one.", flag_values=values
    )
    flags.DEFINE_bool("scratch", True, "The same net from scratch too.", flag_values=values)
    flags.DEFINE_integer(
        "scratch_epochs",
        0,
        "Of the nets from scratch; default as many as give the run's number of updates.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Draws the folds.", lower_bound=0, flag_values=values)
    required = command.RUN | {"dataset": "DATASET"}
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=required), "transfer")
    per_class = counts(values.per_class)

    with Progress("opening the run"):
        from zfjax.data.multilabel import open_multilabel
        from zfjax.experiments.features import open_pool
        from zfjax.runs.folder import read_run

        run = read_run(values.workdir)
        several = open_multilabel(values.dataset, data_dir=run.config.data_dir)
        pool = None if several else open_pool(run, values.dataset)
    if several:
        _detect(run, several, values)
    elif pool:
        _transfer(run, pool, per_class, values)


def counts(words: Sequence[str]) -> list[int]:
    """`--per_class` as numbers, growing. Raises a UserError where one is no number of at least 2."""
    if not words or not all(word.strip().isdigit() and int(word) >= 2 for word in words):
        raise UserError(f"--per_class={','.join(words)}: expected numbers of at least 2, with commas between")
    return sorted({int(word) for word in words})


def _transfer(run: "RunInfo", pool: "Pool", per_class: list[int], values: flags.FlagValues) -> None:
    """Fills in fold after fold, and writes what there is after each."""
    import numpy as np

    from zfjax.experiments.features import require_pictures
    from zfjax.experiments.ledger import Ledger
    from zfjax.experiments.linear import draw_fold
    from zfjax.experiments.transfer import Transfer
    from zfjax.training.signals import StopSignal

    require_pictures(pool, max(per_class))
    folder = run.folder / "transfer" / pool.name
    ledger = Ledger(folder / "folds.json")
    ending = command.setting(values, *SETTINGS)
    nothing = np.full((len(per_class), values.folds), np.nan)
    result = Transfer(np.array(per_class), nothing, nothing.copy())
    measures = [(result.pretrained, _frozen(run, pool, values))]
    if values.scratch:
        measures.append((result.scratch, _scratch(run, pool, folder, values)))
    where = f"in the folds of {pool.name}"
    with (
        Progress("folds", len(measures) * nothing.size, unit="fold") as progress,
        command.stoppable(where),
    ):
        for accuracies, measure in measures:
            for number in range(values.folds):
                for row, count in enumerate(per_class):
                    fold = draw_fold(pool.labels, count, values.test, (values.seed, number))
                    found = measure(fold, ledger, (values.seed, number))
                    if found is None:
                        raise command.Stopped(StopSignal.number, where)
                    accuracies[row, number] = found
                    progress.advance(1)
                table, files = _write(result, pool, folder, values.layer, ending)
    print(table.text())
    print(written(folder, files))


def _frozen(run: "RunInfo", pool: "Pool", values: flags.FlagValues) -> "Measure":
    """A softmax on the frozen net."""
    from zfjax.experiments.features import fingerprint, kept_features, layer_named
    from zfjax.experiments.ledger import fold_key
    from zfjax.experiments.linear import SOFTMAX, classify
    from zfjax.runs.folder import load_model

    with Progress("features"):
        model = load_model(run, values.checkpoint)
        layer = layer_named(model.net, values.layer)
        kept = kept_features(model, pool, [layer], run.folder / "features", batch_size=values.batch_size)
        behind = fingerprint(model, pool)

    def measure(fold: "Fold", ledger: "Ledger", seed: tuple[int, int]) -> float:
        key = fold_key(fold, "softmax", SOFTMAX.strengths, layer, behind)
        accuracy = ledger.get(key)
        if accuracy is None:
            accuracy = classify([SOFTMAX], kept[layer], pool.labels, fold, seed=seed)[0].accuracy
            ledger.put(key, accuracy)
        return accuracy

    return measure


def _scratch(run: "RunInfo", pool: "Pool", folder: "epath.Path", values: flags.FlagValues) -> "Measure":
    """The same net from scratch, each fold in a folder of its own."""
    from zfjax.data import record
    from zfjax.experiments.ledger import fold_key
    from zfjax.experiments.transfer import scratch_config, train_from_scratch
    from zfjax.training.config import settings

    scanned = record.read(run.folder)
    run_examples = len(scanned.train_kept) if scanned else 0

    def measure(fold: "Fold", ledger: "Ledger", seed: tuple[int, int]) -> float | None:
        config = scratch_config(run.config, len(fold.train), run_examples, values.scratch_epochs, seed[1])
        key = fold_key(fold, "scratch", sorted(settings(config).items()), pool.fingerprint)
        accuracy = ledger.get(key)
        if accuracy is None:
            accuracy = train_from_scratch(config, pool, fold, folder / "scratch" / key)
        if accuracy is not None:
            ledger.put(key, accuracy)
        return accuracy

    return measure


def _write(
    result: "Transfer", pool: "Pool", folder: "epath.Path", layer: int, ending: str
) -> tuple["Table", list[str]]:
    """Table and figure, and the names of their files."""
    from zfjax.console import tables
    from zfjax.experiments.transfer import PAPER, dataset_of_the_paper, to_table
    from zfjax.plots.files import save
    from zfjax.plots.transfer import plot_transfer

    title = f"{pool.name}, frozen up to layer {layer}" if layer else pool.name
    table = to_table(result, title, len(pool.classes))
    files = tables.write(table, folder, f"transfer{ending}")
    paper = PAPER.get(dataset_of_the_paper(pool.name, len(pool.classes)) or "")
    return table, files + save(plot_transfer(result, title, paper), folder / f"fig9{ending}", result._asdict())


def _detect(run: "RunInfo", several: "MultiLabelSet", values: flags.FlagValues) -> None:
    """Table 6: average precision on a dataset with several labels an image."""
    from zfjax.console import tables
    from zfjax.experiments.features import join_splits, kept_features, layer_named, scan_for
    from zfjax.experiments.multilabel import average_precisions, to_table
    from zfjax.runs.folder import load_model

    with Progress("opening the run"):
        scanned = scan_for(run, several.source)
        pool = join_splits(several.source, scanned)
        model = load_model(run, values.checkpoint)
    layer = layer_named(model.net, values.layer)
    kept = kept_features(model, pool, [layer], run.folder / "features", batch_size=values.batch_size)[layer]
    train_truth = several.train.truth(scanned.record.train_kept, len(pool.classes))
    test_truth = several.val.truth(scanned.record.val_kept, len(pool.classes))
    count = len(train_truth.present)
    with Progress("linear classifiers"):
        found = average_precisions(kept[:count], train_truth, kept[count:], test_truth, seed=values.seed)
    table = to_table(found, test_truth.present, several.source.name, pool.classes)
    folder = run.folder / "transfer" / pool.name
    files = tables.write(table, folder, f"transfer{command.setting(values, 'layer', 'seed', 'checkpoint')}")
    print(table.text())
    print(written(folder, files))


if __name__ == "__main__":
    raise SystemExit(command.run(main))

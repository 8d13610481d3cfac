"""Transfer the features of a run, or of any model, to another dataset (the paper's Tables 4 and 5, and Fig. 9).

Examples:
  python -m zfjax.transfer --workdir=runs/photos --dataset=folder:caltech101 --per_class=15,30
      trains a softmax on the run's frozen layers 1-7 with 15 and 30 images of each class, and the run's net from
      scratch on the same images; tests on up to 50 others of each class, in 5 folds
  python -m zfjax.transfer --workdir=runs/photos --dataset=folder:caltech101 --noscratch
      the frozen layers only, which takes minutes instead of hours
  python -m zfjax.transfer --workdir=runs/photos --dataset=tfds:voc/2012
      several labels per image: one classifier per class, average precision (the paper's Table 6)
  python -m zfjax.transfer --model=net.onnx --dataset=folder:caltech101 --out=FOLDER
      the frozen layers of any model: an ONNX file, or a function in a Python file that returns a zfjax.Model

Tables and Fig. 9 go into the run's folder transfer/DATASET, or OUT/DATASET, after each fold; file names list the flags
that differ from their defaults. The same command resumes where it stopped.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.progress import Progress
from zfjax.console.signals import stopping
from zfjax.console.text import say, written

if TYPE_CHECKING:
    from zfjax.data.multilabel import MultiLabelSet
    from zfjax.runs.given import Given


# Flags whose values, if not the default, appear in the names of written files.
SETTINGS = ("per_class", "test", "folds", "layer", "seed", "checkpoint")


def main(argv: Sequence[str]) -> None:
    """Measure what the flags in `argv` ask for, and print a table."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64, model=True)
    flags.DEFINE_string("dataset", "", "Dataset to transfer to: folder:PATH or tfds:NAME.", flag_values=values)
    options.names(values, "per_class", ["15", "30"], "Training images per class, as numbers separated by commas.")
    options.whole_number(values, "test", 50, "Maximum test images per class.", smallest=1)
    options.whole_number(values, "folds", 5, "Number of folds.", smallest=1, largest=1000)
    options.whole_number(values, "layer", 0, "Layer whose features to use, from 1; default the last hidden one.")
    flags.DEFINE_bool("scratch", True, "Also train the same net from scratch.", flag_values=values)
    epochs = "Epochs of the nets from scratch; default as many as needed for the run's number of updates."
    options.whole_number(values, "scratch_epochs", 0, epochs, largest=10**6)
    options.seed(values, "Seed for drawing the folds.")
    options.processes(values)
    required = command.RUN | {"dataset": "DATASET"}
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=required), "transfer")
    if not values.scratch:
        command.reject_unused(values, ("scratch_epochs",), "with --noscratch")
    per_class = counts(values.per_class)
    place = processes.place_of(values)

    with Progress("opening the run"):
        processes.join_to_look(place)
        from zfjax.data.multilabel import open_multilabel
        from zfjax.runs.given import OfRun, given

        looked_at = given(values, "transfer", other=True)
        if not isinstance(looked_at, OfRun):
            command.reject_unused(values, ("scratch_epochs",), "with a model that is not trained here")
        several = open_multilabel(values.dataset, data_dir=looked_at.data_dir)
    if several:
        of_folds = ("per_class", "test", "folds", "scratch", "scratch_epochs")
        command.reject_unused(values, of_folds, f"for {values.dataset}, whose images have several labels")
        _several_labels(looked_at, several, values)
    else:
        _one_label(looked_at, per_class, values)


def counts(words: Sequence[str]) -> tuple[int, ...]:
    """`--per_class` as ascending numbers. Raises a UserError unless all are numbers of at least 2."""
    expected = "numbers of at least 2, separated by commas"
    return tuple(sorted({options.number_in("per_class", word, expected, smallest=2) for word in words}))


def _one_label(looked_at: "Given", per_class: tuple[int, ...], values: flags.FlagValues) -> None:
    """Tables 4 and 5, and Fig. 9: write the results so far after each fold."""
    from zfjax.console import tables
    from zfjax.experiments.features import folder_of, pool_of
    from zfjax.experiments.transfer import PAPER, Protocol, dataset_of_the_paper, fold_by_fold, to_table
    from zfjax.plots.files import save
    from zfjax.plots.transfer import plot_transfer
    from zfjax.runs.first import is_first
    from zfjax.runs.given import OfRun

    with Progress("opening the run"):
        pool = pool_of(looked_at)
    trained = isinstance(looked_at, OfRun)
    scratch = values.scratch and trained
    if values.scratch and not trained and is_first():
        say("from scratch: not measured, since only nets of zfjax can be trained here")
    protocol = Protocol(per_class, values.test, values.folds, values.layer, scratch, values.scratch_epochs, values.seed)
    folder, ending = folder_of(looked_at, pool), command.setting(values, *SETTINGS)
    title = f"{pool.name}, frozen up to layer {values.layer}" if values.layer else pool.name
    paper = PAPER.get(dataset_of_the_paper(pool.name, len(pool.classes)) or "")
    results = fold_by_fold(looked_at, pool, protocol, batch_size=values.batch_size)
    with stopping(f"in the folds of {pool.name}"):
        for result in results:
            if not is_first():
                continue
            table = to_table(result, title, len(pool.classes), scratch=trained)
            files = tables.write(table, folder, f"transfer{ending}")
            files += save(plot_transfer(result, title, paper), folder / f"fig9{ending}", result._asdict())
    if is_first():
        print(table.text())
        print(written(folder, files))


def _several_labels(looked_at: "Given", several: "MultiLabelSet", values: flags.FlagValues) -> None:
    """Table 6: average precision on a dataset with several labels per image."""
    from zfjax.console import tables
    from zfjax.experiments.features import folder_of
    from zfjax.experiments.multilabel import to_table, transfer
    from zfjax.runs import claim
    from zfjax.runs.first import is_first

    found = transfer(
        looked_at,
        several,
        layer=values.layer,
        seed=values.seed,
        batch_size=values.batch_size,
    )
    table = to_table(found.precisions, found.present, several.source.name, found.pool.classes)
    with claim.writing(folder_of(looked_at, found.pool), "zfjax transfer", looked_at.root) as folder:
        if is_first():
            files = tables.write(table, folder, f"transfer{command.setting(values, 'layer', 'seed', 'checkpoint')}")
            print(table.text())
            print(written(folder, files))


if __name__ == "__main__":
    command.execute(main)

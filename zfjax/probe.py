"""Train linear classifiers on each layer of a run, or of any model (the paper's Table 7).

Examples:
  python -m zfjax.probe --workdir=runs/photos --dataset=folder:caltech101 --per_class=30
      a linear SVM and a softmax on each of layers 1-7, with 30 training images of each class, in 5 folds
  python -m zfjax.probe --workdir=runs/shapes
      on the run's own dataset: training and test images both come from its val split, which the net has not seen
  python -m zfjax.probe --model=net.onnx --dataset=folder:caltech101 --out=FOLDER
      any model: an ONNX file, or a function in a Python file that returns a zfjax.Model, --model=nets.py:mine

Table and plot go into the run's folder probe/DATASET, or OUT/DATASET, after each fold of each layer; file names list
the flags that differ from their defaults. The same command resumes where it stopped.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.progress import Progress
from zfjax.console.signals import stopping
from zfjax.console.text import written


def main(argv: Sequence[str]) -> None:
    """Probe the run that the flags in `argv` name, and print a table."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64, model=True)
    flags.DEFINE_string("dataset", "", "Dataset: folder:PATH or tfds:NAME; default the run's own.", flag_values=values)
    options.whole_number(values, "per_class", 30, "Training images per class.", smallest=2)
    options.whole_number(values, "test", 50, "Maximum test images per class.", smallest=1)
    options.whole_number(values, "folds", 5, "Number of folds.", smallest=1, largest=1000)
    options.seed(values, "Seed for drawing the folds.")
    options.processes(values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=command.RUN), "probe")

    place = processes.place_of(values)

    with Progress("opening the run"):
        processes.join_to_look(place)
        from zfjax.console import tables
        from zfjax.experiments.features import folder_of, pool_of
        from zfjax.experiments.probing import Protocol, fold_by_fold, to_table
        from zfjax.plots.files import save
        from zfjax.plots.probing import plot_probing
        from zfjax.runs.first import is_first
        from zfjax.runs.given import given

        looked_at = given(values, "probe", other=True)
        pool = pool_of(looked_at)
    protocol = Protocol(values.per_class, values.test, values.folds, values.seed)
    name = f"probe{command.setting(values, 'per_class', 'test', 'folds', 'seed', 'checkpoint')}"
    folder = folder_of(looked_at, pool)
    results = fold_by_fold(looked_at, pool, protocol, batch_size=values.batch_size)
    with stopping(f"in the folds of {pool.name}"):
        for result in results:
            if not is_first():
                continue
            table = to_table(result, pool.name, len(pool.classes), values.per_class)
            files = tables.write(table, folder, name)
            figure = plot_probing(result, f"{pool.name}, {values.per_class} training images per class")
            files += save(figure, folder / name, result._asdict())
    if is_first():
        print(table.text())
        print(written(folder, files))


if __name__ == "__main__":
    command.execute(main)

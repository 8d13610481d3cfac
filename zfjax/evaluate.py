"""Score finished runs, or any model: top-1 and top-5 accuracy and error, with one center crop and with ten (Table 2).

Examples:
  python -m zfjax.evaluate --workdir=runs/shapes
      one run on its own validation split
  python -m zfjax.evaluate --workdir=runs/a,runs/b,runs/c
      each run, then the average of their softmaxes (the paper's Table 2)
  python -m zfjax.evaluate --workdir=runs/photos --dataset=folder:OTHER_PHOTOS --checkpoint=best
      on other pictures of the same classes, with the weights that scored best on the run's own
  python -m zfjax.evaluate --model=net.onnx --dataset=folder:PHOTOS --out=FOLDER
      any model: an ONNX file, or a function in a Python file that returns a zfjax.Model, --model=nets.py:mine

Every example of the validation split is counted once. Pictures count for a model if their class is one of its outputs,
by name; its table is also written to --out, as Markdown, CSV and JSON.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.progress import Progress
from zfjax.console.text import written


def main(argv: Sequence[str]) -> None:
    """Score the runs that the flags in `argv` name, and print a table."""
    values = flags.FlagValues()
    options.files(values, "workdir", "Folders that zfjax train wrote, separated by commas.")
    command.model_flags(values, "With --model: folder for the table, which is also printed.")
    flags.DEFINE_string(
        "dataset", "", "Dataset whose val split to score on; default the first run's.", flag_values=values
    )
    flags.DEFINE_string(
        "checkpoint", "latest", "Checkpoint of each run: latest, best (on the val split) or a step.", flag_values=values
    )
    options.whole_number(values, "batch_size", 64, "Pictures on a device at a time.", smallest=1)
    options.processes(values)
    rest = command.parse(argv, __doc__ or "", values, required={"workdir": "RUN[,RUN…]"})
    command.reject_arguments(rest, "evaluate")
    if not values.model:
        command.reject_unused(values, ("data_dir", *options.OF_ONNX), "without --model; a run knows its own")
        command.reject_unused(values, ("out",), "without --model; the table of runs is only printed")

    place = processes.place_of(values)
    with Progress("opening the runs"):
        processes.join_to_look(place)
        from zfjax.experiments import evaluation
        from zfjax.runs.first import is_first

    if values.model:
        _of_model(values)
        return
    with Progress("opening the runs"):
        rows, left_out = evaluation.evaluate_runs(
            [folder for folder in values.workdir if folder],
            dataset=values.dataset,
            checkpoint=values.checkpoint,
            batch_size=values.batch_size,
        )
    if is_first():
        _print(evaluation.to_text(rows), left_out)


def _of_model(values: flags.FlagValues) -> None:
    from zfjax.console import tables
    from zfjax.experiments import evaluation
    from zfjax.runs.first import is_first
    from zfjax.runs.given import given

    looked_at = given(values, "evaluate")
    with looked_at.writing("zfjax evaluate"):
        rows, left_out = evaluation.evaluate_given({looked_at.name: looked_at}, values.batch_size)
        if is_first():
            files = tables.write(evaluation.to_table(rows, looked_at.dataset_title), looked_at.out, "evaluate")
            _print(evaluation.to_text(rows), left_out)
            print(written(looked_at.out, files))


def _print(table: str, left_out: int) -> None:
    print(table)
    if left_out:
        print(f"left out: {left_out:,} pictures whose class is none of the outputs")


if __name__ == "__main__":
    command.execute(main)

"""Score finished runs: top-1 and top-5 accuracy and error, with one center crop and with the paper's ten crops.

Examples:
  python -m zfjax.evaluate --workdir=runs/shapes
      one run on its own validation split
  python -m zfjax.evaluate --workdir=runs/a,runs/b,runs/c
      each run, then the average of their softmaxes (the paper's Table 2)
  python -m zfjax.evaluate --workdir=runs/photos --dataset=folder:OTHER_PHOTOS --checkpoint=best
      on other pictures of the same classes, with the weights that scored best on the run's own

Every example of the validation split is counted once.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.progress import Progress


def main(argv: Sequence[str]) -> None:
    """Score the runs that the flags in `argv` name, and print a table."""
    values = flags.FlagValues()
    options.files(values, "workdir", "Folders that zfjax train wrote, separated by commas.")
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

    place = processes.place_of(values)
    with Progress("opening the runs"):
        processes.join_to_look(place)
        from zfjax.experiments import evaluation
        from zfjax.runs.first import is_first

        rows = evaluation.evaluate_runs(
            [folder for folder in values.workdir if folder],
            dataset=values.dataset,
            checkpoint=values.checkpoint,
            batch_size=values.batch_size,
        )
    if is_first():
        print(evaluation.to_text(rows))


if __name__ == "__main__":
    command.execute(main)

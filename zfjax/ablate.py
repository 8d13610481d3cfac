"""Train the twelve nets of Table 3 one after another: AlexNet and Fig. 3's net with layers left out or resized.

Examples:
  python -m zfjax.ablate --workdir=runs/ablation
      on the drawn shapes; the workdir gets the table as ablation.md, .csv and .json, and a folder for each net's run
  python -m zfjax.ablate --config=configs/imagenette.py:cpu --config.epochs=10 --workdir=runs/imagenette-ablation
      with a recipe and one key changed
  python -m zfjax.ablate --rows=1,2,zfnet,zfnet-both --workdir=runs/ablation
      some of the rows; to split the work over machines, merge their folders and run once more without --rows

Rows, by number or name:
  1 alexnet                 5 alexnet-without-3-4-6-7   9 zfnet-fc-2048
  2 alexnet-without-3-4     6 alexnet-fc-2048          10 zfnet-fc-8192
  3 alexnet-without-7       7 alexnet-fc-8192          11 zfnet-maps-512-1024-512
  4 alexnet-without-6-7     8 zfnet                    12 zfnet-both

The same command resumes where it stopped. All keys but `net`, `without`, `fc_units` and `maps3to5` are as in zfjax
train, and shared by all rows; AlexNet needs images of 63 px or more.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax.console import command, options
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.signals import Stopped
from zfjax.console.text import written
from zfjax.train import default_workdir
from zfjax.training.recipe import config_from

if TYPE_CHECKING:
    from zfjax.experiments.ablation import Ablation


def main(argv: Sequence[str]) -> None:
    """Train the rows that the flags in `argv` name, and write and print the table."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder for the rows' runs; default runs/DATASET-ablation.", flag_values=values)
    options.names(values, "rows", [], "Rows by number or name, separated by commas; default all.")
    config, rest = config_from(argv, __doc__ or "", values)
    command.reject_arguments(rest, "ablate")

    with Progress("starting JAX"):
        from zfjax.console import tables
        from zfjax.data.outside import root_of
        from zfjax.experiments import ablation
        from zfjax.runs import claim

    rows = ablation.select(values.rows)
    title = f"Table 3 on {config.dataset} after epoch {config.epochs}: error of nets with layers left out or resized"
    workdir = values.workdir or f"{default_workdir(config)}-ablation"
    with claim.held(workdir, "zfjax ablate", root_of(config.dataset, config.data_dir)) as folder:
        ablation.require_no_other_table(folder)

        def write(done: "Ablation") -> list[str]:
            return tables.write(ablation.to_table(done, rows, title), folder, ablation.TABLE)

        done = ablation.ablate(config, folder, rows, after_row=write)
        table = ablation.to_table(done, rows, title)
        print(f"{table.text()}\n{table.note}")
        print(written(folder, write(done)))
    if done.stopped:
        raise Stopped(f"in row {done.stopped}")
    if done.failed:
        raise UserError(f"{len(done.failed)} of {len(rows)} rows failed: {_by_reason(done.failed)}")


def _by_reason(failed: Mapping[str, str]) -> str:
    reasons: dict[str, list[str]] = {}
    for slug, line in failed.items():
        reasons.setdefault(line, []).append(slug)
    return "; ".join(f"{', '.join(slugs)}: {line}" for line, slugs in reasons.items())


if __name__ == "__main__":
    command.execute(main)

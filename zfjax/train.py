"""Train a ConvNet, and draw what it learned.

Examples:
  python -m zfjax.train
      draws the built-in `shapes` pictures on first use, trains on them, and leaves plots in runs/shapes
  python -m zfjax.train --config.dataset=folder:PHOTOS --workdir=runs/photos
      one folder per class, with or without train/ and val/ above them
  python -m zfjax.train --config=configs/imagenette.py:cpu --config.lr=0.02 --workdir=runs/imagenette
      a recipe with one key changed

The same command resumes where it stopped. Recipes are in configs/ of the repository.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

import posixpath
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import ConfigDict

from zfjax.console import command, options, processes
from zfjax.console.progress import Progress
from zfjax.console.signals import Stopped
from zfjax.console.text import written
from zfjax.data.spec import parse_spec
from zfjax.training.config import as_json
from zfjax.training.recipe import config_from

if TYPE_CHECKING:
    from zfjax.training.loop import Outcome


def main(argv: Sequence[str]) -> None:
    """Train as the flags in `argv` say, then draw the run's plots and print what was written."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder for the run; default runs/DATASET.", flag_values=values)
    options.processes(values)
    config, rest = config_from(argv, __doc__ or "", values)
    command.reject_arguments(rest, "train")
    place = processes.place_of(values, as_json(config))

    # Import JAX only now, so that --help and mistyped flags are answered at once.
    with Progress("starting JAX"):
        import jax

        processes.join(place)
        from zfjax.data.outside import root_of
        from zfjax.runs.claim import held
        from zfjax.runs.training import train_and_evaluate

    workdir, pictures = values.workdir or default_workdir(config), root_of(config.dataset, config.data_dir)
    with held(workdir, "zfjax train", pictures) as folder:
        outcome = train_and_evaluate(config, folder)
        if not outcome.finished:
            raise Stopped(f"after step {outcome.step}")
        if jax.process_index() == 0:
            _report(outcome, config)


def default_workdir(config: ConfigDict) -> str:
    """runs/ and the dataset's name, as a file name."""
    spec = parse_spec(config.dataset)
    name = f"folder:{posixpath.normpath(spec.place)}" if spec.kind == "folder" else config.dataset
    return "runs/" + re.sub(r"[^\w.-]+", "-", name)[-150:].strip("-")  # file names have a limit


def _report(outcome: "Outcome", config: ConfigDict) -> None:
    if outcome.data.broken:
        print(f"left out: {outcome.data.broken} pictures that could not be read, named when they were first met")
    print(f"val, center crop: {outcome.scores}")
    with Progress("drawing"):
        drawn = _draw(outcome, config.matmul_precision)
    print(written(outcome.folder, [*drawn, "metrics.jsonl", "checkpoints/"]))


def _draw(outcome: "Outcome", precision: str) -> list[str]:
    """Draw a finished run's plots into its folder and return their names."""
    import jax
    import numpy as np

    from zfjax.models.specs import Conv
    from zfjax.plots.curves import plot_curves
    from zfjax.plots.files import save_png
    from zfjax.plots.filters import plot_filters
    from zfjax.plots.predictions import plot_predictions
    from zfjax.training.metrics import read_metrics
    from zfjax.training.scoring import Trained, softmax_of

    state, data = outcome.state, outcome.data
    some = np.linspace(0, len(data.val) - 1, min(12, len(data.val))).astype(int)
    images, labels = data.val.load(some)
    variables, mean = jax.device_get((state.variables, state.mean))  # only this process draws
    probabilities = np.asarray(softmax_of(Trained(state.net, variables, mean, precision=precision), images))
    first = next(spec for spec in state.net.layers if isinstance(spec, Conv))
    figures = {
        "curves.png": plot_curves(read_metrics(outcome.folder)),
        "filters.png": plot_filters(variables["params"][first.name]["kernel"], "layer-1 filters"),
        "predictions.png": plot_predictions(images, labels, probabilities, data.classes),
    }
    for name, figure in figures.items():
        save_png(figure, outcome.folder / name)
    return list(figures)


if __name__ == "__main__":
    command.execute(main)

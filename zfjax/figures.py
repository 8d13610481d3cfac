"""Draw the paper's figures of a finished run.

Examples:
  python -m zfjax.figures --workdir=runs/shapes
      Fig. 2: for some maps of each layer the nine validation images that excite them most, projected down to pixels
  python -m zfjax.figures --workdir=runs/shapes --maps=16 --seed=1 --checkpoint=best

The pictures go into the folder `figures` of the run.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax import command
from zfjax.errors import UserError
from zfjax.progress import Progress

if TYPE_CHECKING:
    from etils import epath

    from zfjax.experiments.subject import Subject


def main(argv: Sequence[str]) -> None:
    """Draws the figures that the flags in `argv` ask for."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder of a run.", flag_values=values)
    flags.DEFINE_string("checkpoint", "latest", "latest, best (on the val split) or a step.", flag_values=values)
    flags.DEFINE_integer("maps", 8, "How many maps of each layer, drawn by --seed.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Draws the maps.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("batch_size", 64, "Pictures at once.", lower_bound=1, flag_values=values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values), "figures")
    if not values.workdir:
        raise UserError("figures needs --workdir=RUN: the folder that zfjax train wrote")

    from zfjax.experiments import subject

    run, found = subject.of_run(values.workdir, values.checkpoint)
    names = _draw_galleries(found, run.folder / "figures", values.maps, values.seed, values.batch_size)
    print(f"written to {run.folder / 'figures'}: {', '.join(names)}")


def _draw_galleries(found: "Subject", folder: "epath.Path", maps: int, seed: int, batch_size: int) -> list[str]:
    """Fig. 2, a picture a layer; returns their names."""
    import numpy as np

    from zfjax.experiments.gallery import gallery, some_maps, top_activations
    from zfjax.experiments.subject import feature_layers
    from zfjax.models import layer, layer_table
    from zfjax.models.cut import layers
    from zfjax.plots.files import save_png
    from zfjax.plots.gallery import plot_gallery

    names = feature_layers(found.net)
    rows = {row.name: row for row in layer_table(found.net)}
    with Progress("strongest activations", len(found.pictures)) as progress:
        batches = progress.over(found.batches(batch_size))
        k = min(9, len(found.pictures))
        tops = top_activations(layers(found.net, found.variables, names), batches, k)
    written = []
    for number, name in enumerate(names, start=1):
        chosen = some_maps(tops[name], maps, np.random.default_rng((seed, number)))
        result = gallery(layer(found.net, found.variables, name), tops[name], chosen, found.load, rows[name])
        title = (
            f"layer {number} ({name}), {len(chosen)} of {len(tops[name].values)} maps:"
            " projections of the strongest activations, and their patches"
        )
        written.append(f"fig2_layer{number}.png")
        save_png(plot_gallery(result, found.image_mean, title), folder / written[-1])
    return written


if __name__ == "__main__":
    raise SystemExit(command.run(main))

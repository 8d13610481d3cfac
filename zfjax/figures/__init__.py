"""Draw the paper's figures of a finished run.

Examples:
  python -m zfjax.figures --workdir=runs/shapes
      all figures, with images of the validation split
  python -m zfjax.figures --workdir=runs/shapes --only=fig2,fig7 --seed=1 --checkpoint=best
      two figures, with different maps and images, from the weights that scored best
  python -m zfjax.figures --workdir=runs/shapes --only=fig2 --layers=relu5 --maps=all
      all maps of one layer
  python -m zfjax.figures --workdir=runs/shapes --only=fig6 --compare=runs/free,runs/alexnet
      this run's filters beside those of other runs
  python -m zfjax.figures --workdir=runs/shapes --only=fig5,fig7 --images=cat.jpg,dog.jpg
      the figures of single images, with your own; a file's folder is its class if the net knows that class

  fig2  gallery         the nine images that excite a map most, projected down, with their patches
  fig4  evolution       how projections and features change from checkpoint to checkpoint
  fig5  invariance      features and predictions under translation, scale and rotation
  fig6  filters         layer-1 filters, layer-2 projections, dead and aliased filters counted
  fig7  occlusion       a gray square moved over the image: what the net loses
  fig8  correspondence  the same part hidden in several images (Table 1)

Each figure is written to the run's folder `figures` as PNG, PDF and the arrays behind it (NPZ); all but fig2 also
write and print a table (fig8's is table1). fig8 needs boxes of parts, which the dataset `shapes` has.
"""

from zfjax.console import signals

if signals.is_starting(__name__):  # before the imports, which take time
    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress

NAMES = ("fig2", "fig4", "fig5", "fig6", "fig7", "fig8")


def main(argv: Sequence[str]) -> None:
    """Draw the figures that the flags in `argv` ask for."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64, pictures=True)
    flags.DEFINE_list("only", [], f"Figures to draw, of {', '.join(NAMES)}; default all.", flag_values=values)
    flags.DEFINE_list(
        "images", [], "Image files for fig5 and fig7; default images of the val split.", flag_values=values
    )
    flags.DEFINE_list(
        "classes",
        [],
        "Classes for fig5 and fig7, one val image each; quote names with commas; default the first five.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "layers", [], "Layers for fig2 and fig4, such as relu5; default the paper's 1 to 5.", flag_values=values
    )
    flags.DEFINE_string("maps", "8", "fig2, fig4: maps per layer, drawn by --seed; or all.", flag_values=values)
    flags.DEFINE_list("units", [], "fig2, fig4: maps by number; default as --maps says.", flag_values=values)
    flags.DEFINE_list("compare", [], "fig6: folders of other runs to draw beside this one.", flag_values=values)
    flags.DEFINE_integer(
        "window", 0, "fig7: side of the square in pixels; default 48 of 224.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "stride", 0, "fig7: pixels between squares; default 8 of 224.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Seed for drawing maps and images.", lower_bound=0, flag_values=values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=command.RUN), "figures")
    for name in values.only:
        if name not in NAMES:
            raise UserError(f"--only: no figure {name!r}; there are {', '.join(NAMES)}")
    if (values.images or values.classes) and values.only and not {"fig5", "fig7"} & set(values.only):
        raise UserError(f"--images and --classes are for fig5 and fig7; --only={','.join(values.only)} takes neither")
    if values.images and values.classes:
        raise UserError("give --images=FILES or --classes=NAMES, not both")

    maps = None if values.maps == "all" else _number("--maps", values.maps, "a number of at least 1, or all", 1)
    units = tuple(_number("--units", unit, "numbers of maps, with commas between") for unit in values.units)

    with Progress("opening the run"):
        from zfjax.figures import draw
        from zfjax.runs import claim
        from zfjax.runs.folder import read_run

        run = read_run(values.workdir, values.dataset)
    with claim.writing(run, run.folder / "figures", "zfjax figures"):
        with Progress("opening the run"):
            request = draw.request_of(run, values, maps, units)
        draw.all_of(values.only, request)


def _number(flag: str, text: str, expected: str, smallest: int = 0) -> int:
    if not text.strip().isdigit() or int(text) < smallest:
        raise UserError(f"{flag}: expected {expected}, got {text!r}")
    return int(text)

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
  python -m zfjax.figures --workdir=runs/imported --only=fig2 --images=PHOTOS
      a run without pictures of its own: those in a folder and below
  python -m zfjax.figures --model=net.onnx --dataset=folder:PHOTOS --out=figures
      any model, with the pictures of a dataset: an ONNX file, or a function in a Python file, --model=nets.py:mine

  fig2  gallery         the nine images that excite a map most, projected down, with their patches
  fig4  evolution       how projections and features change from checkpoint to checkpoint
  fig5  invariance      features and predictions under translation, scale and rotation
  fig6  filters         layer-1 filters, layer-2 projections, dead and aliased filters counted
  fig7  occlusion       a gray square moved over the image: what the net loses
  fig8  correspondence  the same part hidden in several images (Table 1)

Each figure is written to the run's folder `figures`, or --out, as PNG, PDF and the arrays behind it (NPZ), in place of
an earlier one; all but fig2 also write and print a table (fig8's is table1), fig7 if the objects' pixels are known.
fig8 needs boxes of parts. The dataset `shapes` has both. fig4 needs the checkpoints of a run.
"""

from zfjax.console import signals

if signals.is_starting(__name__):  # before the imports, which take time
    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import did_you_mean

NAMES = ("fig2", "fig4", "fig5", "fig6", "fig7", "fig8")
# Flags that only some figures use.
FOR = {
    "images": ("fig2", "fig5", "fig6", "fig7"),
    "classes": ("fig5", "fig7"),
    **dict.fromkeys(("layers", "maps", "units"), ("fig2", "fig4")),
    **dict.fromkeys(("window", "stride"), ("fig7",)),
    "compare": ("fig6",),
}


def main(argv: Sequence[str]) -> None:
    """Draw the figures that the flags in `argv` ask for."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64, pictures=True, model=True)
    options.names(values, "only", [], f"Figures to draw, of {', '.join(NAMES)}; default all.")
    options.files(values, "images", "Image files or folders, for fig5 and fig7; default images of the val split.")
    classes = "Classes for fig5 and fig7, one val image each; quote names with commas; default the first five."
    options.names(values, "classes", [], classes)
    options.names(values, "layers", [], "Layers for fig2 and fig4, such as relu5; default the paper's 1 to 5.")
    flags.DEFINE_string("maps", "8", "fig2, fig4: maps per layer, drawn by --seed; or all.", flag_values=values)
    options.names(values, "units", [], "fig2, fig4: maps by number; default as --maps says.")
    options.files(values, "compare", "fig6: folders of other runs to draw beside this one.")
    options.whole_number(values, "window", 0, "fig7: side of the square in pixels; default 48 of 224.")
    options.whole_number(values, "stride", 0, "fig7: pixels between squares; default 8 of 224.")
    options.seed(values, "Seed for drawing maps and images.")
    options.processes(values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=command.RUN), "figures")
    _check(values)
    place = processes.place_of(values)
    expected = "a number of at least 1, or all"
    maps = None if values.maps == "all" else options.number_in("maps", values.maps, expected, smallest=1)
    of_units = "numbers of maps, with commas between"
    units = tuple(dict.fromkeys(options.number_in("units", word, of_units) for word in values.units))

    with Progress("opening the run"):
        processes.join_to_look(place)
        from zfjax.figures import draw
        from zfjax.runs.given import given

        looked_at = given(values, "figures")
    with looked_at.writing("zfjax figures"):
        with Progress("opening the run"):
            request = draw.request_of(looked_at, values, maps, units)
        draw.all_of(tuple(dict.fromkeys(values.only)), request)


def _check(values: flags.FlagValues) -> None:
    """Raise a UserError for an unknown figure, or a flag that none of the figures asked for uses."""
    for name in values.only:
        if name not in NAMES:
            raise UserError(
                f"--only: no figure {name!r}{did_you_mean(name, NAMES) or ';'} there are {', '.join(NAMES)}"
            )
    for name, figures in FOR.items():
        if values.only and not {*figures} & {*values.only}:
            why = f"with --only={','.join(values.only)}, as it is for {' and '.join(figures)}"
            command.reject_unused(values, (name,), why)
    if values.images:
        command.reject_unused(values, ("classes",), "with --images, which are used instead")
    if values.units:
        command.reject_unused(values, ("maps",), "with --units, which are used instead")

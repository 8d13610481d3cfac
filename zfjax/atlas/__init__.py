"""Write a static site to browse a run's feature maps: what excites each, projected down to pixels.

Examples:
  python -m zfjax.atlas --workdir=runs/shapes
      every map of the paper's layers 1 to 5, over the validation split; open runs/shapes/atlas/index.html
  python -m zfjax.atlas --workdir=runs/photos --out=site --checkpoint=best --layers=relu4,relu5
      two layers, from the weights that scored best, into another folder
  python -m zfjax.atlas --workdir=runs/adn
      all maps of a network of zfjax adn, over 200 validation images; open runs/adn/atlas/index.html
  python -m zfjax.atlas --model=net.onnx --dataset=folder:PHOTOS --out=site
      any model: an ONNX file, or a function in a Python file, --model=nets.py:mine
  python -m zfjax.atlas --workdir=runs/photos --boxes=boxes.json
      maps labeled by the objects they fire for, too; the file is as for compare

Layers link to maps. Each map has a page with the nine images that excite it most, their patches and projections, a
histogram of its activations and the classes that excite it; classes link to their maps. The folder opens from disk or
on any web server. It is put in place only when complete, and replaces an earlier atlas.
"""

from zfjax.console import signals

if signals.is_starting(__name__):  # before the imports, which take time
    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress


def main(argv: Sequence[str]) -> None:
    """Write the atlas that the flags in `argv` ask for."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64, pictures=True, model=True)
    options.names(values, "layers", [], "Layers, such as relu5; default the paper's 1 to 5.")
    flags.DEFINE_string("boxes", "", "JSON file with the objects' boxes, for labels of maps.", flag_values=values)
    flags.DEFINE_bool(
        "features", False, "Also find a picture that each map responds to, which takes minutes.", flag_values=values
    )
    options.processes(values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=command.RUN), "atlas")

    place = processes.place_of(values)

    with Progress("starting JAX"):
        processes.join_to_look(place)
        from zfjax.atlas import build
        from zfjax.experiments.adn.kept import is_network
        from zfjax.runs.folder import absolute
        from zfjax.runs.given import given

    if values.workdir and is_network(workdir := absolute(values.workdir)):
        of_runs = ("model", "checkpoint", "batch_size", "boxes", "features")
        command.reject_unused(values, of_runs, "with a --workdir of zfjax adn")
        if place:
            raise UserError("an atlas of a --workdir of zfjax adn is written by one process; run it without the others")
        print(build.build_deconvolutional(workdir, values.out, values.dataset, values.layers))
        return
    asked = given(values, "atlas", local=build.LOCAL)
    if written := build.build(asked, values.layers, values.batch_size, values.boxes, with_features=values.features):
        print(written)

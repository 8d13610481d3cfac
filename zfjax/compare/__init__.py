"""Compare lenses side by side on images of a run or any other model, and score them.

Examples:
  python -m zfjax.compare --workdir=runs/shapes
      twelve lenses on 200 images of the val split: a table, a picture with one row per image and one column per lens,
      how the maps change as the net's layers are randomized; and, for shapes, which lens tells what the net depends on,
      by 500 drawings from which one part after another is left out
  python -m zfjax.compare --workdir=runs/shapes --only=grad_cam,saliency --layer=relu4 --sanity_images=0 --drawings=0
      two lenses, the CAM of another layer, no randomization and no drawings
  python -m zfjax.compare --workdir=runs/photos --images=cat.jpg,dog.jpg
      your own photographs, also a folder of them, with any run: the picture only; a file's folder is its class if the
      net knows that class, otherwise the class is the net's prediction
  python -m zfjax.compare --workdir=runs/photos --boxes=boxes.json
      also whether maps are where the objects are; boxes.json is one object, {"CLASS/picture.jpg": [top, left, height,
      width], …}: paths below the folder with the val split's classes, boxes in pixels of the whole, upright picture
  python -m zfjax.compare --model=net.onnx --dataset=folder:PHOTOS --out=compared
      any model: an ONNX file, or a function in a Python file, --model=nets.py:mine

The dataset `shapes` has masks of its objects; of others, whether maps are where the objects are needs --boxes. Results
go into the run's folder compare, or --out: lenses.*, sanity.* and drawings.*, which replace earlier ones, and images.*
for photographs. Where a model has no output with the name of a picture's class, the lenses explain what the model says.
"""

from zfjax.console import signals

if signals.is_starting(__name__):  # before the imports, which take time
    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options, processes
from zfjax.console.progress import Progress
from zfjax.console.text import written


def main(argv: Sequence[str]) -> None:
    """Compare lenses on the run or model that the flags in `argv` name, and print tables."""
    values = _flags()
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=command.RUN), "compare")
    if values.images:
        of_the_split = ("dataset", "boxes", "count", "rows", "sanity_images", "drawings")
        command.reject_unused(values, of_the_split, "with --images, which are not scored")

    place = processes.place_of(values)
    with Progress("opening the run"):
        processes.join_to_look(place)
        from zfjax.compare import drawings, photographs, scores
        from zfjax.compare.asked import chosen
        from zfjax.compare.request import Request
        from zfjax.runs.first import is_first
        from zfjax.runs.given import given

        chosen(values.only, ())  # report a mistyped name first
        looked_at = given(values, "compare")
    request = Request(
        looked_at,
        batch_size=values.batch_size,
        layer=values.layer,
        only=tuple(values.only),
        images=tuple(values.images),
        boxes=values.boxes,
        drawn=values.count,
        rows=values.rows,
        sanity_images=values.sanity_images,
        drawings=values.drawings,
        seed=values.seed,
    )
    with looked_at.writing("zfjax compare"):
        if request.images:
            with Progress("opening the run"):
                asked, images = photographs.open_model(request)
            files = photographs.write(asked, images)
        else:
            with Progress("opening the run"):
                asked, drawn = scores.open_model(request)
            without = drawings.planned(asked, request.drawings)
            files = scores.write_scores(asked, drawn, request.rows)
            if request.sanity_images:
                files += scores.write_sanity(asked, drawn, request.sanity_images)
            if without:
                files += drawings.write_drawings(asked, without)
    if is_first():
        print(written(looked_at.out, files))


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    command.run_flags(values, batch_size=32, pictures=True, model=True)
    flags.DEFINE_string("layer", "", "Layer whose maps the CAMs weight; default the highest.", flag_values=values)
    options.names(values, "only", [], "Lenses by name, such as lrp, or all; default twelve and two baselines.")
    options.files(values, "images", "Image files or folders, of which the first 5; default of the val split.")
    flags.DEFINE_string("boxes", "", "JSON file with the objects' boxes, for folder:PATH.", flag_values=values)
    options.whole_number(values, "count", 200, "Number of images of the val split, drawn by --seed.", smallest=1)
    options.whole_number(values, "rows", 5, "How many of the images to show in the picture.", smallest=1)
    options.whole_number(values, "sanity_images", 16, "How many of the images to use with randomized nets; 0: none.")
    text = "Number of drawings to leave parts out of; 0: none; default 500 for shapes, else none."
    options.whole_number(values, "drawings", None, text)
    options.seed(values, "Seed for drawing images, weights and noise.")
    options.processes(values)
    return values

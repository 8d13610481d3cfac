"""Print the layer table of a net or of a run: sizes, parameters, multiply-adds and receptive fields.

Examples:
  python -m zfjax.summary
      the paper's net at 1000 classes and 224 px
  python -m zfjax.summary --workdir=runs/shapes
      the net of a run
  python -m zfjax.summary --model=nets.py:mine
      any model: nets.py has a function mine() that returns a zfjax.Model
  python -m zfjax.summary --net=alexnet --markdown
      as a table for a Markdown file
  python -m zfjax.summary --net=zfnet --width=0.25 --image_size=64 --num_classes=10 --csv
      a net with a quarter of the maps, as CSV for spreadsheets

Sizes are height×width×maps; multiply-adds are per image; receptive field, total stride and offset (the center of the
first unit's field) are in pixels of the input.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax.console import command, options
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress

if TYPE_CHECKING:
    from zfjax.models.model import Model


def main(argv: Sequence[str]) -> None:
    """Print the table that the flags in `argv` ask for."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder of the run whose net to show, instead of --net.", flag_values=values)
    flags.DEFINE_string(
        "net",
        "zfnet",
        "zfnet, zfnet_post, zfnet_pytorchcv, zfnetb_pytorchcv, zfnet512, alexnet, alexnet_torchvision, vgg16, resnet18,"
        " resnet34 or resnet50.",
        flag_values=values,
    )
    instead = "FILE.py:NAME of a zfjax.Model or of a function that returns one, or NAME.onnx."
    flags.DEFINE_string("model", "", instead, flag_values=values)
    options.whole_number(values, "num_classes", 1000, "Units of the last layer.", smallest=1)
    flags.DEFINE_float("width", 1.0, "Scales the number of maps and fc units.", flag_values=values)
    options.whole_number(values, "image_size", 224, "Height and width in pixels.", smallest=1)
    flags.DEFINE_bool("csv", False, "Print CSV.", flag_values=values)
    flags.DEFINE_bool("markdown", False, "Print a Markdown table.", flag_values=values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values), "summary")
    if values.csv and values.markdown:
        raise UserError("--csv and --markdown: give one of them")
    if values.workdir:
        command.reject_unused(
            values, ("net", "num_classes", "width", "image_size"), "with --workdir, whose net is shown"
        )

    if values.model:
        command.reject_unused(
            values, ("net", "num_classes", "width", "image_size", "workdir"), "with --model, which is shown"
        )
        with Progress("reading the model"):
            from zfjax.runs.model_files import model_given

            model = model_given(values.model)
        _print(model, values)
        return
    with Progress("building the net"):
        from zfjax.models import layer_table, preset, table

        if values.workdir:
            from zfjax.runs import onnx_run
            from zfjax.runs.folder import read_run
            from zfjax.training.state import create_net

            if kept := onnx_run.read(values.workdir):
                _print(kept.model, values)
                return
            run = read_run(values.workdir)
            net = create_net(run.config, len(run.classes))
        else:
            net = preset(values.net, values.num_classes, width=values.width, image_size=values.image_size)
    write = table.to_csv if values.csv else table.to_markdown if values.markdown else table.to_text
    print(write(layer_table(net)))


def _print(model: "Model", values: flags.FlagValues) -> None:
    from zfjax.models import places

    rows = model.layers.values()
    if values.csv:
        print(places.to_csv(rows))
    else:
        print((places.to_markdown if values.markdown else places.to_text)(rows, model.parameters))


if __name__ == "__main__":
    command.execute(main)

"""Make a run of weights that PyTorch trained: every other command works on it.

Examples:
  python -m zfjax.import_weights resnet18.pth --model=resnet18 --dataset=folder:IMAGENET --workdir=RUN
      a state_dict, saved by torch.save(model.state_dict(), "resnet18.pth"); .safetensors files need no PyTorch
  python -m zfjax.import_weights vgg.safetensors --model=vgg16 --dataset=folder:PHOTOS --classes=names.txt --workdir=RUN
      names.txt names the net's 1000 outputs, one a line; the last layer is cut to the folders of PHOTOS
  python -m zfjax.import_weights caffe.pth --model=vgg16 --bgr --pixel_max=255 --mean=103.939,116.779,123.68 --std=1,1,1
      a net that takes its pixels as Caffe's do

A .pth file is read without running any code in it. The defaults of --mean, --std, --pixel_max and --bgr are
torchvision's or, for a file that zfjax export-weights wrote, what it says of itself. They are folded into the first
layer: a run's net takes RGB in 0..255 less its mean image, whatever the net took before.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax import command
from zfjax.errors import UserError

if TYPE_CHECKING:
    from zfjax.weights import Preprocessing


def main(argv: Sequence[str]) -> None:
    """Writes the run that the words and flags in `argv` ask for."""
    values = _flags()
    words = command.parse(argv, __doc__ or "", values)
    if len(words) != 1:
        raise UserError(f"import-weights takes one file of weights, not {len(words)}: .pth, .pt or .safetensors")
    missing = [name for name in ("model", "workdir") if not values[name].value]
    if missing:
        raise UserError(f"import-weights needs {', '.join(f'--{name}' for name in missing)} (see --help)")

    from zfjax.weights import layouts, runs
    from zfjax.weights.files import read
    from zfjax.weights.pretrained import described, from_file

    layouts.model(values.model)  # mistakes are told before a large file is read
    runs.require_no_run(values.workdir)
    file = read(words[0])
    said = described(file)
    width = said.get("width", 1.0) if values.width is None else values.width
    loaded = from_file(
        file,
        words[0],
        values.model,
        preprocessing=_preprocessing(values, said.get("preprocessing")),
        width=width,
        image_size=values.image_size,
    )
    config = runs.run_config(
        values.model, values.dataset, data_dir=values.data_dir, width=width, image_size=loaded.net.image_size
    )
    names = runs.read_class_names(values.classes) if values.classes else tuple(said.get("classes", ()))
    fitted = runs.fit_classes(loaded, config, names)
    folder = runs.write_run(values.workdir, config, fitted, {"source": words[0], "model": values.model}, names)
    for note in loaded.notes:
        print(note)
    print(f"the net takes {loaded.preprocessing}; folded into {loaded.net.layers[0].name}")
    if fitted.outputs < loaded.outputs:
        last = fitted.net.layers[-1].name
        print(f"{last} was cut from {loaded.outputs} outputs to the {fitted.outputs} classes of {values.dataset}")
    elif values.dataset and not names:
        print(f"its {loaded.outputs} outputs are taken for the classes of {values.dataset} in their order")
    print(f"written to {folder}: zfjax evaluate --workdir={folder} scores it")


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("model", "", "alexnet, vgg16, resnet18, resnet34, resnet50 or zfnet_post.", flag_values=values)
    flags.DEFINE_string("workdir", "", "Folder of the new run.", flag_values=values)
    flags.DEFINE_string(
        "dataset",
        "",
        "folder:PATH, tfds:NAME or shapes: the pictures that commands show it; default none.",
        flag_values=values,
    )
    flags.DEFINE_string("data_dir", "", "Where TFDS sets lie; default TFDS's own.", flag_values=values)
    flags.DEFINE_string(
        "classes", "", "File with the class names of the net's outputs, one a line, in order.", flag_values=values
    )
    flags.DEFINE_integer("image_size", None, "Pixels; default 224.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("width", None, "Scales maps and fc units; default 1.", flag_values=values)
    flags.DEFINE_list(
        "mean", None, "Of the net's channels, in their order; default 0.485,0.456,0.406.", flag_values=values
    )
    flags.DEFINE_list("std", None, "Likewise; default 0.229,0.224,0.225.", flag_values=values)
    flags.DEFINE_float("pixel_max", None, "What white is before the mean is subtracted; default 1.", flag_values=values)
    flags.DEFINE_bool(
        "bgr", None, "The net's channels are blue, green, red; default red, green, blue.", flag_values=values
    )
    return values


def _preprocessing(values: flags.FlagValues, said: dict | None) -> "Preprocessing":
    """What the flags say, else the file, else torchvision's."""
    from zfjax.weights.preprocessing import TORCHVISION, Preprocessing

    usual = Preprocessing.of(said) if said else TORCHVISION
    return Preprocessing(
        mean=_numbers("mean", values.mean, usual.mean),
        std=_numbers("std", values.std, usual.std),
        pixel_max=usual.pixel_max if values.pixel_max is None else values.pixel_max,
        bgr=usual.bgr if values.bgr is None else values.bgr,
    ).checked()


def _numbers(name: str, words: Sequence[str] | None, usual: tuple[float, ...]) -> tuple[float, ...]:
    try:
        return usual if words is None else tuple(float(word) for word in words)
    except ValueError as error:
        raise UserError(f"--{name}={','.join(words or ())}: expected three numbers with commas between") from error


if __name__ == "__main__":
    raise SystemExit(command.run(main))

"""Turn weights trained in PyTorch into a run that every other command can use.

Examples:
  python -m zfjax.import_weights resnet18.pth --model=resnet18 --dataset=folder:IMAGENET --workdir=RUN
      a file from torch.save or safetensors: a state_dict, a training script's checkpoint, or a whole module
  python -m zfjax.import_weights vgg.safetensors --model=vgg16 --dataset=folder:PHOTOS --classes=names.txt --workdir=RUN
      names.txt names the net's 1000 outputs, one per line; the last layer is cut to the folders of PHOTOS
  python -m zfjax.import_weights caffe.pth --model=vgg16 --bgr --pixel_max=255 --mean=103.939,116.779,123.68 --std=1,1,1
      a net that expects Caffe's preprocessing
  python -m zfjax.import_weights resnet18.onnx --model=resnet18 --dataset=folder:IMAGENET --workdir=RUN
      a net that PyTorch or others exported; on random pictures the run's net and the file's must give the same logits

PyTorch is not needed, and no code in a file is run. Prefixes of names (module., backbone.) are left out. If a file has
averaged weights (model_ema) as well as the last ones, the averaged ones are used; --key=model selects the others. For a
file that zfjax export-weights wrote, --model, --width, --image_size, --mean, --std, --pixel_max and --bgr default to
the file's metadata. The last four are folded into the first layer: a run's net takes RGB in 0..255 minus its mean
image, whatever the net expected before.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import written


def main(argv: Sequence[str]) -> None:
    """Write the run that the words and flags in `argv` ask for."""
    values = _flags()
    words = command.parse(argv, __doc__ or "", values, required=command.RUN)
    if len(words) != 1:
        raise UserError(f"import-weights takes one file of weights, such as resnet18.pth, not {len(words)}")
    if not values.dataset:
        command.reject_unused(values, ("data_dir",), "without --dataset")
    with Progress("importing the weights"):
        from zfjax.data.outside import root_of
        from zfjax.runs import imported
        from zfjax.runs.claim import held
        from zfjax.training.checkpoints import CHECKPOINTS
        from zfjax.weights import layouts, outputs
        from zfjax.weights.onnx.weights import is_onnx
        from zfjax.weights.preprocessing import asked_for
        from zfjax.weights.pretrained import as_it_is, from_file, opened, usual

        if values.model:
            layouts.model(values.model)  # report mistakes before reading a large file
        pictures = root_of(values.dataset, values.data_dir)
        with held(values.workdir, "zfjax import-weights", pictures) as folder:
            imported.require_no_run(folder, words[0])
            file = opened(words[0])
            said = usual(file)
            model = values.model or said.model
            if not model:
                raise UserError(
                    f"missing --model=MODEL: {words[0]} does not say what it is;"
                    f" expected one of {', '.join(layouts.MODELS)}"
                    + (f"; {as_it_is(words[0])}" if is_onnx(words[0]) else "")
                )
            width = said.width if values.width is None else values.width
            size = said.image_size if values.image_size is None else values.image_size
            before = asked_for(values, said.preprocessing)
            config = imported.run_config(model, values.dataset, data_dir=values.data_dir, width=width, image_size=size)
            loaded = from_file(
                file, words[0], model, preprocessing=before, width=width, image_size=size, key=values.key
            )
            named = outputs.read_names(values.classes) if values.classes else outputs.Names(said.classes)
            fitted = imported.fit_classes(loaded, config, named.names)
            imported.write_run(folder, config, fitted, {"source": words[0], "model": model}, named.names)
    for note in loaded.notes + named.notes:
        print(note)
    print(f"the net takes {loaded.preprocessing}; folded into {loaded.net.layers[0].name}")
    if fitted.outputs < loaded.outputs:
        last = fitted.net.layers[-1].name
        print(f"{last} was cut from {loaded.outputs} outputs to the {fitted.outputs} classes of {values.dataset}")
    elif values.dataset and not named.names:
        print(f"its {loaded.outputs} outputs are taken for the classes of {values.dataset} in their order")
    names = ("config.json", "classes.json", "scan.npz", "pictures.txt", imported.ORIGIN)
    print(written(folder, [name for name in names if (folder / name).exists()] + [f"{CHECKPOINTS}/"]))


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model",
        "",
        "alexnet, vgg16, resnet18, resnet34, resnet50, zfnet_post, zfnet_pytorchcv, zfnetb_pytorchcv or zfnet512;"
        " default what the file says it is.",
        flag_values=values,
    )
    flags.DEFINE_string("workdir", "", "The folder of the new run.", flag_values=values)
    flags.DEFINE_string(
        "dataset",
        "",
        "folder:PATH, tfds:NAME or shapes: the pictures that other commands use; default none.",
        flag_values=values,
    )
    flags.DEFINE_string("data_dir", "", "Folder of TFDS datasets; default TFDS's own.", flag_values=values)
    flags.DEFINE_string(
        "key",
        "",
        "In a file with several nets, the prefix of the one to use, such as model, or . for none; default the averaged"
        " one.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "classes",
        "",
        "File with the class names of the net's outputs, one per line, in order; default the dataset's classes.",
        flag_values=values,
    )
    options.whole_number(
        values, "image_size", None, "Height and width in pixels; default an ONNX file's, or 224.", smallest=1
    )
    flags.DEFINE_float("width", None, "Scales the number of maps and fc units; default 1.", flag_values=values)
    options.preprocessing(values)
    return values


if __name__ == "__main__":
    command.execute(main)

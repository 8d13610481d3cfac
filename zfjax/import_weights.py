"""Turn weights trained in PyTorch into a run that every other command can use.

Examples:
  python -m zfjax.import_weights resnet18.pth --model=resnet18 --dataset=folder:IMAGENET --workdir=RUN
      a file from torch.save or safetensors: a state_dict, a training script's checkpoint, or a whole module
  python -m zfjax.import_weights vgg.pth --model=vgg16 --dataset=folder:PHOTOS --class_names=names.txt --workdir=RUN
      names.txt names the net's 1000 outputs, one per line; the last layer is cut to the folders of PHOTOS
  python -m zfjax.import_weights caffe.pth --model=vgg16 --bgr --pixel_max=255 --mean=103.939,116.779,123.68 --std=1,1,1
      a net that expects Caffe's preprocessing
  python -m zfjax.import_weights resnet18.onnx --model=resnet18 --dataset=folder:IMAGENET --workdir=RUN
      a net that PyTorch or others exported; on random pictures the run's net and the file's must give the same logits
  python -m zfjax.import_weights vit.onnx --dataset=folder:PHOTOS --class_names=names.txt --workdir=RUN
      any net at all: without --model, an ONNX file becomes a run as it is; it cannot be trained further

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
from pathlib import Path

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
    if words[0].lower().endswith(".onnx") and not values.model:
        _keep(words[0], values)
    else:
        _convert(words[0], values)


def _convert(file: str, values: flags.FlagValues) -> None:
    """Make a net of zfjax of the weights in a file."""
    with Progress("importing the weights"):
        from zfjax.data.outside import root_of
        from zfjax.runs import imported
        from zfjax.runs.claim import held
        from zfjax.training.checkpoints import CHECKPOINTS
        from zfjax.weights import layouts, outputs
        from zfjax.weights.preprocessing import asked_for
        from zfjax.weights.pretrained import from_file, opened, usual

        if values.model:
            layouts.model(values.model)  # report mistakes before reading a large file
        pictures = root_of(values.dataset, values.data_dir)
        with held(values.workdir, "zfjax import-weights", pictures) as folder:
            imported.require_no_run(folder, file)
            tensors = opened(file)
            said = usual(tensors)
            model = values.model or said.model
            if not model:
                raise UserError(
                    f"missing --model=MODEL: {file} does not say what it is;"
                    f" expected one of {', '.join(layouts.MODELS)}"
                )
            width = said.width if values.width is None else values.width
            size = said.image_size if values.image_size is None else values.image_size
            before = asked_for(values, said.preprocessing)
            config = imported.run_config(model, values.dataset, data_dir=values.data_dir, width=width, image_size=size)
            loaded = from_file(tensors, file, model, preprocessing=before, width=width, image_size=size, key=values.key)
            named = outputs.read_names(values.class_names) if values.class_names else outputs.Names(said.classes)
            fitted = imported.fit_classes(loaded, config, named.names)
            imported.write_run(folder, config, fitted, {"source": file, "model": model}, named.names)
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


def _keep(file: str, values: flags.FlagValues) -> None:
    """Keep an ONNX file as it is."""
    command.reject_unused(values, ("width", "key"), "without --model, for a file that is kept as it is")
    with Progress("importing the net"):
        from zfjax.data.opening import open_source
        from zfjax.runs import looking, onnx_run
        from zfjax.runs.written import ONNX
        from zfjax.weights import outputs
        from zfjax.weights.preprocessing import TORCHVISION, asked_for

        named = outputs.read_names(values.class_names) if values.class_names else outputs.Names(())
        source = open_source(values.dataset, data_dir=values.data_dir) if values.dataset else None
        said = onnx_run.Said(
            asked_for(values, TORCHVISION), named.names or None, values.image_size, values.dataset, values.data_dir
        )
        folder, bare = onnx_run.keep(values.workdir, file, said)
    for note in named.notes:
        print(note)
    print(f"the net takes {said.preprocessing}, at {bare.size} px")
    if source and named.names:
        known, classes = int((looking.matched(bare, source)[1] >= 0).sum()), len(source.classes)
        print(f"{known} of the {classes} classes of {values.dataset} are among its {len(bare.classes)} outputs")
    elif source and len(bare.classes) == len(source.classes):
        print(f"its {len(bare.classes)} outputs are taken for the classes of {values.dataset} in their order")
    files = (path for path in sorted(Path(folder / ONNX).rglob("*")) if path.is_file())
    print(written(folder, [path.relative_to(folder).as_posix() for path in files]))


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model",
        "",
        "alexnet, vgg16, resnet18, resnet34, resnet50, zfnet_post, zfnet_pytorchcv, zfnetb_pytorchcv or zfnet512;"
        " default what the file says it is. Without it, an ONNX file becomes a run as it is.",
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
        "class_names",
        "",
        "File with the class names of the net's outputs, one per line, in order; default the dataset's classes.",
        flag_values=values,
    )
    flags.DEFINE_alias("classes", "class_names", flag_values=values)
    options.whole_number(
        values, "image_size", None, "Height and width in pixels; default an ONNX file's, or 224.", smallest=1
    )
    flags.DEFINE_float("width", None, "Scales the number of maps and fc units; default 1.", flag_values=values)
    options.preprocessing(values)
    return values


if __name__ == "__main__":
    command.execute(main)

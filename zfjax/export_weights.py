"""Write a run's weights for PyTorch, as a .safetensors file.

Examples:
  python -m zfjax.export_weights --workdir=runs/resnet18 --out=resnet18.safetensors
      then, in PyTorch: model.load_state_dict(safetensors.torch.load_file("resnet18.safetensors"))
  python -m zfjax.export_weights --workdir=runs/photos --checkpoint=best --out=photos.safetensors
      the weights that scored best on the validation split

Names and layout are torchvision's or pytorchcv's, or for an imported run those of its original file. The file's
metadata describes the preprocessing the net expects: for an imported run the original one, for a run that zfjax trained
RGB in 0..255 minus a mean. Runs of alexnet_torchvision, vgg16, resnet18, resnet34, resnet50, zfnet_post,
zfnet_pytorchcv, zfnetb_pytorchcv and zfnet512 can be exported.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command
from zfjax.console.progress import Progress
from zfjax.console.text import written


def main(argv: Sequence[str]) -> None:
    """Write the file that the flags in `argv` ask for."""
    values = flags.FlagValues()
    command.run_flags(values)
    flags.DEFINE_string("out", "", "The file to write; the name must end in .safetensors.", flag_values=values)
    rest = command.parse(argv, __doc__ or "", values, required=command.RUN | {"out": "FILE.safetensors"})
    command.reject_arguments(rest, "export-weights")

    with Progress("exporting the weights"):
        from zfjax.data.outside import require_outside, root_of
        from zfjax.runs import imported
        from zfjax.runs.folder import read_run
        from zfjax.weights import pretrained

        run = read_run(values.workdir)
        require_outside(values.out, "--out", root_of(run.config.dataset, run.config.data_dir))
        model, loaded = imported.weights_of(run, values.checkpoint)
        out = pretrained.save(values.out, model, loaded, run.classes, run.config.width)
    for note in loaded.notes:
        print(note)
    print(f"{model} with {len(run.classes)} outputs; it takes {loaded.preprocessing}")
    print(written(out.parent, [out.name]))


if __name__ == "__main__":
    command.execute(main)

"""Explain what a net says of one picture: why, what would change it, and how far the explanation can be believed.

Examples:
  python -m zfjax.explain dog.jpg --workdir=runs/photos
      what the net says and why, by five lenses; the training pictures nearest to it; how good the lenses are here
  python -m zfjax.explain dog.jpg --workdir=runs/photos --expected=wolf
      also why it does not say wolf, and what would have to be covered for it to say so
  python -m zfjax.explain dog.jpg --model=net.onnx --class_names=names.txt --out=explained
      any model: an ONNX file, or a function in a Python file, --model=nets.py:mine; with --dataset=folder:PHOTOS it has
      training pictures too

Writes one page, NAME.html, which needs nothing else; the same as a picture, NAME.png; and all of its numbers,
NAME.json; into the run's folder explain, or --out, in place of earlier ones of the same picture. Another picture with
the same name becomes NAME-2, and so on.

  why           Grad-CAM, Layer-CAM, LRP, integrated gradients and occlusion, of the class that the net says
  --expected    the same lenses, of the logit of the expected class less that of what it says; and squares that make the
                net say the expected class when they are covered. Without it: squares that make it say anything else
  nearest       by the cosine of what the last hidden layer makes of the pictures
  measures      deletion, insertion, ROAD, infidelity, sensitivity, likeness to random weights' maps, agreement
"""

from zfjax.console import signals

if signals.is_starting(__name__):  # before the imports, which take time
    signals.listen()

from collections.abc import Sequence

from absl import flags

from zfjax.console import command, options
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import written


def main(argv: Sequence[str]) -> None:
    """Explain the picture that the words and flags in `argv` name."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=32, pictures=True, model=True)
    flags.DEFINE_string("expected", "", "The class that the net should have said; default none.", flag_values=values)
    options.whole_number(values, "nearest", 6, "How many training pictures to show; 0: do not look for any.")
    words = command.parse(argv, __doc__ or "", values, required=command.RUN)
    if len(words) != 1:
        got = f"got {len(words)}: {', '.join(map(repr, words))}" if words else "got none"
        raise UserError(f"explain takes one picture, such as explain dog.jpg --workdir=RUN; {got}")

    with Progress("opening the run"):
        from zfjax.explain import page
        from zfjax.runs.given import given

        asked = given(values, "explain")
    with asked.writing("zfjax explain"):
        files = page.write(asked, words[0], values.expected, values.nearest, values.batch_size)
    print(written(asked.out, files))

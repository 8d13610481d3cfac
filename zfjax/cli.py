"""`zfjax VERB …` does what `python -m zfjax.VERB …` does, with `_` for `-`."""

import importlib
import sys
from collections.abc import Sequence

from zfjax import command
from zfjax.errors import UserError
from zfjax.version import __version__

VERBS = {
    "train": "train a net, on drawn shapes, a folder of photographs or a TFDS set",
    "evaluate": "score runs: single crop, 10 crops, averages of several runs",
    "figures": "draw the paper's figures of a finished run",
    "ablate": "train the twelve nets of Table 3: layers removed or resized",
    "transfer": "train a softmax on a run's frozen layers for another dataset, against from scratch",
    "probe": "train SVMs and softmaxes on each layer of a run",
    "compare": "score lenses on pictures whose objects are known, and check that they see the weights",
    "import-weights": "make a run of a PyTorch checkpoint",
    "export-weights": "write a run's weights as PyTorch names them, to safetensors",
    "summary": "print a net's layer table",
}


def main() -> int:
    """Runs the verb named on the command line; the console script."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {verb:16}{what}" for verb, what in VERBS.items())
        print(f"zfjax {__version__}: see what a ConvNet sees.\n\nVerbs, each with its own --help:\n{verbs}")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    return command.run(_dispatch, [f"zfjax {words[0]}", *words])


def _dispatch(argv: Sequence[str]) -> None:
    verb = argv[1]
    if verb not in VERBS:
        hint = command.did_you_mean(verb, list(VERBS)) or ";"
        raise UserError(f"unknown verb {verb!r}{hint} there are {', '.join(VERBS)}")
    importlib.import_module(f"zfjax.{verb.replace('-', '_')}").main([argv[0], *argv[2:]])


if __name__ == "__main__":
    raise SystemExit(main())

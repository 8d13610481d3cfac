"""The command `zfjax VERB …`, the same as `python -m zfjax.VERB …` with `_` for `-`."""

import importlib
from collections.abc import Sequence
from typing import NoReturn

from zfjax.console import signals
from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean
from zfjax.version import __version__

GROUPS = {
    "train": {
        "train": "train a net, on drawn shapes, a folder of photographs or a TFDS set",
        "evaluate": "score runs: single crop, 10 crops, averages of several runs",
    },
    "look": {
        "figures": "draw the paper's figures of a finished run",
        "atlas": "write a browsable site of what each map of a run fires for",
        "explore": "look at any picture through a run in the browser: drop a photograph, click a unit",
        "explain": "explain what a net says of one picture: why, what would change it, what to believe",
        "compare": "compare lenses side by side, and score them on known objects",
        "summary": "print the layer table of a net or of a run",
    },
    "experiments": {
        "ablate": "train the twelve nets of Table 3: layers removed or resized",
        "transfer": "train a softmax on a run's frozen layers for another dataset, and a net from scratch",
        "probe": "train SVMs and softmaxes on each layer of a run",
        "adn": "learn a deconvolutional network without labels",
    },
    "weights": {
        "import-weights": "turn a PyTorch checkpoint into a run",
        "export-weights": "write a run's weights as safetensors with PyTorch's names",
    },
}
VERBS = {verb: what for verbs in GROUPS.values() for verb, what in verbs.items()}
HELP = ("help", "-h", "-help", "--help")


def main() -> NoReturn:
    """Console script: run the verb named on the command line, and exit with its exit code."""
    signals.listen()
    from zfjax.console import command  # takes time

    command.execute(dispatch)


def dispatch(argv: Sequence[str]) -> None:
    """Run the verb that follows the program's name in `argv`."""
    words = list(argv[1:])
    if len(words) > 1 and words[0] in HELP:  # zfjax help VERB
        words = [words[1], "--help"]
    if not words or words[0] in HELP:
        print(_overview())
    elif words[0] in ("--version", "version"):
        print(__version__)
    else:
        verb, *rest = words
        if verb not in VERBS:
            hint = did_you_mean(verb.replace("_", "-").lower(), list(VERBS)) or ";"
            raise UserError(f"unknown verb {verb!r}{hint} there are {', '.join(VERBS)}")
        importlib.import_module(f"zfjax.{verb.replace('-', '_')}").main([f"zfjax {verb}", *rest])


def _overview() -> str:
    groups = "\n\n".join(
        "\n".join([f"{group}:", *(f"  {verb:16}{what}" for verb, what in verbs.items())])
        for group, verbs in GROUPS.items()
    )
    return (
        f"zfjax {__version__}: see what a ConvNet sees.\n\n{groups}\n\n"
        "zfjax VERB --help explains each, with examples. `zfjax VERB` and `python -m zfjax.VERB` are the same,\n"
        "with _ for - in the latter. Start with `zfjax train`, then `zfjax figures --workdir=runs/shapes`."
    )


if __name__ == "__main__":
    main()

"""Look at any picture through a run or a model in a browser: drop a photograph, click a unit.

Examples:
  python -m zfjax.explore --workdir=runs/shapes
      open the address that it prints, or let the browser open by itself
  python -m zfjax.explore --model=net.onnx --dataset=folder:PHOTOS
      any model: an ONNX file, or a function in a Python file, --model=nets.py:mine
  python -m zfjax.explore --workdir=runs/shapes --host=0.0.0.0
      for other machines too; the printed address has the token that lets them in

The page shows what each layer makes of a picture: its maps, projections of any unit, the run's patches that excite it
most, and what lenses say of a class. Paint over it and see what changes. It needs Gradio: pip install 'zfjax[explore]'.
"""

from zfjax.console import signals

if signals.is_starting(__name__):  # before the imports, which take time
    signals.listen()

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax.console import command, options
from zfjax.console.progress import Progress

if TYPE_CHECKING:
    from zfjax.explore.saving import Origin
    from zfjax.explore.serving import Served
    from zfjax.runs.given import Given


def main(argv: Sequence[str]) -> None:
    """Serve the page that the flags in `argv` ask for, until it is stopped."""
    values = flags.FlagValues()
    command.run_flags(values, batch_size=64, pictures=True, model=True)
    options.names(
        values, "layers", [], "Layers whose patches are looked for, such as relu5; default the paper's 1 to 5."
    )
    options.whole_number(values, "images", 0, "Pictures to look through for these, spread evenly; 0 for all.")
    flags.DEFINE_string(
        "host", "127.0.0.1", "Address to listen at; any but this machine's own wants a token.", flag_values=values
    )
    options.whole_number(values, "port", 0, "Port; 0 for the first free one from 7860.", largest=65535)
    options.whole_number(values, "megabytes", 32, "The most that an uploaded picture may have.", smallest=1)
    flags.DEFINE_bool("browser", True, "Open a browser.", flag_values=values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values, required=command.RUN), "explore")
    with Progress("starting JAX"):
        from zfjax.explore import opening
        from zfjax.runs.given import given

        opening.require_gradio()
    asked = given(values, "explore", writes=False)
    served = _served(asked, values)
    print(f"open {served.address}", flush=True)
    threading.Event().wait()  # signals end it


def _served(asked: "Given", values: flags.FlagValues) -> "Served":
    from zfjax.experiments.passes import Parts
    from zfjax.explore import opening, serving

    with Progress("opening the run"):
        subject = asked.splits().val if asked.dataset else asked.alone()
    keeps = asked.folder is not None or values.out
    explorer = opening.opened(
        opening.few(subject, values.images),
        values.layers,
        values.batch_size,
        Parts(asked.out) if keeps else None,
        asked.precision,
    )
    return serving.serve(
        explorer,
        asked.name,
        host=values.host,
        port=values.port,
        megabytes=values.megabytes,
        origin=_origin(asked, values),
        inbrowser=values.browser,
        atlas=str(asked.folder / "atlas") if asked.folder is not None else "",
    )


def _origin(asked: "Given", values: flags.FlagValues) -> "Origin | None":
    """How a script gets at the same: of a run by its folder, which is left to be said."""
    from zfjax.explore.saving import Origin

    if asked.folder is None:
        return None
    checkpoint = "" if values.checkpoint == "latest" else f", {values.checkpoint!r}"
    return Origin(f"zfjax.open_run(sys.argv[1]{checkpoint}).val", has_numbers=not values.images)

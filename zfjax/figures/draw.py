"""Joins runs, experiments, plots and files: one module a figure, each with a function `draw`."""

from collections.abc import Callable, Iterator, Sequence

from absl import flags

from zfjax.errors import UserError
from zfjax.experiments import subject
from zfjax.figures import fig2
from zfjax.figures.request import Drawing, Request
from zfjax.plots.files import save
from zfjax.training.run import read_run

FIGURES: dict[str, Callable[[Request], Iterator[Drawing]]] = {
    "fig2": fig2.draw,
}


def request_of(values: flags.FlagValues) -> Request:
    """The flags' values, with the run that they name opened.

    Raises:
      UserError: no such run or checkpoint, or a number that is none.
    """
    maps = None if values.maps == "all" else _number("--maps", values.maps, "at least 1, or all", smallest=1)
    units = tuple(_number("--units", unit, "numbers of maps, with commas between") for unit in values.units)
    run = read_run(values.workdir)
    return Request(
        run,
        subject.of_run(run, values.checkpoint),
        tuple(values.images),
        tuple(values.classes),
        tuple(values.layers),
        maps,
        units,
        values.window,
        values.stride,
        values.seed,
        values.batch_size,
    )


def all_of(names: Sequence[str], request: Request) -> None:
    """Draws the figures in turn; each is written before the next is begun."""
    folder = request.run.folder / "figures"
    for name in names:
        written = []
        for drawing in FIGURES[name](request):
            save(drawing.figure, folder / drawing.name, drawing.arrays)
            written.append(f"{drawing.name}.png")
        print(f"{name}: {', '.join(written)} (with .pdf and .npz) in {folder}", flush=True)


def _number(flag: str, text: str, expected: str, smallest: int = 0) -> int:
    if not text.strip().isdigit() or int(text) < smallest:
        raise UserError(f"{flag}: expected {expected}, got {text!r}")
    return int(text)

"""Connect runs, experiments, plots and files: one module per figure, each with a function `draw`."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from absl import flags
from etils import epath

from zfjax.console import command, tables
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import written
from zfjax.data import loose, record
from zfjax.data.folder import NotThere
from zfjax.experiments.gallery import checked_maps
from zfjax.experiments.passes import Parts
from zfjax.figures import fig2, fig4, fig5, fig6, fig7, fig8
from zfjax.figures.request import Drawing, NotForThisRun, Opened, Request
from zfjax.plots.files import save
from zfjax.runs.first import is_first
from zfjax.runs.folder import read_run, require_different
from zfjax.runs.given import Given, OfRun, of_run, of_workdir
from zfjax.training import memory

FIGURES: dict[str, Callable[[Request], Iterator[Drawing]]] = {
    "fig2": fig2.draw,
    "fig4": fig4.draw,
    "fig5": fig5.draw,
    "fig6": fig6.draw,
    "fig7": fig7.draw,
    "fig8": fig8.draw,
}


def request_of(given: Given, values: flags.FlagValues, maps: int | None, units: tuple[int, ...]) -> Request:
    """Build a request from the flags' values, opening the net or model, and its pictures.

    Raises:
        UserError: no such checkpoint, class, layer or image, or a window larger than the images.
    """
    files: tuple[epath.PathLike, ...] = ()
    if given.dataset and values.only and not {"fig5", "fig7"} & {*values.only}:
        own = f"with --only={','.join(values.only)} and the pictures of a dataset, as it is for fig5 and fig7 then"
        command.reject_unused(values, ("images",), own)
    if values.images and not given.dataset:
        splits, files = given.with_images(values.images)
    else:
        splits = given.splits()
        if values.images:
            files = loose.some_pictures(values.images, splits.val.side)
    model, size = splits.val.model, splits.val.size
    memory.require_batches(model, values.batch_size)
    # Fail before anything is drawn.
    for name in values.classes:
        splits.val.label_of(name)
    names = tuple(dict.fromkeys(model.place(name).name for name in values.layers))
    for name, pixels in (("window", values.window), ("stride", values.stride)):
        if pixels > size:
            raise UserError(f"--{name}={pixels} is larger than the images of {size}×{size} px")
    if units:
        for name in names or model.feature_layers:
            checked_maps(units, model.layers[name].shape[-1])
    others = tuple(of_workdir(folder, "figures") for folder in values.compare)
    require_different("--compare", [one.folder for one in (given, *others) if one.folder])
    return Request(
        given,
        splits,
        splits.val.of_files(files[: max(loose.MOST, len(values.images))]) if files else None,
        tuple(values.classes),
        names,
        maps,
        units,
        values.window,
        values.stride,
        values.seed,
        values.batch_size,
        Parts(given.passes),
        tuple(_opened(other, given) for other in others),
    )


def all_of(names: Sequence[str], request: Request) -> None:
    """Draw the named figures, or all if none is named; each is written before the next is started.

    Raises:
        UserError: some could not be drawn; the others were. Figures that the run does not support are skipped unless
            named.
    """
    failed, folder, files = [], request.given.out, list[str]()
    for name in names or FIGURES:
        try:
            files += _draw(name, request, folder)
        except UserError as reason:
            if isinstance(reason, NotForThisRun) and not names and is_first():
                print(f"{name}: not drawn: {reason}", flush=True)
            else:
                failed.append(str(reason))
    if request.parts:
        request.parts.clear()
    if files:
        print(f"{written(folder, files)}; each PNG also as .pdf and .npz{_tables_too(files)}")
    if failed:
        raise UserError("; ".join(failed))


def _draw(name: str, request: Request, folder: epath.Path) -> list[str]:
    """Draw one figure, print its tables, and return the names of its pictures and tables."""
    files, shown = list[str](), list[tables.Table]()
    with Progress(name):
        for drawing in FIGURES[name](request):
            if not is_first():
                continue
            # The PDF and NPZ, or CSV and JSON, have the same names; the last line says so.
            files += save(drawing.figure, folder / drawing.name, drawing.arrays)[:1]
            if drawing.table:
                file, table = drawing.table
                files += tables.write(table, folder, file)[:1]
                shown.append(table)
    if not is_first():
        return files
    for table in shown:
        print(f"{table.title}\n{table.text()}\n", flush=True)
    print(f"{name}: {', '.join(files)}", flush=True)
    return files


def _tables_too(files: Sequence[str]) -> str:
    return ", each table as .csv and .json" if any(name.endswith(".md") for name in files) else ""


def _opened(other: Given, beside: Given) -> Opened:
    """Open another run; if its pictures are those of the first, they are where the first's are now.

    An ONNX file without pictures of its own is shown with the first's.
    """
    if not isinstance(other, OfRun):
        if not other.dataset:
            other = dataclasses.replace(other, dataset=beside.dataset, data_dir=beside.data_dir)
        return Opened(other, other.splits())
    if isinstance(beside, OfRun):
        is_named_alike = other.dataset == read_run(beside.run.folder).config.dataset
        mine, its = record.read(other.run.folder), record.read(beside.run.folder)
        if is_named_alike or (mine and its and mine.has_pictures_of(its)):
            other.run.config.dataset, other.run.config.data_dir = beside.dataset, beside.data_dir
            other = of_run(other.run, "figures")
    try:
        return Opened(other, other.splits())
    except UserError as error:
        if not isinstance(error.__cause__, NotThere):
            raise
        first = f"the run in {beside.folder}" if beside.folder else beside.name
        raise UserError(
            f"{error.__cause__}; --dataset says where the pictures of {first} are,"
            f" but the run in {other.folder} has others"
        ) from error

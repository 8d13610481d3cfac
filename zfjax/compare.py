"""Score lenses on images whose objects are known, and check whether they look at the weights.

Examples:
  python -m zfjax.compare --workdir=runs/shapes
      all lenses on 200 images of the val split: one table, one picture with a row an image and a column a lens, and
      how their maps change while the net's layers are randomised
  python -m zfjax.compare --workdir=runs/shapes --only=grad_cam,saliency --layer=relu4 --sanity_images=0
  python -m zfjax.compare --workdir=runs/photos --boxes=boxes.json
      folders of your own; boxes.json is one object, {"CLASS/picture.jpg": [top, left, height, width], …}: paths below
      the folder with the val split's classes, pixels of the whole picture, upright

The dataset `shapes` knows its objects' pixels. All is written into the folder compare of the run.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import flags
from etils import epath

from zfjax import command
from zfjax.errors import UserError

if TYPE_CHECKING:
    from zfjax.experiments.comparison import Case, Lens
    from zfjax.experiments.subject import Subject
    from zfjax.training.run import RunInfo

Masks = Callable[[np.ndarray], np.ndarray]  # from numbers in the split to the objects' pixels, bool [n, size, size]


def main(argv: Sequence[str]) -> None:
    """Compares lenses on the run that the flags in `argv` name, and prints tables."""
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Folder of a run.", flag_values=values)
    flags.DEFINE_string("checkpoint", "latest", "latest, best (on the val split) or a step.", flag_values=values)
    flags.DEFINE_string("layer", "", "Whose maps the CAMs weigh; default the highest.", flag_values=values)
    flags.DEFINE_string("boxes", "", "JSON file with the objects' boxes, for folder:PATH.", flag_values=values)
    flags.DEFINE_list("only", [], "Some lenses by name, such as grad_cam; default all.", flag_values=values)
    flags.DEFINE_integer("count", 200, "Images of the val split, drawn by --seed.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("rows", 5, "How many of them are pictured.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "sanity_images", 16, "How many are shown to randomised nets.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Draws images, weights and noise.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("batch_size", 32, "Pictures at once.", lower_bound=1, flag_values=values)
    command.reject_arguments(command.parse(argv, __doc__ or "", values), "compare")
    if not values.workdir:
        raise UserError("compare needs --workdir=RUN: the folder that zfjax train wrote")

    from zfjax.experiments.subject import feature_layers, of_run
    from zfjax.training.run import read_run

    lenses = _chosen(values.only)
    run = read_run(values.workdir)
    _require_objects(run, values.boxes)
    subject = of_run(run, values.checkpoint).val
    layer = values.layer or feature_layers(subject.net)[-1]
    rng = np.random.default_rng(values.seed)
    job = _Job(run, subject, lenses, layer, values.seed, values.batch_size, *_drawn(run, subject, values, rng))
    shown = _one_of_each(job.subject.labels[job.numbers], values.rows)
    job.case(shown)  # so that a layer's name is checked before anything is computed
    folder = run.folder / "compare"
    written = _write_scores(job, shown, folder)
    if values.sanity_images:
        written += _write_sanity(job, values.sanity_images, folder)
    print(f"written to {folder}: {', '.join(written)}")


class _Job(NamedTuple):
    """What is compared, and on which pictures."""

    run: "RunInfo"
    subject: "Subject"
    lenses: "Sequence[Lens]"
    layer: str
    seed: int
    batch_size: int
    numbers: np.ndarray  # of the pictures, in the split
    masks: np.ndarray  # their objects' pixels

    def case(self, places: np.ndarray) -> "Case":
        """Some of the pictures as lenses take them."""
        import jax
        import jax.numpy as jnp

        from zfjax.experiments.comparison import case_of

        net, variables, numbers = self.subject.net, self.subject.variables, self.numbers[places]
        images, labels = self.subject.load(numbers), jnp.asarray(self.subject.labels[numbers])
        key = jax.random.key(self.seed)
        return case_of(net, variables, self.layer, images, labels, key, batch_size=self.batch_size)


def _write_scores(job: _Job, shown: np.ndarray, folder: epath.Path) -> list[str]:
    """The table over all pictures, and the picture of some; prints the table."""
    import jax

    from zfjax import tables
    from zfjax.experiments.comparison import Labelled, compare, heat, to_table
    from zfjax.plots.comparison import plot_comparison
    from zfjax.plots.files import save
    from zfjax.progress import Progress

    subject, count, size = job.subject, len(job.numbers), job.batch_size
    chunks = (np.arange(first, min(first + size, count)) for first in range(0, count, size))
    batches = (
        Labelled(subject.load(job.numbers[some]), subject.labels[job.numbers[some]], job.masks[some]) for some in chunks
    )
    with Progress("lenses", count * len(job.lenses), unit="map") as progress:
        found = compare(
            subject.net,
            subject.variables,
            batches,
            job.lenses,
            layer=job.layer,
            key=jax.random.key(job.seed),
            batch_size=size,
            progress=progress,
        )
    table = to_table(found, job.lenses, job.run.config.dataset, job.layer)
    tables.write(table, folder, "lenses")
    print(table.text(), end="\n\n")

    case, maps = job.case(shown), {}
    for lens in job.lenses:
        given = lens.of(case)
        maps[lens.title] = np.asarray(given) if given.ndim == 4 else heat(case, given)
    names = [subject.classes[label] for label in subject.labels[job.numbers[shown]]]
    figure = plot_comparison(np.asarray(case.images) + subject.image_mean, job.masks[shown], maps, names)
    arrays = {f"map_{lens.name}": maps[lens.title] for lens in job.lenses}
    arrays |= {"shown": job.numbers[shown], "masks": job.masks[shown], "images": job.numbers, **found._asdict()}
    save(figure, folder / "lenses", arrays | {"lenses": np.array([lens.name for lens in job.lenses])})
    return [f"lenses.{ending}" for ending in ("md", "csv", "json", "png", "pdf", "npz")]


def _write_sanity(job: _Job, count: int, folder: epath.Path) -> list[str]:
    """The table and the plot of the model-randomisation check, for those lenses that ask the net; prints the table."""
    import jax

    from zfjax import tables
    from zfjax.experiments.comparison import BASELINES, for_sanity
    from zfjax.experiments.sanity import sanity_check, to_table
    from zfjax.plots.comparison import plot_sanity
    from zfjax.plots.files import save
    from zfjax.progress import Progress

    lenses = [lens for lens in job.lenses if lens not in BASELINES]
    if not lenses:
        return []
    case, found = job.case(np.arange(min(count, len(job.numbers)))), {}
    weights_key, lens_key = jax.random.split(jax.random.key(job.seed))
    with Progress("sanity check", len(lenses) * len(case.images), unit="map") as progress:
        for lens in lenses:
            lens_of_weights = for_sanity(lens, job.layer, lens_key, job.batch_size)
            net, variables = job.subject.net, job.subject.variables
            found[lens] = sanity_check(lens_of_weights, net, variables, case.images, case.target, weights_key)
            progress.advance(len(case.images), lens.title)
    titled = {lens.title: one for lens, one in found.items()}
    table = to_table(titled, job.run.config.dataset)
    tables.write(table, folder, "sanity")
    print(table.text(), end="\n\n")
    arrays = {
        f"{lens.name}_{way}_{kind}": values
        for lens, one in found.items()
        for way, similarity in (("cascade", one.cascade), ("alone", one.alone))
        for kind, values in similarity._asdict().items()
    }
    save(plot_sanity(titled), folder / "sanity", {"images": job.numbers[: len(case.images)], **arrays})
    return [f"sanity.{ending}" for ending in ("md", "csv", "json", "png", "pdf", "npz")]


def _chosen(only: Sequence[str]) -> "Sequence[Lens]":
    from zfjax.experiments.comparison import BASELINES, LENSES

    known = {lens.name: lens for lens in LENSES + BASELINES}
    for name in only:
        if name not in known:
            hint = command.did_you_mean(name, list(known)) or ";"
            raise UserError(f"--only: no lens {name!r}{hint} there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(only)] or list(known.values())


def _one_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Places of up to `count` pictures: the first of each class, then others."""
    _, first = np.unique(labels, return_index=True)
    return np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(labels)), first)])[:count]


def _require_objects(run: "RunInfo", boxes: str) -> None:
    dataset = run.config.dataset
    if dataset == "shapes" and boxes:
        raise UserError("--boxes: the dataset shapes has its objects' pixels; boxes are for folder:PATH")
    if dataset != "shapes" and not (boxes and dataset.startswith("folder:")):
        raise UserError(
            f"compare needs to know where the objects are: the dataset shapes has masks, folder:PATH needs"
            f" --boxes=FILE.json (see --help); the run's dataset is {dataset}"
        )


def _drawn(
    run: "RunInfo", subject: "Subject", values: flags.FlagValues, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of the split whose objects are known and inside the crop, and the objects' pixels."""
    numbers, masks = _of_shapes(run, subject) if not values.boxes else _of_boxes(run, subject, values.boxes)
    drawn = rng.permutation(numbers)[: values.count]
    objects = masks(drawn)
    seen = objects.any(axis=(1, 2))
    if not seen.any():
        raise UserError("none of the pictures shows its object inside the centre crop, which is what the net sees")
    return drawn[seen], objects[seen]


def _of_shapes(run: "RunInfo", subject: "Subject") -> tuple[np.ndarray, Masks]:
    from zfjax.data import shapes
    from zfjax.data.shapes.masks import masks

    builder = shapes.prepared_builder(run.config.data_dir)
    size = {"square": subject.mean.shape[0], "size": subject.net.image_size}
    return np.arange(len(subject.pictures)), lambda some: masks(builder, "validation", subject.kept[some], **size)


def _of_boxes(run: "RunInfo", subject: "Subject", file: str) -> tuple[np.ndarray, Masks]:
    """The pictures that the file names, and their boxes in the centre crops."""
    from zfjax.data.shapes.parts import in_crop
    from zfjax.data.source import open_source

    boxes = _read_boxes(file)
    pictures = open_source(run.config.dataset, data_dir=run.config.data_dir, seed=run.config.seed).val
    names = pictures.names  # type: ignore[attr-defined]  # of a folder
    numbers = np.array([i for i, number in enumerate(subject.kept) if names[number] in boxes], np.int64)
    if not len(numbers):
        raise UserError(f"--boxes: {file} names no picture of the val split; expected names like {names[0]!r}")

    def masks(some: np.ndarray) -> np.ndarray:
        size = subject.net.image_size
        found = np.zeros((len(some), size, size), bool)
        for mask, number in zip(found, subject.kept[some], strict=True):
            height, width = pictures[int(number)].image.shape[:2]
            box = _inside(file, names[number], boxes[names[number]], height, width)
            side = min(height, width)  # of the centre square, which is what is decoded
            shares = (box - np.array([height - side, width - side] * 2) / 2) / side
            top, left, bottom, right = np.clip(in_crop(shares[None], subject.mean.shape[0], size)[0], 0, size)
            mask[top:bottom, left:right] = True
        return found

    return numbers, masks


def _read_boxes(file: str) -> dict[str, list[float]]:
    expected = '{"CLASS/picture.jpg": [top, left, height, width], …}'
    try:
        boxes = json.loads(epath.Path(file).expanduser().read_text())
    except OSError as error:
        raise UserError(f"--boxes: cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"--boxes: {file} is no JSON ({error}); expected {expected}") from error
    if not isinstance(boxes, dict):
        raise UserError(f"--boxes: {file} holds no object; expected {expected}")
    for name, box in boxes.items():
        if not (isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)):
            raise UserError(f"--boxes: expected [top, left, height, width] for {name!r} in {file}, got {box!r}")
    return boxes


def _inside(file: str, name: str, box: list[float], height: int, width: int) -> np.ndarray:
    """The box as (top, left, bottom, right), as far as it lies in its picture."""
    top, left, tall, wide = box
    edges = np.clip([top, left, top + tall, left + wide], 0, [height, width] * 2)
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise UserError(f"--boxes: {name!r} in {file} is a picture of {height}×{width} px; its box {box} lies outside")
    return edges


if __name__ == "__main__":
    raise SystemExit(command.run(main))

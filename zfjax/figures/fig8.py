"""Figure 8 and Table 1: the same part hidden in several images, compared with random boxes of the same size."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from zfjax.console.errors import UserError
from zfjax.console.tables import Cell, Table
from zfjax.data.annotations import PartBoxes
from zfjax.experiments.correspondence import Correspondence, correspondence, difference, hidden, random_boxes
from zfjax.figures.request import Drawing, NotForThisRun, Request
from zfjax.plots.correspondence import plot_correspondence
from zfjax.training.sharding import data_mesh

CLASS = "face"
PARTS = {"right eye": "right_eye", "left eye": "left_eye", "nose": "nose"}
MOST = 50  # maximum number of images; pairs grow with its square
SHOWN = 5  # images shown in the figure, as in the paper
DRAWS = 3  # draws of random boxes for each part


class Paper(NamedTuple):
    """A cell of the paper's Table 1, in percent."""

    mean: float
    std: float


PAPER = {
    "layer 5": {"right eye": Paper(6.7, 0.7), "left eye": Paper(6.9, 0.7), "nose": Paper(7.9, 1.7)},
    "layer 7": {"right eye": Paper(6.9, 1.5), "left eye": Paper(6.8, 1.3), "nose": Paper(6.9, 1.1)},
}
PAPER_RANDOM = {"layer 5": Paper(10.7, 1.7), "layer 7": Paper(7.3, 1.4)}


class Compared(NamedTuple):
    """A part in one layer, and random boxes of its size in the same images."""

    part: Correspondence
    random: Correspondence


def draw(request: Request) -> Iterator[Drawing]:
    """Yield one drawing, with Table 1.

    Raises:
        NotForThisRun: the dataset has no boxes of parts.
        UserError: the dataset has boxes, but too few pictures show all parts.
    """
    subject, rng = request.subject, request.rng(8)
    faces = _faces(request, rng)
    images = np.asarray(subject.load(faces.numbers))
    boxes = {part: faces.parts[name][None] for part, name in PARTS.items()}
    randoms = {part: random_boxes(rng, box[0], faces.objects, DRAWS) for part, box in boxes.items()}

    names = {"layer 5": subject.model.feature_layers[-1], "layer 7": subject.model.last_hidden}
    fun = subject.model.activations(tuple(names.values()))
    # All draws together, so that many devices get something to do.
    draws = [*boxes.values(), *randoms.values()]
    every, cover, size = np.concatenate(draws), subject.display.cover, request.batch_size
    found = correspondence(fun, images, every, fill=cover, batch_size=size, mesh=data_mesh())
    results = {}
    for title, name in names.items():
        ends = np.cumsum([len(some) for some in draws])[:-1]
        apart = list(map(Correspondence, *(np.split(matrices, ends) for matrices in found[name])))
        results[title] = dict(zip(PARTS, map(Compared, apart[: len(PARTS)], apart[len(PARTS) :]), strict=True))
    hiding = boxes | {"random": randoms["nose"]}
    rows = {"original": images} | {part: hidden(images, draws[0], cover) for part, draws in hiding.items()}
    pictures = {row: np.clip(subject.display.pixels(some[:SHOWN]) / 255, 0, 1) for row, some in rows.items()}
    shown = {
        title: {part: both.part for part, both in found.items()} | {"random": _pooled(found)}
        for title, found in results.items()
    }
    yield Drawing(
        "fig8",
        plot_correspondence(pictures, shown),
        {"images": faces.numbers, "pictures": np.stack(list(pictures.values())), **_arrays(boxes, randoms, results)},
        ("table1", _table(results, len(images))),
    )


def _faces(request: Request, rng: np.random.Generator) -> PartBoxes:
    """Up to MOST faces of the val split that show all parts, drawn by `rng`."""
    subject = request.subject
    if subject.annotations is None:
        raise NotForThisRun(
            "fig8 needs boxes of parts, which the dataset shapes has and"
            f" {request.given.dataset or 'files without a dataset'} has not;"
            " the function in zfjax.experiments.correspondence takes your own"
        )
    # Only faces have these parts, also for a model that knows no faces.
    found = subject.part_boxes(np.arange(len(subject.pictures)), tuple(PARTS.values()))
    if len(found.numbers) < 3:
        raise UserError(f"fig8 needs three or more pictures of class {CLASS} with {', '.join(PARTS)}; found too few")
    drawn = np.sort(rng.permutation(len(found.numbers))[:MOST])
    return PartBoxes(
        found.numbers[drawn],
        found.objects[drawn],
        {name: boxes[drawn] for name, boxes in found.parts.items()},
    )


def _pooled(found: Mapping[str, Compared]) -> Correspondence:
    """Pool the random boxes of all sizes as draws of one."""
    matrices = zip(*(both.random for both in found.values()), strict=True)
    return Correspondence(*(np.concatenate(draws) for draws in matrices))


def _arrays(
    boxes: Mapping[str, Int[np.ndarray, "1 _ 4"]],
    randoms: Mapping[str, Int[np.ndarray, "draws _ 4"]],
    results: Mapping[str, Mapping[str, Compared]],
) -> dict[str, np.ndarray]:
    """Arrays named like boxes_left_eye, layer_5_left_eye_differing and layer_5_left_eye_random_differing."""
    named = {f"boxes {part}": box for part, box in boxes.items()}
    named |= {f"boxes {part} random": box for part, box in randoms.items()}
    for title, found in results.items():
        for part, both in found.items():
            named |= {f"{title} {part} {name}": matrix for name, matrix in both.part._asdict().items()}
            named |= {f"{title} {part} random {name}": matrix for name, matrix in both.random._asdict().items()}
    return {name.replace(" ", "_"): array for name, array in named.items()}


def _table(results: Mapping[str, Mapping[str, Compared]], images: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for title, found in results.items():
        for part, (one, random) in found.items():
            gap = difference(one, random)
            opposed = difference(one, random, lambda of: of.opposed)
            rows.append((title, part, *_cells(one), *_percent(*gap, *opposed), *PAPER[title][part]))
        rows.append((title, "random", *_cells(_pooled(found)), *(None,) * 4, *PAPER_RANDOM[title]))
    header = (
        *("layer", "hidden", "Δ", "std", "unchanged", "opposed"),
        *("Δ - random", "its error", "opposed - random", "its error (opposed)", "paper's Δ", "paper's std"),
    )
    note = (
        f"All in percent, over the pairs of {images} {CLASS}s. Δ: features whose change differs in sign (-1, 0, 1)"
        " between the two images; std over pairs. unchanged: features with sign 0. opposed: of the features that change"
        " in both images, those that change in opposite directions."
        f" random: {DRAWS} boxes of the part's size anywhere in the same objects; errors are the jackknife's over"
        " images. The paper has 5 dogs."
    )
    return Table("Correspondence of parts (Table 1)", header, rows, note)


def _cells(found: Correspondence) -> tuple[float, ...]:
    return _percent(found.mean, found.std, found.sparsity, found.opposed)


def _percent(*shares: float) -> tuple[float, ...]:
    return tuple(100 * share for share in shares)

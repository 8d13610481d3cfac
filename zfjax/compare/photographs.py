"""Maps of image files, with the net of any run, or any other model."""

import numpy as np

from zfjax.compare.asked import Asked, as_arrays, ask, chosen, maps_of
from zfjax.compare.request import Request
from zfjax.data.loose import some_pictures
from zfjax.experiments.lenses import LENSES
from zfjax.plots.comparison import plot_comparison
from zfjax.plots.files import save
from zfjax.runs.first import is_first
from zfjax.runs.subject import Chosen


def open_model(request: Request) -> tuple[Asked, Chosen]:
    """Open the model, and the files as images for it; a run needs no pictures of its own.

    Raises:
        UserError: no such checkpoint, lens or layer, a file that is not an image, or a folder without any.
    """
    lenses = chosen(request.only, LENSES)
    asked = ask(request.given.alone(), lenses, request)
    return asked, asked.subject.of_files(some_pictures(request.images, asked.subject.side))


def write(asked: Asked, images: Chosen) -> list[str]:
    """Write the picture, one row per file; return the names of what was written."""
    subject, count = asked.subject, len(images.images)
    maps = maps_of(asked, images.images, images.labels, min(count, asked.batch_size))
    pixels = subject.display.pixels(images.images)
    classes = [subject.classes[label] for label in images.labels]
    said = [f"(net: {label})" if guess else label for label, guess in zip(classes, images.guessed, strict=True)]
    names = [f"{name}\n{label}" for name, label in zip(images.names, said, strict=True)]
    figure = plot_comparison(pixels, None, {lens.title: of_lens for lens, of_lens in maps.items()}, names)
    arrays = {"names": np.array(images.names), "classes": np.array(classes), "pixels": pixels}
    if not is_first():
        return []
    return save(figure, asked.given.out / "images", arrays | as_arrays(maps))

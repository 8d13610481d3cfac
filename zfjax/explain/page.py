"""The page of one picture: opened, explained, written."""

import base64
import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jinja2
import numpy as np
from etils import epath
from jaxtyping import Float
from PIL import Image

from zfjax.console.errors import UserError
from zfjax.console.files import write_whole
from zfjax.console.paths import user_path
from zfjax.console.progress import Progress
from zfjax.console.text import as_file, readable
from zfjax.data.folder import FolderExamples
from zfjax.experiments.explanation import MEASURES, Explanation, best_of, explained, nearest_of
from zfjax.experiments.lenses import Options, highest_maps
from zfjax.explain import words
from zfjax.plots.explanation import Named, plot_explanation
from zfjax.plots.files import save_png
from zfjax.plots.overlay import overlay
from zfjax.runs.folder import open_own
from zfjax.runs.given import Given, OfModel, OfRun
from zfjax.runs.subject import Subject
from zfjax.training import memory
from zfjax.version import __version__


def write(given: Given, file: str, expected: str, count: int, batch_size: int) -> list[str]:
    """Explain a picture; return the names of the files that were written.

    Args:
        given: the run or model, and the folder to write in.
        file: the picture.
        expected: the name of a class, or nothing.
        count: how many training pictures to find, if the model has any.
        batch_size: pictures on a device at a time.

    Raises:
        UserError: no such picture, class, checkpoint or dataset, or the model gives no logits.
    """
    with Progress("opening the run"):
        subject = given.alone()
        if not subject.classes:
            raise UserError("explain needs a model that gives logits [N, classes]")
        memory.require_batches(subject.model, batch_size)
        label = subject.label_of(expected) if expected else None
        image = subject.of_files(file)
        train = given.splits(train=True).train if count and given.dataset else None
    layer = highest_maps(subject.model)
    options = Options(jax.random.key(0), batch_size, subject.display.cover)
    found = explained(subject.model, layer, image.images, label, options)
    if train is not None and len(train.pictures):
        with Progress("nearest training pictures", len(train.pictures)) as progress:
            top = nearest_of(train, subject.model.last_hidden, image.images, count, batch_size, progress)
        found = found._replace(nearest=top)
    shown = Named(subject.display.pixels(image.images)[0], image.names[0])
    neighbors = _neighbors(given, train, found)
    classes_near = [one["class"] for one in neighbors]
    said = words.lines(found, subject.classes, classes_near)
    digest = hashlib.sha256(user_path(file, "image").read_bytes()).hexdigest()
    values = _values(given, subject, layer, file, found, said, neighbors) | {"sha256": digest}
    pictures: Sequence[np.ndarray] = ()
    if train is not None and found.nearest is not None:
        pictures = [*train.display.pixels(train.load(np.asarray(found.nearest.images)))]
    titles = [f"{one['class']} {one['cosine']:.3f}" for one in neighbors]
    near = [Named(picture, title) for picture, title in zip(pictures, titles, strict=True)]
    name = _free(given.out, as_file(image.names[0]), digest)
    with Progress("drawing"):
        save_png(
            plot_explanation(found, shown, subject.classes, near, said, [words.sum_of(why) for why in found.why]),
            given.out / f"{name}.png",
        )
        html = _html(given, found, shown, subject.classes, near, values)
        write_whole(given.out / f"{name}.html", html.encode(errors="replace"))
        write_whole(given.out / f"{name}.json", json.dumps(values, allow_nan=False).encode())
    return [f"{name}.{ending}" for ending in ("html", "png", "json")]


def _free(folder: epath.Path, name: str, digest: str) -> str:
    """The name of a page: that of a picture, or NAME-2 and so on if the folder has pages of others with this name."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    files = ((one, folder / f"{one}.json") for one in names)
    return next(one for one, file in files if not file.exists() or _digest_in(file) == digest)


def _digest_in(file: epath.Path) -> str | None:
    """The digest of the picture that a page's numbers are of; None if the file is something else, or damaged."""
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return values.get("sha256") if isinstance(values, dict) else None


def _neighbors(given: Given, train: Subject | None, found: Explanation) -> list[dict[str, Any]]:
    """The nearest training pictures: class, name and cosine."""
    if train is None or found.nearest is None:
        return []
    if isinstance(given, OfRun):
        examples = open_own(given.run.config, given.run.folder).train
    else:
        assert isinstance(given, OfModel)  # a run has all its pictures from its own dataset
        examples = given.source().train
    near = []
    for number, cosine in zip(found.nearest.images.tolist(), found.nearest.values.tolist(), strict=True):
        kept, label = int(train.kept[number]), int(train.labels[number])
        name = examples.names[kept] if isinstance(examples, FolderExamples) else f"training picture {kept}"
        near.append({"class": train.classes[label] if label >= 0 else "unknown", "picture": name, "cosine": cosine})
    return near


def _values(
    given: Given,
    subject: Subject,
    layer: str,
    file: str,
    found: Explanation,
    said: Sequence[str],
    neighbors: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """All numbers of a page."""
    classes = subject.classes
    order = np.argsort(-found.probabilities, kind="stable")
    flip = found.flip and {
        "boxes": found.flip.boxes.tolist(),
        "becomes": classes[found.flip.becomes],
        "probability": found.flip.probability,
    }
    return {
        "zfjax": __version__,
        "net": given.title,
        "name": given.name,
        "step": subject.step,
        "picture": readable(file),
        "says": classes[found.said],
        "expected": None if found.expected is None else classes[found.expected],
        "probabilities": {classes[number]: float(found.probabilities[number]) for number in order},
        "words": list(said),
        "layer": layer,
        "measures": {
            why.lens.name: {name: _finite(value) for name, value in why.measures.items()} for why in found.why
        },
        "missed": {
            why.lens.name: {
                "whole": _finite(why.missed.whole),
                "error": _finite(why.missed.error),
                "share": _finite(why.missed.share),
            }
            for why in found.why
            if why.missed
        },
        "maps": {why.lens.name: _rounded(why.heat) for why in found.why},
        "contrasts": {why.lens.name: _rounded(why.contrast) for why in found.why if why.contrast is not None},
        "flip": flip,
        "nearest": list(neighbors),
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if np.isfinite(value) else None


def _rounded(heat: Float[np.ndarray, "height width"]) -> list[list[float]]:
    """A map with four digits."""
    return [[float(f"{value:.4g}") for value in row] for row in heat.tolist()]


def _html(
    given: Given,
    found: Explanation,
    shown: Named,
    classes: Sequence[str],
    near: Sequence[Named],
    values: dict[str, Any],
) -> str:
    """The page, with its pictures in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zfjax.explain"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    maps = [(why.lens.title, _address(255 * overlay(why.heat, shown.picture)), words.sum_of(why)) for why in found.why]
    contrasts = [
        (why.lens.title, _address(255 * overlay(why.contrast, shown.picture)))
        for why in found.why
        if why.contrast is not None
    ]
    best = {measure.name: best_of(found, measure.name) for measure in MEASURES}
    rows = [(why.lens.title, [why.measures[measure.name] for measure in MEASURES]) for why in found.why]
    shares = [
        (classes[number], float(found.probabilities[number]))
        for number in np.argsort(-found.probabilities, kind="stable")[:5]
    ]
    return environment.get_template("page.html").render(
        shown=shown,
        picture=_address(shown.picture),
        covered=None if found.flip is None else _address(_covered(shown.picture, found)),
        becomes=None if found.flip is None else classes[found.flip.becomes],
        said=classes[found.said],
        expected=None if found.expected is None else classes[found.expected],
        shares=shares,
        maps=maps,
        contrasts=contrasts,
        near=[(one.title, _address(one.picture)) for one in near],
        names=[one["picture"] for one in values["nearest"]],
        measures=MEASURES,
        rows=rows,
        best=[best[measure.name] for measure in MEASURES],
        words=values["words"],
        given=given,
        layer=values["layer"],
        version=__version__,
    )


def _covered(picture: Float[np.ndarray, "height width 3"], found: Explanation) -> Float[np.ndarray, "height width 3"]:
    """The picture with what changes the answer covered in gray."""
    hidden = np.array(picture)
    assert found.flip is not None
    for top, left, height, width in found.flip.boxes.tolist():
        hidden[top : top + height, left : left + width] = 128
    return hidden


def _address(picture: Float[np.ndarray, "height width 3"]) -> str:
    """A picture in 0..255 as an address that holds it."""
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8)).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

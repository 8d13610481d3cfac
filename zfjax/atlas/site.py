"""The pages of an atlas: templates filled with values from the views, and static files."""

import json
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from zfjax.atlas import views
from zfjax.atlas.collect import Layer, Survey
from zfjax.atlas.pictures import COLUMNS, Sheet
from zfjax.console.progress import Progress
from zfjax.experiments.dissection import FLOOR, SHARE

PICTURES = "pictures"
EXPLORE_AT = "http://127.0.0.1:7860/"  # where `zfjax explore` is, unless it is told otherwise
FEATURE_GAP = 8  # pixels between a picture that a map responds to and the same faded
_SHOWPIECES = 4  # maps of each layer on the first page
_FOUND_BY_CLASS = 2  # maps per layer shown when searching for a class


def write(folder: Path, survey: Survey, sheets: Sequence[Sheet]) -> int:
    """Write all pages, the search index and the static files; return the number of pages.

    Names of classes and images only appear as text in pages, never in file names: classes' files are numbered.

    Args:
        folder: an existing folder, which also holds the pictures.
        survey: what to show.
        sheets: the layout of each layer's pictures.
    """
    contrasts = [layer.responses.contrast for layer in survey.layers]
    favorites = [
        [views.excited(layer, label, contrast) for layer, contrast in zip(survey.layers, contrasts, strict=True)]
        for label in range(len(survey.classes))
    ]
    strips = [views.showpieces(contrast, _SHOWPIECES) for contrast in contrasts]
    # For each class, the map that prefers it most, from the highest layer that has one.
    faces = [next((found[0] for found in reversed(by_layer) if found), None) for by_layer in favorites]
    count = 1 + sum(1 + layer.maps for layer in survey.layers) + len(survey.classes)
    # Create only these, so that it is an error if the folder itself has vanished.
    count += sum(layer.concepts is not None for layer in survey.layers)
    for name in ("layer", "map", "class", "concepts", *(f"map/{layer.slug}" for layer in survey.layers)):
        (folder / name).mkdir()
    with Progress("pages", count, unit="page") as progress:
        pages = _Pages(folder, survey, sheets, progress)
        pages.write("index.html", "index.html", strips=strips, faces=faces)
        for i in range(len(survey.layers)):
            pages.write_layer(i)
        for label, by_layer in enumerate(favorites):
            pages.write("class.html", class_path(label), label=label, by_layer=by_layer)
    _write(folder / "labels.json", json.dumps(_labels(survey), indent=1) + "\n")
    _write(folder / "search.js", f"const ATLAS = {_script_json(_index(survey, favorites))};\n")
    _copy_static(folder / "static")
    return count


def layer_path(name: str) -> str:
    """The page of a layer."""
    return f"layer/{name}.html"


def map_path(name: str, number: int) -> str:
    """The page of a map."""
    return f"map/{name}/{number}.html"


def class_path(label: int) -> str:
    """The page of a class."""
    return f"class/{label}.html"


def picture_path(name: str, number: int) -> str:
    """The picture of a map."""
    return f"{PICTURES}/{name}/{number}.webp"


def thumbnail_path(name: str, number: int) -> str:
    """The thumbnail of a map, if there is one."""
    return f"{PICTURES}/{name}/{number}-small.webp"


def relevant_path(name: str, number: int) -> str:
    """The picture of the images in which a map matters most."""
    return f"{PICTURES}/{name}/{number}-relevant.webp"


def concept_path(name: str, number: int) -> str:
    """The picture of a concept."""
    return f"{PICTURES}/{name}/concept-{number}.webp"


def concepts_path(name: str) -> str:
    """The page of a layer's concepts."""
    return f"concepts/{name}.html"


def feature_path(name: str, number: int) -> str:
    """The picture that a map responds to."""
    return f"{PICTURES}/{name}/{number}-feature.webp"


class _Pages:
    """Renders pages into a folder."""

    def __init__(self, folder: Path, survey: Survey, sheets: Sequence[Sheet], progress: Progress):
        self._folder, self._survey, self._progress = folder, survey, progress
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("zfjax.atlas"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {"number": _number, "percent": _percent, "short": _short, "url": quote}
        self._environment.globals |= {
            "survey": survey,
            "facts": survey.facts,
            "classes": survey.classes,
            "sheets": dict(zip((layer.name for layer in survey.layers), sheets, strict=True)),
            "columns": COLUMNS,
            "explore_at": EXPLORE_AT,
            "maps_of_class": views.MAPS_OF_CLASS,
            "classes_of_map": views.CLASSES_OF_MAP,
            "layer_path": layer_path,
            "map_path": map_path,
            "class_path": class_path,
            "picture_path": picture_path,
            "thumbnail_path": thumbnail_path,
            "feature_path": feature_path,
            "feature_gap": FEATURE_GAP,
            "relevant_path": relevant_path,
            "concept_path": concept_path,
            "concepts_path": concepts_path,
            "floor": FLOOR,
            "share": SHARE,
            "favorites": lambda layer, number: _favorites(survey, layer, number),
        }

    def write(self, template: str, path: str, **values: Any) -> None:
        """Write one page; its links are relative, so that it opens from disk."""
        root = "../" * path.count("/")
        _write(self._folder / path, self._environment.get_template(template).render(root=root, path=path, **values))
        self._progress.advance(1)

    def write_layer(self, i: int) -> None:
        """Write the page of a layer and those of its maps."""
        layers = self._survey.layers
        layer, above = layers[i], layers[i + 1] if i + 1 < len(layers) else None
        around = {"below": layers[i - 1] if i else None, "above": above}
        self.write("layer.html", layer_path(layer.slug), layer=layer, **around)
        if layer.concepts is not None:
            shown = views.concepts(self._survey, layer.concepts)
            self.write("concepts.html", concepts_path(layer.slug), layer=layer, shown=shown)
        for number in range(layer.maps):
            self.write(
                "map.html",
                map_path(layer.slug, number),
                layer=layer,
                number=number,
                histogram=views.histogram(layer.responses, number),
                exciting=views.exciting(layer, number),
                strongest=views.winners(self._survey, layer.top, number),
                relevant=views.winners(self._survey, layer.relevant, number) if layer.relevant else [],
                detected=views.detected(layer, number),
                **around,
            )


def _favorites(survey: Survey, layer: Layer, number: int) -> list[tuple[str, int]]:
    """The classes of a map's strongest images with their counts, most frequent first."""
    labels = [winner.label for winner in views.winners(survey, layer.top, number)]
    counted = sorted(((labels.count(label), -label) for label in set(labels)), reverse=True)
    return [(survey.classes[-negative], count) for count, negative in counted]


def _labels(survey: Survey) -> dict[str, list[dict[str, Any]]]:
    """The labels of all maps that have one, by layer."""
    return {
        layer.name: [
            {"map": number, "kind": label.concept.kind, "name": label.concept.name, "iou": round(label.iou, 4)}
            for number in range(layer.maps)
            if (label := layer.label(number))
        ]
        for layer in survey.layers
    }


def _index(survey: Survey, favorites: Iterable[Sequence[Sequence[views.Excited]]]) -> dict[str, Any]:
    """The search index: names, and for each class [layer, map] of the maps it excites most, from the top down."""
    places = {layer.name: i for i, layer in enumerate(survey.layers)}
    excited = []
    for by_layer in favorites:
        excited.append(
            [[places[one.layer.name], one.map] for found in reversed(by_layer) for one in found[:_FOUND_BY_CLASS]]
        )
    return {
        "layers": [[layer.slug, layer.title, layer.maps] for layer in survey.layers],
        "classes": list(survey.classes),
        "excited": excited,
    }


def _script_json(value: Any) -> str:
    """JSON that is safe in scripts, even inline: ASCII, without characters special to HTML."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _number(value: float) -> str:
    """Format a number with three digits, or all digits before the point."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    size = abs(value)
    if 0 < size < 0.01:
        return f"{value:.2g}"
    return f"{value:,.{3 - min(len(str(int(size))), 3) if size >= 1 else 3}f}"


def _short(count: int) -> str:
    """Format a power of ten as 100, 10k, 1M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count // size}{unit}"
    return str(count)


def _percent(share: float) -> str:
    """Format a share in percent; never as 100 % unless it is 1, nor as 0 % unless it is 0."""
    if 0 < share < 1:
        share = min(max(share, 0.0001), 0.9999)
    return f"{100 * share:.{1 if 0.01 <= share <= 0.99 else 2}f}".rstrip("0").rstrip(".") + " %"


def _write(path: Path, text: str) -> None:
    # File names may contain bytes that are not Unicode; these become question marks.
    path.write_bytes(text.encode(errors="replace"))


def _copy_static(folder: Path) -> None:
    folder.mkdir()
    for file in (resources.files("zfjax.atlas") / "static").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())

"""Atlases for tests: one of made-up activations with many maps and nasty names, and what its pages link to."""

import functools
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from zfjax.atlas import site
from zfjax.atlas.collect import Facts, Layer, Survey
from zfjax.atlas.pictures import pictures
from zfjax.experiments.concepts import Concepts
from zfjax.experiments.dissection import Concept, Overlaps, labels_of
from zfjax.experiments.gallery import Gallery, Top
from zfjax.experiments.passes import Dissected
from zfjax.experiments.responses import Responses

# TFDS's class names may hold slashes, which folders' cannot.
CLASSES = (
    "<script>alert(1)</script>",
    "a&b \"c\" 'd'",
    "../x",
    "鳥 ünïcødé",
    "plain",
    "</title><img src=x onerror=alert(2)>",
)
DEAD = 1  # a map of the first layer
FEW = 2  # one that only four images excite
MANY = 400  # maps of the second layer


def survey(seed: int = 0, images: int = 40, maps: int = MANY) -> Survey:
    """Two layers, the second of `maps` maps, before `images` images; class 4 has none."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, 5], images)
    names = tuple(f'{CLASSES[label]}/"{i}" & <b>.png' for i, label in enumerate(labels))
    facts = Facts("<i>run</i>", "zfnet", 96, "a & b", images, 0.9675)
    layers = (_layer(rng, "relu1", 3, (7, 7), labels), _layer(rng, "relu4", maps, None, labels))
    return Survey(facts, layers, CLASSES, labels, names)


def _layer(rng, name, maps, field, labels):
    k = min(9, len(labels))
    values = -np.sort(-rng.uniform(1, 50, (maps, k)).astype(np.float32), axis=1)
    if name == "relu1":
        values[DEAD], values[FEW, 4:] = 0, 0
    numbers = np.stack([rng.permutation(len(labels))[:k] for _ in range(maps)])
    edges = values[:, :1] * np.linspace(0.125, 1, 8)[None]
    histogram = rng.integers(0, 10**5, (maps, 8)) * (values[:, :1] > 0)
    excitation = rng.uniform(0, 20, (maps, len(CLASSES))) * (values[:, :1] > 0)
    counts = np.bincount(labels, minlength=len(CLASSES))
    excitation[:, counts == 0] = 0
    zeros = np.full(maps, 10**7)
    fine = np.zeros((maps, 4), int)
    found = Responses(edges, histogram, zeros, np.zeros(maps, int), excitation, counts, fine)
    top = Top(values, numbers, np.zeros((maps, k, 2), int))
    known, relevant, concepts = None, None, None
    if name == "relu1":
        concepts = (Concept("part", "<b>eye</b>"), Concept("color", "red"))
        overlaps = Overlaps(np.array([[30, 9], [0, 0], [1, 2]]), np.array([99, 0, 99]), np.array([99, 99]))
        known = Dissected(overlaps, concepts, labels_of(overlaps, concepts))
        relevant = top._replace(values=values / 100, images=numbers[:, ::-1])
        falls = np.stack([0.1 * labels, np.zeros(len(labels)), -np.ones(len(labels))])
        concepts = Concepts(name, np.eye(3, dtype=np.float32), relevant, falls, labels, 0.7184)
    return Layer(name, f"layer {name[-1]} ({name})", field, top, found, known, relevant, concepts)


def gallery_of(layer: Layer, side: int, maps) -> Gallery:
    """Waves as projections and patches of `side` pixels, each another; smooth, so that WebP keeps them."""
    rng = np.random.default_rng(len(maps))
    shape = (len(maps), layer.top.values.shape[1], side, side, 3)
    fields = np.zeros((*shape[:2], 4), int) + np.array([0, 0, side, side])
    values = layer.top.values[list(maps)]
    return Gallery(np.array(maps), values, _waves(rng, shape), 128 + 90 * _waves(rng, shape), fields)


def _waves(rng, shape):
    """Pictures between -1 and 1, each a slope and one wave."""
    down, right = (np.linspace(0, 1, side) for side in shape[2:4])
    turn, *phase = rng.uniform(0, 2 * np.pi, (3, *shape[:2], 1, 1, 1))
    wave = np.sin(2 * down[:, None, None] + phase[0]) + np.cos(2 * right[None, :, None] + phase[1]) + np.sin(turn)
    return np.broadcast_to(wave / 3, shape)


def write(folder: Path) -> Path:
    """The site of `survey()`, the second layer with one picture for all its maps."""
    what, sheets = survey(), []
    for layer, side, drawn in zip(what.layers, (7, 120), (range(3), range(1)), strict=True):
        (folder / "pictures" / layer.name).mkdir(parents=True)
        for picture in pictures(gallery_of(layer, side, drawn)):
            sheet = picture.sheet  # that of all
            for number in [picture.map] if layer.maps == len(drawn) else range(layer.maps):
                (folder / site.picture_path(layer.name, number)).write_bytes(picture.full)
                (folder / site.relevant_path(layer.name, number)).write_bytes(picture.full)
                (folder / site.concept_path(layer.name, number)).write_bytes(picture.full)
                if picture.thumbnail:
                    (folder / site.thumbnail_path(layer.name, number)).write_bytes(picture.thumbnail)
        sheets.append(sheet)
    site.write(folder, what, sheets)
    return folder


class Page(HTMLParser):
    """Tags of a page, what it links to, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.tags, self.text = path, [], []
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag):
        """The attributes of all such tags."""
        return [attributes for name, attributes in self.tags if name == tag]

    @functools.cached_property
    def ids(self):
        """Of all tags."""
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    @property
    def targets(self):
        """Files and fragments that it links to or shows."""
        found = [attributes[key] for _, attributes in self.tags for key in ("href", "src") if key in attributes]
        for url in found:
            parts = urlsplit(url)
            if parts.scheme == "data" or url.startswith(site.EXPLORE_AT):
                continue
            assert parts.scheme + parts.netloc == "", f"{url} in {self.path} leaves the folder"
            yield (
                (self.path.parent / unquote(parts.path)).resolve() if parts.path else self.path.resolve(),
                parts.fragment,
            )

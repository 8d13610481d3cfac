"""Collect what an atlas shows of a deconvolutional network: of its maps, sizes of activations, whatever their sign."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float

from zfjax.atlas.collect import STRONGEST, Facts, Layer, Survey
from zfjax.console.errors import UserError
from zfjax.console.files import damaged
from zfjax.console.progress import Progress
from zfjax.console.text import listed
from zfjax.data.contrast import GrayPictures, gray_pictures
from zfjax.data.folder import FolderExamples
from zfjax.data.opening import open_source
from zfjax.data.outside import root_of
from zfjax.data.source import Source
from zfjax.data.spec import parse_spec
from zfjax.experiments.adn import kept, layerwise, looking
from zfjax.experiments.adn.inference import Codes
from zfjax.experiments.adn.layerwise import Learned
from zfjax.experiments.adn.looking import Coded, Strongest
from zfjax.experiments.adn.operators import unpooled
from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.gallery import Gallery, Top
from zfjax.experiments.responses import LabeledImages, responses

IMAGES = 200  # of the validation split, spread over it
_AT_ONCE = 16  # maps, and images
_CONTRAST = 45  # gray levels for a standard deviation


class Network(NamedTuple):
    """What `zfjax adn` learned, and pictures to look at it with."""

    name: str
    settings: Settings
    layers: list[Learned]
    source: Source
    pictures: GrayPictures
    root: epath.Path | None  # the folder of the pictures; None for other datasets


def opened(workdir: epath.Path, dataset: str = "") -> Network:
    """The network in a folder, with validation pictures.

    Args:
        workdir: of zfjax adn.
        dataset: where its pictures are now; by default where they were.

    Raises:
        UserError: no layer is finished, a file is damaged, or there are no pictures.
    """
    found = kept.read_settings(workdir)
    try:
        settings = Settings.from_json(found)
        name, data_dir = dataset or str(found["dataset"]), str(found["data_dir"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(workdir / kept.FILE, error) from error
    paths = [workdir / kept.layer_file(number) for number in range(1, len(settings.layers) + 1)]
    layers = [layerwise.read_layer(path) for path in paths if path.exists()]
    if not layers:
        raise UserError(f"workdir {workdir} holds no finished layer; expected one that zfjax adn has learned")
    source = open_source(name, data_dir=data_dir, seed=settings.seed)
    pictures = gray_pictures(source.name, source.val, settings.side, IMAGES)
    settings = settings._replace(layers=settings.layers[: len(layers)])
    return Network(workdir.name, settings, layers, source, pictures, root_of(name, data_dir))


def survey(network: Network, names: Sequence[str]) -> tuple[Coded, Survey]:
    """The maps of the pictures, and what they respond to.

    Args:
        network: the network.
        names: of its layers, such as layer1; empty for all.

    Raises:
        UserError: there is no such layer.
    """
    settings, pictures = network.settings, network.pictures
    known = [_name(number) for number in range(1, len(network.layers) + 1)]
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"no layer {unknown[0]!r} in {network.name}; expected {listed(known)}")
    with Progress("maps of images", len(pictures.images)) as progress:
        coded = looking.coded(settings, network.layers, pictures.images, progress)
    numbers = [number for number, name in enumerate(known, 1) if name in names or not names]
    with Progress("histograms and classes", len(numbers), unit="layer") as progress:
        layers = tuple(_layer(network, coded, number, progress) for number in numbers)
    maps = ", ".join(str(layer.kernel.shape[2]) for layer in network.layers)
    facts = Facts(
        network.name,
        f"an Adaptive Deconvolutional Network with {maps} maps",
        settings.side,
        parse_spec(network.source.name).title,
        len(pictures.images),
        None,
    )
    return coded, Survey(facts, layers, network.source.classes, pictures.labels, _titles(network))


def galleries(network: Network, coded: Coded, layer: Layer) -> Iterator[Gallery]:
    """Yield the patches and projections of a layer's maps in order, to look at, some maps at a time."""
    number, stack, images = _number(layer), network.settings.stack, network.pictures.images
    strongest = looking.strongest(stack, number, coded.codes[number - 1], layer.top.values.shape[1])
    for first in range(0, layer.maps, _AT_ONCE):
        found = Strongest(*(part[first : first + _AT_ONCE] for part in strongest))
        made = looking.alone(stack, network.layers, coded, number, found)
        projections, patches = looking.windows(stack, number, found, made, images)
        gray = np.clip(127.5 + _CONTRAST * patches, 0, 255)
        yield Gallery(
            np.arange(first, first + len(found.values)),
            np.abs(found.values),
            np.repeat(projections[..., None], 3, -1),
            np.repeat(gray[..., None], 3, -1),
            np.zeros((*found.values.shape, 4), int),
        )


def _name(number: int) -> str:
    return f"layer{number}"


def _number(layer: Layer) -> int:
    return int(layer.name.removeprefix("layer"))


def _layer(network: Network, coded: Coded, number: int, progress: Progress) -> Layer:
    stack, labels, codes = network.settings.stack, network.pictures.labels, coded.codes[number - 1]
    found = looking.strongest(stack, number, codes, min(STRONGEST, len(labels)))
    top = Top(np.abs(found.values), found.images, found.cells)

    def sizes() -> Iterator[LabeledImages]:
        for start in range(0, len(labels), _AT_ONCE):
            some = Codes(*(part[start : start + _AT_ONCE] for part in codes))
            yield LabeledImages(jnp.abs(unpooled(stack, number, *some)), labels[start : start + _AT_ONCE])

    answers = responses(_as_it_is, sizes(), top, len(network.source.classes))
    height, width = looking.field(stack, number, 0, 0)[2:]
    field = (height, width) if min(height, width) < network.settings.side else None
    progress.advance(1)
    return Layer(_name(number), f"layer {number}", field, top, answers)


def _as_it_is(maps: Float[Array, "n h w maps"]) -> Float[Array, "n h w maps"]:
    return maps


def _titles(network: Network) -> tuple[str, ...]:
    examples, numbers = network.source.val, network.pictures.numbers
    if isinstance(examples, FolderExamples):
        return tuple(examples.names[number] for number in numbers)
    return tuple(f"validation image {number}" for number in numbers)

"""The lenses and the model of a request, and the lenses' maps of some images."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zfjax.compare.request import Request
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import did_you_mean
from zfjax.experiments.comparison import filled
from zfjax.experiments.lenses import (
    BASELINES,
    LENSES,
    MORE,
    OTHERS,
    Case,
    Lens,
    Options,
    case_of,
    has_others,
    heat,
    highest_maps,
    maps_by,
)
from zfjax.runs.given import Given
from zfjax.runs.subject import Subject
from zfjax.training import memory


class Asked(NamedTuple):
    """An opened request, without the images."""

    given: Given
    subject: Subject
    lenses: Sequence[Lens]
    layer: str
    seed: int
    batch_size: int
    others: Float[np.ndarray, "m size size channels"] | None  # of the split, if a lens compares with other images

    @property
    def options(self) -> Options:
        """What lenses get besides a function, images and a target."""
        key, cover = jax.random.key(self.seed), self.subject.display.cover
        return Options(key, self.batch_size, cover, others=self.others)

    def case(self, images: Float[Array, "n size size channels"], labels: Int[np.ndarray, " n"], first: int = 0) -> Case:
        """Images in the form lenses take. Raises a UserError if the model has no such layer."""
        target = jnp.asarray(labels, jnp.int32)
        return case_of(self.subject.model, self.layer, images, target, self.options, first=first)


def ask(subject: Subject, lenses: Sequence[Lens], request: Request) -> Asked:
    """Open a request for a run's net, or another model.

    Raises:
        UserError: the model has no classes or no such layer, or none of the lenses uses one, or one compares with
            pictures of the split and there is none; reported before anything is computed.
    """
    if not subject.classes:
        raise UserError("lenses explain logits: expected a model that gives [N, classes]")
    if request.layer and not any(lens.at_cut for lens in lenses):
        raise UserError(
            f"--layer has no meaning with --only={','.join(request.only)}, none of which is a CAM: leave it out"
        )
    comparing = [lens.name for lens in lenses if has_others(lens)]
    if comparing and not len(subject.pictures):
        raise UserError(
            f"--only={','.join(comparing)}: expected pictures of a val split to compare with, which --images leaves out"
        )
    memory.require_batches(subject.model, request.batch_size)
    layer = subject.model.place(request.layer).name if request.layer else highest_maps(subject.model)
    others = np.asarray(subject.spread(OTHERS)) if comparing else None
    asked = Asked(request.given, subject, lenses, layer, request.seed, request.batch_size, others)
    asked.case(jnp.zeros((1, *subject.model.image_shape)), np.zeros(1, np.int32))
    return asked


def chosen(only: Sequence[str], usual: Sequence[Lens]) -> Sequence[Lens]:
    """The lenses with these names, `usual` if there are none, each that there is for the name `all`.

    Raises:
        UserError: an unknown name.
    """
    known = {lens.name: lens for lens in LENSES + MORE + BASELINES}
    if list(only) == ["all"]:
        return list(known.values())
    for name in only:
        if name not in known:
            hint = did_you_mean(name, list(known)) or ";"
            raise UserError(f"--only: no lens {name!r}{hint} there are {', '.join(known)}, or all")
    return [known[name] for name in dict.fromkeys(only)] or usual


def maps_of(
    asked: Asked, images: Float[Array, "n size size channels"], labels: Int[np.ndarray, " n"], rows: int
) -> dict[Lens, Float[np.ndarray, "n size size ..."]]:
    """Each lens's maps: pixel maps unchanged, region maps as one number per pixel.

    Runs batches of `rows` images, the last one padded, so that compiled code is reused.
    """
    found: dict[Lens, list[np.ndarray]] = {lens: [] for lens in asked.lenses}
    with Progress("pictures", len(asked.lenses) * len(images), unit="map") as progress:
        for first in range(0, len(images), rows):
            some = slice(first, first + rows)
            numbers = filled(len(images[some]), rows)
            case = asked.case(images[some][numbers], labels[some][numbers], first)
            for lens, maps in found.items():
                progress.advance(0, lens.title)
                given = maps_by(lens, case)
                maps.append((np.asarray(given) if given.ndim == 4 else heat(case, given))[: len(images[some])])
                progress.advance(len(images[some]), lens.title)
    return {lens: np.concatenate(maps) for lens, maps in found.items()}


def as_arrays(maps: Mapping[Lens, np.ndarray]) -> dict[str, np.ndarray]:
    """The maps by name, for an NPZ file."""
    named = {f"map_{lens.name}": array for lens, array in maps.items()}
    return named | {"lenses": np.array([lens.name for lens in maps])}

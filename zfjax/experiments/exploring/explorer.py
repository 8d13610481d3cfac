"""A model to look at pictures with: its compiled programs, and one forward pass of each picture."""

import concurrent.futures
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import brief, did_you_mean, first_line, shown_by_shape
from zfjax.data.decode import BrokenImage, decode_square
from zfjax.experiments import lenses
from zfjax.experiments.dissection import Label
from zfjax.experiments.exploring import looks, menus, painting
from zfjax.experiments.exploring.keeping import Cache
from zfjax.experiments.exploring.looks import Look
from zfjax.experiments.exploring.view import CELLS, View, over, packed, unpacked
from zfjax.experiments.gallery import Gallery, gallery, in_rgb
from zfjax.experiments.lenses import Lens
from zfjax.experiments.responses import Responses
from zfjax.experiments.tops import Top
from zfjax.models.places import Place
from zfjax.runs.subject import Subject
from zfjax.training.precision import matmul_precision
from zfjax.transform import functions

SHOWN = 5  # classes
UPLOADED = "u"  # begins the names of pictures that are not the split's
_UPLOADS = 128_000_000  # bytes of uploaded squares that are kept
_LOOKS = 128_000_000  # bytes of activations
_TAPES = 384_000_000  # bytes of ways down
_COMPILERS = 2  # programs compiled at the same time


class Known(NamedTuple):
    """What is known of a layer from the whole split, as the atlas shows it."""

    top: Top
    responses: Responses | None
    labels: Sequence[Label | None] = ()  # what each map detects, where the pictures tell


@shown_by_shape
class Lensed(NamedTuple):
    """What a lens says of a picture."""

    found: Float[np.ndarray, "..."]  # as the lens gives it: signed signals [H, W, C] or a map [h, w] of regions
    heat: Float[np.ndarray, "height width"]  # one number per pixel
    title: str


class Explorer:
    """A model with pictures, ready to be asked; thread-safe.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> model = zfjax.models.nets.NetModel(net, net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))),
    ...     preprocess=lambda squares: squares.astype(jnp.float32) - 128)
    >>> subject = zfjax.look(model, np.zeros((2, 64, 64, 3), np.uint8)).val
    >>> explorer = Explorer(subject)
    >>> view = explorer.settled(View(picture="1", place="relu2"))
    >>> explorer.projection(view).shape
    (64, 64, 3)
    """

    def __init__(self, subject: Subject, known: Mapping[str, Known] | None = None, precision: str = ""):
        """Nothing is computed yet.

        Args:
            subject: the model and a split of pictures; there may be none.
            known: the strongest activations and histograms of some places, by name.
            precision: of products of float32, as the run's `config.matmul_precision`.
        """
        self.subject, self.known, self._precision = subject, dict(known or {}), precision
        model = subject.model
        self.places: Mapping[str, Place] = {
            name: place for name, place in model.layers.items() if 1 <= len(place.shape) <= 3
        }
        names = list(dict.fromkeys((*self.places, *([model.result] if subject.classes else []))))
        self._order = sorted(names)
        self._fun = functions.live(model.activations(names))
        self._painting = painting.painting_of(model)
        self._squares = Cache[np.ndarray](_UPLOADS, lambda square: square.nbytes)
        self._looks = Cache[Look](_LOOKS, lambda look: look.bytes)
        self._tapes = Cache[Any](_TAPES, lambda tape: sum(leaf.nbytes for leaf in jax.tree.leaves(tape)))
        self._galleries = Cache[Gallery](64_000_000, lambda found: found.images.nbytes + found.projections.nbytes)
        self._lensed = Cache[Lensed](32_000_000, lambda found: found.found.nbytes + found.heat.nbytes)
        try:
            self.cam_layer = lenses.highest_maps(model)
        except UserError:
            self.cam_layer = ""
        self.lenses = {
            name: lens
            for name, lens in menus.ALL.items()
            if subject.classes and (self.cam_layer or not lens.at_cut) and (name not in menus.COMPARING or self._count)
        }

    @property
    def _count(self) -> int:
        return len(self.subject.pictures)

    def add(self, data: bytes, name: str = "picture") -> str:
        """Take a picture file; return what views call it.

        Raises:
            UserError: it is no picture, or takes too much memory.
        """
        try:
            square = decode_square(data, self.subject.side, name)
        except BrokenImage as error:
            raise UserError(f"cannot read the image {first_line(error)}") from error
        return self.add_square(square)

    def add_square(self, square: UInt8[np.ndarray, "side side 3"]) -> str:
        """Take an RGB picture of the side that the model's squares have; return what views call it."""
        key = UPLOADED + hashlib.sha256(square.tobytes()).hexdigest()[:24]
        self._squares.put(key, square)
        return key

    def square(self, picture: str) -> UInt8[np.ndarray, "side side 3"]:
        """A picture's RGB square. Raises a UserError if there is no such picture, or it is no longer kept."""
        if (found := self._require(picture)) is not None:
            return found
        squares, _ = self.subject.pictures.load(np.array([int(picture)]))
        return squares[0]

    def _require(self, picture: str) -> UInt8[np.ndarray, "side side 3"] | None:
        """Raise a UserError if there is no such picture; return its square if it is at hand."""
        if picture.startswith(UPLOADED):
            if (found := self._squares.get(picture)) is None:
                raise UserError("this picture is not here any more: drop it again, and the link shows the same")
            return found
        if not (picture.isdecimal() and picture == str(int(picture[:19])) and int(picture) < self._count):
            raise UserError(f"picture {brief(picture)}: expected a number below {self._count:,}, or one that you drop")
        return None

    def settled(self, view: View) -> View:
        """A view with everything chosen that it leaves open.

        Raises:
            UserError: there is no such picture, place, unit, pixel, class, set of rules or lens.
        """
        for picture in filter(None, (view.picture, view.beside)):
            self._require(picture)
        unpacked(view.painted)
        for kind, name, names in (("rules", view.rules, menus.RULES), ("lens", view.lens, self.lenses)):
            if name and name not in names:
                raise UserError(f"no {kind} {brief(name)}{did_you_mean(name, list(names))}")
        place = self.subject.model.place(view.place).name if view.place else self.first_place
        if place not in self.places:
            raise UserError(f"{place} has no maps to look at")
        if view.label is not None and not view.label < len(self.subject.classes):
            raise UserError(f"class {view.label}: the model has {len(self.subject.classes)}")
        maps = self.places[place].shape[-1]
        if view.unit is not None and not view.unit < maps:
            raise UserError(f"map {view.unit}: {place} has {maps}, 0 to {maps - 1}")
        if (view.row is None) != (view.column is None) or max(view.row or 0, view.column or 0) >= self.subject.size:
            raise UserError(f"row and column: expected a pixel of the {self.subject.size} px of the image")
        view = view._replace(place=place)
        if view.unit is None:
            view = view._replace(unit=int(self.ranked(view).units[0]))
        if view.label is None and self.subject.classes:
            view = view._replace(label=int(self.classes(view)[0][0]))
        return view

    @property
    def first_place(self) -> str:
        """The place that is shown first: the highest of those that figures show."""
        shown = [name for name in self.subject.model.feature_layers if name in self.places]
        return (shown or list(self.places))[-1]

    def image(self, view: View) -> Float[np.ndarray, "size size channels"]:
        """The picture as the model takes it, with what is painted."""
        image = np.asarray(self.subject.images_of(self.square(view.picture)[None])[0])
        if not view.painted:
            return image
        mask = over(unpacked(view.painted), image.shape[0])
        return np.where(mask[..., None], self.subject.display.cover.astype(image.dtype), image)

    def look(self, view: View, before: View | None = None) -> Look:
        """The picture through the model; computed once.

        Args:
            view: its picture, and what is painted over it.
            before: a view of the same picture painted otherwise; if its pass is kept, only what changed is computed.
        """
        key = view.picture, view.painted

        def make() -> Look:
            image = self.image(view)
            near = before and before.picture == view.picture and self._looks.get((before.picture, before.painted))
            with matmul_precision(self._precision):
                acts = None
                if near:
                    acts = painting.recomputed(self._painting, self.subject.model, near.acts, (near.image, image))
                if acts is None:
                    acts = looks.forward(self._fun, jnp.asarray(image)[None])
                return Look(image, {name: np.asarray(act) for name, act in acts.items()})

        return self._looks.or_made(key, make)

    def classes(self, view: View) -> list[tuple[int, float]]:
        """The five most probable classes, each with its probability; none if the model does not classify."""
        if not self.subject.classes:
            return []
        found = self.probabilities(view)
        return [(int(label), float(found[label])) for label in np.argsort(-found, kind="stable")[:SHOWN]]

    def probabilities(self, view: View) -> Float[np.ndarray, " classes"]:
        """The probability of each class; there must be some."""
        return looks.probabilities(self.look(view).acts[self.subject.model.result][0].reshape(-1))

    def rgb(self, view: View) -> Float[np.ndarray, "size size 3"]:
        """The picture as RGB in 0..255, with what is painted."""
        return self.subject.display.pixels(self.look(view).image[None])[0]

    def ranked(self, view: View) -> looks.Ranked:
        """The maps of the view's place, strongest first; where a pixel was clicked, by what looks there."""
        return looks.ranked(self.look(view).maps(view.place), self._cell_clicked(view))

    def cell(self, view: View) -> int:
        """The cell of the view's map that is sent down: the strongest, or the one that looks at the clicked pixel."""
        clicked = self._cell_clicked(view)
        if clicked is not None:
            return clicked
        return int(np.nan_to_num(self.look(view).maps(view.place)[..., view.unit], nan=-np.inf).argmax())

    def _cell_clicked(self, view: View) -> int | None:
        if view.row is None or view.column is None:
            return None
        return looks.cell_at(self.places[view.place], view.row, view.column)

    def fires(self, view: View) -> Float[np.ndarray, "height width"] | None:
        """Where a map fires over the image, each cell at its field's center; None where cells have no places."""
        place = self.places[view.place]
        if place.offset is None or place.stride is None or len(place.shape) != 3:
            return None
        cells = np.maximum(self.look(view).maps(view.place)[None, ..., view.unit], 0)
        size = self.subject.size
        return lenses.placed(cells, lenses.Grid(place.offset, place.stride), (size, size))[0]

    def projection(self, view: View) -> Float[np.ndarray, "size size channels"]:
        """The activation of the view's map at `cell`, sent down by its rules; signed, 0 where nothing arrived."""
        rules = menus.RULES[view.rules].rules
        with matmul_precision(self._precision):

            def make() -> Any:
                return looks.tape(self._fun, jnp.asarray(self.image(view))[None], rules=rules)

            acts, project = self._tapes.or_made((view.picture, view.painted, view.rules), make)
            numbers = (self._order.index(view.place), self.cell(view), view.unit)
            return np.asarray(looks.down(acts, project, *(jnp.int32(number) for number in numbers)), np.float32)[0]

    def strongest(self, view: View) -> Gallery | None:
        """The split's patches that excite a map most, with projections, as RGB; None if that is not known."""
        known = self.known.get(view.place)
        if known is None or known.top.images[view.unit].min() < 0:
            return None
        top = known.top

        def make() -> Gallery:
            fun, maps = self.subject.model.layer(view.place), np.array([view.unit])
            with matmul_precision(self._precision):
                found = gallery(fun, top, maps, self.subject.load, batch_size=top.values.shape[1])
            return in_rgb(found, self.subject.display)

        return self._galleries.or_made((view.place, view.unit), make)

    def lensed(self, view: View) -> Lensed:
        """What the view's lens says of its class."""

        def make() -> Lensed:
            with matmul_precision(self._precision):
                return self._lensed_now(view)

        return self._lensed.or_made((view.picture, view.painted, view.lens, view.label), make)

    def _lensed_now(self, view: View) -> Lensed:
        lens, model = self.lenses[view.lens], self.subject.model
        options = lenses.Options(jax.random.key(0), 16, self.subject.display.cover)
        if lenses.has_others(lens):
            options = options._replace(others=self.others())
        images, target = jnp.asarray(self.image(view))[None], jnp.array([view.label], jnp.int32)
        fun: Any = model.split(self.cam_layer) if lens.at_cut else model.function
        of = functools.partial(lens.of, **self._options_of(lens))
        given = lenses.given_to(lens._replace(of=of), options)
        found = np.asarray(given(fun, images, target), np.float32)
        size = images.shape[1], images.shape[2]
        if found.ndim == 4:
            heat = np.abs(found).max(axis=3)
        elif found.shape[1:] == size:
            heat = found
        else:
            place = self.places[self.cam_layer]
            assert place.offset is not None  # as `highest_maps` says
            assert place.stride is not None
            heat = lenses.placed(found, lenses.Grid(place.offset, place.stride), size)
        return Lensed(found[0], heat[0], lens.title)

    def _options_of(self, lens: Lens) -> dict[str, Any]:
        """What some lenses get besides what all do."""
        taken = inspect.signature(lens.of).parameters
        made: dict[str, Callable[[], Any]] = {
            "others": self.others,
            "reach": self.reach,
            "lower": lambda: self.subject.model.layer(self.lower),
        }
        return {name: make() for name, make in made.items() if name in taken}

    def others(self) -> Array:
        """Pictures of the split, spread evenly, that some lenses compare with."""
        return self.subject.spread(lenses.OTHERS)

    @property
    def lower(self) -> str:
        """The layer in which an accentuated picture stays close to what it was."""
        return self.subject.model.feature_layers[0]

    def reach(self) -> float:
        """How far pixels are from the middle of their range, as the model takes them."""
        black, mixing = self.subject.display
        return float(np.abs(black).max() if mixing is None else 127.5 * np.abs(mixing).sum(axis=0).max())

    def steps(self) -> list[tuple[str, Callable[[], object]]]:
        """What there is to compile, each with a name: all of it is asked once, about a picture of noise."""
        side = self.subject.side
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        view = View(self.add_square(noise))
        asked: list[tuple[str, Callable[[View], object], dict[str, Any]]] = [("classes", self.classes, {})]
        for part in self._painting.sides:
            cells = np.zeros((CELLS, CELLS), bool)
            across = max(1, part * CELLS // self.subject.size)
            cells[:across, :across] = True
            asked.append(("brush", functools.partial(self._painted, view, packed(cells)), {}))
        asked += [(choice.title, self.projection, {"rules": name}) for name, choice in menus.RULES.items()]
        asked += [(f"patches of {name}", self.strongest, {"place": name, "unit": 0}) for name in self.known]
        asked += [(lens.title, self.lensed, {"lens": name}) for name, lens in self.lenses.items()]

        def step(ask: Callable[[View], object], changes: dict[str, Any]) -> object:
            return ask(self.settled(view._replace(**changes)))

        return [(title, functools.partial(step, ask, changes)) for title, ask, changes in asked]

    def _painted(self, before: View, painted: str, _: View) -> Look:
        return self.look(before._replace(painted=painted), before)

    def prepare(self) -> None:
        """Compile everything, so that no click waits for it."""
        steps = self.steps()
        (_, first), *others = steps  # all others need the forward pass
        with (
            Progress("compiling", len(steps), unit="program") as progress,
            concurrent.futures.ThreadPoolExecutor(_COMPILERS) as pool,
        ):
            first()
            progress.advance(1)
            at_work = {pool.submit(step): title for title, step in others}
            try:
                for done in concurrent.futures.as_completed(at_work):
                    done.result()
                    progress.advance(1, at_work[done])
            finally:
                pool.shutdown(cancel_futures=True)

"""A model's function: traced, read, and cut at its places; the `func` of each Partial that a `Model` returns."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from zfjax.console.errors import UserError
from zfjax.models.places import Place
from zfjax.transform import functions, jaxprs
from zfjax.transform.places import cutting, endings, reading
from zfjax.transform.places import weights as named_weights
from zfjax.transform.places.cutting import Crossing
from zfjax.transform.places.reading import Spot

Images = Float[Array | np.ndarray, "n height width channels"]
RESULT = "<result>"  # no place has this name


class Program:
    """A function of (weights, images [N, H, W, C]), and what has been read of it."""

    def __init__(self, fun: Callable, layout: str, takes_weights: bool, *, gives_logits: bool = False):
        """`gives_logits`: the result, [N, classes] or [N, classes, 1, 1], becomes the logits [N, classes]."""
        self.fun = fun
        self._layout = layout
        self.takes_weights = takes_weights
        self._gives_logits = gives_logits
        self._read: dict[Any, dict[str, Spot]] = {}
        self.cut: dict[jax.ShapeDtypeStruct, None] = {}  # the images that were cut, as if each were alone

    def __call__(self, weights: PyTree, images: Images) -> PyTree:
        """The function's result."""
        _check_images(images)
        images = jnp.asarray(images)
        if self._gives_logits:
            closed, _ = Program(self.fun, self._layout, self.takes_weights).trace(weights, images)
            closed = endings.below_softmax(closed) or closed
            (logits,) = jaxprs.evaluate(closed.jaxpr, closed.consts, [*jax.tree.leaves(weights), images])
            return logits.reshape(len(images), -1)
        fun = functools.partial(self.fun, weights) if self.takes_weights else self.fun
        if self._layout[-3] == "C":
            images = images.transpose(0, 3, 1, 2)
        return fun(images) if self._layout[0] == "N" else jax.vmap(fun)(images)

    def of_logits(self) -> "Program":
        """The same function without the softmax in which it may end, and with a result [N, classes]."""
        return Program(self.fun, self._layout, self.takes_weights, gives_logits=True)

    def ends_in_softmax(self, weights: PyTree, images: Any) -> bool:
        """Whether the result is a softmax."""
        return endings.below_softmax(self.trace(weights, images)[0]) is not None

    def trace(self, weights: PyTree, images: Any) -> tuple[jex.ClosedJaxpr, Any]:
        """The jaxpr, whose last input is the images, and the structure of its result."""
        function = functions.live(self.fun)
        program = Program(function, self._layout, self.takes_weights, gives_logits=self._gives_logits)
        # A new function each time: JAX keeps its traces by identity.
        closed, out = jax.make_jaxpr(lambda *arguments: program(*arguments), return_shape=True)(weights, images)
        return closed, jax.tree.structure(out)

    def spots(self, weights: PyTree, images: Any, closed: jex.ClosedJaxpr | None = None) -> dict[str, Spot]:
        """The places, by name."""
        closed = closed or self.trace(weights, images)[0]
        key = tuple(images.shape), _signature(closed.jaxpr)
        if key not in self._read:
            names = named_weights.paths(weights)
            held = None if self.takes_weights else named_weights.Held(self.fun)
            self._read[key] = reading.read(closed, names, held, (0, 1, 2))
        return self._read[key]

    def names(self, closed: jex.ClosedJaxpr) -> list[str | None]:
        """Of the jaxpr's constants that are arrays which the function holds; None for others."""
        held = named_weights.Held(self.fun)
        return [held.name_of(const) if np.ndim(const) else None for const in closed.consts]


@dataclasses.dataclass(frozen=True)
class Opened:
    """A function that holds its weights, as one that takes them."""

    program: Program

    def __call__(self, leaves: Mapping[str, Array | np.ndarray], images: Images) -> PyTree:
        """The function's result with arrays of these paths."""
        closed, out = self.program.trace((), images)
        names = self.program.names(closed)
        consts = [const if name is None else leaves[name] for name, const in zip(names, closed.consts, strict=True)]
        return jax.tree.unflatten(out, jaxprs.evaluate(closed.jaxpr, consts, [images]))


@dataclasses.dataclass(frozen=True)
class Below:
    """The `func` of the Partial that `Model.layer` returns; functions that are given only that read `place` from it."""

    program: Program
    name: str
    place: Place

    def __call__(self, weights: PyTree, images: Images) -> Float[Array, "n ..."]:
        """The activations at the place."""
        return Activations(self.program, ((self.name, self.name),))(weights, images)[self.name]


@dataclasses.dataclass(frozen=True)
class Activations:
    """The `func` of the Partial that `Model.activations` returns."""

    program: Program
    names: tuple[tuple[str, str], ...]

    def __call__(self, weights: PyTree, images: Images) -> dict[str, Float[Array, "n ..."]]:
        """The activations by name."""
        closed, _ = self.program.trace(weights, images)
        below = [(name, full) for name, full in self.names if full != RESULT]
        spots = [_found(self.program.spots(weights, images, closed), full) for _, full in below]
        part = cutting.up_to(closed, [spot.site for spot in spots])
        values = jaxprs.evaluate(part.jaxpr, part.consts, [*jax.tree.leaves(weights), images])
        found = {name: spot.layout.forward(value) for (name, _), spot, value in zip(below, spots, values, strict=True)}
        if len(below) < len(self.names):  # XLA computes what both have in common once
            found[RESULT] = self.program(weights, images)
        return found


@dataclasses.dataclass(frozen=True)
class Features:
    """The `func` of the first Partial that `Model.split` returns."""

    program: Program
    name: str

    def __call__(self, weights: PyTree, images: Images) -> Float[Array, "n ..."] | Crossing:
        """The activations at the place, and what passes it by."""
        parts, spot, _ = _cut(self.program, self.name, weights, images)
        self.program.cut[alone(images)] = None
        at, *beside = jaxprs.evaluate(parts.below.jaxpr, parts.below.consts, [*jax.tree.leaves(weights), images])
        return Crossing(spot.layout.forward(at), tuple(beside)) if beside else spot.layout.forward(at)


@dataclasses.dataclass(frozen=True)
class Head:
    """The `func` of the second Partial that `Model.split` returns."""

    program: Program
    name: str
    example: jax.ShapeDtypeStruct

    def __call__(self, weights: PyTree, acts: Float[Array | np.ndarray, "n ..."] | Crossing) -> PyTree:
        """The model's result. Raises a ValueError if `acts` are not what the first function gives."""
        at, beside = acts if isinstance(acts, Crossing) else (jnp.asarray(acts), ())
        got = [(tuple(value.shape), value.dtype) for value in (at, *beside)]
        for one in dict.fromkeys((self.example, *reversed(self.program.cut))):
            images = jax.ShapeDtypeStruct((len(at), *one.shape[1:]), one.dtype)
            parts, spot, out = _cut(self.program, self.name, weights, images)
            first, *others = parts.below.out_avals
            if got == [(spot.shape, first.dtype), *((tuple(aval.shape), aval.dtype) for aval in others)]:
                values = [*jax.tree.leaves(weights), spot.layout.back(at), *beside]
                return jax.tree.unflatten(out, jaxprs.evaluate(parts.above.jaxpr, parts.above.consts, values))
        raise ValueError(f"acts: expected what the first function of split({self.name!r}) returns, got {got}")


def alone(images: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of the first of some images."""
    return jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)


def _cut(program: Program, name: str, weights: PyTree, images: Any) -> tuple[cutting.Cut, Spot, Any]:
    closed, out = program.trace(weights, images)
    spot = _found(program.spots(weights, images, closed), name)
    return cutting.cut(closed, spot.site, len(jax.tree.leaves(weights))), spot, out


def _found(spots: Mapping[str, Spot], name: str) -> Spot:
    if name not in spots:
        raise UserError(f"for images of this shape the model has no layer {name!r}")
    return spots[name]


def _signature(jaxpr: jex.Jaxpr) -> tuple:
    """What tells programs with other places apart."""
    return tuple(_kinds(jaxpr))


def _kinds(jaxpr: jex.Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name in jaxprs.CALLS:
            yield from _kinds(jaxprs.body(equation).jaxpr)


def _check_images(images: Any) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images: expected floating-point numbers as the model takes them, got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"images: expected [N, H, W, C], got {list(images.shape)}")

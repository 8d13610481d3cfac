"""A model: a function of images with named places, whoever wrote it."""

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, PyTree, UInt8

from zfjax.console.errors import UserError
from zfjax.models import landmarks
from zfjax.models.places import Place, place_of, to_text
from zfjax.models.program import RESULT, Activations, Below, Features, Head, Images, Opened, Program, alone
from zfjax.ops.arguments import described
from zfjax.transform.places import weights as named_weights
from zfjax.transform.places.names import find

Squares = UInt8[Array | np.ndarray, "n height width 3"]
Axes = Literal["NHWC", "NCHW", "HWC", "CHW"]


class Model:
    """A function of images with named places.

    The places are read from the function's jaxpr, so it may come from Flax (Linen or NNX), Equinox, Haiku, ONNX or
    plain `jnp`. `print(model)` shows them. Places are named by the library's scopes, where it leaves any, else by the
    weights that they read, such as `block1/conv2`; what has no weights is named after the layer below, such as
    `block1/conv2/relu`; without any names, places are counted by kind: conv1, relu1, conv2.

    A function whose weights change gives the new answer at the next call.

    Attributes:
        classes: the names of its outputs, or None.

    >>> def fun(weights, images):
    ...     maps = jax.lax.conv(images.transpose(0, 3, 1, 2), weights["conv"]["kernel"], (2, 2), "SAME")
    ...     return jax.nn.relu(maps).mean((2, 3)) @ weights["head"]["kernel"]
    >>> weights = {"conv": {"kernel": jnp.ones((8, 3, 5, 5))}, "head": {"kernel": jnp.ones((8, 10))}}
    >>> model = zfjax.Model(fun, (1, 32, 32, 3), weights=weights)
    >>> list(model.layers)
    ['conv', 'conv/relu', 'conv/mean', 'head']
    >>> model.layers["conv/relu"].receptive_field
    (5, 5)
    >>> model.layer("relu")(jnp.ones((2, 32, 32, 3))).shape
    (2, 16, 16, 8)
    """

    def __init__(
        self,
        fun: Callable,
        images: Any,
        *,
        weights: PyTree | None = None,
        classes: Sequence[str] | None = None,
        preprocess: Callable[[Squares], Images] | None = None,
        layout: Axes = "NHWC",
    ):
        """Trace a function once.

        Args:
            fun: from images to logits [N, classes], or to anything; `fun(weights, images)` where weights are given.
            images: an example of what it takes, or the shape of one.
            weights: a pytree, so that compiled programs take the weights as arguments.
            classes: names of the outputs.
            preprocess: makes images, float [N, H, W, C], of RGB uint8 [N, H, W, 3].
            layout: of what the function takes; one image, without an axis for the batch, for "HWC" and "CHW".

        Raises:
            TypeError: fun cannot be called.
            ValueError: the example has another layout.
        """
        if not callable(fun):
            raise TypeError(f"fun: expected a function of images, got {described(fun)}")
        example = images if hasattr(images, "shape") else jax.ShapeDtypeStruct(tuple(images), jnp.float32)
        self._program = Program(fun, layout, weights is not None)
        self._weights = () if weights is None else weights
        self._example = _channels_last_shape(example, layout)
        self.classes = None if classes is None else tuple(classes)
        self._preprocess = preprocess

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the example."""
        height, width, channels = self._example.shape[1:]
        return height, width, channels

    @functools.cached_property
    def layers(self) -> Mapping[str, Place]:
        """The places by name, bottom first, with what they see and cost for images like the example."""
        spots = self._program.spots(self._weights, self._example)
        return MappingProxyType({name: place_of(name, spot, self._example.shape[0]) for name, spot in spots.items()})

    @property
    def parameters(self) -> int:
        """How many numbers all layers hold; what several of them read counts once."""
        spots = self._program.spots(self._weights, self._example).values()
        return sum({path: size for spot in spots for path, size in spot.leaves.items()}.values())

    def place(self, name: str) -> Place:
        """A place by name, by the end of its name, or by a pattern. Raises a UserError as `layer` does."""
        return self.layers[find(name, self.layers)]

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """The places that figures show where none are named: the paper's layers 1 to 5, or what is like them."""
        return landmarks.feature_layers(self.layers.values())

    @property
    def last_hidden(self) -> str:
        """The place from which the result is read: the paper's layer 7; in a ResNet the means of the last maps."""
        return landmarks.last_hidden(tuple(self.layers.values()))

    @property
    def numbered_layers(self) -> tuple[str, ...]:
        """What linear classifiers are trained on as layers 1, 2, …: `feature_layers`, then `last_hidden`."""
        return tuple(dict.fromkeys((*self.feature_layers, self.last_hidden)))

    @property
    def result(self) -> str:
        """The name under which `activations` gives the function's result."""
        return RESULT

    @property
    def function(self) -> Partial:
        """The function of images, as a pytree with the weights as leaves, for programs that take it as an argument."""
        return Partial(self._program, self._weights)

    @property
    def output(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The shapes of the function's result for the example."""
        closed, out = self._program.trace(self._weights, self._example)
        return jax.tree.unflatten(out, [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.out_avals])

    @property
    def logits(self) -> "Model":
        """The same model with logits [N, classes]: without the softmax in which it ends, as many ONNX files do.

        They are these also where it gives [N, classes, 1, 1], as a SqueezeNet does. A model with any other result is
        returned as it is.
        """
        shape = getattr(self.output, "shape", ())
        if len(shape) < 2 or max(shape[1:]) < math.prod(shape[1:]):
            return self
        if len(shape) == 2 and not self._program.ends_in_softmax(self._weights, self._example):
            return self
        model = copy.copy(self)
        for read in ("layers", "_opened"):  # of the program that it had
            model.__dict__.pop(read, None)
        model._program = self._program.of_logits()
        return model

    @property
    def preprocess(self) -> Callable[[Squares], Images]:
        """The function that makes images, as the model takes them, of RGB uint8 pictures [N, H, W, 3].

        Raises:
            UserError: the model does not know how.
        """
        if self._preprocess is None:
            raise UserError(
                "this model does not know what to make of a picture: Model(…, preprocess=) takes a function of RGB"
                " uint8 [N, H, W, 3], or zfjax.weights.Preprocessing(mean, std)"
            )
        return self._preprocess

    def __call__(self, images: Images) -> PyTree:
        """The function's result for images [N, H, W, C] in its own units."""
        return self._program(self._weights, images)

    def layer(self, name: str) -> Partial:
        """The function from images to the activations at a place, channels last; nothing above is computed.

        Args:
            name: of the place; the end of its name is enough if no other ends so; or a pattern, such as `*/Conv_3`.

        Returns:
            A function of images [N, H, W, C], for any N, and any H and W that the model's function takes. It is a
            pytree with the weights as leaves.

        Raises:
            UserError: no place or several have this name.
        """
        full = find(name, self.layers)
        return Partial(Below(self._program, full, self.layers[full]), self._weights)

    def activations(self, names: Sequence[str]) -> Partial:
        """The function from images to the activations at several places, a dict by the names as given.

        One of the names may be `model.result`, for what the whole function gives.
        """
        full = {name: RESULT if name == RESULT else find(name, self.layers) for name in names}
        return Partial(Activations(self._program, tuple(full.items())), self._weights)

    def split(self, name: str) -> tuple[Partial, Partial]:
        """Cut the model at a place.

        Returns:
            features: from images to the activations at the place, channels last. Where a skip connection passes the
                place by, a `Crossing` that holds these as `at` and the others as `beside`.
            head: from what `features` gives to the model's result.

        Raises:
            UserError: no place or several have this name.
        """
        full = find(name, self.layers)
        return (
            Partial(Features(self._program, full), self._weights),
            Partial(Head(self._program, full, alone(self._example)), self._weights),
        )

    @property
    def leaves(self) -> Mapping[str, Array | np.ndarray]:
        """The arrays of weights by path, such as block1/conv2/kernel; also those that the function holds itself."""
        if self._program.takes_weights:
            return dict(zip(named_weights.paths(self._weights), jax.tree.leaves(self._weights), strict=True))
        closed, _ = self._program.trace((), self._example)
        named = zip(self._program.names(closed), closed.consts, strict=True)
        return {name: const if isinstance(const, jax.Array) else np.asarray(const) for name, const in named if name}

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        """The paths of the arrays that each layer reads, by the name of its place; blocks have none of their own."""
        spots = self._program.spots(self._weights, self._example)
        return {name: tuple(spot.leaves) for name, spot in spots.items() if spot.kind != "block"}

    def replaced(self, leaves: Mapping[str, Array | np.ndarray]) -> "Model":
        """The same model with other weights.

        Args:
            leaves: the new arrays by path, as in `leaves`; the others stay.

        Raises:
            ValueError: the model has no such array.
        """
        if not self._program.takes_weights:
            return self._opened._with(self.leaves).replaced(leaves)
        paths = named_weights.paths(self._weights)
        if unknown := leaves.keys() - {*paths}:
            raise ValueError(f"leaves: expected some of the model's weights, got {sorted(unknown)[0]!r}")
        old, tree = jax.tree.flatten(self._weights)
        new = [leaves.get(path, leaf) for path, leaf in zip(paths, old, strict=True)]
        return self._with(jax.tree.unflatten(tree, new))

    def on(self, device: jax.Device) -> "Model":
        """The same model with its weights on a device, except those that the function holds itself."""
        return self._with(jax.device_put(self._weights, device))

    def _with(self, weights: PyTree) -> "Model":
        self.layers  # noqa: B018  (read once for all copies)
        model = copy.copy(self)
        model._weights = weights
        return model

    @functools.cached_property
    def _opened(self) -> "Model":
        """A model whose function holds its weights, as one whose function takes them by path."""
        return Model(
            Opened(self._program),
            self._example,
            weights=self.leaves,
            classes=self.classes,
            preprocess=self._preprocess,
        )

    def __str__(self) -> str:
        """The table of places."""
        return to_text(self.layers.values(), self.parameters)


def _channels_last_shape(example: Any, layout: str) -> jax.ShapeDtypeStruct:
    """The shape [N, H, W, C] of an example in a layout."""
    shape = tuple(example.shape)
    if len(shape) != len(layout):
        raise ValueError(f"images: expected an example in the layout {layout}, got one of shape {list(shape)}")
    if layout[0] != "N":
        shape = (1, *shape)
    shape = (shape[0], *shape[2:], shape[1]) if layout[-3] == "C" else shape
    if shape[3] > 4 >= min(shape[1:3]):
        other = layout.replace("HWC", "CHW") if layout.endswith("HWC") else layout.replace("CHW", "HWC")
        raise ValueError(
            f"images: expected an example in the layout {layout}, got one of shape {list(example.shape)};"
            f' say layout="{other}" if that is what the function takes'
        )
    return jax.ShapeDtypeStruct(shape, example.dtype)

"""A net cut at a layer: the part below as a function of images, the part above as a function of the layer."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import BatchNorm, Conv, Dense, Dropout, MaxPool, Size, Sliding, Spec, flat
from zfjax.transform.functions import Fixed


def layer(net: ConvNet, variables: PyTree, name: str) -> Partial:
    """The function from images to one layer's activations; nothing above that layer is computed.

    Args:
        net: a ConvNet, such as `zfjax.zfnet(1000)`.
        variables: its variables, `{"params": …}`, and `"batch_stats"` where it has batch norm.
        name: of the layer: conv1 relu1 pool1 norm1 … fc8, or stage1 … stage4 of a ResNet.

    Returns:
        A function of images: float [N, H, W, 3] with the mean already subtracted. Below the first dense layer, H and
        W may differ from the net's own. It is a pytree with the variables as leaves, so jitted functions can take it as
        an argument: `jax.jit(zfjax.deconvnet)(fun, images)`.

        It raises a ValueError for images in another layout, and a TypeError for integers.

    Raises:
        UserError: the net has no such layer; the closest name is suggested.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    >>> zfjax.layer(net, net.init(jax.random.key(1), images), "relu5")(images).shape
    (1, 3, 3, 32)
    """
    cut = _cut(net, [name])
    return Partial(Layer(cut, name), _used(cut, variables))


def layers(net: ConvNet, variables: PyTree, names: Sequence[str]) -> Partial:
    """The function from images to several layers' activations, a dict by name.

    Arguments, result and errors are those of `layer`.
    """
    cut = _cut(net, names)
    return Partial(Layers(cut, tuple(names)), _used(cut, variables))


def split(net: ConvNet, variables: PyTree, name: str) -> tuple[Partial, Partial]:
    """Split a net at one layer: a function from images to its activations, and one from these to the logits.

    Arguments and errors are those of `layer`.

    Returns:
        features: `layer(net, variables, name)`.
        head: from activations [N, H, W, C] or [N, C] to logits [N, classes], float32, before softmax.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    >>> features, head = zfjax.split(net, net.init(jax.random.key(1), images), "relu5")
    >>> head(features(images)).shape
    (1, 10)
    """
    features = layer(net, variables, name)
    above = net.clone(layers=net.layers[len(_cut(net, [name]).layers) :])
    return features, Partial(Head(above), _used(above, variables))


@dataclasses.dataclass(frozen=True)
class Head(Fixed):
    """The `func` of the Partial that `split` returns second; `net` is the part above the layer."""

    net: ConvNet

    def __call__(self, variables: PyTree, acts: Float[Array | np.ndarray, "n ..."]) -> Float[Array, "n *output"]:
        """The logits. Raises a ValueError if `acts` are not those of the layer."""
        try:
            return self.net.apply(variables, acts)[0]
        except ScopeParamShapeError as error:
            raise ValueError(
                f"acts: expected what zfjax.split's first function returns, got {list(acts.shape)}"
            ) from error


@dataclasses.dataclass(frozen=True)
class Layers(Fixed):
    """The `func` of the Partial that `layers` returns; `net` ends at the highest of `names`.

    It compares equal for equal nets and names, so that jitted functions recognize it.
    """

    net: ConvNet
    names: tuple[str, ...]

    def __call__(
        self, variables: PyTree, images: Float[Array | np.ndarray, "n height width channels"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """The activations by name."""
        _check_images(self.net, variables, images)
        try:
            _, acts = self.net.apply(variables, images)
        except ScopeParamShapeError as error:
            size = self.net.image_size
            raise ValueError(
                f"images: the net's dense layers are made for one size, expected [N, {size}, {size}, C],"
                f" got {list(images.shape)}"
            ) from error
        return {name: acts[name] for name in self.names}


@dataclasses.dataclass(frozen=True)
class Layer(Fixed):
    """The `func` of the Partial that `layer` returns; `net` ends at `name`.

    Functions that are given only `zfjax.layer(…)` read the geometry from it.
    """

    net: ConvNet
    name: str

    def __call__(
        self, variables: PyTree, images: Float[Array | np.ndarray, "n height width channels"]
    ) -> Float[Array, "n ..."]:
        """The activations."""
        return Layers(self.net, (self.name,))(variables, images)[self.name]


def pools_above(fun: Callable, acts: PyTree) -> list[Sliding | None]:
    """For each of a function's outputs, the max-pool that it computes of it, unless its windows leave out cells.

    Known of functions from `layers` alone.
    """
    if not (isinstance(fun, Partial) and isinstance(fun.func, Layers)):
        return [None] * len(jax.tree.leaves(acts))
    names = [spec.name for spec in fun.func.net.layers]
    above = [fun.func.net.layers[names.index(name) + 1 :][:1] for name in sorted(acts)]
    return [_whole_pool(acts[name].shape, *specs) for name, specs in zip(sorted(acts), above, strict=True)]


def _whole_pool(shape: tuple[int, ...], pool: Spec | None = None) -> Sliding | None:
    if not isinstance(pool, MaxPool):
        return None
    size = Size(*shape[1:])
    sliding = pool.sliding(size)
    counts = sliding.positions(pool.name, size)
    reached = (
        (count - 1) * stride + window - before >= side and stride <= window
        for count, stride, window, (before, _), side in zip(
            counts, sliding.strides, sliding.window, sliding.padding, size[:2], strict=True
        )
    )
    return sliding if all(reached) else None


def _cut(net: ConvNet, names: Sequence[str]) -> ConvNet:
    """The net up to the highest of `names`."""
    known = [spec.name for spec in net.layers if not isinstance(spec, Dropout)]
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known) or ";"
            raise UserError(f"no layer {name!r} in the net{hint} there are {', '.join(known)}")
    top = max(i for i, spec in enumerate(net.layers, start=1) if spec.name in names)
    return net.clone(layers=net.layers[:top])


def _used(cut: ConvNet, variables: PyTree) -> PyTree:
    """The variables of the remaining layers."""
    if not isinstance(variables, Mapping):
        raise TypeError(f"variables: expected {{'params': …}} of this net, got {type(variables).__name__}")
    used = {}
    for collection, kinds, what in (
        ("params", Conv | Dense | BatchNorm, "weights"),
        ("batch_stats", BatchNorm, "running averages"),
    ):
        names = [spec.name for spec in flat(cut.layers) if isinstance(spec, kinds)]
        there = variables.get(collection, {})
        missing = [name for name in names if name not in there]
        if missing:
            raise UserError(
                f"variables: expected {{'{collection}': …}} of this net; no {what} of {', '.join(missing)} in it"
            )
        if names:
            used[collection] = {name: there[name] for name in names}
    return used or {"params": {}}


def _check_images(net: ConvNet, variables: PyTree, images: Array | np.ndarray) -> None:
    first = net.layers[0]
    channels = variables["params"][first.name]["kernel"].shape[2] * first.groups if isinstance(first, Conv) else None
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images: expected floating-point numbers, the mean already subtracted, got {images.dtype}")
    if images.ndim != 4 or channels not in (None, images.shape[3]):
        hint = " (this looks like [N, C, H, W])" if images.ndim == 4 and images.shape[1] == channels else ""
        raise ValueError(f"images: expected [N, H, W, {channels or 'C'}], got {list(images.shape)}{hint}")

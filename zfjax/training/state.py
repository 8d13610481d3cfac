"""The training state, and how it is initialized."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.data.crops import fixed_crop, random_crop
from zfjax.models import ConvNet, preset
from zfjax.models.edits import resized, without
from zfjax.models.specs import Conv, Dropout, flat
from zfjax.ops import renormalize_filters

Crop = Callable[[Key[Array, ""], Float[Array, "n side side 3"], int], Float[Array, "n size size 3"]]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step", "params", "stats", "opt_state", "plateau", "key", "mean"),
    meta_fields=("net", "optimizer", "rate", "crop"),
)
@dataclasses.dataclass(frozen=True)
class State:
    """A training run between two steps.

    Step, weights, running averages and optimizer state are checkpointed; key and mean never change.
    """

    # `Any`: arrays on devices or the host, and what JAX puts in their places while it transforms functions of a state.
    step: Int[Any, ""]  # updates done
    params: PyTree[Float[Any, "..."]]
    stats: PyTree[Float[Any, " _"]]  # batch norm's running averages by layer; empty if the net has none
    opt_state: optax.OptState
    plateau: optax.OptState  # state of the annealing; `scale` multiplies the learning rate
    key: Key[Any, ""]  # every random draw of step s comes from fold_in(key, s)
    mean: Float[Any, "side side 3"]  # per-pixel mean of the training squares, 0..255
    net: ConvNet
    optimizer: optax.GradientTransformationExtraArgs
    rate: optax.Schedule  # learning rate at each step, before annealing
    crop: Crop

    @property
    def variables(self) -> PyTree:
        """What `net.apply` takes."""
        return variables_of(self.params, self.stats)


def variables_of(params: PyTree, stats: PyTree) -> PyTree:
    """A net's variables: weights, and running averages if there are any."""
    return {"params": params} | ({"batch_stats": stats} if stats else {})


def create_net(config: ConfigDict, num_classes: int) -> ConvNet:
    """Build the net that `config` describes, with its edits, distribution of initial weights and dtype.

    Raises:
        UserError: the net or dtype is unknown, a layer to leave out is missing, or a window does not fit the image.
    """
    if config.dtype not in ("float32", "bfloat16"):
        raise UserError(f"unknown dtype {config.dtype!r}; expected float32 or bfloat16")
    net = preset(config.net, num_classes, width=config.width, image_size=config.image_size)
    net = without(resized(net, _sizes(config)), config.without)
    kernel_init = nn.initializers.normal(config.init_std) if config.init_std else he_above_pixels
    if not any(isinstance(layer, Conv) for layer in flat(net.layers)):
        raise UserError(f"without={tuple(config.without)} leaves no convolution; expected a net with one or more")
    layers = tuple(
        dataclasses.replace(layer, rate=config.dropout) if isinstance(layer, Dropout) else layer for layer in net.layers
    )
    return net.clone(layers=layers, kernel_init=kernel_init, dtype=jnp.dtype(config.dtype))


def _sizes(config: ConfigDict) -> dict[str, int]:
    """The maps and units that `config` sets, scaled by width like those of the presets."""
    sizes = dict(zip(("conv3", "conv4", "conv5"), config.maps3to5, strict=False))  # there may be none
    if config.fc_units:
        sizes |= {"fc6": config.fc_units, "fc7": config.fc_units}
    return {name: max(1, round(count * config.width)) for name, count in sizes.items()}


def he_above_pixels(key: Key[Array, ""], shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> Float[Array, "..."]:
    """He's normal by fan-in, except for filters on RGB: a Gaussian of std 0.001.

    He's rule preserves the variance of its input, and pixels are some 60 gray levels from their mean. Starting this
    small, the filters end as what was learned, without the grain of the initial draw that projections would show.
    """
    on_pixels = len(shape) == 4 and shape[2] == 3
    init = nn.initializers.normal(0.001) if on_pixels else nn.initializers.he_normal()
    return init(key, shape, dtype)


def learning_rate(config: ConfigDict, steps_per_epoch: float) -> optax.Schedule:
    """The rate at each step before annealing: warm-up, then constant or a cosine to 0."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    steps = round(config.epochs * steps_per_epoch)
    if config.cosine:
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else config.lr, config.lr, warmup, steps)
    if warmup:
        return optax.linear_schedule(0.0, config.lr, warmup)
    return optax.constant_schedule(config.lr)


def create_optimizer(config: ConfigDict, rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Weight decay, SGD with momentum or Adam, then the filters' renormalization (paper, Section 3.1).

    In SGD the rate multiplies the gradient on its way into the momentum, as in Krizhevsky et al. (2012), Section 5.
    """
    annealed = optax.chain(optax.scale_by_learning_rate(rate), _scale_by_anneal())
    rule = (optax.scale_by_adam(), annealed) if config.adam else (annealed, optax.trace(decay=config.momentum))
    # Before Adam's scaling: what the gradient does not sustain decays, and with it the grain of the initial draw.
    decay = [optax.add_decayed_weights(config.weight_decay, _kernels)] if config.weight_decay else []
    renormalize = [renormalize_filters(config.filter_radius)] if config.filter_radius else []
    return optax.chain(*decay, *rule, *renormalize)


def _kernels(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _scale_by_anneal() -> optax.GradientTransformationExtraArgs:
    """Multiply by the `anneal` argument of `update`."""

    def update(updates: PyTree, state: optax.OptState, params: PyTree = None, *, anneal: Array, **_: object):
        return jax.tree.map(lambda leaf: leaf * anneal, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def annealing(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    """The paper's annealing: divide the rate when the validation error stops falling."""
    return optax.contrib.reduce_on_plateau(factor=config.plateau_factor, patience=config.plateau_patience)


def create_state(
    config: ConfigDict,
    num_classes: int,
    mean: Float[np.ndarray, "side side 3"],
    steps_per_epoch: float,
    variables: PyTree | None = None,
) -> State:
    """The state before the first step, with the given `variables` or ones drawn from `config.seed`."""
    net = create_net(config, num_classes)
    rate = learning_rate(config, steps_per_epoch)
    optimizer = create_optimizer(config, rate)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    if variables is None:
        images = jnp.zeros((1, config.image_size, config.image_size, 3))
        variables = jax.jit(net.init)(init_key, images)
    params = variables["params"]
    # In one program: optax would have one for each shape of zeros.
    opt_state, plateau = jax.jit(lambda params: (optimizer.init(params), annealing(config).init(params)))(params)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=variables.get("batch_stats", {}),
        opt_state=opt_state,
        plateau=plateau,
        key=key,
        mean=jnp.asarray(mean),
        net=net,
        optimizer=optimizer,
        rate=rate,
        crop=random_crop if config.random_crop else fixed_crop,
    )


def anneal(config: ConfigDict, state: State, error: float) -> State:
    """Update the annealing with the validation error of the finished epoch."""
    if not config.plateau_patience:
        return state
    with jax.numpy_dtype_promotion("standard"):  # optax mixes int32 and float32 there
        _, plateau = annealing(config).update({}, state.plateau, value=error)
    return dataclasses.replace(state, plateau=plateau)

"""Filter renormalization: no convolution filter may have an RMS above a fixed radius."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from zfjax.ops.precision import widened


def renormalize_kernel(
    kernel: Float[Array, "kh kw c_in c_out"], radius: float = 0.1
) -> Float[Array, "kh kw c_in c_out"]:
    """Rescale each filter whose RMS exceeds the radius to exactly that radius; leave the others untouched.

    Args:
        kernel: [kh, kw, c_in / groups, c_out]; a filter is `kernel[..., i]`.
        radius: the largest allowed RMS, √mean(w²) over kh·kw·c_in; in the kernel's own unit.

    Returns:
        A kernel of the same shape.

    Paper: section 3 ("we renormalize each filter in the convolutional layers whose RMS value exceeds a fixed
    radius of 10⁻¹ to this fixed radius").
    """
    # The maximum keeps an all-zero filter from dividing by zero; radius / radius is exactly 1.
    return kernel * (radius / jnp.maximum(_rms(kernel), radius)).astype(kernel.dtype)


def renormalize_filters(radius: float = 0.1) -> optax.GradientTransformation:
    """Renormalize every convolution filter after the update. Put it last in `optax.chain`.

    Convolution kernels are the 4-D leaves named `kernel`; dense kernels, biases and the rest pass unchanged.

    Args:
        radius: the largest allowed RMS of a filter, see `renormalize_kernel`.

    Returns:
        A stateless transformation whose `update` needs `params`.

    Raises:
        ValueError: the radius is not positive, or `update` was called without `params`.

    Paper: section 3.

    >>> tx = optax.chain(optax.sgd(1e-2, momentum=0.9), renormalize_filters(0.1))
    >>> params = {"conv1": {"kernel": jnp.ones((7, 7, 3, 96))}}
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> print(optax.apply_updates(params, updates)["conv1"]["kernel"].max().round(6))
    0.1
    """
    if radius <= 0:
        raise ValueError(f"renormalize_filters: radius must be positive, got {radius}")

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        if params is None:
            raise ValueError("renormalize_filters: needs update(updates, state, params), got no params")

        def leaf(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
            if not _is_conv_kernel(path, update):
                return update
            new = param + update
            # The update itself where nothing is to be done: (param + update) - param would round it.
            return jnp.where(_rms(new) > radius, renormalize_kernel(new, radius) - param, update)

        return jax.tree_util.tree_map_with_path(leaf, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _rms(kernel: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(widened(kernel)), axis=(0, 1, 2), keepdims=True))


def _is_conv_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
    name = getattr(path[-1], "key", getattr(path[-1], "name", None)) if path else None
    return name == "kernel" and leaf.ndim == 4

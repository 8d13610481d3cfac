"""What it costs in precision that devices sum their gradients in bfloat16.

    python benchmarks/sums.py

With `dtype=bfloat16`, the gradients of chips are bfloat16 when they are summed, so half the bytes go between chips.
This trains the default net for some steps, splits one more batch over as many shards as there are chips, and prints how
far the sum of their gradients is from the sum of the same in float32, if it is rounded after each chip: a chip may
round less. For comparison, what bfloat16 changes inside of a chip anyway, and how much the gradient of another batch
differs. All are norms of differences relative to the norm of the gradient, over all weights.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from zfjax.data import shapes
from zfjax.models.edits import pooled_early
from zfjax.training import config
from zfjax.training.state import create_net
from zfjax.training.step import cross_entropy

CHIPS = (4, 8, 64, 256)
Gradient = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # of weights, images and labels


def pictures(count: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Drawn pictures less gray, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(shapes.CLASSES), count)
    drawn = np.stack([np.asarray(shapes.scene(rng, int(label)).image)[:size, :size] for label in labels])
    return jnp.asarray(drawn, jnp.float32) - 128, jnp.asarray(labels, jnp.int32)


def start(dtype: str) -> tuple[jax.Array, Gradient]:
    """The default net's initial weights as one vector, and the gradient of its loss in some dtype."""
    recipe = config.default()
    recipe.dtype = dtype
    net = pooled_early(create_net(recipe, len(shapes.CLASSES)))
    params = net.init(jax.random.key(0), jnp.zeros((1, net.image_size, net.image_size, 3)))["params"]
    weights, unravel = ravel_pytree(params)

    @jax.jit
    @jax.grad
    def gradient(weights: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, _ = net.apply({"params": unravel(weights)}, images)
        return cross_entropy(logits, labels).mean()

    return weights, gradient


def trained(weights: jax.Array, gradient: Gradient, images: jax.Array, labels: jax.Array, steps: int) -> jax.Array:
    """The weights after some steps of Adam on batches of 64."""
    adam = optax.adam(1e-3)
    state = adam.init(weights)
    for step in range(steps):
        batch = (64 * step + np.arange(64)) % len(images)
        updates, state = adam.update(gradient(weights, images[batch], labels[batch]), state)
        weights = optax.apply_updates(weights, updates)
    return weights


def summed(parts: list[jax.Array], dtype: str) -> jax.Array:
    """The mean of some vectors, rounded to a dtype after each."""
    total = jnp.zeros_like(parts[0], dtype)
    for part in parts:
        total = total + part.astype(dtype)
    return total.astype(jnp.float32) / len(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="of training before the gradients are taken")
    parser.add_argument("--images", type=int, default=512, help="in a batch")
    args = parser.parse_args()

    images, labels = pictures(2 * args.images, 96)
    (weights, exact), (_, rounded) = start("float32"), start("bfloat16")
    weights = trained(weights, exact, images, labels, args.steps)
    one, other = slice(0, args.images), slice(args.images, None)
    gradient = exact(weights, images[one], labels[one])

    def show(what: str, found: jax.Array, expected: jax.Array) -> None:
        share = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
        print(f"{what:<52}{float(share):>9.2%}", flush=True)

    for chips in (count for count in CHIPS if count <= args.images):
        rows = np.split(np.arange(args.images), chips)
        parts = [rounded(weights, images[some], labels[some]) for some in rows]
        show(f"sum over {chips} chips in bfloat16, not float32", summed(parts, "bfloat16"), summed(parts, "float32"))
    show("net in bfloat16, summed in float32, not net in float32", summed(parts, "float32"), gradient)
    show("another batch", exact(weights, images[other], labels[other]), gradient)


if __name__ == "__main__":
    main()

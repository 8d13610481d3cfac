"""Adaptive Deconvolutional Networks: seconds to infer an image's maps in four layers, and to learn from it.

    python benchmarks/adn.py --repeats 5

Images of 150 px, as the paper has them, with filters drawn at random: time depends on sizes alone. `infer` is ten
iterations with pooling; `learn` is one such visit of a batch with one update of the filters, as `zfjax adn` makes them.
The paper's seconds are of six cores and MATLAB.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax

from zfjax.console.text import align
from zfjax.experiments.adn import inference, learning
from zfjax.experiments.adn.inference import Method
from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.adn.stack import PAPER, Stack

PAPERS = (0.12, 0.21, 0.38, 0.56)


def least(fun: Callable[[], Any], repeats: int) -> float:
    """Seconds, the least of some repeats after one to compile."""
    jax.block_until_ready(fun())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(fun())
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    """Print one row for each layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=10, help="images at once, for learning")
    parser.add_argument("--size", type=int, default=150)
    args = parser.parse_args()
    stack, usual = Stack((args.size, args.size), PAPER), Settings()
    images = jax.random.normal(jax.random.key(0), (args.batch, args.size, args.size, 1))
    filters, switches, total = [], [], 0.0
    bound, one = inference.Bounds(100.0, 100.0), images[:1]
    rows = [("layer", "infer one (s)", "the paper's", "learn, each image (s)")]
    for number in range(1, 5):
        drawn = jax.random.normal(jax.random.key(number), stack.kernel(number))
        filters.append(learning.unit_length(drawn)[0])
        known, below = (stack.of(number), tuple(filters)), tuple(at[:1] for at in switches)
        start = inference.no_codes(stack, number, one)
        alone = least(
            lambda known=known, below=below, start=start: inference.infer(
                *known, below, 5.0, bound, one, start, Method(10)
            ),
            args.repeats,
        )
        codes = inference.no_codes(stack, number, images)

        def visit(known: tuple = known, codes: inference.Codes = codes) -> jax.Array:
            found = inference.infer(*known, tuple(switches), 5.0, bound, images, codes, usual.learning)
            batch = learning.Coded(images, tuple(switches), found)
            return learning.improve(*known, [batch], usual.conjugate_gradients)

        rows.append((str(number), f"{alone:.3f}", f"{PAPERS[number - 1]:.2f}", f"{least(visit, 2) / args.batch:.3f}"))
        total += alone
        switches.append(inference.infer(*known, tuple(switches), 5.0, bound, images, codes, Method(1)).switches)
    rows.append(("all", f"{total:.3f}", f"{sum(PAPERS):.2f}", ""))
    print(align(rows))


if __name__ == "__main__":
    main()

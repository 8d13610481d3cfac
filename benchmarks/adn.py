"""Adaptive Deconvolutional Networks: seconds to infer an image's maps in four layers, and to learn from it.

    python benchmarks/adn.py --repeats 5

Images of 150 px, as the paper has them, with filters drawn at random: time depends on sizes alone. `infer` is ten
iterations with pooling; `learn` is one such visit of a batch with one update of the filters, as `zfjax adn` makes them.
The paper's seconds are of six cores and MATLAB.

    python benchmarks/adn.py --sporco --repeats 9

does what both know instead: one layer of 15 filters of 7×7 without a pool, λ = 2, on one image, by iterations of
FISTA. The two take turns, and the ratio is that of their medians. SPORCO's image wraps around, so its cost is a little
lower.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.console.text import align
from zfjax.experiments.adn import inference, learning
from zfjax.experiments.adn.inference import Method
from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.adn.stack import PAPER, Stack

PAPERS = (0.12, 0.21, 0.38, 0.56)
WEIGHT = 2.0  # λ, beside SPORCO


def least(fun: Callable[[], Any], repeats: int) -> float:
    """Seconds, the least of some repeats after one to compile."""
    jax.block_until_ready(fun())
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(fun())
        times.append(time.perf_counter() - begin)
    return min(times)


def beside_sporco(size: int, repeats: int) -> list[tuple[str, ...]]:
    """Rows: seconds and costs of one layer's FISTA here and in SPORCO."""
    try:
        from sporco.pgm import cbpdn
    except ImportError:
        sys.exit("SPORCO is not installed; install it with: pip install sporco")
    stack, image = (
        Stack((size, size), (PAPER[0]._replace(pool=None),)),
        np.random.default_rng(0).normal(size=(size,) * 2),
    )
    filters, _ = learning.unit_length(jax.random.normal(jax.random.key(0), stack.kernel(1)))
    known, images = (stack, (filters,), ()), jnp.asarray(image[None, :, :, None], jnp.float32)
    bound = 1.05 * float(inference.largest_eigenvalue(*known, images)[0])
    flipped = np.asarray(filters)[::-1, ::-1, :, 0]  # ours are correlated
    rows = [("iterations", "zfjax (s)", "SPORCO (s)", "ratio", "our cost", "SPORCO's")]
    for iterations in (50, 100):

        def ours(iterations: int = iterations) -> float:
            start = inference.no_codes(stack, 1, images)
            method = Method(0, iterations, momentum=True)
            codes = inference.infer(*known, WEIGHT, inference.Bounds(bound, bound), images, start, method)
            return float(inference.costs(*known, WEIGHT, images, codes)[0][0])

        def theirs(iterations: int = iterations) -> float:
            told = {"MaxMainIter": iterations, "RelStopTol": 0.0, "L": bound, "Verbose": False}
            solver = cbpdn.ConvBPDN(flipped, image, 1 / WEIGHT, cbpdn.ConvBPDN.Options(told))
            maps = solver.solve()
            error = np.square(solver.reconstruct().squeeze() - image).sum()
            return float(WEIGHT / 2 * error + np.abs(maps).sum())

        costs, seconds = [fun() for fun in (ours, theirs)], ([], [])
        for _ in range(repeats):
            for times, fun in zip(seconds, (ours, theirs), strict=True):
                begin = time.perf_counter()
                fun()
                times.append(time.perf_counter() - begin)
        one, other = map(statistics.median, seconds)
        figures = (f"{one:.2f}", f"{other:.2f}", f"{other / one:.1f}", *(f"{cost:,.0f}" for cost in costs))
        rows.append((str(iterations), *figures))
    return rows


def main() -> None:
    """Print one row for each layer, or for each number of iterations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=10, help="images at once, for learning")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--sporco", action="store_true", help="one layer beside SPORCO instead")
    args = parser.parse_args()
    if args.sporco:
        print(align(beside_sporco(args.size, args.repeats)))
        return
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
            batch = learning.Inferred(images, tuple(switches), found)
            return learning.improve(*known, [batch], usual.conjugate_gradients)

        rows.append((str(number), f"{alone:.3f}", f"{PAPERS[number - 1]:.2f}", f"{least(visit, 2) / args.batch:.3f}"))
        total += alone
        switches.append(inference.infer(*known, tuple(switches), 5.0, bound, images, codes, Method(1)).switches)
    rows.append(("all", f"{total:.3f}", f"{sum(PAPERS):.2f}", ""))
    print(align(rows))


if __name__ == "__main__":
    main()

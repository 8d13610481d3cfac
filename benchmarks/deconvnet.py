"""Projections per second of Fig. 3's net, 224 px: zfjax and a plain PyTorch deconvnet on the same weights.

    python benchmarks/deconvnet.py --repeats 9

For 1, 16 and 64 units of one image, at relu5 and at relu2: one forward pass that keeps the switches, then all units
down to pixels, as whole images. PyTorch runs the reference of tests/goldens/make_deconvnet_goldens.py, with its seeds
as one batch, in its faster memory layout; it is left out if not installed. Then the variants of pooling and unpooling
that zfjax chooses from, and the time to compile `jit(deconvnet)` of the full net. The contenders take turns, so that a
busy machine slows all of them.
"""

import argparse
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zfjax
from zfjax.models.table import layer_table
from zfjax.ops import unpooling
from zfjax.ops.windows import Windows

Action = Callable[[], Any]
UNITS = (1, 16, 64)
LAYERS = ("relu5", "relu2")


def our_projections(fun: Callable, images: jax.Array, count: int) -> Action:
    """One jitted program: forward once, then `count` units down."""

    @jax.jit
    def run(fun: Callable, images: jax.Array) -> jax.Array:
        y, project = zfjax.deconvnet(fun, images)
        seeds = jnp.stack([zfjax.strongest(y, unit) for unit in range(count)])
        return jax.vmap(project)(seeds)

    return lambda: jax.block_until_ready(run(fun, images))


def torch_projections(images: np.ndarray, layer: str, count: int, channels_last: bool) -> Action:
    """The PyTorch reference, with the seeds of all units as one batch."""
    import torch
    from goldens import make_deconvnet_goldens as reference

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = torch_net(layer).to(torch_device(), memory_format=layout)

    def run() -> Any:
        steps = reference.ascend(net, images)
        output = steps[layer][0]
        signal = torch.cat([reference.strongest(output, unit) for unit in range(count)])
        return torch_way_down(net, steps, signal.contiguous(memory_format=layout))

    return run


def torch_way_down(net: Any, steps: dict[str, Any], signal: Any) -> Any:
    """Signals at the top of a net down to pixels; where `ascend` took one image up, all of them use its switches."""
    import torch
    from goldens import make_deconvnet_goldens as reference

    count = len(signal)
    with torch.inference_mode():
        for name in reversed(steps):
            _, shape, switches = steps[name]
            wide = switches if switches is None else switches.expand(count, -1, -1, -1)
            signal = reference.step_down(getattr(net, name), signal, (count, *shape[1:]), wide)
    return torch_finished(signal)


def torch_device() -> str:
    """PyTorch's GPU if there is one, with TF32 in matrix products as in convolutions: JAX's default too."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")
    return "cuda"


def torch_finished(result: Any) -> Any:
    """A tensor, when it is computed."""
    if result.is_cuda:
        import torch

        torch.cuda.synchronize()
    return result


def torch_net(layer: str) -> Any:
    """Fig. 3's features up to `layer`, with random weights."""
    from collections import OrderedDict

    from torch import nn

    c = (96, 256, 384, 384, 256)
    modules: dict[str, Any] = {
        "conv1": nn.Conv2d(3, c[0], 7, 2, 1),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm1": nn.LocalResponseNorm(5, k=2.0),
        "conv2": nn.Conv2d(c[0], c[1], 5, 2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm2": nn.LocalResponseNorm(5, k=2.0),
    }
    for i in (3, 4, 5):
        modules |= {f"conv{i}": nn.Conv2d(c[i - 2], c[i - 1], 3, 1, 1), f"relu{i}": nn.ReLU()}
    names = list(modules)
    return nn.Sequential(OrderedDict((name, modules[name]) for name in names[: names.index(layer) + 1]))


def pool_forms(batch: int) -> dict[str, Action]:
    """Pool 1 of Fig. 3: switches, and the way back down, each with and without reduce_window."""
    window, strides, padding = (3, 3), (2, 2), ((0, 1), (0, 1))
    x = jax.random.normal(jax.random.key(0), (batch, 110, 110, 96))
    geometry = {"window": window, "strides": strides, "padding": padding}
    windows = Windows.over_maps(window, strides, padding)
    pooled, switches = zfjax.ops.max_pool_with_switches(x, **geometry)

    def by_scatter(x: jax.Array, signal: jax.Array) -> jax.Array:
        edges = ((0, 0), *padding, (0, 0))

        def pool(x: jax.Array) -> jax.Array:
            return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)

        return jax.vjp(pool, x)[1](signal)[0]

    forms = {
        "switches by slices": (functools.partial(unpooling.by_slices, windows=windows), (x,)),
        "switches by reduce_window": (functools.partial(unpooling.by_reduce_window, windows=windows), (x,)),
        "unpool by switches": (
            lambda signal, switches: zfjax.ops.max_unpool(signal, switches, **geometry, input_shape=x.shape),
            (pooled, switches),
        ),
        "unpool by select_and_scatter": (by_scatter, (x, pooled)),
    }
    return {name: _waiting(jax.jit(form), values) for name, (form, values) in forms.items()}


def _waiting(run: Callable, values: tuple[jax.Array, ...]) -> Action:
    return lambda: jax.block_until_ready(run(*values))


def medians(actions: dict[str, Action], repeats: int) -> dict[str, float]:
    """Median milliseconds of each action over its repeats, run in turns; the first turn compiles."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(kept) for name, kept in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each; the median is shown")
    parser.add_argument("--batch", type=int, default=16, help="images in the table of pooling forms")
    parser.add_argument("--layers", nargs="+", default=LAYERS, help="layers to project from")
    parser.add_argument("--units", type=int, nargs="+", default=UNITS, help="units for one forward pass")
    args = parser.parse_args()
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

    net = zfjax.zfnet(1000)
    images = jnp.asarray(np.random.default_rng(0).normal(0, 60, (1, 224, 224, 3)), jnp.float32)
    variables = jax.jit(net.init)(jax.random.key(0), images)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; {len(layer_table(net))} layers, 224 px, one image")

    start = time.perf_counter()
    jax.jit(zfjax.deconvnet).lower(zfjax.layer(net, variables, "fc8"), images).compile()
    print(f"jit(deconvnet) of the whole net: traced and compiled in {time.perf_counter() - start:.1f} s")

    print(f"\n{'layer':<8}{'units':>6}{'zfjax ms':>12}{'PyTorch ms':>12}{'zfjax /s':>12}{'PyTorch /s':>12}{'ratio':>8}")
    for layer in args.layers:
        for count in args.units:
            actions = {"zfjax": our_projections(zfjax.layer(net, variables, layer), images, count)}
            try:
                actions |= {
                    f"PyTorch {last}": torch_projections(np.asarray(images), layer, count, last)
                    for last in (False, True)
                }
            except ImportError:
                print("PyTorch is not installed: left out")
            ours, *theirs = medians(actions, args.repeats).values()
            best = min(theirs, default=float("nan"))
            rates = (
                f"{ours:>12.1f}{best:>12.1f}{count / ours * 1e3:>12.1f}{count / best * 1e3:>12.1f}{best / ours:>8.2f}"
            )
            print(f"{layer:<8}{count:>6}{rates}", flush=True)

    print(f"\npool 1, {args.batch} images")
    for name, ms in medians(pool_forms(args.batch), args.repeats).items():
        print(f"{name:<30}{ms:>8.1f} ms")


if __name__ == "__main__":
    main()

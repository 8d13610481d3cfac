"""What Fig. 2's gallery costs: Fig. 3's net, 224 px, full width.

    python benchmarks/gallery.py --repeats 9

First the pass that finds the nine strongest images of every map of all five layers, compared with a plain forward pass
over the same batches. Then projections per second of strongest activations, each from a different image: on receptive
fields as `gallery` does it, on whole images, and by the PyTorch reference of tests/goldens/make_deconvnet_goldens.py,
which projects whole images, in its fastest batch size and memory layout; it is left out if PyTorch is not
installed. Images are already in memory. The contenders take turns, so that a busy machine slows all of them.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import deconvnet
import jax
import jax.numpy as jnp
import numpy as np
from deconvnet import Action, medians

import zfjax
from zfjax.experiments.gallery import top_activations
from zfjax.models.cut import layers
from zfjax.models.fields import fields_of, project_fields, project_units

LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")


def passes(net: zfjax.ConvNet, variables: Any, batches: list[jax.Array]) -> dict[str, Action]:
    """All batches up to the highest layer, and the same with the strongest activations of all layers kept."""
    top, all_layers = zfjax.layer(net, variables, LAYERS[-1]), layers(net, variables, LAYERS)
    forward = jax.jit(lambda fun, images: fun(images))
    return {
        "forward alone": lambda: [jax.block_until_ready(forward(top, batch)) for batch in batches],
        "with top-9 of five layers": lambda: jax.block_until_ready(top_activations(all_layers, batches)),
    }


def projections(fun: Callable, images: jax.Array, project: Callable) -> Action:
    """The precomputed strongest activation of map 0 in each image."""
    acts = jax.jit(lambda fun, images: fun(images)[..., 0])(fun, images)
    positions = jnp.stack(jnp.unravel_index(acts.reshape(len(acts), -1).argmax(axis=1), acts.shape[1:]), axis=1)
    units = jnp.zeros(len(images), jnp.int32)
    return lambda: jax.block_until_ready(project(fun, images, units, positions))


def torch_projections(images: np.ndarray, layer: str, batch: int, channels_last: bool) -> Action:
    """The same in PyTorch: forward with switches, then one unit per image back down."""
    import torch
    from goldens import make_deconvnet_goldens as reference

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = deconvnet.torch_net(layer).to(deconvnet.torch_device(), memory_format=layout)

    def run() -> None:
        for first in range(0, len(images), batch):
            steps = reference.ascend(net, images[first : first + batch])
            deconvnet.torch_way_down(net, steps, reference.strongest(steps[layer][0], 0))

    return run


def fastest_torch(images: np.ndarray, layer: str) -> dict[str, Action]:
    """PyTorch's fastest batch size and layout, by one run each; none if it is not installed."""
    try:
        runs = {
            f"PyTorch, batch {batch}{', channels last' * last}": torch_projections(images, layer, batch, last)
            for batch, last in itertools.product((1, len(images)), (False, True))
        }
    except ImportError:
        return {}
    times = medians(runs, repeats=1)
    best = min(times, key=lambda name: times[name])
    return {best: runs[best]}


def show_projections(net: zfjax.ConvNet, variables: Any, images: jax.Array, layer: str, repeats: int) -> None:
    """Print a line of the table: projections per second of each contender."""
    fun = zfjax.layer(net, variables, layer)
    few = images[: max(1, len(images) // 2)]  # for whole images, which are slow
    actions = {
        "fields": projections(fun, images, project_fields),
        "whole": projections(fun, few, project_units),
        **fastest_torch(np.asarray(few), layer),
    }
    found, expected = actions["fields"](), actions["whole"]()
    gap = max(map(_gap, found.projections, found.fields, expected[1]))
    times = medians(actions, repeats)
    ours, whole, *theirs = ((len(images) if name == "fields" else len(few)) / ms * 1e3 for name, ms in times.items())
    size = "×".join(map(str, fields_of(fun, images.shape[1:3]).size))
    line = f"{layer:<8}{size:>9}{gap:>10.1e}{ours:>12.1f}{whole:>12.1f}{ours / whole:>12.1f}"
    for rate, name in zip(theirs, list(times)[2:], strict=True):
        line += f"{rate:>12.1f}{ours / rate:>12.1f}  {name}"
    print(line, flush=True)


def _gap(found: np.ndarray, field: np.ndarray, whole: np.ndarray) -> float:
    """The largest difference relative to the largest value."""
    top, left, height, width = field
    rebuilt = np.zeros_like(whole)
    rebuilt[top : top + height, left : left + width] = found
    return float(np.abs(rebuilt - whole).max() / np.abs(whole).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each; the median is shown")
    parser.add_argument("--batch", type=int, default=32, help="images, and projections, per pass")
    parser.add_argument("--batches", type=int, default=4, help="number of batches")
    parser.add_argument("--layers", nargs="*", default=LAYERS, help="layers to project from")
    args = parser.parse_args()
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

    net = zfjax.zfnet(1000)
    shape = (args.batch, 224, 224, 3)
    batches = [60 * jax.random.normal(jax.random.key(i), shape) for i in range(args.batches)]
    variables = jax.jit(net.init)(jax.random.key(0), batches[0][:1])
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; 224 px, batch {args.batch}")

    times = medians(passes(net, variables, batches), args.repeats)
    print(f"\n{args.batches} batches")
    forward = times["forward alone"]
    for name, ms in times.items():
        print(f"{name:<28}{ms:>10.1f} ms{ms / forward:>8.2f}")

    columns = ("fields /s", "whole /s", "ratio", "PyTorch /s", "ratio")
    print(f"\n{'layer':<8}{'field':>9}{'gap':>10}" + "".join(f"{column:>12}" for column in columns))
    for layer in args.layers:
        show_projections(net, variables, batches[0], layer, args.repeats)


if __name__ == "__main__":
    main()

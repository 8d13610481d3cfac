"""Occluded positions per second of Fig. 3's net, 224 px: zfjax and Captum's Occlusion on the same weights.

    python benchmarks/occlusion.py --repeats 3

Squares of 16, 48 and 96 px at every 8 px, with the probability of one class at each. zfjax recomputes only what the
square changes; `plain` is the same function without that, on whole images in batches. Captum runs with its fastest
`perturbations_per_eval` and memory layout, tried first on a few positions, and is left out if it is not installed. The
contenders take turns, so that a busy machine slows all of them.
"""

import argparse
import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from deconvnet import medians, torch_device
from jax.tree_util import Partial

import zfjax
from zfjax.experiments.occlusion import occlusion
from zfjax.models.specs import LRN, Conv, Dense, Dropout, MaxPool, ReLU

WINDOWS = (16, 48, 96)
STRIDE = 8
CLASS = 3
PER_EVAL = (8, 16, 32)
ON_GPU = (64, 128, 256)  # more than these


def torch_net(net: zfjax.ConvNet, params: Any) -> Any:
    """The same net and weights in PyTorch."""
    from torch import nn

    modules: OrderedDict[str, Any] = OrderedDict()
    for layer in net.layers:
        match layer:
            case Conv():
                kernel = np.asarray(params[layer.name]["kernel"]).transpose(3, 2, 0, 1)
                module = nn.Conv2d(kernel.shape[1], layer.features, layer.kernel, layer.strides, layer.padding[0][0])
                _fill(module, kernel, params[layer.name]["bias"])
            case Dense():
                if "flatten" not in modules:
                    modules["flatten"] = _flatten()
                kernel = np.asarray(params[layer.name]["kernel"]).T
                module = nn.Linear(kernel.shape[1], kernel.shape[0])
                _fill(module, kernel, params[layer.name]["bias"])
            case MaxPool():
                module = nn.MaxPool2d(layer.window, layer.strides, ceil_mode=layer.ceil)
            case LRN():
                module = nn.LocalResponseNorm(layer.size, layer.alpha, layer.beta, layer.k)
            case ReLU():
                module = nn.ReLU()
            case Dropout():
                module = nn.Identity()
        modules[layer.name] = module
    return nn.Sequential(modules).eval().to(torch_device())


def _flatten() -> Any:
    from torch import nn

    class Flatten(nn.Module):
        """Rows of fc6 are in (height, width, channel) order."""

        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1).flatten(1)

    return Flatten()


def _fill(module: Any, kernel: np.ndarray, bias: Any) -> None:
    import torch

    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(kernel.copy()))
        module.bias.copy_(torch.from_numpy(np.array(bias)))


def check(net: Any, image: np.ndarray, expected: np.ndarray) -> None:
    """Check that both nets give the same logits, up to TF32 on a GPU."""
    import torch

    with torch.inference_mode():
        x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).to(next(net.parameters()).device)
        share = 2e-2 if x.is_cuda else 1e-3
        np.testing.assert_allclose(net(x).cpu().numpy(), expected, atol=share * np.abs(expected).max())


def captum_sweep(
    net: Any, image: np.ndarray, window: int, stride: int, per_eval: int, channels_last: bool
) -> Callable[[], Any]:
    """One sweep by Captum."""
    import torch
    from captum.attr import Occlusion

    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).to(next(net.parameters()).device, memory_format=layout)

    def run() -> Any:
        net.to(memory_format=layout)
        with torch.inference_mode():
            shapes = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
            return Occlusion(net).attribute(x, target=CLASS, perturbations_per_eval=per_eval, **shapes).cpu()

    return run


def best_setting(net: Any, image: np.ndarray) -> tuple[str, tuple[int, bool]]:
    """Captum's fastest perturbations_per_eval and layout, by a sweep over some positions with each."""
    on_gpu = next(net.parameters()).is_cuda
    settings = {
        f"{per_eval} per eval, channels {'last' if last else 'first'}": (per_eval, last)
        for per_eval in (PER_EVAL + ON_GPU if on_gpu else PER_EVAL)
        for last in (False, True)
    }
    times = medians({name: captum_sweep(net, image, 48, 32, *setting) for name, setting in settings.items()}, 1)
    best = min(times, key=lambda name: times[name])
    return best, settings[best]


def whole(fun: Callable, images: jax.Array) -> jax.Array:
    """`fun`, wrapped so that its layers are not recognized."""
    return fun(images)


def compare(
    fun: Partial,
    image: np.ndarray,
    window: int,
    stride: int,
    batch_size: int,
    repeats: int,
    captum: Callable[[int], Callable[[], Any]] | None,
) -> None:
    """Print a line of the table, with the difference between our two methods."""
    plain = Partial(whole, fun)
    sweep = functools.partial(occlusion, image=image, window=window, strides=stride, batch_size=batch_size)
    found, reference = sweep(fun).outputs, sweep(plain).outputs
    actions: dict[str, Callable[[], Any]] = {"zfjax": lambda: sweep(fun), "plain": lambda: sweep(plain)}
    if captum:
        actions["Captum"] = captum(window)
    count = found.shape[0] * found.shape[1]
    rates = {name: count / ms * 1e3 for name, ms in medians(actions, repeats).items()}
    ours, whole_images, theirs = rates["zfjax"], rates["plain"], rates.get("Captum", float("nan"))
    cells = (f"{window} px", str(count), f"{ours:.1f}", f"{whole_images:.1f}", f"{theirs:.1f}")
    error = np.abs(found - reference).max() / np.abs(reference).max()
    ratios = (f"{ours / whole_images:.2f}", f"{ours / theirs:.2f}", f"{error:.1e}")
    print("".join(f"{cell:>16}" for cell in (*cells, *ratios)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="timed sweeps of each; the median is shown")
    parser.add_argument("--stride", type=int, default=STRIDE, help="pixels between positions")
    parser.add_argument("--batch-size", type=int, default=64, help="positions per pass of zfjax")
    parser.add_argument("--windows", type=int, nargs="+", default=WINDOWS, help="sides of the square")
    args = parser.parse_args()

    net = zfjax.zfnet(1000).clone(kernel_init=jax.nn.initializers.he_normal())
    image = np.random.default_rng(0).normal(0, 60, (224, 224, 3)).astype(np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.asarray(image)[None])
    fun = zfjax.layer(net, variables, "fc8")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; 224 px, a square at every {args.stride} px")
    captum = None
    with contextlib.suppress(ImportError):
        theirs = torch_net(net, variables["params"])
        check(theirs, image, np.asarray(fun(jnp.asarray(image)[None])))
        name, setting = best_setting(theirs, image)
        print(f"Captum at its best: {name}")
        per_eval, last = setting
        captum = functools.partial(
            captum_sweep, theirs, image, stride=args.stride, per_eval=per_eval, channels_last=last
        )
    header = (
        "window",
        "positions",
        "zfjax /s",
        "plain /s",
        "Captum /s",
        "zfjax / plain",
        "zfjax / Captum",
        "off plain",
    )
    print("".join(f"{name:>16}" for name in header))
    for window in args.windows:
        compare(fun, image, window, args.stride, args.batch_size, args.repeats, captum)


if __name__ == "__main__":
    main()

"""The forms that zfjax computes with on this device, beside plain JAX and the machine's own matrix product.

    python benchmarks/forms.py --repeats 15

One row for each operation on a layer of Fig. 3's net or of ResNet-18, batch 16 at 224 px, and each of its forms.
`zfjax` is what the library chooses with this version of JAX; `plain` is `lax.conv_general_dilated`, `lax.reduce_window`
or what Flax's users write, with JAX's own derivatives; `product` is a matrix product of as many multiplications. The
forms take turns. `ms` is the median; on a CPU, `CPU ms` is the least processor time, which other work on the machine
disturbs least, and `plain / form` is by processor time.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from train_step import _lrn

from zfjax import ops
from zfjax.ops import convolution, normalization, unpooling
from zfjax.ops.windows import Windows


class Convolution(NamedTuple):
    """A layer's geometry, the same along both axes; x and kernel are square."""

    name: str
    size: int
    maps: int
    filters: int
    kernel: int
    stride: int
    pad: int


CONVOLUTIONS = (
    Convolution("conv1", 224, 3, 96, 7, 2, 1),
    Convolution("conv2", 55, 96, 256, 5, 2, 0),
    Convolution("conv3", 13, 256, 384, 3, 1, 1),
    Convolution("conv4", 13, 384, 384, 3, 1, 1),
    Convolution("conv5", 13, 384, 256, 3, 1, 1),
    Convolution("stem", 224, 3, 64, 7, 2, 3),
    Convolution("stage1", 56, 64, 64, 3, 1, 1),
    Convolution("stage2, first", 56, 64, 128, 3, 2, 1),
    Convolution("stage2", 28, 128, 128, 3, 1, 1),
    Convolution("stage3, first", 28, 128, 256, 3, 2, 1),
    Convolution("stage3", 14, 256, 256, 3, 1, 1),
    Convolution("stage4, first", 14, 256, 512, 3, 2, 1),
    Convolution("stage4, side", 14, 256, 512, 1, 2, 0),
    Convolution("stage4", 7, 512, 512, 3, 1, 1),
)
POOLS = {"pool1": (110, 96, (0, 1)), "pool2": (26, 256, (0, 1)), "pool5": (13, 256, (0, 0))}
NORMS = {"norm1": (55, 96), "norm2": (13, 256)}

Action = Callable[[], Any]
Row = tuple[str, str, dict[str, Action]]  # an operation, a layer, and the forms by name


def _run(fun: Callable, *args: jax.Array) -> Action:
    jitted = jax.jit(fun)
    return lambda: jax.block_until_ready(jitted(*args))


def convolutions(batch: int, layer: Convolution, dtype: jnp.dtype) -> Iterator[Row]:
    """The convolution and its derivatives in the images and in the kernel."""
    x = jax.random.normal(jax.random.key(0), (batch, layer.size, layer.size, layer.maps), dtype)
    kernel = jax.random.normal(jax.random.key(1), (layer.kernel, layer.kernel, layer.maps, layer.filters), dtype)
    strides, padding = (layer.stride,) * 2, ((layer.pad,) * 2,) * 2
    form = functools.partial(functools.partial, strides=strides, padding=padding)
    plain, ours = form(convolution._plain_conv, groups=1), form(ops.conv)
    y = plain(x, kernel)
    cells = jax.random.normal(jax.random.key(2), (y[..., 0].size, kernel[..., 0].size), dtype)
    product = {"product": _run(jnp.matmul, cells, kernel.reshape(-1, layer.filters))}

    ups = {"plain": plain, "zfjax": ours, "patches": form(convolution._by_patches)}
    if layer.stride > 1:
        ups["depth"] = form(convolution._space_to_depth)
    if layer.stride == 1:
        ups["products"] = functools.partial(convolution._by_products, padding=padding)
    if (slack := convolution._with_slack(x.shape, kernel.shape, strides, padding)) != padding:
        ups["one row more"] = form(convolution._plain_conv, groups=1, padding=slack)
    yield "convolution", layer.name, {name: _run(up, x, kernel) for name, up in ups.items()} | product

    def in_images(up: Callable) -> Action:
        return _run(lambda y, kernel: jax.linear_transpose(lambda x: up(x, kernel), x)(y)[0], y, kernel)

    downs = {"plain": plain, "patches": form(convolution._by_patches)}
    if layer.stride > 1:
        downs["phases"] = form(convolution._unstrided)
        downs["depth"] = form(convolution._space_to_depth)
    transposed = form(ops.conv_transpose, input_shape=x.shape)
    forms = {"zfjax": _run(transposed, y, kernel)} | {name: in_images(up) for name, up in downs.items()}
    yield "in images", layer.name, forms | product

    def in_kernels(up: Callable) -> Action:
        return _run(lambda y, x: jax.vjp(lambda kernel: up(x, kernel), kernel)[1](y)[0], y, x)

    ways = {"plain": plain, "zfjax": ours, "patches": form(convolution._by_patches)}
    if layer.stride > 1:
        ways["depth"] = form(convolution._space_to_depth)
    ways["blocks"] = form(convolution._by_blocks)
    yield "in kernel", layer.name, {name: in_kernels(up) for name, up in ways.items()} | product


def pools(batch: int, name: str, dtype: jnp.dtype) -> Iterator[Row]:
    """Max-pooling with switches, its gradient, and unpooling."""
    size, maps, pad = POOLS[name]
    geometry = {"window": (3, 3), "strides": (2, 2), "padding": (pad, pad)}
    windows = Windows.over_maps(*geometry.values())
    x = jax.random.normal(jax.random.key(0), (batch, size, size, maps), dtype)
    maxima = functools.partial(unpooling.maxima, windows=windows)
    signal, switches = unpooling.by_slices(x, windows)
    ways = {"plain": unpooling.by_reduce_window, "zfjax": unpooling.pool, "slices": unpooling.by_slices}
    yield "switches", name, {way: _run(functools.partial(fun, windows=windows), x) for way, fun in ways.items()}

    def gradient(fun: Callable) -> Action:
        return _run(lambda x, signal: jax.vjp(fun, x)[1](signal)[0], x, signal)

    ours = gradient(functools.partial(ops.max_pool, **geometry))
    down = functools.partial(ops.max_unpool, **geometry, input_shape=x.shape)
    yield "gradient", name, {"plain": gradient(maxima), "zfjax": ours, "unpooling": _run(down, signal, switches)}


def norms(batch: int, name: str, dtype: jnp.dtype) -> Iterator[Row]:
    """Contrast normalization and its gradient."""
    size, maps = NORMS[name]
    x = 60 * jax.random.normal(jax.random.key(0), (batch, size, size, maps), dtype)
    signal = jax.random.normal(jax.random.key(1), x.shape, dtype)
    ways = {"plain": _lrn, "zfjax": ops.local_response_norm}
    for way, total in (("windows", normalization._by_windows), ("band", normalization._by_band)):
        ways[way] = functools.partial(_normalized_by, total)
    yield "contrast norm", name, {way: _run(fun, x) for way, fun in ways.items()}
    downs = {
        way: _run(lambda x, signal, fun=fun: jax.vjp(fun, x)[1](signal)[0], x, signal) for way, fun in ways.items()
    }
    yield "its gradient", name, downs


def _normalized_by(total: normalization.Total, x: jax.Array) -> jax.Array:
    """The paper's contrast norm, whose sums are computed in one way; JAX derives its gradient."""
    return normalization._scaled(x, 1e-4 / 5 * total(normalization._squares(x), 5), 2.0, 0.75)


def measure(forms: dict[str, Action], repeats: int) -> dict[str, tuple[float, float]]:
    """The median of milliseconds and the least processor time of each, run in turns; the first turn compiles."""
    walls: dict[str, list[float]] = {name: [] for name in forms}
    busy: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, run in forms.items():
            start, started = time.perf_counter(), time.process_time()
            run()
            if turn:
                busy[name].append((time.process_time() - started) * 1e3)
                walls[name].append((time.perf_counter() - start) * 1e3)
    return {name: (statistics.median(walls[name]), min(busy[name])) for name in forms}


def rows(batch: int, dtype: jnp.dtype) -> Iterator[tuple[str, Iterator[Row]]]:
    """The rows of each layer, by its name."""
    for layer in CONVOLUTIONS:
        yield layer.name, convolutions(batch, layer, dtype)
    for name in POOLS:
        yield name, pools(batch, name, dtype)
    for name in NORMS:
        yield name, norms(batch, name, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="timed runs of each form")
    parser.add_argument("--batch", type=int, default=16, help="images")
    parser.add_argument("--layers", nargs="*", help="layers to run, by name")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of images and kernels")
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {args.batch}, {args.dtype}\n")
    by = 1 if jax.default_backend() == "cpu" else 0  # which of the two times is compared
    print(f"{'operation':<15}{'layer':<15}{'form':<14}{'ms':>8}{'CPU ms':>9}{'plain / form':>14}")
    for name, found in rows(args.batch, jnp.dtype(args.dtype)):
        if args.layers and name not in args.layers:
            continue
        for operation, layer, forms in found:
            times = measure(forms, args.repeats)
            for form, (wall, busy) in times.items():
                ratio = times["plain"][by] / times[form][by]
                print(f"{operation:<15}{layer:<15}{form:<14}{wall:>8.2f}{busy:>9.2f}{ratio:>14.2f}", flush=True)


if __name__ == "__main__":
    main()

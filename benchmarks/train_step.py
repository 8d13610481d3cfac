"""Forward pass and training step of the paper's net (Fig. 3): zfjax, idiomatic Flax and PyTorch.

    python benchmarks/train_step.py --batch 16 --repeats 7

prints one row per contender: median milliseconds and images per second, and its speed relative to idiomatic Flax. A
training step is loss, gradients, SGD with momentum and the renormalization of the filters. The contenders take
turns, so that a busy machine slows all of them. PyTorch is left out if it is not installed; on a GPU it runs
compiled and in mixed precision, and `--dtype bfloat16` gives JAX the same. On Linux, huge pages speed up all of
them: put `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` before the command.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from zfjax.models.edits import pooled_early
from zfjax.models.presets import zfnet
from zfjax.ops import renormalize_filters

CLASSES = 1000
LR, MOMENTUM, RADIUS = 1e-2, 0.9, 0.1


class Contender(NamedTuple):
    """Two actions, each of which blocks until its work is done."""

    name: str
    forward: Callable[[], None]
    train_step: Callable[[], None]


class FlaxZFNet(nn.Module):
    """Fig. 3 as a Flax user writes it."""

    width: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits of images [N, H, W, 3]."""

        def pool(x: jax.Array) -> jax.Array:
            return nn.max_pool(x, (3, 3), (2, 2), _ceil_padding(x.shape))

        def conv(features: int, kernel: int, stride: int, pad: int) -> nn.Conv:
            return nn.Conv(_scaled(features, self.width), (kernel, kernel), (stride, stride), pad, dtype=self.dtype)

        x = x.astype(self.dtype)
        x = _lrn(pool(nn.relu(conv(96, 7, 2, 1)(x))))
        x = _lrn(pool(nn.relu(conv(256, 5, 2, 0)(x))))
        for features in (384, 384, 256):
            x = nn.relu(conv(features, 3, 1, 1)(x))
        x = pool(x).reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(_scaled(4096, self.width), dtype=self.dtype)(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(CLASSES, dtype=self.dtype)(x).astype(jnp.float32)


def jax_contender(
    name: str,
    net: nn.Module,
    logits_of: Callable[[Any], jax.Array],
    images: np.ndarray,
    labels: np.ndarray,
    trained: nn.Module | None = None,
) -> Contender:
    """A Linen module under one jitted forward pass and one jitted training step, there perhaps in another form."""
    trained = trained or net
    x, y = jnp.asarray(images), jnp.asarray(labels)
    tx = optax.chain(optax.sgd(LR, momentum=MOMENTUM), renormalize_filters(RADIUS))
    params = jax.jit(net.init)(jax.random.key(0), x[:1])["params"]
    held = [params, tx.init(params), jax.random.key(1)]

    @jax.jit
    def forward(params: Any, x: jax.Array) -> jax.Array:
        return logits_of(net.apply({"params": params}, x))

    def step(params: Any, state: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[Any, Any, Any]:
        key, dropout = jax.random.split(key)

        def loss(params: Any) -> jax.Array:
            logits = logits_of(trained.apply({"params": params}, x, train=True, rngs={"dropout": dropout}))
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state, key

    step = jax.jit(step, donate_argnums=(0, 1))

    def train_step() -> None:
        held[:] = jax.block_until_ready(step(*held, x, y))

    return Contender(name, lambda: jax.block_until_ready(forward(held[0], x)), train_step)


def torch_contender(images: np.ndarray, labels: np.ndarray, width: float) -> Contender:
    """PyTorch with channels last; on a GPU, compiled and in mixed precision.

    Raises:
        ImportError: PyTorch is not installed.
    """
    import torch

    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    net = _torch_net(images.shape[1], width).to(device, memory_format=torch.channels_last)
    convs = [m for m in net if isinstance(m, torch.nn.Conv2d)]
    sgd = torch.optim.SGD(net.parameters(), LR, MOMENTUM)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)  # strided as NHWC: channels last
    y = torch.from_numpy(labels).long().to(device)
    amp = torch.autocast(device, torch.bfloat16, enabled=gpu)
    run = _compiled(net, x, amp) if gpu else net
    wait = torch.cuda.synchronize if gpu else lambda: None

    def forward() -> None:
        net.eval()
        with torch.inference_mode(), amp:
            run(x)
        wait()

    def train_step() -> None:
        net.train()
        with amp:
            loss = torch.nn.functional.cross_entropy(run(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        with torch.no_grad():
            for conv in convs:
                rms = conv.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
                conv.weight.mul_(RADIUS / rms.clamp(min=RADIUS))
        wait()

    return Contender("PyTorch", forward, train_step)


def _compiled(net: Any, x: Any, amp: Any) -> Any:
    """The net as PyTorch compiles it; as it is where its compiler lacks something, such as a C compiler."""
    import torch

    try:
        run = torch.compile(net)
        with torch.no_grad(), amp:
            run(x)
    except Exception as error:
        print(f"torch.compile failed, so PyTorch runs eagerly: {type(error).__name__}: {str(error).splitlines()[0]}")
        return net
    return run


def _torch_net(size: int, width: float) -> Any:
    import torch
    from torch import nn as tnn

    def block(c_in: int, c_out: int, kernel: int, stride: int, pad: int) -> list[tnn.Module]:
        return [tnn.Conv2d(c_in, c_out, kernel, stride, pad), tnn.ReLU()]

    def pool() -> tnn.Module:
        return tnn.MaxPool2d(3, 2, ceil_mode=True)

    c1, c2, c3, c6 = (_scaled(features, width) for features in (96, 256, 384, 4096))
    features = tnn.Sequential(
        *(*block(3, c1, 7, 2, 1), pool(), tnn.LocalResponseNorm(5, k=2.0)),
        *(*block(c1, c2, 5, 2, 0), pool(), tnn.LocalResponseNorm(5, k=2.0)),
        *(*block(c2, c3, 3, 1, 1), *block(c3, c3, 3, 1, 1), *block(c3, c2, 3, 1, 1), pool(), tnn.Flatten()),
    )
    flat = features(torch.zeros(1, 3, size, size)).shape[1]
    return tnn.Sequential(
        *features,
        *(tnn.Linear(flat, c6), tnn.ReLU(), tnn.Dropout()),
        *(tnn.Linear(c6, c6), tnn.ReLU(), tnn.Dropout()),
        tnn.Linear(c6, CLASSES),
    )


def _lrn(x: jax.Array) -> jax.Array:
    squares = jnp.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(5))
    return x / (2.0 + 1e-4 / 5 * total) ** 0.75


def _ceil_padding(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    return [(0, (size - 3) % 2) for size in shape[1:3]]


def _scaled(features: int, width: float) -> int:
    return max(1, round(features * width))


def medians(actions: list[Callable[[], None]], repeats: int) -> list[float]:
    """Median milliseconds of each action over its repeats, run in turns; the first turn compiles."""
    times: list[list[float]] = [[] for _ in actions]
    for turn in range(repeats + 1):
        for action, kept in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if turn:
                kept.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(kept) for kept in times]


def report(title: str, names: list[str], times: list[float], batch: int) -> None:
    """Print one row per contender; the last column is its speed relative to idiomatic Flax."""
    print(f"\n{title:<16}{'ms':>10}{'images/s':>12}{'× Flax':>10}")
    flax = times[names.index("Flax")]
    for name, ms in zip(names, times, strict=True):
        print(f"{name:<16}{ms:>10.1f}{batch / ms * 1e3:>12.1f}{flax / ms:>10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each; the median is shown")
    parser.add_argument("--width", type=float, default=1.0, help="scales maps and units")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of JAX's activations")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    images = rng.normal(0, 60, (args.batch, args.image_size, args.image_size, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, args.batch).astype(np.int32)
    dtype = jnp.dtype(args.dtype)

    ours = zfnet(CLASSES, width=args.width, image_size=args.image_size).clone(dtype=dtype)
    contenders = [
        jax_contender("zfjax", ours, lambda out: out[0], images, labels, pooled_early(ours)),  # as `train_step` does
        jax_contender("Flax", FlaxZFNet(args.width, dtype), lambda out: out, images, labels),
    ]
    try:
        contenders.append(torch_contender(images, labels, args.width))
    except ImportError:
        print("PyTorch is not installed: left out")

    names = [c.name for c in contenders]
    print(f"{jax.devices()[0].device_kind}, batch {args.batch}, {args.image_size} px, width {args.width}, {dtype}")
    report("forward", names, medians([c.forward for c in contenders], args.repeats), args.batch)
    report("training step", names, medians([c.train_step for c in contenders], args.repeats), args.batch)


if __name__ == "__main__":
    main()

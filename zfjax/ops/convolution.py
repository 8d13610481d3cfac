"""Convolution over [N, H, W, C] and its exact adjoint. No biases: they take no part in the way down."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from zfjax.ops.platforms import Form, by_platform
from zfjax.ops.windows import Padding, Pair, require_pairs, window_count

# XLA:CPU changes with versions of JAX, and so do the forms that it computes fastest (benchmarks/forms.py).
FROM_0_9, FROM_0_12 = (jax.__version_info__ >= version for version in ((0, 9), (0, 12)))


@functools.partial(jax.jit, static_argnames=("strides", "padding", "groups"))
def conv(
    x: Float[Array, "n h w c_in"],
    kernel: Float[Array, "kh kw c_in_per_group c_out"],
    strides: Pair = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    groups: int = 1,
) -> Float[Array, "n ho wo c_out"]:
    """y[n, i, j, o] = Σ_{a, b, c} x[n, i·s + a − top, j·s + b − left, c] · kernel[a, b, c, o].

    Args:
        x: [N, H, W, C_in], zero outside.
        kernel: [kh, kw, C_in / groups, C_out].
        strides: (down, right) in cells.
        padding: ((top, bottom), (left, right)) in cells.
        groups: input and output channels are split into this many parts that do not interact.

    Returns:
        [N, Ho, Wo, C_out] with Ho = (H + top + bottom - kh) // stride + 1.

    Raises:
        ValueError: the shapes do not fit together.

    Paper: section 2.

    >>> conv(jnp.ones((1, 224, 224, 3)), jnp.ones((7, 7, 3, 96)), (2, 2), ((1, 1), (1, 1))).shape
    (1, 110, 110, 96)
    """
    _output_shape(x.shape, kernel.shape, strides, padding, groups)
    if _has_forms(x, kernel, groups):
        return _conv(x, kernel, strides, padding)
    return _by_device(x, kernel, strides, padding, groups)


@functools.partial(jax.jit, static_argnames=("strides", "padding", "input_shape", "groups"))
def conv_transpose(
    y: Float[Array, "n ho wo c_out"],
    kernel: Float[Array, "kh kw c_in_per_group c_out"],
    strides: Pair,
    padding: Padding,
    input_shape: tuple[int, ...],
    groups: int = 1,
) -> Float[Array, "n h w c_in"]:
    """The exact adjoint, in the input, of the convolution with the same arguments: ⟨Ax, y⟩ = ⟨x, Aᵀy⟩.

    The filters are flipped in height and width and their input and output channels swapped.

    Args:
        y: [N, Ho, Wo, C_out], shaped like that convolution's output.
        kernel: [kh, kw, C_in / groups, C_out], as given to `conv`.
        strides: (down, right) in cells, as given to `conv`.
        padding: ((top, bottom), (left, right)) in cells, as given to `conv`.
        input_shape: (N, H, W, C_in); with a stride above 1 the output's size does not determine it.
        groups: as given to `conv`.

    Returns:
        [N, H, W, C_in].

    Raises:
        ValueError: the shapes do not fit together.

    Paper: section 2.1, "Filtering".

    >>> y, kernel = jnp.ones((1, 110, 110, 96)), jnp.ones((7, 7, 3, 96))
    >>> conv_transpose(y, kernel, (2, 2), ((1, 1), (1, 1)), (1, 224, 224, 3)).shape
    (1, 224, 224, 3)
    """
    expected = _output_shape(input_shape, kernel.shape, strides, padding, groups)
    if y.shape != expected:
        raise ValueError(
            f"conv_transpose: y has shape {y.shape}, but a kernel {kernel.shape} with strides {strides}, "
            f"padding {padding} and groups {groups} takes {input_shape} to {expected}"
        )
    x = jax.ShapeDtypeStruct(input_shape, y.dtype)
    if _has_forms(y, kernel, groups):
        form = functools.partial(_of_images, strides=strides, padding=padding)
    else:
        form = functools.partial(_by_device, strides=strides, padding=padding, groups=groups)
    (down,) = jax.linear_transpose(lambda x: form(x, kernel), x)(y)
    return down


def _plain_conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _by_device(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, groups: int = 1, **forms: Form
) -> jax.Array:
    """The convolution by a platform's form; by default as XLA has it, but for pixels on a GPU."""
    plain = functools.partial(_plain_conv, strides=strides, padding=padding, groups=groups)
    if groups == 1 and strides != (1, 1) and x.shape[3] <= 4 and max(strides) <= 4:
        forms = forms | {"cuda": functools.partial(_space_to_depth, strides=strides, padding=padding)}
    return by_platform(x, kernel, default=plain, **forms) if forms else plain(x, kernel)


def _has_forms(x: jax.Array, kernel: jax.Array, groups: int) -> bool:
    """Whether there are forms for CPUs; which form a program has is chosen when it is lowered for a platform."""
    # Half precision keeps XLA's own derivatives: a sum over images must not be rounded to 8 bits at every step.
    return x.dtype == kernel.dtype and x.dtype.itemsize >= 4 and groups == 1


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution, with derivatives in other forms."""
    upward = functools.partial(_upward, strides=strides, padding=padding)
    return _by_device(x, kernel, strides, padding, cpu=upward)


@functools.partial(_conv.defjvp, symbolic_zeros=True)
def _conv_jvp(
    strides: Pair, padding: Padding, primals: tuple[jax.Array, jax.Array], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    # Symbolic zeros, so that conv1 computes nothing for its images, and a deconvnet nothing for its kernels.
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _conv(x, kernel, strides, padding)
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_of_images(dx, kernel, strides, padding))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_of_kernels(x, dkernel, strides, padding))
    return y, sum(terms[1:], terms[0])


def _upward(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """For the convolution itself."""
    y, (*taps, channels, filters) = _output_shape(x.shape, kernel.shape, strides, padding, 1), kernel.shape
    # Many maps summed to few, as in a deconvolutional network: 8 ms where XLA's convolution takes 112 (50 maps of 58×58
    # to 5, 7×7, 4 images, 2 cores, jax 0.10), and 12 for 23 (15 of 156×156 to 1).
    if strides == (1, 1) and math.prod(taps) > 1 and channels >= 3 * filters:
        # The sum over taps by itself: fused into what reads it, such as a norm, it took ten times as long.
        return lax.optimization_barrier(_by_products(x, kernel, padding))
    if strides == (1, 1) and _is_product(y, taps, channels, filters):
        return _by_products(x, kernel, padding)
    if strides != (1, 1) and _is_product(y, taps, channels, channels):
        return _by_patches(x, kernel, strides, padding)
    return _plain_conv(x, kernel, strides, _with_slack(x.shape, kernel.shape, strides, padding), 1)


def _of_images(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution in forms that transpose well in the images."""
    *taps, channels, filters = kernel.shape
    if strides != (1, 1):
        form = _unstrided
    elif _is_product(_output_shape(x.shape, kernel.shape, strides, padding, 1), taps, filters, channels):
        form = _by_patches
    else:
        return _by_device(x, kernel, strides, padding)
    return _by_device(x, kernel, strides, padding, cpu=functools.partial(form, strides=strides, padding=padding))


def _of_kernels(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """The convolution in forms that transpose well in the kernel."""
    _, ho, wo, _ = _output_shape(x.shape, kernel.shape, strides, padding, 1)
    # XLA:CPU's own became slow with jax 0.9 for large maps (conv2: 317 ms against 102, batch 16, jax 0.10.2), and with
    # 0.12 for small ones too (conv3 to conv5: 59, 91 and 53 ms against 22, 30 and 24). 0.7 and 0.8 are as fast.
    if not ((FROM_0_9 and ho * wo >= 256) or (FROM_0_12 and math.prod(kernel.shape[:3]) >= 256)):
        return _by_device(x, kernel, strides, padding)
    by_blocks = functools.partial(_by_blocks, strides=strides, padding=padding)
    return _by_device(x, kernel, strides, padding, cpu=by_blocks)


def _is_product(y: tuple[int, ...], taps: Sequence[int], summed: int, written: int) -> bool:
    """Whether one matrix product, which sums over channels and writes others for each tap, is faster on a CPU.

    With jax 0.12, at batch 16: 17 ms where XLA's convolution takes 34 (7×7×512, in ResNet-18), 17 for 29 (conv5), and
    16 for 28 (conv3's images). A training step gained nothing with 0.10; with 0.7 such layers took 1.4 to 1.9 times as
    long. What one image writes has to fit into a core's cache: conv4 gains nothing on a busy machine. With 96 channels
    it takes twice as long.
    """
    return FROM_0_12 and y[1] * y[2] * math.prod(taps) * written <= 2**19 and summed >= max(written, 256)


def _by_products(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """One product of all cells with the whole kernel, then the sum of its taps, each moved to where it counts."""
    kh, kw = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    products = jnp.tensordot(x, kernel, ((3,), (2,)))
    zero = np.zeros((), x.dtype)
    taps = [
        lax.pad(
            products[:, :, :, i, j],
            zero,
            ((0, 0, 0), (top - i, bottom - kh + 1 + i, 0), (left - j, right - kw + 1 + j, 0), (0, 0, 0)),
        )
        for i in range(kh)
        for j in range(kw)
    ]
    return sum(taps[1:], taps[0])


def _by_patches(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """What each position of the kernel sees, times the kernel."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    (n, h, w, c), (kh, kw) = x.shape, kernel.shape[:2]
    taps = [
        lax.slice(x, (0, i, j, 0), (n, h - kh + i + 1, w - kw + j + 1, c), (1, *strides, 1))
        for i in range(kh)
        for j in range(kw)
    ]
    patches = lax.optimization_barrier(jnp.concatenate(taps, axis=-1))
    return jnp.tensordot(patches, kernel.reshape(-1, kernel.shape[3]), 1)


def _by_blocks(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """For the derivative in the kernel: patches times kernel, few images at a time, which stay in the cache."""
    n, ho, wo, _ = _output_shape(x.shape, kernel.shape, strides, padding, 1)
    most = min(n, -(-512 // max(1, ho * wo)))
    block = next((block for block in range(most, 0, -1) if n % block == 0), 1)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # patches are cheaper to gather again than to keep
    def one(images: jax.Array) -> jax.Array:
        return _by_patches(images, kernel, strides, padding)

    y = lax.map(one, x.reshape(n // block, block, *x.shape[1:]))
    return y.reshape(n, ho, wo, kernel.shape[3])


def _unstrided(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """For the derivative in the image: convolutions without stride, one for each phase of the stride, summed.

    XLA:CPU transposes a strided convolution to one over a map with holes, and multiplies with these zeros too: 102 ms
    for conv2 (batch 16, 2 cores, jax 0.12) against 54. Phases of few channels are laid side by side: 112 ms against 79
    for conv1.
    """
    _, ho, wo, _ = _output_shape(x.shape, kernel.shape, strides, padding, 1)
    few = x.shape[3] <= 4
    x, (rows, columns) = _in_whole_steps(x, kernel, strides, padding)
    views, parts = [], []
    for i in range(min(strides[0], kernel.shape[0])):
        for j in range(min(strides[1], kernel.shape[1])):
            part = kernel[i :: strides[0], j :: strides[1]]
            if few:
                missing = ((0, rows - part.shape[0]), (0, columns - part.shape[1]))
                part = jnp.pad(part, (*missing, (0, 0), (0, 0)))
            parts.append(part)
            phase = x[:, i :: strides[0], j :: strides[1]]
            views.append(phase[:, : ho + part.shape[0] - 1, : wo + part.shape[1] - 1])
    if few:
        views, parts = [jnp.concatenate(views, axis=3)], [jnp.concatenate(parts, axis=2)]
    sums = [_plain_conv(view, part, (1, 1), ((0, 0), (0, 0)), 1) for view, part in zip(views, parts, strict=True)]
    return sum(sums[1:], sums[0])


def _space_to_depth(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding) -> jax.Array:
    """A strided convolution of few channels as one without stride, whose channels are the pixels of a stride's step.

    cuDNN's kernels for three channels leave most of an H100 idle: conv1 took 3.3 ms of a forward pass's 5.6 (256
    images, bfloat16). Channels are filled up to a multiple of eight, which it would otherwise do in passes of its own.
    """
    _, ho, wo, filters = _output_shape(x.shape, kernel.shape, strides, padding, 1)
    (kh, kw, channels), (down, right) = kernel.shape[:3], strides
    x, (rows, columns) = _in_whole_steps(x, kernel, strides, padding)
    kernel = jnp.pad(kernel, ((0, rows * down - kh), (0, columns * right - kw), (0, 0), (0, 0)))
    # One axis at a time, as sharded arrays must be.
    x = x.reshape(len(x), ho + rows - 1, down, x.shape[2], channels)
    x = x.reshape(*x.shape[:3], wo + columns - 1, right, channels).swapaxes(2, 3)
    kernel = kernel.reshape(rows, down, columns, right, channels, filters).swapaxes(1, 2)
    x, kernel = x.reshape(*x.shape[:3], -1), kernel.reshape(rows, columns, -1, filters)
    fill = (0, -x.shape[3] % 8)
    x, kernel = jnp.pad(x, ((0, 0), (0, 0), (0, 0), fill)), jnp.pad(kernel, ((0, 0), (0, 0), fill, (0, 0)))
    return _plain_conv(x, kernel, (1, 1), ((0, 0), (0, 0)), 1)


def _in_whole_steps(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding
) -> tuple[jax.Array, tuple[int, int]]:
    """The padded maps as a whole number of the stride's steps, and how many steps the kernel takes down and across.

    What no kernel position reads is cut off; what only a kernel reads that is padded to whole steps is added.
    """
    _, *out, _ = _output_shape(x.shape, kernel.shape, strides, padding, 1)
    rows, columns = (-(-k // stride) for k, stride in zip(kernel.shape[:2], strides, strict=True))
    (top, bottom), (left, right) = (
        (pad[0], stride * (count + taps - 1) - size - pad[0])
        for count, taps, stride, size, pad in zip(out, (rows, columns), strides, x.shape[1:3], padding, strict=True)
    )
    zero = np.zeros((), x.dtype)
    return lax.pad(x, zero, ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0))), (rows, columns)


def _with_slack(x: tuple[int, ...], kernel: tuple[int, ...], strides: Pair, padding: Padding) -> Padding:
    # Up to jax 0.10 XLA:CPU is 2 to 3 times slower on convolutions without any padding (conv2, batch 16: 212 against
    # 91 ms; 63 either way with 0.12). With a stride there is room for a row and column that no position of the kernel
    # reads.
    if FROM_0_12 or padding != ((0, 0), (0, 0)):
        return padding
    slack = [(s - 1 - (n - k) % s) for n, k, s in zip(x[1:3], kernel[:2], strides, strict=True)]
    return ((0, min(slack[0], 1)), (0, min(slack[1], 1)))


def _output_shape(
    x: tuple[int, ...], kernel: tuple[int, ...], strides: Pair, padding: Padding, groups: int
) -> tuple[int, ...]:
    if len(x) != 4 or len(kernel) != 4:
        raise ValueError(f"convolution takes x [N, H, W, C], kernel [kh, kw, in, out]; got {x}, {kernel}")
    require_pairs(padding, strides=strides)
    if groups < 1 or x[3] != kernel[2] * groups or kernel[3] % groups:
        raise ValueError(
            f"convolution: kernel {kernel} with groups {groups} takes {kernel[2] * groups} channels and a "
            f"multiple of {groups} filters, got x {x} and {kernel[3]} filters"
        )
    if min(strides) < 1:
        raise ValueError(f"convolution: strides {strides} must be at least 1")
    sizes = []
    for size, k, stride, pad in zip(x[1:3], kernel[:2], strides, padding, strict=True):
        if size + sum(pad) < k:
            raise ValueError(f"convolution: kernel {kernel} does not fit x {x} with padding {padding}")
        sizes.append(window_count(size, k, stride, pad))
    return (x[0], *sizes, kernel[3])

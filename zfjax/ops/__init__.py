"""The paper's operations: arrays in, arrays out, images as [N, H, W, C]."""

from zfjax.console.deprecation import renamed
from zfjax.ops.activation import rectify
from zfjax.ops.convolution import conv, conv_transpose
from zfjax.ops.filters import renormalize_filters, renormalize_kernel
from zfjax.ops.normalization import local_response_norm
from zfjax.ops.pooling import (
    center_switches,
    max_pool,
    max_pool_with_switches,
    max_unpool,
    max_unpool_overwriting,
)
from zfjax.ops.pooling3d import abs_max_pool, abs_max_unpool, at_switches

__all__ = [
    "abs_max_pool",
    "abs_max_unpool",
    "at_switches",
    "center_switches",
    "conv",
    "conv_transpose",
    "local_response_norm",
    "max_pool",
    "max_pool_with_switches",
    "max_unpool",
    "max_unpool_overwriting",
    "rectify",
    "renormalize_filters",
    "renormalize_kernel",
]

__getattr__ = renamed(__name__, centre_switches="center_switches")

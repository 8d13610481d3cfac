"""The paper's operations: arrays in, arrays out, images as [N, H, W, C]."""

from zfjax.ops.activation import rectify
from zfjax.ops.convolution import conv, conv_transpose
from zfjax.ops.filters import renormalize_filters, renormalize_kernel
from zfjax.ops.normalization import local_response_norm
from zfjax.ops.pooling import (
    centre_switches,
    max_pool,
    max_pool_with_switches,
    max_unpool,
    max_unpool_overwriting,
)

__all__ = [
    "centre_switches",
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

"""Nets as layer tuples, the Flax module that runs them, and their layer table."""

from zfjax.models.convnet import ConvNet
from zfjax.models.cut import layer, layers
from zfjax.models.presets import alexnet, preset, zfnet, zfnet_post
from zfjax.models.table import layer_table

__all__ = ["ConvNet", "alexnet", "layer", "layer_table", "layers", "preset", "zfnet", "zfnet_post"]

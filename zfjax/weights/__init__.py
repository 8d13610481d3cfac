"""Weights people already have: PyTorch's files and layouts, and the preprocessing that each net expects.

In a notebook::

    loaded = zfjax.weights.load("resnet18.pth", "resnet18")
    fun = zfjax.layer(loaded.net, loaded.variables, "stage4")
    maps = fun(images - loaded.preprocessing.pixel_mean)  # RGB 0..255, NHWC
"""

from zfjax.weights.layouts import MODELS, from_torch, to_torch
from zfjax.weights.preprocessing import TORCHVISION, Preprocessing
from zfjax.weights.pretrained import Loaded, load

__all__ = ["MODELS", "TORCHVISION", "Loaded", "Preprocessing", "from_torch", "load", "to_torch"]

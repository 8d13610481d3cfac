"""Nets as layer tuples, the Flax module that runs them, and their layer table."""

from zfjax.models.convnet import ConvNet
from zfjax.models.cut import layer, layers, split
from zfjax.models.model import Model
from zfjax.models.presets import (
    alexnet,
    alexnet_torchvision,
    preset,
    vgg16,
    zfnet,
    zfnet512,
    zfnet_post,
    zfnet_pytorchcv,
    zfnetb_pytorchcv,
)
from zfjax.models.resnets import resnet18, resnet34, resnet50
from zfjax.models.table import layer_table

__all__ = [
    "ConvNet",
    "Model",
    "alexnet",
    "alexnet_torchvision",
    "layer",
    "layer_table",
    "layers",
    "preset",
    "resnet18",
    "resnet34",
    "resnet50",
    "split",
    "vgg16",
    "zfnet",
    "zfnet512",
    "zfnet_post",
    "zfnet_pytorchcv",
    "zfnetb_pytorchcv",
]

"""ONNX files as JAX functions: `net = zfjax.weights.onnx.load("net.onnx")`, then `net.function(net.params, images)`."""

from zfjax.weights.onnx import operators as operators  # fills the table
from zfjax.weights.onnx.function import OnnxFunction, OnnxNet, load
from zfjax.weights.onnx.model import from_onnx

__all__ = ["OnnxFunction", "OnnxNet", "from_onnx", "load"]

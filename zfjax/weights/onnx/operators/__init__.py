"""ONNX's operators, a small function each; importing this fills the table."""

from zfjax.weights.onnx.operators import activations as activations
from zfjax.weights.onnx.operators import arithmetic as arithmetic
from zfjax.weights.onnx.operators import attention as attention
from zfjax.weights.onnx.operators import normalizations as normalizations
from zfjax.weights.onnx.operators import resizing as resizing
from zfjax.weights.onnx.operators import shapes as shapes
from zfjax.weights.onnx.operators import windows as windows

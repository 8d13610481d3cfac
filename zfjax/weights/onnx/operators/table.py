"""The table of operators: which function computes which ONNX operator, from which opset on.

A function takes the node and the node's inputs (None where an optional one is left out) and returns its output, or a
tuple of them. Arrays that are NumPy's are known while a program is traced, as shapes are; if all inputs are, the
outputs of functions on shapes are NumPy's again.
"""

import enum
import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import listed
from zfjax.weights.onnx.graph import Node

Value = jax.Array | np.ndarray
LATEST = 10**6
MOST = 2**30  # numbers in one array: a damaged or harmful file may ask for more
MOST_NOW = 2**27  # numbers in one array that is computed while tracing


class Layout(enum.Enum):
    """What a function expects of the axes of maps, [N, C, *space] in the file."""

    FILE = "as in the file"
    LAST = "channels last, as its first input and output"
    ANY = "elementwise: any, if it is the same for all"


class Operator(NamedTuple):
    """An entry of the table, for the opsets from `since` to `until`."""

    function: Callable[..., Any]
    since: int
    until: int
    layout: Layout


_QUANTIZED = frozenset(
    (
        *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        "QuantizeLinear",
    )
)
_TABLE: dict[str, list[Operator]] = {}


def operator(*kinds: str, since: int = 1, until: int = LATEST, layout: Layout = Layout.FILE) -> Callable[..., Any]:
    """Decorate the function that computes some operators in a range of opsets."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for kind in kinds:
            _TABLE.setdefault(kind, []).append(Operator(function, since, until, layout))
        return function

    return enter


def known() -> list[str]:
    """The names of all operators."""
    return sorted(_TABLE)


def find(node: Node) -> Operator:
    """The entry for a node.

    Raises:
        UserError: there is none.
    """
    if entry := _entry(node):
        return entry
    raise UserError(f"{node} of opset {node.opset}: zfjax has no operator {node.kind}")


def _entry(node: Node) -> Operator | None:
    return next((one for one in _TABLE.get(node.kind, ()) if one.since <= node.opset <= one.until), None)


def require_known(nodes: Iterable[Node]) -> None:
    """Raise a UserError that names all operators of a graph that are not in the table, and the node of the first."""
    unknown = [node for node in nodes if _entry(node) is None]
    if not unknown:
        return
    first, kinds = unknown[0], list(dict.fromkeys(node.kind for node in unknown))
    others = f", nor {listed(kinds[1:])}" if kinds[1:] else ""
    hint = "; it is quantized: expected a file with floating-point weights" if _QUANTIZED & {*kinds} else ""
    raise UserError(f"{first} of opset {first.opset}: zfjax has no operator {first.kind}{others}{hint}")


def library(*values: Any) -> ModuleType:
    """NumPy if all values are known while tracing, else jax.numpy."""
    return np if all(value is None or isinstance(value, np.ndarray | np.generic) for value in values) else jnp


def known_now(value: Value, what: str) -> np.ndarray:
    """A value that must not depend on the images, such as a shape.

    Args:
        value: of a node's input.
        what: to call it in the error.

    Raises:
        UserError: it does.
    """
    if isinstance(value, jax.core.Tracer):
        raise UserError(f"its {what} depends on the values of the images; expected one that is known beforehand")
    return np.asarray(value)


def whole(value: Value | None, node: Node, attribute: str) -> list[int] | None:
    """Whole numbers that are an input in newer opsets and an attribute in older ones; None if neither is there."""
    if value is not None:
        return [int(number) for number in known_now(value, attribute).reshape(-1)]
    given = node.get(attribute)
    return None if given is None else [int(number) for number in np.atleast_1d(given)]


def sized(shape: tuple[int, ...], most: int = MOST) -> tuple[int, ...]:
    """A shape that is not too large to exist. Raises a UserError for others."""
    if min(shape, default=0) < 0 or math.prod(shape) > most:
        raise UserError(f"it makes an array of the shape {list(shape)}")
    return shape


def sized_by(values: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a node makes of some values, not too large for memory if it is computed at once."""
    return sized(shape, MOST_NOW if library(*values) is np else MOST)


def axis_of(node: Node, rank: int, default: int) -> int:
    """The attribute `axis`, counted from the front."""
    axis = int(node.get("axis", default))
    if not -rank <= axis < max(rank, 1):
        raise UserError(f"its axis {axis} is not one of {rank}")
    return axis % max(rank, 1)


def only_first(node: Node, what: str) -> None:
    """Refuse a node whose further outputs are used."""
    if any(node.outputs[1:]):
        raise UserError(f"zfjax has no {what}, its further outputs {', '.join(filter(None, node.outputs[1:]))}")


def dtype_here(dtype: Any) -> np.dtype:
    """A type as JAX has it: 32 bits for 64, unless JAX is told otherwise."""
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))

"""Find attention: a softmax whose result weighs other values, however queries, keys and values are laid out.

What counts as the softmax here is its last step, a quotient of exponentials and their sum, since this step reads one
value; what the exponentials are of, masks and all, does not matter.
"""

from zfjax.transform import curves
from zfjax.transform.activations import Activation
from zfjax.transform.graph import Graph, Node, Value

_SHAPES = curves.CASTS | {"broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"}
_ADDED = curves.CASTS | {"mul", "select_n"}  # sums of half precision in single, and of what a mask leaves
_EXPONENTS = _ADDED | {"exp", "exp2", "sub"}
_PARTS = frozenset(("concatenate", "dynamic_slice", "gather", "pad", "slice", "split"))


def find(graph: Graph) -> list[Activation]:
    """The last steps of softmaxes that weigh values: as functions of the exponentials, under the name `attention`."""
    quotients = (node for node in graph.nodes if node.kind == "div" and graph.active.issuperset(node.inputs))
    return [step for node in quotients if (step := _step(graph, node)) and _weighs(graph, node)]


def softmaxes(graph: Graph, steps: list[Activation]) -> list[Activation]:
    """All of the softmaxes of which these are the last steps: as functions of the logits, under the name `softmax`."""
    found = []
    for step in steps:
        nodes: list[Node] = []
        for node in _below(graph, step.x, _EXPONENTS):
            users = {user for value in node.outputs for user in graph.users[value]}
            subtracted = node.kind == "sub" and node.inputs[0] not in graph.active
            if subtracted or not users <= {*nodes, *step.nodes} or not set(node.outputs).isdisjoint(graph.outputs):
                break
            nodes.append(node)
        if any(node.kind in ("exp", "exp2") for node in nodes):
            found.append(Activation("softmax", _bottom(graph, nodes, step.x), (*nodes[::-1], *step.nodes)))
    return found


def _step(graph: Graph, quotient: Node) -> Activation | None:
    """A quotient of exponentials and their sum, unless something else needs the sum."""
    x, total = quotient.inputs
    shaped = _below(graph, total, _SHAPES)
    adder = graph.makers.get(_bottom(graph, shaped, total))
    if adder is None or adder.kind != "reduce_sum":
        return None
    added = _below(graph, adder.inputs[0], _ADDED, x)
    nodes = (*added[::-1], adder, *shaped[::-1], quotient)
    made = {output for node in nodes[:-1] for output in node.outputs}
    users = {user for value in made for user in graph.users[value]}
    alone = users <= set(nodes) and made.isdisjoint(graph.outputs)
    is_softmax = alone and _bottom(graph, added, adder.inputs[0]) == x and _is_exponential(graph, x)
    return Activation("attention", x, nodes) if is_softmax else None


def _below(graph: Graph, value: Value, kinds: frozenset[str], end: Value | None = None) -> list[Node]:
    """The equations of some kinds by which a value comes from one other, at most from `end`, the last first."""
    nodes: list[Node] = []
    while value != end and (maker := graph.makers.get(value)) and maker.kind in kinds:
        active = _active(graph, maker)
        if len(active) != 1:
            break
        nodes.append(maker)
        (value,) = active
    return nodes


def _bottom(graph: Graph, nodes: list[Node], value: Value) -> Value:
    """The value that they come from."""
    return _active(graph, nodes[-1])[0] if nodes else value


def _active(graph: Graph, node: Node) -> list[Value]:
    return [value for value in dict.fromkeys(node.inputs) if value in graph.active]


def _is_exponential(graph: Graph, value: Value) -> bool:
    """Whether a value is of exponentials, possibly masked or scaled."""
    while maker := graph.makers.get(value):
        active = _active(graph, maker)
        if maker.kind in ("exp", "exp2"):
            return True
        if len(active) != 1 or not curves.is_known(maker.equation):
            return False
        (value,) = active
    return False


def _weighs(graph: Graph, softmax: Node) -> bool:
    """Whether its result is multiplied by another value of the image, possibly in another shape or cut to pieces."""
    reached, upwards = set(softmax.outputs), list(softmax.outputs)
    while upwards:
        for node in graph.users[upwards.pop()]:
            active = graph.active.intersection(node.inputs)
            if active <= reached and (node.kind in _SHAPES | _PARTS or curves.is_known(node.equation)):
                new = set(node.outputs) - reached
                reached |= new
                upwards.extend(new)
            elif node.kind in ("dot_general", "mul") and not active <= reached:
                return True
    return False

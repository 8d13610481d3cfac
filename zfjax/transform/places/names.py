"""Named places of any program: each layer's result, by the name that its library or its weights give it."""

import fnmatch
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean
from zfjax.transform.graph import Graph, Value
from zfjax.transform.places.units import Unit, units


class Named(NamedTuple):
    """A layer's result, or that of a block of layers.

    Attributes:
        name: such as block1/conv2 or block1/conv2/relu.
        kind: what computes it; see `units.Unit`; `block` for a block.
        value: what it is in the program's graph.
        units: its layers.
    """

    name: str
    kind: str
    value: Value
    units: tuple[Unit, ...]


def places(graph: Graph, weights: Mapping[Value, str]) -> dict[str, Named]:
    """The places of a program, bottom first.

    Where a library leaves scopes, a layer has the name of its own (Linen, Haiku, ONNX); else that of the module whose
    weights it reads, such as `block1/conv2` (NNX, Equinox). A layer without either is named after the nearest below
    with a name of its own, such as `block1/conv2/relu`, and where there is none by its kind, counted: relu1, relu2. A
    scope around several layers is a block, and its place is that of its last layer.

    Args:
        graph: the program.
        weights: the paths of its arrays of weights.
    """
    layers = units(graph, weights)
    names = _names(graph, layers)
    found: dict[str, Named] = {}
    ends = _blocks(names, layers)
    for unit in layers:
        found[names[unit]] = Named(names[unit], unit.kind, unit.value, (unit,))
        for block, members in ends.get(unit, ()):
            found[block] = Named(block, "block", unit.value, members)
    return found


def find(name: str, known: Collection[str]) -> str:
    """The full name of a place, from that, from how it ends, or from a pattern such as `*/Conv_3`.

    Raises:
        UserError: no place or several have it; the nearest are named.
    """
    if name in known:
        return name
    found = [full for full in known if full.endswith(f"/{name}") or fnmatch.fnmatchcase(full, name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"layer {name!r} could be {_listed(found)}; name one of them")
    ends = sorted({full.rpartition("/")[2] for full in known})
    hint = did_you_mean(name, list(known)) or did_you_mean(name, ends) or ";"
    raise UserError(f"no layer {name!r} in the model{hint} there are {_listed(list(known))}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:4])} … {', '.join(names[-4:])}"


def _names(graph: Graph, layers: Sequence[Unit]) -> dict[Unit, str]:
    """A name for each layer, no two alike."""
    own = _own_names(graph, layers)
    scoped = {unit for unit in layers if unit in own and _named(unit.scopes)}
    bases: dict[Unit, str] = {}
    wanted: dict[Unit, str] = {}
    for unit in layers:
        below = max(unit.below, key=layers.index, default=None)
        base = own.get(unit) or (bases[below] if below else "")
        if unit not in own and below in scoped:  # named after the module at its own depth
            base = "/".join(base.split("/")[: len(_named(unit.scopes)) + 1])
            scoped.add(unit)
        bases[unit] = base
        wanted[unit] = base if unit in own else f"{base}/{unit.kind}" if base else unit.kind
    several, seen = Counter(wanted.values()), Counter[str]()
    names = {}
    for unit, name in wanted.items():
        seen[name] += 1
        is_counted = several[name] > 1 or not bases[unit]
        between = "_" if name[-1].isdigit() else ""
        names[unit] = f"{name}{between}{seen[name]}" if is_counted else name
    return _distinct(names)


def _distinct(names: dict[Unit, str]) -> dict[Unit, str]:
    taken: set[str] = set()
    for unit, name in names.items():
        number = 2
        while names[unit] in taken:
            names[unit], number = f"{name}_{number}", number + 1
        taken.add(names[unit])
    return names


def _own_names(graph: Graph, layers: Sequence[Unit]) -> dict[Unit, str]:
    """The names that layers have by themselves: of an innermost scope, of the module of their weights, or of both."""
    modules = _own_modules(layers)
    outer = {scopes[:depth] for node in graph.nodes for scopes in [_named(node.scopes)] for depth in range(len(scopes))}
    shared = Counter(_named(unit.scopes) for unit in layers)
    names = {}
    for unit in layers:
        scopes = _named(unit.scopes)
        is_innermost = bool(scopes) and scopes not in outer
        if is_innermost and shared[scopes] == 1:
            names[unit] = "/".join(scopes)
        elif unit in modules:
            parts = _parts(modules[unit])
            overlap = max(
                depth for depth in range(len(parts) + 1) if scopes[len(scopes) - depth :] == (*parts[:depth],)
            )
            names[unit] = "/".join([*scopes, *parts[overlap:]])
        elif is_innermost:
            names[unit] = "/".join([*scopes, unit.kind])
    return names


def _named(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """The scopes that name a module: not its class, as Equinox's do, and not a formula, as einsum's do."""
    return tuple(scope for scope in scopes if not scope.startswith("eqx.") and "->" not in scope)


def _own_modules(layers: Sequence[Unit]) -> dict[Unit, str]:
    """The path of the module whose weights each layer reads."""
    modules = {unit: _module(unit) for unit in layers if unit.leaves}
    shared = Counter(modules.values())
    outer = {"/".join(parts[:depth]) for parts in map(_parts, modules.values()) for depth in range(len(parts))}
    names = {}
    for unit, module in modules.items():
        if module in outer and (unit.kind in ("scale", "shift") or (not module and any(modules.values()))):
            names[unit] = next(iter(unit.leaves))  # an array of its own beside modules
        else:
            names[unit] = f"{module}/{unit.kind}" if module and (module in outer or shared[module] > 1) else module
    return {unit: name for unit, name in names.items() if not all(map(str.isdigit, _parts(name)))}


def _module(unit: Unit) -> str:
    """The module that holds most of a layer's arrays; "" for arrays in none."""
    parents = Counter(path.rpartition("/")[0] for path in unit.leaves)
    return parents.most_common(1)[0][0]


def _parts(path: str) -> list[str]:
    return path.split("/") if path else []


def _blocks(names: Mapping[Unit, str], layers: Sequence[Unit]) -> dict[Unit, list[tuple[str, tuple[Unit, ...]]]]:
    """The scopes around several layers, by the last of these, innermost first."""
    members = defaultdict(list)
    for unit in layers:
        scopes = _named(unit.scopes)
        for depth in range(1, len(scopes) + 1):
            members[scopes[:depth]].append(unit)
    taken = set(names.values())
    found = defaultdict(list)
    for scopes, inside in sorted(members.items(), key=lambda item: -len(item[0])):
        name = "/".join(scopes)
        if 1 < len(inside) < len(layers) and name not in taken:
            found[inside[-1]].append((name, tuple(inside)))
    return found

"""The ten drawings: each takes a random generator and returns its pieces, back to front, in its own frame.

Proportions vary from drawing to drawing; the names of a class's parts do not.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zfjax.data.shapes.geometry import (
    Color,
    Piece,
    Points,
    arc,
    ellipse,
    join,
    leaf,
    polygon,
    rectangle,
    ring,
    stroke,
)

MAIN, SECOND, THIRD, DARK, LIGHT = Color

Rng = np.random.Generator


class Drawing(NamedTuple):
    """One class: its name, its parts, the function that draws it, and whether it may be mirrored."""

    name: str
    parts: tuple[str, ...]
    draw: Callable[[Rng], list[Piece]]
    mirror: bool = True


def _hair(wide: float, style: int) -> Points:
    if style == 0:  # short
        return arc(0, -0.12, wide + 0.1, 0.92, math.pi, 2 * math.pi)
    if style == 1:  # long
        crown = arc(0, -0.12, wide + 0.16, 0.95, math.pi, 2 * math.pi)
        return join(crown, polygon((wide + 0.2, 0.8), (-wide - 0.2, 0.8)))
    return ellipse(0, -0.45, wide + 0.16, 0.6)


def _face(rng: Rng) -> list[Piece]:
    wide, eye, apart, smile, style = rng.uniform((0.66, 0.13, 0.26, -0.05, 0), (0.82, 0.18, 0.34, 0.22, 3))
    look = rng.uniform(-0.04, 0.04)
    pieces = [
        Piece("hair", _hair(wide, int(style)), SECOND),
        Piece("ears", ellipse(-wide, 0.05, 0.13, 0.2), MAIN),
        Piece("ears", ellipse(wide, 0.05, 0.13, 0.2), MAIN),
        Piece("head", ellipse(0, 0.08, wide, 0.9), MAIN),
        Piece("hair", ring(0, 0.08, wide, 0.9, 0.62, 1.22 * math.pi, 1.78 * math.pi), SECOND),
    ]
    for part, x in (("left_eye", -apart), ("right_eye", apart)):
        pieces += [
            Piece(part, ellipse(x, -0.08, eye * 1.15, eye), LIGHT),
            Piece(part, ellipse(x + look, -0.07, eye * 0.6, eye * 0.7), THIRD),
            Piece(part, ellipse(x + look, -0.07, eye * 0.3, eye * 0.35), DARK),
        ]
        brow = stroke(x - 0.17, -0.3, x + 0.17, -0.3 + rng.uniform(-0.05, 0.05), 0.07)
        pieces.append(Piece("brows", brow, DARK))
    pieces.append(Piece("nose", polygon((0, -0.02), (0.15, 0.34), (0, 0.4), (-0.15, 0.34)), SECOND))
    lower = arc(0, 0.56, 0.34, 0.1 + smile, math.pi, 0)
    upper = arc(0, 0.56, 0.34, -0.06 + smile * 0.4, 0, math.pi)
    pieces.append(Piece("mouth", join(lower, upper), THIRD))
    return pieces


def _wheel(part: str, x: float, y: float, radius: float) -> list[Piece]:
    return [
        Piece(part, ellipse(x, y, radius, radius), DARK),
        Piece(part, ellipse(x, y, radius * 0.58, radius * 0.58), THIRD),
        Piece(part, ellipse(x, y, radius * 0.2, radius * 0.2), DARK),
    ]


def _car(rng: Rng) -> list[Piece]:
    radius, roof, front, rear, nose = rng.uniform((0.2, -0.62, 0.1, -0.62, -0.14), (0.26, -0.46, 0.3, -0.4, -0.02))
    belt = -0.12
    cabin = polygon((rear - 0.22, belt), (rear, roof), (front, roof), (front + 0.34, belt))
    tail = polygon((-1, 0.28), (-1, belt + 0.06), (-0.92, belt - 0.02))
    hood = polygon((front + 0.34, belt - 0.02), (0.94, nose + 0.06), (1, 0.12), (1, 0.28))
    top, middle = roof + 0.08, (rear + front) / 2
    left, right = middle - 0.03, middle + 0.04
    behind = polygon((rear - 0.1, belt), (rear + 0.04, top), (left, top), (left, belt))
    ahead = polygon((right, belt), (right, top), (front - 0.03, top), (front + 0.2, belt))
    return [
        Piece("cabin", cabin, MAIN),
        Piece("windows", behind, SECOND),
        Piece("windows", ahead, SECOND),
        Piece("body", join(tail, hood), MAIN),
        Piece("body", rectangle(middle - 0.02, belt + 0.1, middle + 0.14, belt + 0.14), DARK),
        Piece("body", rectangle(-1.03, 0.2, 1.03, 0.3), THIRD),
        Piece("lamp", ellipse(0.93, 0.1, 0.08, 0.07), LIGHT),
        *_wheel("rear_wheel", -0.58, 0.3, radius),
        *_wheel("front_wheel", 0.58, 0.3, radius),
    ]


def _house(rng: Rng) -> list[Piece]:
    eaves, peak, wide, ridge, door, chimney = rng.uniform(
        (-0.28, -1.0, 0.68, 0.0, -0.35, 0.3), (-0.1, -0.75, 0.85, 0.45, 0.35, 0.5)
    )
    roof = polygon((-wide - 0.17, eaves), (-ridge, peak), (ridge, peak), (wide + 0.17, eaves))
    pieces = [
        Piece("chimney", rectangle(chimney - 0.11, peak - 0.02, chimney + 0.11, eaves), THIRD),
        Piece("wall", rectangle(-wide, eaves - 0.05, wide, 0.85), MAIN),
        Piece("roof", roof, SECOND),
        Piece("door", rectangle(door - 0.15, 0.3, door + 0.15, 0.85), THIRD),
        Piece("door", ellipse(door + 0.09, 0.6, 0.035, 0.035), LIGHT),
    ]
    level = eaves + 0.28
    for x in (-wide * 0.55, wide * 0.55):
        low = level + 0.32
        pieces += [
            Piece("windows", rectangle(x - 0.18, level - 0.1, x + 0.18, low - 0.1), LIGHT),
            Piece("windows", rectangle(x - 0.02, level - 0.1, x + 0.02, low - 0.1), DARK),
            Piece("windows", rectangle(x - 0.18, level + 0.04, x + 0.18, level + 0.08), DARK),
        ]
    return pieces


def _fish(rng: Rng) -> list[Piece]:
    back, belly, fork, tail, eye = rng.uniform((0.4, 0.4, 0.1, 0.35, 0.08), (0.6, 0.58, 0.3, 0.55, 0.12))
    stripes = int(rng.integers(0, 4))
    pieces = [
        Piece("tail", polygon((0.48, 0), (1, -tail), (1 - fork, 0), (1, tail)), SECOND),
        Piece("back_fin", polygon((-0.35, -back * 0.7), (0.1, -back - 0.32), (0.42, -back * 0.55)), SECOND),
        Piece("belly_fin", polygon((-0.1, belly * 0.8), (0.25, belly + 0.22), (0.3, belly * 0.6)), SECOND),
        Piece("body", leaf(-0.15, 0, 0.82, back, belly), MAIN),
    ]
    for k in range(stripes):
        x = -0.2 + 0.24 * k
        reach = 0.85 * (1 - ((x + 0.15) / 0.82) ** 2)
        pieces.append(Piece("body", stroke(x, -back * reach, x + 0.05, belly * reach, 0.1, 0.7), THIRD))
    pieces += [
        Piece("gill", ring(-0.5, 0, 0.22, 0.26, 0.75, -0.4 * math.pi, 0.4 * math.pi), DARK),
        Piece("body", polygon((-0.98, 0.01), (-0.72, 0.13), (-0.76, 0.17)), DARK),
        Piece("eye", ellipse(-0.62, -0.12, eye, eye), LIGHT),
        Piece("eye", ellipse(-0.63, -0.12, eye * 0.55, eye * 0.55), DARK),
    ]
    return pieces


def _tree(rng: Rng) -> list[Piece]:
    thick, conifer, size = rng.uniform((0.1, 0, 0.42), (0.17, 1, 0.55))
    trunk = [
        Piece("trunk", stroke(0, 1, 0, -0.1, thick * 2.6, 0.6), SECOND),
        Piece("trunk", polygon((-thick * 1.9, 1), (0, 0.78), (thick * 1.9, 1)), SECOND),
    ]
    if conifer < 0.4:
        crown = [polygon((-w, y), (0, y - 0.72), (w, y)) for w, y in ((0.72, 0.62), (0.6, 0.22), (0.45, -0.18))]
        spots = [(-0.4, 0.5), (0.25, 0.48), (-0.1, 0.25), (0.3, 0.1), (-0.22, -0.1), (0.08, -0.4)]
    else:
        trunk += [
            Piece("trunk", stroke(0, 0.45, -0.4, 0.05, thick, 0.6), SECOND),
            Piece("trunk", stroke(0, 0.5, 0.4, 0.1, thick, 0.6), SECOND),
        ]
        blobs = [(-0.42, -0.08), (0.42, -0.08), (-0.28, -0.5), (0.28, -0.5), (0, -0.28)]
        crown = [ellipse(x, y, size, size * 0.85) for x, y in blobs]
        spots = [(-0.55, 0), (0.5, 0.05), (-0.3, -0.55), (0.3, -0.5), (0, -0.15), (-0.1, -0.8)]
    fruit = [spots[k] for k in rng.permutation(6)[: int(rng.integers(3, 7))]]
    return [
        *trunk,
        *(Piece("crown", outline, MAIN) for outline in crown),
        *(Piece("fruit", ellipse(x, y, 0.09, 0.09), THIRD) for x, y in fruit),
    ]


def _flower(rng: Rng) -> list[Piece]:
    count = int(rng.integers(5, 10))
    length, wide, heart, phase, bend = rng.uniform((0.3, 0.75, 0.17, 0, -0.2), (0.38, 1.05, 0.25, 1, 0.2))
    foot = bend * 0.6
    pieces = [
        Piece("stem", stroke(0, -0.3, foot, 1, 0.1), SECOND),
        Piece("leaves", leaf(foot * 0.6 + 0.28, 0.48, 0.3, 0.13, 0.13, -0.64), SECOND),
        Piece("leaves", leaf(foot * 0.8 - 0.28, 0.65, 0.3, 0.13, 0.13, 0.64), SECOND),
    ]
    half = wide * math.pi * 0.4 / count
    for k in range(count):
        angle = 2 * math.pi * (k + phase) / count
        x, y = 0.42 * math.cos(angle), -0.4 + 0.42 * math.sin(angle)
        pieces.append(Piece("petals", ellipse(x, y, length, half, angle), MAIN))
    pieces += [
        Piece("heart", ellipse(0, -0.4, heart, heart), THIRD),
        Piece("heart", ellipse(0, -0.4, heart * 0.5, heart * 0.5), DARK),
    ]
    return pieces


def _clock(rng: Rng) -> list[Piece]:
    rim, alarm, hour, minute, ticks = rng.uniform((0.74, 0, 0, 0, 0), (0.84, 1, 2 * math.pi, 2 * math.pi, 1))
    pieces = []
    if alarm < 0.6:
        for side in (-1, 1):
            pieces += [
                Piece("rim", stroke(0.3 * side, 0.5, 0.66 * side, 1.05, 0.17, 0.7), THIRD),
                Piece("rim", ellipse(0.55 * side, -0.72, 0.34, 0.22, 0.65 * side), SECOND),
            ]
        pieces.append(Piece("rim", rectangle(-0.07, -1.08, 0.07, -0.7), THIRD))
    pieces += [
        Piece("rim", ellipse(0, 0.05, 0.86, 0.86), MAIN),
        Piece("dial", ellipse(0, 0.05, rim * 0.9, rim * 0.9), SECOND),
    ]
    for k in range(12):
        angle = k * math.pi / 6
        near = 0.78 if k % 3 else 0.66
        if k % 3 and ticks < 0.3:
            continue
        x, y = rim * 0.86 * math.cos(angle), rim * 0.86 * math.sin(angle)
        mark = stroke(x * near, 0.05 + y * near, x * 0.94, 0.05 + y * 0.94, 0.07)
        pieces.append(Piece("marks", mark, DARK))
    for angle, reach, width in ((hour, 0.36, 0.13), (minute, 0.56, 0.09)):
        x, y = reach * math.cos(angle), reach * math.sin(angle)
        pieces.append(Piece("hands", stroke(-x * 0.2, 0.05 - y * 0.2, x, 0.05 + y, width, 0.5), DARK))
    pieces.append(Piece("hands", ellipse(0, 0.05, 0.08, 0.08), DARK))
    return pieces


def _cup(rng: Rng) -> list[Piece]:
    wide, foot, lip, deep, band = rng.uniform((0.56, 0.32, 0.12, 0.62, 0.1), (0.68, 0.5, 0.2, 0.78, 0.35))
    edge, low = wide * 0.97, band - 0.1
    left, right = polygon((-wide, -0.5), (-edge, 0)), polygon((edge, 0), (wide, -0.5))
    stripe = polygon((-edge, -0.1), (edge, -0.1), (edge * 0.98, low), (-edge * 0.98, low))
    return [
        Piece("saucer", ellipse(0, deep, 0.95, 0.2), SECOND),
        Piece("saucer", ellipse(0, deep - 0.04, 0.6, 0.1), THIRD),
        Piece("handle", ring(wide * 0.86, -0.05, 0.42, 0.36, 0.6, -0.55 * math.pi, 0.6 * math.pi), SECOND),
        Piece("body", join(left, arc(0, deep - 0.1, foot, 0.1, math.pi, 0), right), MAIN),
        Piece("body", stripe, THIRD),
        Piece("rim", ellipse(0, -0.5, wide, lip), SECOND),
        Piece("rim", ellipse(0, -0.48, wide * 0.84, lip * 0.68), DARK),
        *(
            Piece("steam", ring(x, y, 0.1, 0.12, 0.55, start, start + math.pi), LIGHT)
            for x in (-0.2, 0.2)
            for y, start in ((-0.78, 0.5 * math.pi), (-0.95, -0.5 * math.pi))
        ),
    ]


def _boat(rng: Rng) -> list[Piece]:
    deck, keel, main, jib, top = rng.uniform((0.42, 0.35, 0.6, 0.45, -1.0), (0.55, 0.65, 0.8, 0.65, -0.85))
    hull = polygon((-0.95, deck), (0.98, deck), (keel, 0.95), (-keel - 0.05, 0.95))
    board = polygon((-0.93, deck + 0.02), (0.96, deck + 0.02), (0.86, deck + 0.13), (-0.86, deck + 0.13))
    return [
        Piece("mast", rectangle(-0.09, top - 0.05, -0.02, deck + 0.05), DARK),
        Piece("flag", polygon((-0.05, top - 0.16), (0.27, top - 0.04), (-0.05, top + 0.08)), THIRD),
        Piece("mainsail", polygon((0.03, top + 0.12), (0.03, deck - 0.1), (0.03 + main, deck - 0.1)), SECOND),
        Piece("jib", polygon((-0.14, top + 0.3), (-0.14, deck - 0.1), (-0.14 - jib, deck - 0.1)), THIRD),
        Piece("hull", hull, MAIN),
        Piece("hull", board, SECOND),
        *(Piece("hull", ellipse(x, deck + 0.26, 0.06, 0.06), LIGHT) for x in (-0.4, 0.0, 0.4)),
    ]


def _butterfly(rng: Rng) -> list[Piece]:
    upper, lower, lift, spot = rng.uniform((0.44, 0.3, 0.4, 0.1), (0.56, 0.42, 0.75, 0.17))
    pieces = []
    for side in (-1, 1):
        pieces += [
            Piece("lower_wings", ellipse(0.4 * side, 0.42, lower * 1.2, lower * 0.85, 0.75 * side), SECOND),
            Piece("lower_wings", ellipse(0.48 * side, 0.48, spot * 0.9, spot * 0.9), THIRD),
            Piece("upper_wings", ellipse(0.5 * side, -0.25, upper * 1.15, upper * 0.75, -lift * side), MAIN),
            Piece("upper_wings", ellipse(0.62 * side, -0.32, spot * 1.5, spot * 1.1, -lift * side), THIRD),
            Piece("upper_wings", ellipse(0.62 * side, -0.32, spot * 0.6, spot * 0.5), DARK),
            Piece("feelers", stroke(0.02 * side, -0.45, 0.3 * side, -0.95, 0.06), DARK),
            Piece("feelers", ellipse(0.3 * side, -0.95, 0.07, 0.07), DARK),
        ]
    pieces += [
        Piece("body", ellipse(0, 0.1, 0.1, 0.58), DARK),
        Piece("body", ellipse(0, -0.48, 0.13, 0.13), DARK),
    ]
    return pieces


DRAWINGS: tuple[Drawing, ...] = (
    # Never mirrored, so that the eye named left is the one on the picture's left.
    Drawing(
        "face",
        ("head", "hair", "ears", "left_eye", "right_eye", "brows", "nose", "mouth"),
        _face,
        mirror=False,
    ),
    Drawing("car", ("body", "cabin", "windows", "lamp", "front_wheel", "rear_wheel"), _car),
    Drawing("house", ("wall", "roof", "door", "windows", "chimney"), _house),
    Drawing("fish", ("body", "tail", "back_fin", "belly_fin", "gill", "eye"), _fish),
    Drawing("tree", ("crown", "trunk", "fruit"), _tree),
    Drawing("flower", ("petals", "heart", "stem", "leaves"), _flower),
    Drawing("clock", ("rim", "dial", "marks", "hands"), _clock),
    Drawing("cup", ("body", "rim", "handle", "saucer", "steam"), _cup),
    Drawing("boat", ("hull", "mast", "mainsail", "jib", "flag"), _boat),
    Drawing("butterfly", ("upper_wings", "lower_wings", "body", "feelers"), _butterfly),
)

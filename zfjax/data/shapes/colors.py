"""Random colors, drawn from the same distribution for all classes."""

import colorsys

from zfjax.data.shapes.canvas import Paint, Rgb, Rng, textures_count


def color(rng: Rng) -> Rgb:
    """A random color of any hue, not too dark."""
    hue, saturation, value = rng.random(3).tolist()
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.1 + 0.85 * saturation, 0.25 + 0.75 * value)
    return 255.0 * red, 255.0 * green, 255.0 * blue


def blend(first: Rgb, second: Rgb, share: float) -> Rgb:
    """The color `share` (0..1) of the way from the first to the second."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def dark(rng: Rng) -> Rgb:
    """A random color, near black."""
    return blend((0.0, 0.0, 0.0), color(rng), 0.3)


def light(rng: Rng) -> Rgb:
    """A random color, near white."""
    return blend((255.0, 255.0, 255.0), color(rng), 0.25)


def palette(rng: Rng, background: Rgb) -> list[Rgb]:
    """One color for each `Color`: MAIN stands out from the background, and each next one from those before."""
    chosen = [background]
    for _ in range(3):
        candidates = [color(rng) for _ in range(6)]
        chosen.append(max(candidates, key=lambda c: min(_distance(c, other) for other in chosen)))
    return [*chosen[1:], dark(rng), light(rng)]


def paint(rng: Rng, first: Rgb, strength: float) -> Paint:
    """A paint of this color, often textured; `strength` (0..1) is how far the texture departs from the color."""
    if strength == 0.0 or rng.random() < 0.35:
        return Paint(first, first, 0)
    return Paint(first, blend(first, color(rng), strength), int(rng.integers(1, textures_count())))


def _distance(a: Rgb, b: Rgb) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2])

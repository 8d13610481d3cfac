"""Windows that slide over maps, as convolutions and pools have them; pairs are (height, width)."""

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right)) in cells


def window_count(size: int, window: int, stride: int, padding: Pair) -> int:
    """How many windows fit along an axis of `size` cells with `padding` (before, after); below 1 if none does."""
    return (size + sum(padding) - window) // stride + 1

"""A deconvolutional network's layers, and the sizes of its maps for images of a given size."""

from typing import NamedTuple

from zfjax.ops.pooling3d import Block, pooled_shape

Sides = tuple[int, int, int]  # (height, width, maps)


class Deconv(NamedTuple):
    """A layer: how many maps it has, the side of its filters, and what is pooled above it."""

    maps: int
    side: int = 7  # of the filters, in cells
    pool: Block | None = None  # (rows, columns, maps); None: not pooled


# As the paper has them, for gray images of 150 × 150 pixels.
PAPER = (Deconv(15, 7, (3, 3, 3)), Deconv(50, 7, (3, 3, 2)), Deconv(100, 7, (3, 3, 2)), Deconv(150, 7))


class Stack(NamedTuple):
    """Layers over gray images of one size. Layers are numbered from 1; 0 is the image."""

    image: tuple[int, int]  # (height, width) in pixels
    layers: tuple[Deconv, ...]

    def of(self, count: int) -> "Stack":
        """The first `count` layers."""
        return Stack(self.image, self.layers[:count])

    def maps(self, number: int) -> Sides:
        """The sides of a layer's maps, which are larger than what they reconstruct by a filter's side less one."""
        if not number:
            return (*self.image, 1)
        layer = self.layers[number - 1]
        height, width, _ = self.pooled(number - 1)
        return (height + layer.side - 1, width + layer.side - 1, layer.maps)

    def pooled(self, number: int) -> Sides:
        """The sides of a layer's maps after its pool, which the layer above reconstructs."""
        sides, pool = self.maps(number), self.layers[number - 1].pool if number else None
        if pool is None:
            return sides
        _, height, width, maps = pooled_shape((1, *sides), pool)
        return height, width, maps

    def kernel(self, number: int) -> tuple[int, int, int, int]:
        """The shape of a layer's filters: [side, side, its maps, pooled maps below]."""
        layer = self.layers[number - 1]
        return (layer.side, layer.side, layer.maps, self.pooled(number - 1)[2])

"""`shapes`: pictures of ten kinds of objects, with masks and parts, drawn by the package itself."""

from typing import TYPE_CHECKING

from zfjax.data.shapes.compose import Part, Scene, Without, counterfactuals, owners, scene
from zfjax.data.shapes.objects import DRAWINGS

if TYPE_CHECKING:
    from zfjax.data.shapes.builder import Shapes, ShapesConfig

__all__ = ["CLASSES", "PARTS", "Part", "Scene", "Without", "counterfactuals", "owners", "prepared_builder", "scene"]

CLASSES: tuple[str, ...] = tuple(drawing.name for drawing in DRAWINGS)
PARTS: dict[str, tuple[str, ...]] = {drawing.name: drawing.parts for drawing in DRAWINGS}


def prepared_builder(data_dir: str = "", config: "ShapesConfig | None" = None) -> "Shapes":
    """The TFDS builder, which draws its pictures on first use: see `builder.prepared_builder`."""
    from zfjax.data.shapes import builder  # drawing alone needs no TFDS

    return builder.prepared_builder(data_dir, config)

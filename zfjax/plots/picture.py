"""The figure that all plots return."""

import io
from typing import Any

from matplotlib.figure import Figure

from zfjax.plots.lettering import make_drawable


class Picture(Figure):
    """A figure that notebooks show without pyplot if it is a cell's last value."""

    def draw(self, renderer: Any) -> None:
        """Draw the figure, with all texts in fonts that have their letters."""
        make_drawable(self)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

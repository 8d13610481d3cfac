"""The figure that all plots return."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that notebooks draw when it is a cell's last value, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()

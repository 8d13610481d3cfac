"""Draws images/deconvnet-steps.png: runs the Python of deconvnet.md on a finished default run.

python docs/draw_steps.py --workdir=runs/shapes
"""

import argparse
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import zfjax

DOCS = pathlib.Path(__file__).parent


def blocks(path: pathlib.Path) -> list[str]:
    """The Python blocks of a Markdown page, in order."""
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def draw(arrays: dict[str, Any], mean: np.ndarray) -> Figure:
    """The image and its way up, and below it the way down."""
    up = ("images", "relu1", "pool1", "norm1", "relu2")
    down = ("pixels", "rectified", "unpooled", "in_norm1", "signal")
    figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
    for axes, name in zip(figure.subplots(2, 5).ravel(), (*up, *down), strict=True):
        x = np.asarray(arrays[name])[0]
        shape = " × ".join(map(str, x.shape))
        axes.set_title(f"{name}\n{shape}", fontsize=9)
        axes.set_axis_off()
        if name == "images":
            axes.imshow(np.clip((x + mean) / 255, 0, 1))
        else:
            x = x if x.shape[-1] == 3 else np.repeat(x.sum(axis=-1, keepdims=True), 3, axis=-1)
            axes.imshow(0.5 + 0.5 * x / np.abs(x).max(), interpolation="nearest")
    return figure


def main() -> None:
    """Reads the flags, runs the page and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", default="runs/shapes", help="a finished default run")
    parser.add_argument("--image", type=int, default=8, help="number in its validation set")
    args = parser.parse_args()
    found = zfjax.open_run(args.workdir).val
    names = {"zfjax": zfjax, "jax": jax, "jnp": jnp, "net": found.net, "variables": found.variables}
    names["images"] = found.load(np.array([args.image]))
    for block in blocks(DOCS / "deconvnet.md"):
        exec(block, names)
    draw(names, found.image_mean).savefig(DOCS / "images" / "deconvnet-steps.png")


if __name__ == "__main__":
    main()

"""Draws images/strip.png: what one map of each layer fires for, of a finished default run.

python docs/draw_strip.py --workdir=runs/shapes
"""

import argparse
import pathlib

import numpy as np
from matplotlib.figure import Figure

import zfjax
from zfjax.experiments.gallery import Gallery, gallery, top_activations
from zfjax.models import layer, layers
from zfjax.plots.projections import per_image, sheet

DOCS = pathlib.Path(__file__).parent
MAPS = {"relu1": 4, "relu2": 20, "relu3": 28, "relu4": 24, "relu5": 18}


def draw(galleries: dict[str, Gallery], mean: np.ndarray) -> Figure:
    """A column a layer: nine projections, and below them the patches that caused them."""
    figure = Figure(figsize=(10, 4.25), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.04, wspace=0.02, hspace=0.02)
    grid = figure.subplots(2, len(galleries))
    for column, (name, found) in zip(grid.T, galleries.items(), strict=True):
        means = [mean[top : top + height, left : left + width] for top, left, height, width in found.fields[0]]
        patches = np.clip((found.images[0] + np.stack(means)) / 255, 0, 1)
        for axes, pictures in zip(column, (per_image(found.projections[0]), patches), strict=True):
            axes.imshow(sheet(pictures, 3, max(1, pictures.shape[1] // 24)), interpolation="nearest")
            axes.set_axis_off()
        column[0].set_title(f"layer {name[-1]}, map {found.maps[0]}", fontsize=9)
    return figure


def main() -> None:
    """Reads the flags, finds the strongest activations and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", default="runs/shapes", help="a finished default run")
    parser.add_argument("--maps", default=",".join(map(str, MAPS.values())), help="one of each layer, 1 to 5")
    parser.add_argument("--out", default=str(DOCS / "images" / "strip.png"))
    args = parser.parse_args()
    found = zfjax.open_run(args.workdir).val
    chosen = dict(zip(MAPS, map(int, args.maps.split(",")), strict=True))
    tops = top_activations(layers(found.net, found.variables, tuple(chosen)), found.batches(64))
    galleries = {
        name: gallery(layer(found.net, found.variables, name), tops[name], [unit], found.load)
        for name, unit in chosen.items()
    }
    draw(galleries, found.image_mean).savefig(args.out)


if __name__ == "__main__":
    main()

"""The default recipe, and every figure and table of its run.

CI has run it: ZFJAX_README_RUN names the folder in which the README's commands trained and drew. Elsewhere two epochs
of it are trained here.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_runs
from PIL import Image

pytestmark = pytest.mark.slow
BANDS = {2: (0.55, 0.95), 15: (0.94, 0.985)}  # by epochs: neither broken nor too good to be true


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    if "ZFJAX_README_RUN" in os.environ:
        return Path(os.environ["ZFJAX_README_RUN"])
    folder = tmp_path_factory.mktemp("default")
    places = (f"--config.data_dir={folder / 'tfds'}", f"--config.cache_dir={folder / 'cache'}")
    command("train", folder / "run", "--config.epochs=2", *places)
    said = command("figures", folder / "run", "--maps=4", "--stride=12", "--classes=face,car,boat")
    assert "not drawn" not in said
    return folder / "run"


def command(verb: str, run: Path, *flags: str) -> str:
    words = [sys.executable, "-m", f"zfjax.{verb}", f"--workdir={run}", *flags]
    usual = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}  # here much is computed: with optimized programs
    done = subprocess.run(words, env=usual, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_lands_in_the_band(run):
    last = tiny_runs.metrics(run)[-1]
    low, high = BANDS[last["epoch"]]
    assert low < last["val_top1"] < high
    assert last["val_top5"] > 0.9
    assert all((run / name).exists() for name in ("curves.png", "filters.png", "predictions.png"))


def test_all_figures_are_drawn(run):
    expected = [f"fig2_layer{i}" for i in range(1, 6)]
    expected += ["fig4_evolution", "fig4_convergence", "fig5_invariance", "fig6", "fig7_occlusion", "fig8"]
    for name in expected:
        with Image.open(run / "figures" / f"{name}.png") as picture:
            assert len(picture.convert("L").getcolors()) > 50, name  # not blank
        assert (run / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with np.load(run / "figures" / f"{name}.npz") as arrays:
            assert all(np.isfinite(arrays[key]).all() for key in arrays if arrays[key].dtype.kind == "f"), name
    for table in ("fig7_masks", "table1"):
        assert all((run / "figures" / f"{table}.{kind}").exists() for kind in ("md", "csv", "json"))


def test_its_layers_are_probed_and_its_features_transferred(run):
    """To its own dataset, which it knows: far above chance with few images."""
    said = command("probe", run, "--per_class=10", "--folds=1")
    assert all(f"layer {i}" in said or f"\n{i} " in said for i in (1, 5, 7)), said
    said = command("transfer", run, "--dataset=shapes", "--per_class=5", "--folds=2", "--noscratch", "--test=20")
    line = next(line for line in said.splitlines() if line.lstrip().startswith("5 "))
    assert float(line.split()[1]) > 25, said

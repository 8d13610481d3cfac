"""A minute of the default recipe must land in a band: neither broken nor too good to be true."""

import sys

import pytest
import tiny_runs


@pytest.mark.slow
def test_two_epochs_of_the_default_run_land_in_the_band(tmp_path):
    command = [sys.executable, "-m", "zfjax.train", f"--workdir={tmp_path / 'run'}", "--config.epochs=2"]
    done = tiny_runs.run(
        [*command, f"--config.data_dir={tmp_path / 'tfds'}", f"--config.cache_dir={tmp_path / 'cache'}"]
    )
    assert done.returncode == 0, done.stderr
    last = tiny_runs.metrics(tmp_path / "run")[-1]
    assert last["epoch"] == 2
    assert 0.55 < last["val_top1"] < 0.95
    assert last["val_top5"] > 0.9
    assert all((tmp_path / "run" / name).exists() for name in ("curves.png", "filters.png", "predictions.png"))

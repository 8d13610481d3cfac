"""A minute of the default recipe must land in a band: neither broken nor too good to be true."""

import pytest

from zfjax.config import default
from zfjax.training.loop import train_and_evaluate


@pytest.mark.slow
def test_two_epochs_of_the_default_run_land_in_the_band(tmp_path):
    config = default()
    config.update({"epochs": 2, "data_dir": str(tmp_path / "tfds"), "cache_dir": str(tmp_path / "cache")})
    outcome = train_and_evaluate(config, tmp_path / "run")
    assert outcome.scores.examples == 2000
    assert 0.55 < outcome.scores.top1 < 0.95
    assert outcome.scores.top5 > 0.9

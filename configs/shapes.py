"""The built-in drawn shapes: the default run, the same as `python -m zfjax.train` without a --config.

    python -m zfjax.train --config=configs/shapes.py

The first start draws the pictures. Takes minutes on two CPU cores; docs/results.md has the measured time and accuracy.
"""

from zfjax.training.config import default


def get_config():
    """The default run."""
    return default()

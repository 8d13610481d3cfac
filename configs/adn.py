"""An Adaptive Deconvolutional Network on photographs: the paper's four layers and size.

    python -m zfjax.adn --config=configs/adn.py --dataset=folder:PHOTOS --images=500 --workdir=runs/adn-photos

Upper layers have fewer numbers to reconstruct an image with, so each has its own signal-to-noise ratio. docs/adn.md has
what they reached, and how long it took.
"""

from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.adn.stack import PAPER


def get_config():
    """The four layers."""
    return Settings(layers=PAPER, side=150, snr=(12.5, 9.5, 8.5, 8.0), epochs=6)

"""ImageNet 2012 by the paper's full recipe (Section 3.1): 70 epochs; 12 days on the paper's GTX 580.

    python -m zfjax.train --config=configs/imagenet.py --workdir=runs/imagenet

Batch 128, rate 0.01 divided on a validation plateau, momentum 0.9, dropout 0.5, Gaussian weights of std 0.01, filters
renormalized after each update. The dataset must first be prepared as array_record, which takes TensorFlow and the
archives from image-net.org; if it was not, the command says how.
"""

from zfjax.training.config import paper


def get_config():
    """The paper's recipe."""
    return paper()

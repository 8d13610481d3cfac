"""ImageNet 2012 by the paper's recipe in full (Section 3.1): 70 epochs; 12 days on the paper's GTX 580.

    python -m zfjax.train --config=configs/imagenet.py --workdir=runs/imagenet

The set must have been prepared as array_record once, which takes TensorFlow and the archives from image-net.org; if it
was not, the command says how.
"""

from zfjax.config import default


def get_config():
    """Batch 128, rate 0.01 annealed on a validation plateau, momentum 0.9, dropout 0.5, Gaussian weights of std 0.01."""
    config = default()
    config.dataset = "tfds:imagenet2012"
    config.image_size = 224
    config.random_crop = False  # 10 fixed sub-crops
    config.cache_dir = ""  # 250 GB if decoded
    config.width = 1.0
    config.init_std = 0.01
    config.epochs = 70
    config.batch_size = 128
    config.adam = False
    config.lr = 0.01
    config.momentum = 0.9
    config.cosine = False
    config.plateau_patience = 3
    config.plateau_factor = 0.1
    config.filter_radius = 0.1
    config.log_steps = 100
    config.checkpoint_steps = 2000
    return config

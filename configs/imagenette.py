"""Imagenette: ten classes of ImageNet, 9,469 photographs to train on.

    python -m zfjax.train --config=configs/imagenette.py --workdir=runs/imagenette
    python -m zfjax.train --config=configs/imagenette.py:cpu --workdir=runs/imagenette-cpu

The first is Fig. 3's net at 224 px, for an accelerator; the second a quarter of its width at 96 px, for a laptop.
Pictures in class folders instead of TFDS: add `--config.dataset=folder:PATH`. docs/results.md has the measured results.
"""

from zfjax.training.config import default


def get_config(where: str = ""):
    """The recipe for an accelerator, or with `cpu` the one for a laptop."""
    config = default()
    config.dataset = "tfds:imagenette/320px-v2"
    config.image_size = 224
    config.width = 1.0
    config.dropout = 0.5
    config.epochs = 60
    config.batch_size = 128
    config.lr = 0.0003
    config.warmup_epochs = 2.0
    config.dtype = "bfloat16"
    if where == "cpu":
        config.image_size = 96
        config.width = 0.25
        config.epochs = 20
        config.batch_size = 64
        config.lr = 0.001
        config.weight_decay = 0.003  # 0.001 for 30 epochs ended 1 % lower, with grainier projections
        config.dtype = "float32"
    elif where:
        raise ValueError(f"imagenette.py:{where}: expected imagenette.py or imagenette.py:cpu")
    return config

"""ImageNet 2012 on a TPU: the paper's recipe in bfloat16, with batches of 1024 and a matching schedule.

    python -m zfjax.train --config=configs/tpu.py --workdir=gs://BUCKET/runs/imagenet

On a pod, run the same on every host with `--distributed`. The rate is scaled with the batch (8 × 128 and 8 × 0.01;
Goyal et al. 2017), warms up over five epochs and falls along a cosine, instead of waiting for plateaus.
"""

from zfjax.training.config import paper


def get_config():
    """The paper's recipe for large batches."""
    config = paper()
    config.dtype = "bfloat16"
    config.batch_size = 1024
    config.lr = 0.08
    config.warmup_epochs = 5.0
    config.cosine = True
    config.plateau_patience = 0
    return config

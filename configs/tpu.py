"""ImageNet 2012 on a TPU: the paper's recipe with bfloat16, batch 1024 and the schedule that goes with it.

    python -m zfjax.train --config=configs/tpu.py --workdir=gs://BUCKET/runs/imagenet
    python -m zfjax.train --config=configs/tpu.py --workdir=gs://BUCKET/runs/imagenet --distributed   # on every host of a pod

The rate grows with the batch (8 × 128 -> 8 × 0.01, Goyal et al. 2017), warms up over five epochs, and falls along a
cosine instead of waiting for plateaus.
"""

import pathlib
import runpy


def get_config():
    """`imagenet.py` for large batches."""
    config = runpy.run_path(str(pathlib.Path(__file__).with_name("imagenet.py")))["get_config"]()
    config.dtype = "bfloat16"
    config.batch_size = 1024
    config.lr = 0.08
    config.warmup_epochs = 5.0
    config.cosine = True
    config.plateau_patience = 0
    return config

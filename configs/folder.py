"""Your own photographs: one folder per class, with or without train/ and val/ above them.

    python -m zfjax.train --config=configs/folder.py:PATH --workdir=runs/photos

A quarter-width ZFNet at 96 px, so that a few thousand pictures train on a laptop in minutes. On an accelerator add
`--config.image_size=224 --config.width=1`.
"""

from zfjax.training.config import default


def get_config(path: str = "."):
    """The default recipe on the class folders in `path`."""
    config = default()
    config.dataset = f"folder:{path}"
    config.epochs = 30
    config.lr = 0.001
    config.width = 0.25
    config.dropout = 0.5
    return config

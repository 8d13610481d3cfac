"""Files as PyTorch writes them: `python tests/goldens/make_checkpoints.py`, commit checkpoints/.

They are read without PyTorch, so that their tests need none. Importing this file needs none either.
"""

import argparse
import collections
import enum
import pathlib
from typing import NamedTuple

import numpy as np

HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "checkpoints"


def tensors() -> dict[str, np.ndarray]:
    """What all of them hold: a convolution's weights."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1) / 4
    return {"conv.weight": weight, "conv.bias": np.array([0.5, -1], np.float32)}


class Settings(dict):
    """A dictionary of a class that nobody else has, as Lightning's hyper_parameters."""


class Learner:
    """An object with a net, as fastai exports."""

    def __init__(self, model):
        self.model, self.epochs = model, [1, 2]


class Trained(NamedTuple):
    """A net and how long it was trained."""

    model: object
    epochs: int


class Mode(enum.Enum):
    FAST = 1


def state(prefix: str = "", factor: float = 1.0):
    import torch

    return {prefix + name: torch.from_numpy(value * np.float32(factor)) for name, value in tensors().items()}


def net():
    import torch

    made = torch.nn.Sequential(collections.OrderedDict(conv=torch.nn.Conv2d(3, 2, 1)))
    made.load_state_dict(state())
    return made


def optimizer():
    """A state with moments of all weights in it."""
    import torch

    made = net()
    adam = torch.optim.Adam(made.parameters())
    made(torch.ones(1, 3, 2, 2)).sum().backward()
    adam.step()
    return adam.state_dict()


def torchvisions():
    """What torchvision's training script keeps, with averaged weights of half the size."""
    import torch

    return {
        "model": state(),
        "optimizer": optimizer(),
        "lr_scheduler": {"_step_count": 3},
        "epoch": np.int64(3),
        "args": argparse.Namespace(lr=np.float64(0.1), output_dir=pathlib.PurePosixPath("runs"), mode=Mode.FAST),
        "model_ema": {**state("module.", 0.5), "n_averaged": torch.tensor(7)},
    }


def lightnings():
    import torch

    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": {**state("net._orig_mod."), "loss.weight": torch.ones(2)},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": pathlib.PurePosixPath("a.ckpt")}},
        "optimizer_states": [optimizer()],
        "hyper_parameters": Settings(lr=0.1, mode=Mode.FAST),
    }


def save(folder: pathlib.Path) -> None:
    """Writes them all."""
    import torch

    folder.mkdir(exist_ok=True)
    torch.save(state(), folder / "state_dict.pth")
    torch.save(state(), folder / "old.PTH", _use_new_zipfile_serialization=False)
    torch.save(state(), folder / "protocol4.pt", pickle_protocol=4)
    torch.serialization.set_crc32_options(False)
    torch.save(state(), folder / "no_checksums.pth")
    torch.serialization.set_crc32_options(True)
    torch.save(torchvisions(), folder / "training.pth")
    torch.save(torchvisions(), folder / "old_training.pth", _use_new_zipfile_serialization=False)
    torch.save(lightnings(), folder / "lightning.ckpt")
    torch.save({"model": torch.nn.DataParallel(net()), "ema": None}, folder / "module.pt")


if __name__ == "__main__":
    # Under its own name, or the files would name their classes as __main__'s.
    from make_checkpoints import save as save_all

    save_all(FOLDER)
    for path in sorted(FOLDER.iterdir()):
        print(path.name, path.stat().st_size)

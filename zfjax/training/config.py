"""Every key of a training run with its default, which is the `shapes` run.

    python -m zfjax.train

draws the embedded dataset on first use, trains an eighth-width ZFNet on it at 96 px, and ends with pictures.
The recipes in `configs/` are edits of this.
"""

import importlib.util
import json
import reprlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.text import brief, did_you_mean


def default() -> ConfigDict:
    """The configuration of the default run; an unknown key is an error."""
    config = ConfigDict()

    # The pictures.
    config.dataset = "shapes"  # shapes | folder:PATH | tfds:NAME[/CONFIG][:SPLIT]
    config.data_dir = ""  # where TFDS keeps its sets; "" is TFDS's own default
    config.image_size = 96  # pixels; pictures are decoded to 256/224 of this, then cropped
    config.random_crop = True  # any position and flip; False: the paper's 10 fixed sub-crops
    config.max_broken = 0.01  # share of unreadable pictures that stops the run
    config.cache_dir = "~/.cache/zfjax"  # decoded pictures are kept here; "": decode in every epoch
    config.threads = 0  # decoding threads; 0: as many as cores

    # The net.
    config.net = "zfnet"  # a preset: zfnet, zfnet_post, alexnet, vgg16, resnet18 … (all: zfjax summary --help)
    config.num_classes = 0  # 0: as many as the dataset has
    config.width = 0.125  # scales maps and fc units
    config.dropout = 0.2  # share of fc6's and fc7's units dropped in each training step
    config.init_std = 0.0  # std of the Gaussian initial weights (the paper: 0.01); 0: He's above pixels
    config.without = ()  # numbers of the layers to leave out, from 1 to 7: (3, 4) or (7,)
    config.fc_units = 0  # units of fc6 and of fc7, at width 1; 0: the net's own, 4096
    config.maps3to5 = ()  # maps of conv3, conv4 and conv5, at width 1; (): the net's own, (384, 384, 256)
    config.dtype = "float32"  # of activations: float32 | bfloat16
    config.matmul_precision = ""  # of products of float32: default | high | highest (docs/tpu.md); "": as JAX is set

    # The recipe.
    config.seed = 0
    config.epochs = 15
    config.batch_size = 64  # over all devices
    config.lr = 0.002
    config.momentum = 0.9
    config.weight_decay = 0.001  # times the weights, added to kernels' gradients; the paper names none
    config.adam = True  # instead of SGD with momentum
    config.warmup_epochs = 0.5  # the rate grows linearly from 0
    config.cosine = True  # the rate falls to 0 along a cosine over the run
    config.plateau_patience = 0  # epochs without a better validation error before the rate is reduced; 0: never
    config.plateau_factor = 0.1
    config.filter_radius = 0.1  # RMS that conv filters are rescaled to after each update; 0: free

    # What is written.
    config.log_steps = 20  # steps between lines in metrics.jsonl
    config.checkpoint_steps = 0  # steps between checkpoints inside an epoch; 0: only after each epoch
    config.tensorboard = False
    return config.lock()


def paper() -> ConfigDict:
    """The paper's training (Section 3.1) in full, on ImageNet 2012."""
    config = default()
    config.dataset = "tfds:imagenet2012"
    config.image_size = 224
    config.random_crop = False
    config.cache_dir = ""  # decoded, ImageNet is 250 GB
    config.width = 1.0
    config.dropout = 0.5
    config.init_std = 0.01
    config.epochs = 70
    config.batch_size = 128
    config.adam = False
    config.lr = 0.01
    config.momentum = 0.9
    config.weight_decay = 0.0
    config.warmup_epochs = 0.0
    config.cosine = False
    config.plateau_patience = 3
    config.plateau_factor = 0.1
    config.filter_radius = 0.1
    config.log_steps = 100
    config.checkpoint_steps = 2000
    return config


# Keys that do not change what a run computes; `epochs` only if no cosine spans them.
FREE_KEYS = frozenset(
    (
        "epochs",
        "data_dir",
        "cache_dir",
        "threads",
        "log_steps",
        "checkpoint_steps",
        "tensorboard",
        "max_broken",
    )
)


def settings(config: ConfigDict) -> dict[str, Any]:
    """The keys that a finished run's weights depend on, as in JSON."""
    return {key: value for key, value in as_json(config).items() if key == "epochs" or key not in FREE_KEYS}


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The keys and values as config.json stores them, with lists for tuples."""
    return json.loads(json.dumps(config.to_dict()))


def square_size(image_size: int) -> int:
    """Side of the squares that pictures are decoded to, in proportion to the paper's 256 for crops of 224."""
    return round(image_size * 256 / 224)


_COUNT = 2**31  # too large for any count: arrays and steps are indexed by 32 bits
_LARGE = 1e38  # too large for float32

# The allowed range of each number: [low, high).
_RANGES = {
    "image_size": (1, 2**16),
    "threads": (0, 1025),
    "num_classes": (0, _COUNT),
    "dropout": (0, 1),
    "init_std": (0, 1000),
    "fc_units": (0, _COUNT),
    "seed": (0, 2**32),
    "epochs": (1, _COUNT),
    "batch_size": (1, _COUNT),
    "lr": (0, _LARGE),
    "momentum": (0, 1),
    "weight_decay": (0, _LARGE),
    "warmup_epochs": (0, _COUNT),
    "plateau_patience": (0, _COUNT),
    "plateau_factor": (1e-6, 1),
    "filter_radius": (0, _LARGE),
    "log_steps": (1, _COUNT),
    "checkpoint_steps": (0, _COUNT),
}
# What `jax.default_matmul_precision` takes for any device; the last three are other names of the first three.
_PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", tuple: "whole numbers"}


def check(config: ConfigDict) -> None:
    """Raise a UserError for the first invalid value, before any work is done."""
    _check_kinds(config)
    for key, (low, high) in _RANGES.items():
        value = config[key]
        if not low <= value < high:
            most = f"below {high:g}" if isinstance(value, float) else f"at most {high - 1}"
            raise UserError(f"{key}={_shown(value)} must be at least {low:g}{'' if value < low else f' and {most}'}")
    if not 0 <= config.max_broken <= 1:
        raise UserError(f"max_broken={_shown(config.max_broken)} must be between 0 and 1")
    if not _whole_numbers(config.without, 1, 7):
        raise UserError(f"without={_shown(config.without)} must be numbers of layers, 1 to 7, such as 3,4")
    if not _whole_numbers(config.maps3to5, 1, _COUNT - 1) or len(config.maps3to5) not in (0, 3):
        raise UserError(f"maps3to5={_shown(config.maps3to5)} must be three numbers of maps, such as 512,1024,512")
    if config.cosine and config.warmup_epochs >= config.epochs:
        raise UserError(
            f"warmup_epochs={config.warmup_epochs:g} must be less than epochs={config.epochs}: the cosine follows it"
        )
    if config.matmul_precision not in ("", *_PRECISIONS):
        raise UserError(
            f"matmul_precision={_shown(config.matmul_precision)} must be one of {', '.join(_PRECISIONS)},"
            f" or empty for JAX's own{did_you_mean(config.matmul_precision, _PRECISIONS)}"
        )
    if config.tensorboard and not importlib.util.find_spec("tensorboardX"):
        raise UserError("tensorboard=True needs tensorboardX: pip install 'zfjax[tensorboard]'")


def _check_kinds(config: ConfigDict) -> None:
    """Raise a UserError if a key is missing, unknown, or has a value of another kind than its default."""
    usual = default()
    for key in {**usual, **config}:
        if key not in usual:
            raise unknown_key(key)
        if key not in config:
            raise UserError(f"the configuration has no {key!r}; expected all keys of zfjax.training.config.default()")
        kind, value = type(usual[key]), config[key]
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise wrong_kind(key, value)
        if kind is str and "\0" in value:
            raise UserError(f"{key}={_shown(value)} holds a NUL character")


def unknown_key(key: object) -> UserError:
    """The error for an unknown key."""
    return UserError(f"unknown configuration key {brief(key)!r}{did_you_mean(str(key), list(default()))}")


def wrong_kind(key: str, value: object) -> UserError:
    """The error for a value of the wrong kind."""
    return UserError(f"{key}={_shown(value)} must be {_KINDS[type(default()[key])]}")


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else reprlib.repr(value)


def _whole_numbers(values: Sequence[object], smallest: int, largest: int) -> bool:
    return all(type(value) is int and smallest <= value <= largest for value in values)

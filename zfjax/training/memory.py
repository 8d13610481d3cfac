"""What a net needs of memory at the least, against what there is, so that no run ends in it after hours of work."""

import contextlib
import math
import pathlib

import jax
import jax.numpy as jnp
import psutil
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.text import size_of
from zfjax.models import ConvNet, Model, layer_table
from zfjax.models.specs import Size, weighted

_FLOAT = 4  # bytes of a weight, and of all that belongs to it
_HALF = 2  # bytes of an activation at the least


def require_training(config: ConfigDict, net: ConvNet) -> None:
    """Refuse a training that no memory here holds.

    Counted are the weights, the optimizer's state and what the backward pass needs of the forward pass: a lower bound,
    so nothing that could run is refused.

    Args:
        config: the run's.
        net: by `create_net`; its number of classes does not matter.

    Raises:
        UserError: it needs more than there is; both are in the message.
    """
    copies = 3 if config.adam else 2
    inputs = sum(below.height * below.width * below.maps for _, below in weighted(net.layers, _image(net)))
    num_bytes = inputs * jnp.dtype(net.dtype).itemsize
    parameters = sum(row.parameters for row in layer_table(net))
    _require(parameters, copies, config.batch_size, num_bytes, "training this net", str(config.batch_size))


def require_batches(model: Model, batch_size: int) -> None:
    """Refuse batches of images that no memory here holds, for commands that only look at a model.

    Args:
        model: the model.
        batch_size: images on each device.

    Raises:
        UserError: as `require_training`.
    """
    largest = max(math.prod(place.shape) for place in model.layers.values())
    count = jax.device_count()
    batch = str(batch_size) if count == 1 else f"{batch_size} on each of {count} devices"
    _require(model.parameters, 1, batch_size * count, largest * _HALF, "running this net", batch)


def require_host(num_bytes: float, what: str) -> None:
    """Refuse what the host's memory can't hold. Raises a UserError that names it."""
    there = _host()
    if num_bytes > there:
        raise UserError(f"{what} takes {size_of(num_bytes)} of memory, but this machine has {size_of(there)}")


def _require(parameters: int, copies: int, batch_size: int, image_bytes: int, what: str, batch: str) -> None:
    """Compare `copies` of the weights, and `image_bytes` for each image of a batch, with each device's memory."""
    devices = jax.local_devices()
    limit = None if devices[0].platform == "cpu" else (devices[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:  # the devices share the host's memory
        where, there, weights, images = "this machine", _host(), len(devices), batch_size / jax.process_count()
    else:
        where, there, weights, images = "each device", limit, 1, batch_size / jax.device_count()
    of_weights = weights * copies * _FLOAT * parameters
    of_images = images * image_bytes
    if of_weights + of_images > there:
        raise UserError(
            f"{what} takes at least {size_of(of_weights)} of memory for weights and {size_of(of_images)} for a batch of"
            f" {batch}, but {where} has {size_of(there)}; expected a smaller net, image_size or batch_size"
        )


def _image(net: ConvNet) -> Size:
    return Size(net.image_size, net.image_size, 3)


def _host() -> int:
    """The host's memory in bytes, or what a container may use of it."""
    there = psutil.virtual_memory().total + psutil.swap_memory().total
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # the file is there for containers only; "max": no limit
            there = min(there, int(pathlib.Path(file).read_text()))
    return there

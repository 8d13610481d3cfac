"""Batches of images shared out among all devices of all processes."""

import concurrent.futures
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from zfjax.runs.first import from_all
from zfjax.training.precision import matmul_precision


class Found(NamedTuple):
    """What every device of every process found of its share of the images."""

    parts: Sequence[Mapping[str, np.ndarray]]
    images: Sequence[Int[np.ndarray, " some"]]  # the numbers of each part's images

    def joined(self, name: str) -> np.ndarray:
        """The arrays of this name along their last axis, in the order of the images."""
        order = np.argsort(np.concatenate(self.images))
        return np.concatenate([part[name] for part in self.parts], axis=-1)[..., order]

    def mean(self, name: str) -> np.ndarray:
        """The mean over the parts of what has no images."""
        return np.mean([part[name] for part in self.parts], axis=0)


def batches(share: range, each: int, count: int) -> Iterator[Int[np.ndarray, " batch"]]:
    """The numbers of the images in each batch of a share, of `each` images or, at the end of all, fewer."""
    return (np.arange(first, min(first + each, count)) for first in share)


def on_all_devices(
    count: int, each: int, precision: str, work: Callable[[jax.Device, range], Mapping[str, np.ndarray]]
) -> Found:
    """Do work on batches of images, each device of each process with its share; every process gets the result.

    Args:
        count: images.
        each: images in a batch.
        precision: of products of float32.
        work: from a device, and the first image of each of its batches, to arrays whose last axis is images, or that
            have none.
    """
    devices, firsts = jax.local_devices(), range(0, count, each)
    before = jax.process_index() * len(devices)
    shares = [firsts[before + number :: jax.device_count()] for number in range(len(devices))]

    def of_share(device: jax.Device, share: range) -> dict[str, np.ndarray]:
        # Settings of JAX are a thread's own.
        with jax.default_device(device), matmul_precision(precision):
            return {**work(device, share), "images": np.concatenate([*batches(share, each, count)])}

    # A lens is many programs, with work on the host in between; so each device takes whole batches, in a thread.
    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        at_work = [one for one in zip(devices, shares, strict=True) if one[1]]
        mine = list(pool.map(lambda one: of_share(*one), at_work))
    named = {f"{number}/{name}": array for number, part in enumerate(mine) for name, array in part.items()}
    parts: list[dict[str, np.ndarray]] = []
    for arrays in from_all(named):
        by_number: dict[str, dict[str, np.ndarray]] = {}
        for key, array in arrays.items():
            number, _, name = key.partition("/")
            by_number.setdefault(number, {})[name] = array
        parts += by_number.values()
    return Found(parts, [part["images"] for part in parts])

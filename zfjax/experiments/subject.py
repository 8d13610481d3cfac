"""What experiments look at: a trained net, and images as it wants them."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int, PyTree

from zfjax.data.crops import center_crop, subtract_mean
from zfjax.data.pictures import Pictures
from zfjax.data.pipeline import eval_batches
from zfjax.models import ConvNet
from zfjax.models.specs import Dense, ReLU
from zfjax.training.run import RunInfo, load_model, open_data, read_run


class Subject(NamedTuple):
    """A net, its variables, and a split of pictures; images are their centre crops with the mean subtracted."""

    net: ConvNet
    variables: PyTree
    pictures: Pictures
    mean: Float[Array, "side side 3"]  # of the squares that are cropped

    def load(self, numbers: Int[np.ndarray, " n"]) -> Float[Array, "n size size 3"]:
        """The images with these numbers in the split."""
        squares, _ = self.pictures.load(np.asarray(numbers))
        return _images(squares, self.mean, self.net.image_size)

    def batches(self, batch_size: int) -> Iterator[Float[Array, "n size size 3"]]:
        """All images, in order; the last batch may be smaller."""
        for batch in eval_batches(self.pictures, batch_size):
            yield _images(batch.image[batch.mask > 0], self.mean, self.net.image_size)

    @property
    def image_mean(self) -> Float[np.ndarray, "size size 3"]:
        """What was subtracted from the images."""
        return np.asarray(center_crop(self.mean[None], self.net.image_size)[0])


def of_run(workdir: epath.PathLike, checkpoint: str = "latest") -> tuple[RunInfo, Subject]:
    """The net of a finished run, and its validation split.

    Raises:
        UserError: there is no such run or checkpoint, or its dataset is no longer there.
    """
    run = read_run(workdir)
    model = load_model(run, checkpoint)
    pictures = open_data(run.config, run.folder).val
    # On the device once, not with each batch.
    params, mean = jax.device_put((model.params, model.mean))
    return run, Subject(model.net, {"params": params}, pictures, mean)


def feature_layers(net: ConvNet) -> list[str]:
    """The paper's layers 1 to 5: the rectified maps, by name."""
    names = []
    for spec in net.layers:
        if isinstance(spec, Dense):
            break
        if isinstance(spec, ReLU):
            names.append(spec.name)
    return names


@functools.partial(jax.jit, static_argnames="size")
def _images(squares: Array, mean: Array, size: int) -> Array:
    return center_crop(subtract_mean(squares, mean), size)

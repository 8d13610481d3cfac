"""What a deconvolutional network is learned with."""

import json
import math
from typing import Any, NamedTuple

from zfjax.console.errors import UserError
from zfjax.experiments.adn.inference import Method
from zfjax.experiments.adn.stack import PAPER, Deconv, Stack


class Settings(NamedTuple):
    """All that the filters depend on, besides the pictures.

    λ of each layer is either given, or follows from the signal-to-noise ratio that reconstructions shall have. Then it
    grows while a layer learns: with a small λ few filters are active at once, and become edges; with a larger one they
    share the rest out among them.
    """

    layers: tuple[Deconv, ...] = PAPER[:2]
    side: int = 64  # pixels of an image
    snr: float = 10.0  # dB, of each layer's reconstructions
    weights: tuple[float, ...] = ()  # λ of each layer; (): as snr says
    steps: tuple[float, ...] = ()  # the recalled β of each layer, with λ β = 1/L; (): 1/L by power iteration
    epochs: int = 12
    batch_size: int = 5  # images at once
    group: int = 2  # batches between updates of filters; 0: all of them
    learning: Method = Method(moving=5)  # for each image and epoch
    inference: Method = Method(moving=10, fixed=30, momentum=True)  # for an image as such
    conjugate_gradients: int = 2  # steps for each update
    seed: int = 0

    @property
    def stack(self) -> Stack:
        """The layers over images of this size."""
        return Stack((self.side, self.side), self.layers)

    def as_json(self) -> dict[str, Any]:
        """For a file, with lists for tuples."""
        return json.loads(json.dumps(self._asdict()))


def paper() -> Settings:
    """The paper's, as far as they are known: λ and β are from memory, and the number of epochs is."""
    return Settings(
        layers=PAPER,
        side=150,
        weights=(2.0, 0.1, 0.005, 0.001),
        steps=(1e-3, 1e-4, 1e-6, 1e-8),
        epochs=10,
        group=0,
        learning=Method(moving=1),
        inference=Method(moving=10),
    )


def check(settings: Settings) -> None:
    """Raise a UserError if these layers cannot lie over images of this size, or a number is out of range."""
    for number, layer in enumerate(settings.layers, 1):
        height, _, _ = settings.stack.pooled(number - 1)
        if layer.side > height:
            where = "images" if number == 1 else f"layer {number - 1}'s pooled maps"
            raise UserError(
                f"layer {number}: its filters of {layer.side}×{layer.side} are larger than {where} of"
                f" {height}×{height}; give a larger --size"
            )
    if not (math.isfinite(settings.snr) and settings.snr > 0):
        raise UserError(f"--snr: expected decibels above 0, got {settings.snr:g}")
    for name, values in (("weights", settings.weights), ("steps", settings.steps)):
        if values and (len(values) < len(settings.layers) or min(values) <= 0):
            raise UserError(f"{name}: expected {len(settings.layers)} numbers above 0, got {list(values)}")

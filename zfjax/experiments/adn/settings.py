"""What a deconvolutional network is learned with."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from zfjax.console.errors import UserError
from zfjax.experiments.adn.inference import Method
from zfjax.experiments.adn.stack import PAPER, Deconv, Stack


class Settings(NamedTuple):
    """All that the filters depend on, besides the pictures.

    λ of each layer is either given, or follows from the signal-to-noise ratio that reconstructions should have. Then it
    grows while a layer learns: with a small λ few filters are active at once, and become edges; with a larger one they
    share the rest out among them.
    """

    layers: tuple[Deconv, ...] = PAPER[:2]
    side: int = 64  # pixels of an image
    snr: tuple[float, ...] = (10.0,)  # dB, of each layer's reconstructions; the last is of all further layers too
    weights: tuple[float, ...] = ()  # λ of each layer; (): as snr says
    steps: tuple[float, ...] = ()  # the recalled β of each layer, with λ β = 1/L; (): 1/L by power iteration
    epochs: int = 12
    batch_size: int = 5  # images at once
    pixels: int = 4  # to learn from between updates of filters, at least, for each of their numbers; 0: all images
    learning: Method = Method(moving=2, fixed=3, momentum=True)  # for each image and epoch
    inference: Method = Method(moving=4, fixed=6, momentum=True, refit=30)  # for an image as such
    conjugate_gradients: int = 2  # steps for each update
    seed: int = 0

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Settings":
        """What `as_json` made a file's content of. Raises a KeyError, TypeError or ValueError if it isn't that."""
        values = {name: found[name] for name in cls._fields}
        for name in ("snr", "weights", "steps"):
            values[name] = tuple(map(float, values[name]))
        values["layers"] = tuple(
            Deconv(maps, side, None if pool is None else (pool[0], pool[1], pool[2]))
            for maps, side, pool in values["layers"]
        )
        for name in ("learning", "inference"):
            values[name] = Method(*values[name])
        return cls(**values)

    @property
    def stack(self) -> Stack:
        """The layers over images of this size."""
        return Stack((self.side, self.side), self.layers)

    def wanted(self, number: int) -> float:
        """The signal-to-noise ratio in dB that a layer's reconstructions should have."""
        return self.snr[min(number, len(self.snr)) - 1]

    def images_between(self, number: int) -> int:
        """From how many images, at least, a layer's filters are updated: ten, or more if there are many of them."""
        pixels, numbers = math.prod(self.stack.image), math.prod(self.stack.kernel(number))
        return max(10, -(-self.pixels * numbers // pixels))

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
        pixels=0,
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
    if not settings.snr or not all(math.isfinite(one) and one > 0 for one in settings.snr):
        raise UserError(f"--snr: expected decibels above 0, got {','.join(f'{one:g}' for one in settings.snr)}")
    if len(settings.snr) > len(settings.layers):
        raise UserError(f"--snr has {len(settings.snr)} numbers, but there are {len(settings.layers)} layers")
    for name, values in (("weights", settings.weights), ("steps", settings.steps)):
        fit = len(values) >= len(settings.layers) and all(math.isfinite(one) and one > 0 for one in values)
        if values and not fit:
            raise UserError(f"{name}: expected {len(settings.layers)} numbers above 0, got {list(values)}")
    if settings.steps and not settings.weights:
        raise UserError("steps: expected weights too, since a step is 1/(λL)")
    for name, least in (("epochs", 1), ("batch_size", 1), ("conjugate_gradients", 1), ("pixels", 0), ("seed", 0)):
        _require_number(name, getattr(settings, name), least)
    for name in ("learning", "inference"):
        method = getattr(settings, name)
        for part in ("moving", "fixed", "refit"):
            _require_number(f"{name}.{part}", getattr(method, part), 0)
        if not method.moving + method.fixed:
            raise UserError(f"{name}: expected one iteration or more, got none")


def _require_number(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UserError(f"{name}: expected a whole number of {least} or more, got {value!r}")

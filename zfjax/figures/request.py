"""What a figure is asked for with, and what it gives back."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from zfjax.console.errors import UserError
from zfjax.console.tables import Table
from zfjax.runs.folder import RunInfo
from zfjax.runs.subject import Chosen, Splits, Subject


class NotForThisRun(UserError):
    """What a figure needs and a run cannot have; passed over where all figures are drawn."""


class Opened(NamedTuple):
    """A run with its net before its pictures."""

    run: RunInfo
    splits: Splits


class Request(NamedTuple):
    """A run, and the flags of the command."""

    run: RunInfo
    splits: Splits
    files: Chosen | None = None  # images to look at; None: one image of each of `classes`
    classes: tuple[str, ...] = ()  # none: the first five that there are
    layers: tuple[str, ...] = ()  # of the gallery and the evolution; none: the paper's 1 to 5
    maps: int | None = 8  # how many of each layer; None: all
    units: tuple[int, ...] = ()  # or these
    window: int = 0  # side of the occluder in pixels; 0: 48 of 224
    stride: int = 0  # pixels between its positions; 0: 8 of 224
    seed: int = 0
    batch_size: int = 64
    compare: tuple[Opened, ...] = ()  # other runs, beside this one

    @property
    def subject(self) -> Subject:
        """The net before its validation split."""
        return self.splits.val

    def rng(self, figure: int) -> np.random.Generator:
        """Draws for one figure, whatever others are drawn."""
        return np.random.default_rng((self.seed, figure))

    def chosen(self, figure: int) -> Chosen:
        """The single images to look at.

        Raises:
            UserError: the dataset lacks a class.
        """
        if self.files is not None:
            return self.files
        if self.classes:
            labels = [self.subject.label_of(name) for name in self.classes]
        else:
            labels = np.unique(self.subject.labels)[:5].tolist()
        return self.subject.one_of_each(labels, self.rng(figure))


class Drawing(NamedTuple):
    """A figure, the name of its files, and the arrays behind it."""

    name: str
    figure: Figure
    arrays: Mapping[str, np.ndarray]
    table: tuple[str, Table] | None = None  # written beside it, and the name of its files

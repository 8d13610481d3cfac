"""The input and output of a figure."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from zfjax.console.errors import UserError
from zfjax.console.tables import Table
from zfjax.experiments.passes import Parts
from zfjax.runs.folder import RunInfo
from zfjax.runs.subject import Chosen, Splits, Subject


class NotForThisRun(UserError):
    """The run lacks something a figure needs; such figures are skipped when all figures are drawn."""


class Opened(NamedTuple):
    """A run with its net and pictures."""

    run: RunInfo
    splits: Splits


class Request(NamedTuple):
    """A run, and the flags of the command."""

    run: RunInfo
    splits: Splits
    files: Chosen | None = None  # images to use; None: one image of each of `classes`
    classes: tuple[str, ...] = ()  # empty: the first five that have images
    layers: tuple[str, ...] = ()  # of the gallery and the evolution; empty: the paper's 1 to 5
    maps: int | None = 8  # maps per layer; None: all
    units: tuple[int, ...] = ()  # these maps instead
    window: int = 0  # side of the occluder in pixels; 0: 48 of 224
    stride: int = 0  # pixels between positions; 0: 8 of 224
    seed: int = 0
    batch_size: int = 64
    parts: Parts | None = None  # of passes over the splits, kept until all is drawn
    compare: tuple[Opened, ...] = ()  # other runs to show beside this one

    @property
    def subject(self) -> Subject:
        """The net and its validation split."""
        return self.splits.val

    def rng(self, figure: int) -> np.random.Generator:
        """A generator for one figure, independent of which others are drawn."""
        return np.random.default_rng((self.seed, figure))

    def chosen(self, figure: int) -> Chosen:
        """The single images to use.

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
    table: tuple[str, Table] | None = None  # the name of its files, and the table

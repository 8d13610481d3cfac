"""The input and output of a figure."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from zfjax.console.errors import UserError
from zfjax.console.tables import Table
from zfjax.experiments.passes import Parts
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import Given, OfRun
from zfjax.runs.subject import Chosen, Splits, Subject


class NotForThisRun(UserError):
    """The run or model lacks something a figure needs; such figures are skipped when all figures are drawn."""


class Opened(NamedTuple):
    """A run or a model, with its pictures."""

    given: Given
    splits: Splits


class Request(NamedTuple):
    """A run or a model, and the flags of the command."""

    given: Given
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
        """The model and its validation split."""
        return self.splits.val

    @property
    def names(self) -> tuple[str, ...]:
        """The layers asked for, or those that are like the paper's 1 to 5."""
        return self.layers or self.subject.model.feature_layers

    @property
    def run(self) -> RunInfo:
        """The run.

        Raises:
            NotForThisRun: it is no run but a model.
        """
        if not isinstance(self.given, OfRun):
            raise NotForThisRun("it needs the checkpoints of a run, which a model has not")
        return self.given.run

    def rng(self, figure: int) -> np.random.Generator:
        """A generator for one figure, independent of which others are drawn."""
        return np.random.default_rng((self.seed, figure))

    def chosen(self, figure: int) -> Chosen:
        """The single images to use.

        Raises:
            UserError: the dataset lacks a class.
            NotForThisRun: the model has no classes.
        """
        if not self.subject.classes:
            raise NotForThisRun("it needs probabilities of classes; the model gives no logits [N, classes]")
        if self.files is not None:
            return self.files
        if self.classes:
            labels = [self.subject.label_of(name) for name in self.classes]
        else:
            known = np.unique(self.subject.labels)
            labels = known[known >= 0][:5].tolist()
            if not labels:  # nobody knows what the pictures show
                numbers = self.rng(figure).permutation(len(self.subject.pictures))[:5]
                return self.subject.unlabeled(numbers)
        return self.subject.one_of_each(labels, self.rng(figure))


class Drawing(NamedTuple):
    """A figure, the name of its files, and the arrays behind it."""

    name: str
    figure: Figure
    arrays: Mapping[str, np.ndarray]
    table: tuple[str, Table] | None = None  # the name of its files, and the table

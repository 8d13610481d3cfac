"""From a run or a model to an explorer of it: what is known of its maps from the whole split, then all programs."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Int32, UInt8

from zfjax.atlas.collect import STRONGEST, with_unknown
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.data.pictures import Pictures
from zfjax.experiments.exploring.explorer import Explorer, Known
from zfjax.experiments.passes import Dissected, Parts, dissected, responded, strongest
from zfjax.runs.subject import Subject


@dataclasses.dataclass(frozen=True)
class _Some:
    """Some of a split's pictures."""

    pictures: Pictures
    numbers: Int[np.ndarray, " some"]

    def __len__(self) -> int:
        return len(self.numbers)

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        return self.pictures.load(self.numbers[indices])


def require_gradio() -> None:
    """Raise a UserError if the library that the page is made with is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio: pip install 'zfjax[explore]'")


def few(subject: Subject, most: int) -> Subject:
    """At most so many of a split's pictures, spread evenly; 0: all."""
    count = len(subject.pictures)
    if not 0 < most < count:
        return subject
    numbers = np.linspace(0, count - 1, most).astype(int)
    return subject._replace(
        pictures=_Some(subject.pictures, numbers),
        labels=subject.labels[numbers],
        kept=subject.kept[numbers],
        fingerprint=f"{most} of {subject.fingerprint}",
    )


def opened(
    subject: Subject, layers: Sequence[str], batch_size: int, parts: Parts | None = None, precision: str = ""
) -> Explorer:
    """An explorer that is ready: a click waits for nothing but its answer.

    Args:
        subject: the model and its pictures; there may be none.
        layers: whose maps' strongest patches and histograms are found; empty for the paper's 1 to 5.
        batch_size: pictures on a device at a time.
        parts: where what was found is kept for the next time.
        precision: of products of float32.

    Raises:
        UserError: the model has no such layer.
    """
    model, count = subject.model, len(subject.pictures)
    names = [model.place(name).name for name in layers or model.feature_layers]
    known: dict[str, Known] = {}
    if count:
        labeled = with_unknown(subject)
        with Progress("strongest activations", count) as progress:
            tops = strongest(labeled, names, min(STRONGEST, count), batch_size, parts, progress)
        with Progress("histograms and classes", count) as progress:
            responses = responded(labeled, tops, batch_size, parts, progress) if labeled.classes else {}
        labels: Mapping[str, Dissected] = {}
        if responses:
            with Progress("labels", count) as progress:
                labels = dissected(labeled, responses, batch_size, parts, progress)
        known = {
            name: Known(tops[name], responses.get(name), labels[name].labels if name in labels else ())
            for name in names
        }
    explorer = Explorer(subject, known, precision)
    explorer.prepare()
    return explorer

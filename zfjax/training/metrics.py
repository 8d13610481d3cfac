"""A run's log of itself: metrics.jsonl and TensorBoard."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping

import jax
from etils import epath

from zfjax.console.errors import UserError
from zfjax.console.files import damaged, read_whole, write_whole
from zfjax.console.text import say
from zfjax.training.step import StepMetrics

FILE = "metrics.jsonl"


class MetricsLog:
    """`metrics.jsonl` in a run's folder: one JSON object per line, each with its `step`, in order.

    The whole file is written at every `flush`, since object stores cannot append. Lines of steps that a resumed run
    repeats are dropped.
    """

    def __init__(self, folder: epath.PathLike, resumed_step: int, *, tensorboard: bool = False, write: bool = True):
        """Keep the lines up to `resumed_step`; if `write` is False, another process writes the file."""
        self._path = epath.Path(folder) / FILE
        self._write = write
        self.records = [record for record in read_metrics(folder) if record["step"] <= resumed_step]
        self._board = _summary_writer(epath.Path(folder), resumed_step) if tensorboard and write else None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of `step`."""
        self.records.append({"step": step, **values})
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write all lines. Raises a UserError if the file cannot be written."""
        if not self._write:
            return
        if self._board:
            self._board.flush()
        write_whole(self._path, self._text())

    @property
    def digest(self) -> str:
        """Digest of all lines, to tell later whether the file has changed."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:32]

    def _text(self) -> str:
        return "".join(json.dumps(_without_nan(record)) + "\n" for record in self.records)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Report an earlier failure rather than one from here: on a full disk this fails too.
        with contextlib.suppress(*() if kind is None else (Exception,)):
            self.flush()
            if self._board:
                self._board.close()


def read_metrics(folder: epath.PathLike) -> list[dict[str, float]]:
    """Read the lines of a run's metrics.jsonl, oldest first; empty if there is no file.

    Damaged lines are left out, and counted on stderr.

    Raises:
        UserError: the file cannot be read.
    """
    path = epath.Path(folder) / FILE
    try:
        lines = read_whole(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise damaged(path, error, "move it away to go on without the lines that were in it") from error
    if lines and not lines[-1]:
        lines.pop()  # after the last line's end
    records = [record for record in map(_record, lines) if record is not None]
    if len(records) < len(lines):
        say(f"{path}: {len(lines) - len(records)} of its {len(lines)} lines are damaged and left out")
    return records


def _record(line: bytes) -> dict[str, float] | None:
    """A line's numbers by name, with NaN for null; None if it is damaged."""
    try:
        values = json.loads(line.decode())
        numbers = [value for value in values.values() if value is not None]
        if type(values["step"]) is not int or not all(type(n) in (int, float) and abs(n) < 2**63 for n in numbers):
            return None
        return {name: math.nan if value is None else value for name, value in values.items()}
    except (AttributeError, KeyError, ValueError, RecursionError):
        return None


def _remedy(step: int, loss: float) -> str:
    """What to change after a step whose loss or weights are not finite; no learning rate is behind the first loss."""
    return "a smaller init_std, or dtype=float32" if step == 1 and not math.isfinite(loss) else "a smaller lr"


def _without_nan(record: Mapping[str, float]) -> dict[str, float | None]:
    """Replace non-finite numbers, which JSON lacks, by None."""
    return {name: value if math.isfinite(value) else None for name, value in record.items()}


def _summary_writer(folder: epath.Path, resumed_step: int):
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)


class StepRecorder:
    """Turns the metrics of steps into lines of the log, one step late.

    A step's metrics are read only after the next step was dispatched, so the device never waits for the host.
    """

    def __init__(self, log: MetricsLog, log_steps: int, batch_size: int) -> None:
        """Average over `log_steps` steps per line."""
        self._log, self._log_steps, self._batch_size = log, log_steps, batch_size
        self._pending: tuple[int, StepMetrics] | None = None
        self._window: list[StepMetrics] = []
        self._seconds = self._waited = 0.0  # of the window
        self.resume()
        self.note = ""

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def resume(self) -> None:
        """Restart the clock after something other than training, such as a validation."""
        self._last = time.monotonic()

    def add(self, step: int, metrics: StepMetrics) -> None:
        """Take the metrics of `step`, and settle those of the step before."""
        self.settle()
        self._pending = (step, metrics)
        now = time.monotonic()
        self._seconds, self._last = self._seconds + now - self._last, now

    def settle(self) -> None:
        """Wait for the last step and record its metrics.

        Raises:
            UserError: the loss or the weights are no longer finite; the error names the step.
        """
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = jax.tree.map(float, jax.device_get(metrics))
        if not (math.isfinite(values.loss) and math.isfinite(values.param_norm)):
            raise UserError(
                f"training diverged at step {step}: loss {values.loss}, norm of the weights {values.param_norm};"
                f" checkpoints from before are kept; try {_remedy(step, values.loss)}"
            )
        self._window.append(values)
        if step % self._log_steps == 0:
            self._write_line(step)

    def _write_line(self, step: int) -> None:
        seconds = max(self._seconds, 1e-9)
        means = {
            name: sum(column) / len(column)
            for name, column in zip(StepMetrics._fields, zip(*self._window, strict=True), strict=True)
        }
        self._log.add(
            step,
            {
                **means,
                "lr": float(self._window[-1].lr),
                "images_per_second": len(self._window) * self._batch_size / seconds,
                "data_wait": self._waited / seconds,
            },
        )
        self.note = f"loss {means['loss']:.3f}"
        self._window, self._seconds, self._waited = [], 0.0, 0.0

"""The training loop: from the newest checkpoint to the end of the last epoch."""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict

from zfjax.console import processes
from zfjax.console.errors import UserError
from zfjax.console.hold import hold
from zfjax.console.progress import Progress
from zfjax.console.signals import Deferral
from zfjax.console.text import say
from zfjax.data.annotations import Annotations
from zfjax.data.pictures import Pictures
from zfjax.data.pipeline import Batch, eval_batches, train_batches
from zfjax.data.record import Record
from zfjax.training import sharding
from zfjax.training.checkpoints import CHECKPOINTS, FIG4_EPOCHS, Checkpoints
from zfjax.training.metrics import FILE, MetricsLog, StepRecorder
from zfjax.training.precision import matmul_precision
from zfjax.training.scoring import Scores, Trained, score
from zfjax.training.seals import describe, read_seal
from zfjax.training.state import State, anneal, create_state
from zfjax.training.step import train_step


class RunData(NamedTuple):
    """The pictures of a run, scanned and ready to be batched."""

    classes: tuple[str, ...]
    train: Pictures
    val: Pictures
    record: Record  # what the scan found
    annotations: Annotations | None = None  # of val, if the dataset knows more than classes

    @property
    def mean(self) -> Float[np.ndarray, "side side 3"]:
        """Per-pixel mean of the training squares, 0..255."""
        return self.record.mean

    @property
    def broken(self) -> int:
        """The number of pictures in both splits that could not be read and are left out."""
        return len(self.record.messages)


class Outcome(NamedTuple):
    """How a run ended."""

    folder: epath.Path
    finished: bool  # False: stopped by a signal; the same command resumes
    step: int
    scores: Scores | None  # of the last validation, center crop; None if stopped before the first
    state: State
    data: RunData


class Schedule(NamedTuple):
    """Epochs in steps. Batches may span epochs, so an epoch need not be a whole number of steps."""

    examples: int
    batch_size: int
    epochs: int

    @property
    def steps_per_epoch(self) -> float:
        """Steps per epoch, not necessarily whole."""
        return self.examples / self.batch_size

    def end_of(self, epoch: int) -> int:
        """The step after which every example was seen `epoch` times."""
        return -(-epoch * self.examples // self.batch_size)

    def epoch_at(self, step: int) -> float:
        """The epoch that ends at `step`, as a whole number; if none does, how many epochs that many steps are."""
        epoch = step * self.batch_size // self.examples
        return epoch if self.end_of(epoch) == step else step / self.steps_per_epoch

    def epochs_after(self, step: int) -> range:
        """The epochs, counted from 1, that are not finished at `step`."""
        over = min(self.epochs, step * self.batch_size // self.examples)
        return range(over + 1, self.epochs + 1)


def schedule_of(config: ConfigDict, data: RunData) -> Schedule:
    """Epochs in steps. Raises a UserError if there are fewer pictures than one batch takes, or too many steps."""
    if config.batch_size > len(data.train):
        raise UserError(f"batch_size={config.batch_size} is larger than the {len(data.train)} training pictures")
    schedule = Schedule(len(data.train), config.batch_size, config.epochs)
    for key in ("epochs", "warmup_epochs"):
        steps = schedule.end_of(math.ceil(config[key]))
        if steps >= 2**31:  # steps are numbered by int32
            raise UserError(f"{key}={config[key]:,} is {steps:,} steps; expected fewer than {2**31:,}")
    return schedule


def train(config: ConfigDict, folder: epath.Path, data: RunData, kept_epochs: Iterable[int] = FIG4_EPOCHS) -> Outcome:
    """`train_and_evaluate` on given pictures.

    Args:
        config: its dataset is ignored.
        folder: absolute; checkpoints and metrics go there. It is held meanwhile.
        data: the pictures.
        kept_epochs: the epochs whose checkpoints are kept, besides the latest two and the best.

    Raises:
        UserError: as in `train_and_evaluate`.
    """
    schedule = schedule_of(config, data)
    mesh = sharding.data_mesh()
    kept = [schedule.end_of(epoch) for epoch in kept_epochs]
    first = jax.process_index() == 0
    pictures = {"pictures": data.record.fingerprint} if data.record.known else {}
    run = describe(config, data.classes, data.mean, **pictures)
    held = hold(folder, "zfjax train") if first else contextlib.nullcontext()
    with (
        held,
        Deferral(alone=jax.process_count() == 1) as stop,  # also while waiting for the last checkpoint
        matmul_precision(config.matmul_precision),
    ):
        state = sharding.replicate(create_state(config, len(data.classes), data.mean, schedule.steps_per_epoch), mesh)
        with Checkpoints(folder / CHECKPOINTS, kept, run=run) as checkpoints:
            state = checkpoints.restore_latest(state)
            with MetricsLog(folder, int(state.step), tensorboard=config.tensorboard, write=first) as log:
                if first:
                    _compare(log, folder, int(state.step))
                trainer = Trainer(config, data, schedule, mesh, checkpoints, log, stop)
                state, scores = trainer.run(state)
    step = int(state.step)
    # A stop at the very end does not count as finished: what follows training, such as its plots, is still missing.
    finished = step >= schedule.end_of(config.epochs) and stop.number is None
    return Outcome(folder, finished, step, scores, state, data)


def _compare(log: MetricsLog, folder: epath.Path, step: int) -> None:
    """Report if the lines up to the checkpoint of `step` differ from those at the time it was saved."""
    with contextlib.suppress(UserError):  # no checkpoint, or one that was named when it was read
        seal = read_seal(folder / CHECKPOINTS / str(step))
        if seal and seal.log not in ("", log.digest):
            say(f"{folder / FILE} has changed or lost lines up to step {step}; the weights do not depend on them")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The parts of a run that stay the same from step to step."""

    config: ConfigDict
    data: RunData
    schedule: Schedule
    mesh: Mesh
    checkpoints: Checkpoints
    log: MetricsLog
    stop: Deferral

    def run(self, state: State) -> tuple[State, Scores | None]:
        """Train to the end of the last epoch, or until stopped; scores are those of the last finished epoch."""
        step, batch_size, scores = int(state.step), self.config.batch_size, None
        total = self.schedule.end_of(self.config.epochs) * batch_size
        epochs = self.schedule.epochs_after(step)
        if not epochs:
            return state, self.score(state)
        batches = train_batches(
            self.data.train,
            batch_size,
            seed=self.config.seed,
            start_step=step,
            shard=(jax.process_index(), jax.process_count()),
            threads=self.config.threads,
        )
        show = jax.process_index() == 0
        with (
            contextlib.closing(batches),
            Progress("training", total, initial=step * batch_size, show=show) as progress,
        ):
            # A small set's epoch may have fewer steps: then one line per epoch, so that there are curves.
            log_steps = min(self.config.log_steps, max(1, int(self.schedule.steps_per_epoch)))
            recorder = StepRecorder(self.log, log_steps, batch_size)
            for epoch in epochs:
                state, stopped = self.train_until(self.schedule.end_of(epoch), state, batches, recorder, progress)
                if stopped:
                    break
                state, scores = self.end_epoch(epoch, state)
                progress.say(f"epoch {epoch}/{self.config.epochs}: val {scores}")
                if self.must_stop(int(state.step)):
                    break
        return state, scores

    def train_until(
        self, until: int, state: State, batches: Iterator[Batch], recorder: StepRecorder, progress: Progress
    ) -> tuple[State, bool]:
        """Update up to step `until`; the flag says that it was stopped earlier, with a checkpoint written."""
        step = int(state.step)
        recorder.resume()
        while step < until:
            with recorder.waiting():
                rows = next(batches)
            batch = sharding.place(
                rows, self.mesh
            )  # outside the guard: with several processes it would reject this transfer
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, batch)
            step += 1
            progress.advance(self.config.batch_size, recorder.note)
            recorder.add(step, metrics)
            stopped = self.must_stop(step)
            due = self.config.checkpoint_steps and step % self.config.checkpoint_steps == 0
            # The last step of an epoch is saved with its score instead.
            if step < until and (stopped or due):
                recorder.settle()
                self.log.flush()
                self.checkpoints.save(state, log=self.log.digest)
                if stopped:
                    return state, True
        recorder.settle()
        return state, False

    def must_stop(self, step: int) -> bool:
        """Whether a signal asked to stop; after `step`, the same answer on every process."""
        self.stop.begin()  # from the first step on there is something to save
        wanted = self.stop.number is not None
        if jax.process_count() == 1:
            return wanted
        if processes.are_watched():
            return processes.stop_together(step, wanted)
        if wanted:  # Ctrl-C; JAX's service, which passes the request on to the others, knows only SIGTERM
            signal.raise_signal(signal.SIGTERM)
        return multihost_utils.reached_preemption_sync_point(step)

    def end_epoch(self, epoch: int, state: State) -> tuple[State, Scores]:
        """Score the validation split, anneal, and write the metrics and checkpoint of the epoch."""
        scores = self.score(state)
        if not math.isfinite(scores.loss):
            raise UserError(
                f"the validation loss is not finite after step {int(state.step)}; checkpoints from before are kept;"
                " try a smaller lr, or dtype=float32"
            )
        state = anneal(self.config, state, scores.top1_error)
        values = {"epoch": epoch, "val_loss": scores.loss, "val_top1": scores.top1, "val_top5": scores.top5}
        self.log.add(int(state.step), values)
        # The lines first: a run killed between the two repeats the end of this epoch, and drops them.
        self.log.flush()
        self.checkpoints.save(state, scores.top1, self.log.digest)
        return state, scores

    def score(self, state: State) -> Scores:
        """The validation split by center crops."""
        batches = eval_batches(
            self.data.val,
            self.config.batch_size,
            shard=(jax.process_index(), jax.process_count()),
            threads=self.config.threads,
        )
        return score(Trained(state.net, state.variables, state.mean), batches, self.mesh)

"""Checkpoints of a run: the latest two, the best, and the epochs of Fig. 4; damaged ones are skipped."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from zfjax.console import sealed
from zfjax.console.errors import UserError
from zfjax.console.files import matching
from zfjax.console.text import reason, say
from zfjax.training import stored
from zfjax.training.seals import NOT_SCORED, Seal, metadata_of, read_score, read_seal, require_folder, steps_in
from zfjax.training.state import State

CHECKPOINTS = "checkpoints"
FIG4_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)  # the paper, Fig. 4


class Checkpoints:
    """The checkpoints in one folder, written in the background.

    Use as a context manager: leaving it waits for pending writes.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        keep_steps: Iterable[int] = (),
        *,
        run: Mapping[str, Any] | None = None,
        create: bool = True,
    ) -> None:
        """Open `folder`; make it first if it does not exist and `create` is true.

        Args:
            folder: the folder of all checkpoints.
            keep_steps: steps whose checkpoints are never deleted.
            run: what to store about the run with each checkpoint, as JSON values by name (`seals.newest_seal`).
            create: make the folder if it does not exist.

        Raises:
            UserError: it is not a folder.
        """
        self.folder = epath.Path(folder)
        require_folder(self.folder)
        self._run = dict(run or {})
        self._scores: dict[int, float] = {}
        self._damaged: list[int] = []
        policies = checkpoint_managers.preservation_policy
        self._options = ocp.CheckpointManagerOptions(
            best_fn=_val_top1,  # without it the metrics are not written
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(2), _Best(self._score), policies.CustomSteps(tuple(keep_steps))]
            ),
            save_decision_policy=checkpoint_managers.save_decision_policy.FixedIntervalPolicy(1),
            lightweight_initialize=True,  # Orbax would stumble over damaged metrics
            create=create,
            # Remove what a killed run left behind, but not when only reading: another run may be writing it.
            cleanup_tmp_directories=create,
            # Otherwise, if a folder cannot be made, the threads that wait for it hang for minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self.wait()
                self._manager.close()
            except BaseException:
                self._abandon()
                raise
        else:
            self._abandon()

    def _abandon(self) -> None:
        """Close after a failure, which is what is to be reported: closing raises again if a write failed."""
        with contextlib.suppress(Exception):
            self._manager.close()
        if jax.process_index() == 0:  # a full disk needs the space
            for part in matching(self.folder, "*.orbax-checkpoint-tmp"):
                part.rmtree(missing_ok=True)

    def steps(self) -> list[int]:
        """The existing steps, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the best validation top-1 accuracy, the last of ties; None if there is no checkpoint.

        Anything in place of a checkpoint's folder is named on stderr, since it may have been the best.
        """
        for step in self._no_folders():
            say(f"checkpoint {self.folder / str(step)} is damaged: it is no folder; it does not count as the best")
        return max(self.steps(), key=lambda step: (self._score(step), step), default=None)

    def save(self, state: State, val_top1: float = NOT_SCORED, log: str = "") -> None:
        """Start writing `state`; earlier checkpoints stay until this one is complete.

        Args:
            state: what to save.
            val_top1: its accuracy on the validation split.
            log: digest of the run's metrics so far.

        Raises:
            UserError: the checkpoint before could not be written (full disk, no permission).
        """
        step, tree = int(state.step), _saved(state)
        self._scores[step] = val_top1
        seal = Seal(stored.digest(tree), stored.layout(tree), val_top1, log, self._run)
        try:
            self._set_damaged_aside()
            self._manager.save(
                step,
                args=ocp.args.StandardSave(tree),
                metrics={"val_top1": val_top1},
                custom_metadata=metadata_of(seal),
            )
        except Exception as error:
            raise self._unsaved(error) from error

    def wait(self) -> None:
        """Wait until everything is written. Raises a UserError if that fails."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unsaved(error) from error

    def restore_latest(self, state: State) -> State:
        """`state` with the content of the newest intact checkpoint, or unchanged if there is none.

        A damaged checkpoint is named on stderr and skipped; the next `save` renames it to STEP.damaged.

        Raises:
            UserError: there are checkpoints, but all are damaged or one is of another net.
        """
        steps = sorted({*self.steps(), *self._no_folders()})
        for step in reversed(steps):
            try:
                restored = self._restore(state, step)
            except stored.DamagedError as error:
                self._damaged.append(step)
                say(f"checkpoint {self.folder / str(step)} is damaged: {error}")
                continue
            if self._damaged:
                say(f"using the checkpoint before it, of step {step}")
            return restored
        if steps:
            raise UserError(f"no checkpoint in {self.folder} can be read, though {len(steps)} are there")
        return state

    def restore(self, state: State, step: int) -> State:
        """`state` with the content of the checkpoint of `step`, laid out over devices as `state` is.

        Raises:
            UserError: it is damaged, or of another net.
        """
        try:
            return self._restore(state, step)
        except stored.DamagedError as error:
            raise UserError(f"checkpoint {self.folder / str(step)} is damaged: {error}") from error

    def _no_folders(self) -> list[int]:
        """The steps with something in place of a checkpoint's folder, such as a file or a broken link."""
        return [step for step in steps_in(self.folder) if not (self.folder / str(step)).is_dir()]

    def _restore(self, state: State, step: int) -> State:
        folder, like = self.folder / str(step), _saved(state)
        unchecked = None
        try:
            seal = read_seal(folder)
        except UserError as error:
            seal, unchecked = None, error
        another = f"checkpoint {folder} is of another net than config.json and classes.json say"
        if seal and seal.layout != stored.layout(like):
            raise UserError(another)
        try:
            values = stored.read(folder / "default", like)
        except stored.MisfitError as error:
            if seal:
                raise stored.DamagedError(str(error)) from error
            raise UserError(f"{another}: {error}") from error
        if seal and seal.arrays != stored.digest(values):
            raise stored.DamagedError("its arrays are not those that were saved")
        if int(values["step"]) != step:
            raise stored.DamagedError(f"it is the one of step {int(values['step'])}, under another name")
        if unchecked:
            say(f"{unchecked}; the checkpoint is used unchecked")
        return dataclasses.replace(state, **stored.place(values, like))

    def _score(self, step: int) -> float:
        if step not in self._scores:
            self._scores[step] = read_score(self.folder / str(step))
        return self._scores[step]

    def _set_damaged_aside(self) -> None:
        """Rename damaged newer checkpoints: steps must grow, so they are in the way, but may be repaired by hand."""
        if self._damaged and jax.process_index() == 0:
            for step in self._damaged:
                aside = self.folder / f"{step}.damaged"
                numbers = itertools.count(2)
                while aside.exists():
                    aside = self.folder / f"{step}.damaged.{next(numbers)}"
                (self.folder / str(step)).rename(aside)
        if self._damaged and jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints")
        if self._damaged:
            self._damaged.clear()
            self._manager.close()  # its `reload` reads all metrics
            self._manager = ocp.CheckpointManager(self.folder, options=self._options)

    def _unsaved(self, error: Exception) -> UserError:
        return UserError(
            f"cannot save a checkpoint in {self.folder}: {reason(error)};"
            " earlier checkpoints are kept, so the same command resumes from them once this is fixed"
        )


def is_saved(folder: epath.Path, state: State, run: Mapping[str, Any]) -> bool:
    """Whether `folder` has a checkpoint of the state's step whose seal matches exactly this state and run."""
    with contextlib.suppress(UserError):  # no such checkpoint, or a damaged one
        seal = read_seal(folder / str(int(state.step)))
        made_of = stored.digest(_saved(state)), sealed.digest_of(run)
        return seal is not None and (seal.arrays, sealed.digest_of(seal.run)) == made_of
    return False


class _Best(NamedTuple):
    """Keep the best checkpoint, the last of ties; Orbax's own policy knows only the scores of this process."""

    score: Callable[[int], float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Say for each checkpoint whether to keep it; Orbax calls this."""
        best = max((info.step for info in checkpoints), key=lambda step: (self.score(step), step), default=None)
        return [info.step == best for info in checkpoints]


def _saved(state: State) -> dict[str, PyTree]:
    saved = {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "plateau": state.plateau,
    }
    # Only if there are any, so that runs from before they were stored can be read.
    return saved | ({"stats": state.stats} if state.stats else {})


def _val_top1(metrics: dict[str, float]) -> float:
    return metrics["val_top1"]

"""Checkpoints of a run: the latest two, the best, and the epochs of Fig. 4; damaged ones are passed over."""

import dataclasses
import sys
from collections.abc import Iterable

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from zfjax.console.errors import UserError
from zfjax.console.text import first_line
from zfjax.training.state import State

NOT_SCORED = -1.0  # the accuracy of a checkpoint inside an epoch, so that any scored one is better
CHECKPOINTS = "checkpoints"
FIG4_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)  # the paper, Fig. 4


class Checkpoints:
    """The checkpoints in one folder, written in the background.

    Use as a context: leaving it waits for what is being written.
    """

    def __init__(self, folder: epath.PathLike, keep_steps: Iterable[int] = (), *, create: bool = True) -> None:
        """Opens `folder`, which is made if need be and `create`; `keep_steps` are never deleted.

        Raises:
          UserError: the folder cannot be made or read.
        """
        self.folder = epath.Path(folder)
        self._damaged: list[int] = []
        policies = checkpoint_managers.preservation_policy
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_val_top1,  # without it the metrics are not written
                preservation_policy=policies.AnyPreservationPolicy(
                    [
                        policies.LatestN(2),
                        policies.BestN(get_metric_fn=_val_top1, n=1),
                        policies.CustomSteps(tuple(keep_steps)),
                    ]
                ),
                save_decision_policy=checkpoint_managers.save_decision_policy.FixedIntervalPolicy(1),
                create=create,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._manager.close()

    def steps(self) -> list[int]:
        """The steps there are, oldest first."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the best validation top-1 accuracy; None where there is no checkpoint."""
        return self._manager.best_step()

    def save(self, state: State, val_top1: float = NOT_SCORED) -> None:
        """Starts writing `state`; what was written before stays until this is complete.

        Raises:
          UserError: the checkpoint before could not be written (full disk, no permission).
        """
        step = int(state.step)
        try:
            self._set_damaged_aside()
            self._manager.save(step, args=ocp.args.StandardSave(_saved(state)), metrics={"val_top1": val_top1})
        except Exception as error:
            raise self._unsaved(error) from error

    def wait(self) -> None:
        """Waits until all is written. Raises a UserError where it cannot be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unsaved(error) from error

    def restore_latest(self, state: State) -> State:
        """`state` with what the newest readable checkpoint holds, or as it is where there is none.

        A damaged checkpoint is named on stderr and passed over; the next `save` renames it to STEP.damaged.

        Raises:
          UserError: there are checkpoints, and none of them can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                restored = self.restore(state, step)
            except (MemoryError, PermissionError):
                raise
            except Exception as error:  # a damaged file fails in as many ways as there are files
                self._damaged.append(step)
                print(
                    f"zfjax: checkpoint {self.folder / str(step)} is damaged: {first_line(error)}",
                    file=sys.stderr,
                )
                continue
            if self._damaged:
                print(f"zfjax: using the checkpoint before it, of step {step}", file=sys.stderr)
            return restored
        if steps:
            raise UserError(f"no checkpoint in {self.folder} can be read, though {len(steps)} are there")
        return state

    def restore(self, state: State, step: int) -> State:
        """`state` with what the checkpoint of `step` holds, laid out over devices as `state` is."""
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, _saved(state))
        saved = self._manager.restore(step, args=ocp.args.StandardRestore(like))
        return dataclasses.replace(state, **saved)

    def _set_damaged_aside(self) -> None:
        """Steps must grow, so a damaged newer one is in the way; it is renamed, in case a hand can mend it."""
        if self._damaged and jax.process_index() == 0:
            for step in self._damaged:
                (self.folder / str(step)).rename(self.folder / f"{step}.damaged")
        if self._damaged and jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints")
        if self._damaged:
            self._damaged.clear()
            self._manager.reload()

    def _unsaved(self, error: Exception) -> UserError:
        return UserError(
            f"cannot save a checkpoint in {self.folder}: {first_line(error)};"
            " what was saved before is kept, so the same command goes on from there once this is mended"
        )


def _saved(state: State) -> dict[str, PyTree]:
    saved = {
        "step": state.step,
        "params": state.params,
        "opt_state": state.opt_state,
        "plateau": state.plateau,
    }
    # Only where there are any, so that runs from before they were kept can be read.
    return saved | ({"stats": state.stats} if state.stats else {})


def _val_top1(metrics: dict[str, float]) -> float:
    return metrics["val_top1"]

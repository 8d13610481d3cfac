"""Table 3: nets with layers left out or resized, each trained from scratch and scored on both splits."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath
from ml_collections import ConfigDict

from zfjax.console import sealed, tables
from zfjax.console.errors import UserError
from zfjax.console.files import read_json, write_json
from zfjax.console.progress import Progress
from zfjax.console.signals import stopping
from zfjax.console.text import did_you_mean
from zfjax.data.outside import root_of
from zfjax.data.pictures import Pictures
from zfjax.data.pipeline import Batch, eval_batches
from zfjax.models import layer_table
from zfjax.runs import claim
from zfjax.runs.folder import open_data
from zfjax.runs.training import require_possible, train_and_evaluate
from zfjax.runs.written import CONFIG
from zfjax.training import sharding
from zfjax.training.checkpoints import CHECKPOINTS
from zfjax.training.config import check, default, settings
from zfjax.training.loop import RunData, schedule_of
from zfjax.training.scoring import Trained, score
from zfjax.training.seals import steps_in

RESULT = "errors.json"  # a finished row's result, in its folder
TABLE = "ablation"  # the name of the table's files, beside the rows' folders


class Errors(NamedTuple):
    """Errors in percent, as in the paper's tables."""

    train_top1: float
    val_top1: float
    val_top5: float


class Row(NamedTuple):
    """A net of Table 3: the configuration keys that define it, and the paper's errors on ImageNet."""

    slug: str  # the row's folder, and its name on the command line
    name: str
    net: str
    edit: Mapping[str, Any]  # `without`, `fc_units`, `maps3to5`
    paper: Errors

    def config(self, base: ConfigDict) -> ConfigDict:
        """`base` with only the net changed to this row's."""
        config = base.copy_and_resolve_references()
        config.update({"net": self.net, **self.edit})
        return config


class Result(NamedTuple):
    """The result of one row."""

    parameters: int
    errors: Errors  # center crop, every example of the split once


class Ablation(NamedTuple):
    """Results by slug, and why other rows have none."""

    results: Mapping[str, Result]
    failed: Mapping[str, str]  # slug -> the error's line
    stopped: str = ""  # slug of the row that a signal interrupted


WHOLE = {"alexnet": "alexnet", "zfnet": "zfnet"}  # net -> slug of the row that its variants are compared with

ROWS = (
    Row("alexnet", "AlexNet", "alexnet", {}, Errors(35.1, 40.5, 18.1)),
    Row("alexnet-without-3-4", "AlexNet without 3, 4", "alexnet", {"without": (3, 4)}, Errors(41.8, 45.4, 22.1)),
    Row("alexnet-without-7", "AlexNet without 7", "alexnet", {"without": (7,)}, Errors(27.4, 40.0, 18.4)),
    Row("alexnet-without-6-7", "AlexNet without 6, 7", "alexnet", {"without": (6, 7)}, Errors(27.4, 44.8, 22.4)),
    Row(
        "alexnet-without-3-4-6-7",
        "AlexNet without 3, 4, 6, 7",
        "alexnet",
        {"without": (3, 4, 6, 7)},
        Errors(71.1, 71.3, 50.1),
    ),
    Row("alexnet-fc-2048", "AlexNet, fc 2048", "alexnet", {"fc_units": 2048}, Errors(40.3, 41.7, 18.8)),
    Row("alexnet-fc-8192", "AlexNet, fc 8192", "alexnet", {"fc_units": 8192}, Errors(26.8, 40.0, 18.1)),
    Row("zfnet", "Fig. 3", "zfnet", {}, Errors(33.1, 38.4, 16.5)),
    Row("zfnet-fc-2048", "Fig. 3, fc 2048", "zfnet", {"fc_units": 2048}, Errors(38.2, 40.2, 17.6)),
    Row("zfnet-fc-8192", "Fig. 3, fc 8192", "zfnet", {"fc_units": 8192}, Errors(22.0, 38.8, 17.0)),
    Row(
        "zfnet-maps-512-1024-512",
        "Fig. 3, conv3-5 512-1024-512",
        "zfnet",
        {"maps3to5": (512, 1024, 512)},
        Errors(18.8, 37.5, 16.0),
    ),
    Row(
        "zfnet-both",
        "Fig. 3, fc 8192 and conv3-5 512-1024-512",
        "zfnet",
        {"fc_units": 8192, "maps3to5": (512, 1024, 512)},
        Errors(10.0, 38.3, 16.9),
    ),
)


def select(words: Sequence[str]) -> tuple[Row, ...]:
    """The rows with these numbers (from 1) or slugs, in the paper's order; all rows if `words` is empty.

    Raises:
        UserError: there is no such row; the closest slug is suggested.
    """
    by_word = {row.slug: row for row in ROWS} | {str(number): row for number, row in enumerate(ROWS, start=1)}
    slugs = [row.slug for row in ROWS]
    for word in words:
        if word not in by_word:
            hint = did_you_mean(word, slugs) or ";"
            raise UserError(f"--rows: Table 3 has no row {word!r}{hint} there are 1 to {len(ROWS)}: {', '.join(slugs)}")
    chosen = {by_word[word].slug for word in words} or set(slugs)
    return tuple(row for row in ROWS if row.slug in chosen)


def ablate(
    config: ConfigDict,
    workdir: epath.PathLike,
    rows: Sequence[Row] = ROWS,
    after_row: Callable[[Ablation], object] = lambda ablation: None,
) -> Ablation:
    """Train and score the nets of `rows` one after another, each as a run in `workdir`/slug.

    Finished rows are neither trained nor scored again; the others resume where they stopped. The result includes rows
    that an earlier call finished. A row whose training fails does not stop the others; a signal ends the call after
    the current step.

    Args:
        config: configuration of all runs; each row sets `net`, `without`, `fc_units` and `maps3to5` itself.
        workdir: the folder that holds the rows' folders.
        rows: the rows to train.
        after_row: called with the results so far after each row that was trained or failed.

    Raises:
        UserError: the configuration, the pictures or the folders cannot be used, or a row's net does not fit the
            images; no row is trained then.
    """
    _check(config, rows)
    with claim.held(workdir, "zfjax ablate", root_of(config.dataset, config.data_dir)) as root:
        begun = {row.slug: claim.is_begun(root / row.slug, row.config(config)) for row in rows}
        results = {row.slug: found for row in ROWS if (found := _read_result(root / row.slug, row.config(config)))}
        failed: dict[str, str] = {}
        missing = [row for row in rows if row.slug not in results]
        if missing:  # all rows use the same pictures, which are scanned once
            first = missing[0]
            data = open_data(first.config(config), root / first.slug if begun[first.slug] else None)
            schedule_of(config, data)
        for row in missing:
            print(f"row {ROWS.index(row) + 1} of {len(ROWS)}: {row.slug}", file=sys.stderr, flush=True)
            try:
                with stopping(f"in row {row.slug}"):
                    result = _train_row(row.config(config), root / row.slug, data)
            except (UserError, jax.errors.JaxRuntimeError) as error:  # the latter: out of memory
                failed[row.slug] = str(error).splitlines()[0]
                print(f"row {row.slug} failed: {failed[row.slug]}", file=sys.stderr, flush=True)
            else:
                if result is None:
                    return Ablation(results, failed, stopped=row.slug)
                results[row.slug] = result
            after_row(Ablation(results, failed))
        return Ablation(results, failed)


def require_no_other_table(folder: epath.Path) -> None:
    """Raise a UserError if `folder` has files with the table's name but no row's run: no ablation wrote them."""
    claim.require_trainable(folder)
    for kind in ("md", "csv", "json"):
        file = folder / f"{TABLE}.{kind}"
        if file.exists() and not any((folder / row.slug / CONFIG).exists() for row in ROWS):
            raise UserError(f"workdir {folder} holds {file.name}, but no row's run; give another --workdir")


def _train_row(config: ConfigDict, folder: epath.Path, data: RunData) -> Result | None:
    """`train_row`, started with pictures that have already been scanned."""
    with claim.held(folder, "zfjax ablate", root_of(config.dataset, config.data_dir)):
        if not claim.is_begun(folder, config):
            claim.begin(folder, config, data.classes, data.record)
        return train_row(config, folder)


def train_row(config: ConfigDict, folder: epath.Path) -> Result | None:
    """Train the net of `config` in `folder` to the end, score it and save the result there; None if interrupted.

    Raises:
        UserError: as in `train_and_evaluate`, or the result cannot be written.
    """
    outcome = train_and_evaluate(config, folder)
    if not outcome.finished or outcome.scores is None:
        return None
    state, val = outcome.state, outcome.scores
    model = Trained(state.net, state.variables, state.mean, precision=config.matmul_precision)
    train_top1 = _top1_error(model, outcome.data.train, config)
    result = Result(
        sum(row.parameters for row in layer_table(state.net)),
        Errors(100 * train_top1, 100 * val.top1_error, 100 * val.top5_error),
    )
    _write_result(folder, config, outcome.step, result)
    return result


def to_table(ablation: Ablation, rows: Sequence[Row], title: str) -> tables.Table:
    """The results beside the paper's, with what each edit costs compared with the whole net.

    Shows `rows`, and any other row with a result.
    """
    shown = [row for row in ROWS if row in rows or row.slug in ablation.results]
    header = (
        *("net", "parameters", "train top-1", "val top-1", "val top-5", "cost"),
        *("paper (ImageNet): train top-1", "paper: val top-1", "paper: val top-5", "paper: cost"),
    )
    paper = {row.slug: row.paper for row in ROWS}
    own = {slug: result.errors for slug, result in ablation.results.items()}
    cells = []
    for row in shown:
        result = ablation.results.get(row.slug)
        measured = (result.parameters, *result.errors) if result else (None,) * 4
        cells.append((row.name, *measured, _cost(own, row), *row.paper, _cost(paper, row)))
    notes = [
        "Errors in percent, center crop, every example once. Cost: points of val top-1 error above the whole net's."
    ]
    notes += [sentence for sentence in (_alone_and_together(own, paper),) if sentence]
    notes += [f"Failed: {slug} ({line})." for slug, line in ablation.failed.items()]
    if ablation.stopped:
        notes.append(f"Stopped in {ablation.stopped}.")
    return tables.Table(title, header, cells, " ".join(notes))


def _cost(errors: Mapping[str, Errors], row: Row) -> float | None:
    """How many points higher the row's val top-1 error is than the whole net's; None if either is missing."""
    whole = WHOLE[row.net]
    if row.slug not in errors or whole not in errors:
        return None
    return errors[row.slug].val_top1 - errors[whole].val_top1


def _alone_and_together(own: Mapping[str, Errors], paper: Mapping[str, Errors]) -> str:
    """The paper's finding in numbers: removing middle or dense layers matters little alone, a lot together."""
    removals = [row for row in ROWS if row.edit.get("without") in ((3, 4), (6, 7), (3, 4, 6, 7))]
    if any(_cost(own, row) is None for row in removals):
        return ""
    costs = [" + ".join(f"{_cost(errors, row):.1f}" for row in removals[:2]) for errors in (own, paper)]
    together = [f"{_cost(errors, removals[2]):.1f}" for errors in (own, paper)]
    return (
        f"Without 3, 4 and without 6, 7 cost {costs[0]} points, without all four {together[0]}"
        f" (paper: {costs[1]} and {together[1]})."
    )


def _check(config: ConfigDict, rows: Sequence[Row]) -> None:
    check(config)
    sharding.check_batch_size(config.batch_size)
    for key in ("net", "without", "fc_units", "maps3to5"):
        if config[key] != default()[key]:
            raise UserError(f"{key}={config[key]!r}: the rows of Table 3 set it themselves; choose rows with --rows")
    for row in rows:
        try:
            require_possible(row.config(config))
        except UserError as error:
            raise UserError(f"row {row.slug}: {error}") from error


def _top1_error(model: Trained, pictures: Pictures, config: ConfigDict) -> float:
    batches = eval_batches(pictures, config.batch_size, threads=config.threads)
    with Progress("scoring the training split", len(pictures)) as progress:
        return score(model, _counted(batches, progress), sharding.data_mesh()).top1_error


def _counted(batches: Iterable[Batch], progress: Progress) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        progress.advance(int(batch.mask.sum()))


def _read_result(folder: epath.Path, config: ConfigDict) -> Result | None:
    """The result saved in a row's folder, if it belongs to the newest weights there and to this configuration."""
    try:
        kept = sealed.unseal(read_json(folder / RESULT))
        if kept["made_by"] != {"step": _newest_step(folder), **settings(config)}:
            return None
        return Result(int(kept["parameters"]), Errors(**{name: float(error) for name, error in kept["errors"].items()}))
    except (UserError, AttributeError, KeyError, TypeError, ValueError):  # missing or damaged: compute it again
        return None


def _write_result(folder: epath.Path, config: ConfigDict, step: int, result: Result) -> None:
    kept = {
        "parameters": result.parameters,
        "errors": result.errors._asdict(),
        "made_by": {"step": step, **settings(config)},
    }
    write_json(folder / RESULT, sealed.seal(kept))


def _newest_step(folder: epath.Path) -> int:
    return max(steps_in(folder / CHECKPOINTS), default=-1)

"""Open a dataset by name: `shapes`, `folder:PATH` or `tfds:NAME[/CONFIG][:SPLIT]`."""

import dataclasses
import os

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.data import catalog, folder, shapes
from zfjax.data.shapes.annotations import DrawnObjects
from zfjax.data.source import Source


def open_source(spec: str, *, data_dir: str = "", seed: int = 0) -> Source:
    """Open `shapes`, `folder:PATH` or `tfds:NAME[/CONFIG][:SPLIT]`.

    Args:
        spec: the dataset. SPLIT is TRAIN,VAL, two TFDS split expressions, or a single one, which is divided like a
            dataset without a validation split.
        data_dir: the folder of TFDS datasets; empty for TFDS's default. A relative PATH may also be in it.
        seed: seeds the division of datasets that have no validation split.

    Raises:
        UserError: there is no such dataset, or it cannot be used for training.
    """
    data_dir = os.fspath(user_path(data_dir, "data_dir")) if data_dir else ""
    try:
        return _open(spec, data_dir, seed)
    except OSError as error:
        raise UserError(f"dataset {spec!r} cannot be read: {error.filename or ''} {error.strerror or error}") from error


def check_spec(spec: str) -> None:
    """Raise a UserError if `spec` is not a valid dataset name; does not check that the dataset exists."""
    kind, _, rest = spec.partition(":")
    if spec != "shapes" and not (kind in ("folder", "tfds") and rest):
        hint = f" (did you mean folder:{spec}?)" if os.path.isdir(spec) else ""
        raise UserError(f"dataset {spec!r}: expected shapes, folder:PATH or tfds:NAME[/CONFIG][:SPLIT]{hint}")


def _open(spec: str, data_dir: str, seed: int) -> Source:
    check_spec(spec)
    kind, _, rest = spec.partition(":")
    if kind == "folder":
        return folder.open_folder(rest, data_dir=data_dir, seed=seed)
    if kind == "tfds":
        return catalog.open_catalog(rest, data_dir=data_dir, seed=seed)
    builder = shapes.prepared_builder(data_dir)
    source = catalog.from_builder("shapes", builder, seed=seed)
    return dataclasses.replace(source, annotations=DrawnObjects(builder, "validation"))

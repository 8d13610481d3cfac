"""Open a dataset by name: `shapes`, `folder:PATH` or `tfds:NAME[/CONFIG][:SPLIT]`."""

import dataclasses
import os

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.console.text import reason
from zfjax.data import catalog, folder, shapes
from zfjax.data.shapes.annotations import DrawnObjects
from zfjax.data.source import Source
from zfjax.data.spec import DatasetSpec, parse_spec


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
    parsed = parse_spec(spec)
    data_dir = os.fspath(user_path(data_dir, "data_dir")) if data_dir else ""
    try:
        return _open(parsed, data_dir, seed)
    except OSError as error:
        raise UserError(f"dataset {spec!r} cannot be read: {error.filename or ''} {reason(error)}") from error


def _open(spec: DatasetSpec, data_dir: str, seed: int) -> Source:
    if spec.kind == "folder":
        return folder.open_folder(spec.place, data_dir=data_dir, seed=seed)
    if spec.kind == "tfds":
        builder = catalog.open_builder(spec.place, data_dir)
        return catalog.from_builder(f"tfds:{spec.place}", builder, split=spec.split, seed=seed)
    builder = shapes.prepared_builder(data_dir)
    source = catalog.from_builder("shapes", builder, seed=seed)
    return dataclasses.replace(source, annotations=DrawnObjects(builder, "validation"))

"""The small files of a run's folder, and the copies in its checkpoints that replace damaged ones."""

from collections.abc import Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from zfjax.console.errors import UserError
from zfjax.console.files import damaged, read_json
from zfjax.console.text import did_you_mean, readable, say
from zfjax.data.record import FILE, Record
from zfjax.training import stored
from zfjax.training.config import FREE_KEYS, check, default, square_size
from zfjax.training.seals import Seal
from zfjax.training.state import create_net

CONFIG, CLASSES = "config.json", "classes.json"
ORIGIN = "weights.json"  # for imported weights: their source and preprocessing
ONNX = "onnx"  # the folder of an ONNX file that is a run as it is
SAID = "run.json"  # in that: what the file does not say itself


def free_keys(config: ConfigDict | dict[str, Any]) -> frozenset[str]:
    """The keys that may change from one start of a run to the next."""
    return FREE_KEYS - {"epochs"} if config["cosine"] else FREE_KEYS


def read_config(folder: epath.Path, seal: Seal | None) -> ConfigDict:
    """The configuration of the run in `folder`.

    Args:
        folder: the run's folder.
        seal: from its newest checkpoint. Keys that the weights depend on are taken from it, and a file that differs is
            reported on stderr; keys that may change, and where the pictures are, come from the file.

    Raises:
        UserError: config.json is missing or damaged, and there is no seal.
    """
    path = folder / CONFIG
    kept = seal.run.get("config") if seal else None
    try:
        written = read_json(path)
        config = _as_config(written, path)
    except UserError as error:
        if kept is None:
            if isinstance(error.__cause__, PermissionError):
                raise
            raise UserError(f"{error}; put back what zfjax train wrote there, or use another --workdir") from error
        say(f"{error}; its checkpoints say what was in it")
        return _as_config(kept, path)
    if kept is not None:
        loose = free_keys(kept) | {"dataset"}
        changed = [key for key in kept if key not in loose and written.get(key) != kept[key]]
        if changed:
            say(f"{damaged(path, 'changed: ' + ', '.join(changed))}; its checkpoints say what was in it")
        config.update({key: value for key, value in kept.items() if key in changed or key not in written})
    return config


def read_classes(folder: epath.Path, seal: Seal | None) -> tuple[str, ...]:
    """The class names of the run in `folder`: as its newest checkpoint says, else its classes.json.

    Raises:
        UserError: the file is missing or damaged, and there is no seal.
    """
    path = folder / CLASSES
    kept = tuple(seal.run["classes"]) if seal and "classes" in seal.run else None
    try:
        names = read_json(path)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise damaged(path, "expected a list of names")
        if kept not in (None, tuple(names)):
            raise damaged(path, "it has other names than its checkpoints")
    except UserError as error:
        if kept is None:
            raise UserError(f"{error}; without it, the command that began the run writes it again") from error
        say(f"{error}; its checkpoints say what was in it")
        return tuple(map(readable, kept))
    return tuple(map(readable, names))  # older runs stored them as the disk spells them


def require_record(
    folder: epath.Path, seal: Seal | None, config: ConfigDict, classes: Sequence[str], found: Record
) -> None:
    """Raise a UserError if the scan in `folder` does not fit the run's other files."""
    path = folder / FILE
    if seal and seal.run.get("mean") not in (None, stored.digest({"mean": found.mean})):
        raise UserError(
            f"the mean image in {path} is not the one of the run's checkpoints;"
            " put back the pictures that the run began with, and remove the file"
        )
    if seal and found.known and seal.run.get("pictures") not in (None, found.fingerprint):
        raise UserError(
            f"the images in {path} are not those of the run's checkpoints;"
            " put back the pictures that the run began with, and remove the file"
        )
    if len(found.mean) != square_size(config.image_size):
        raise UserError(
            f"{path} has a mean image of {len(found.mean)} px; {CONFIG} wants {square_size(config.image_size)} px,"
            f" for image_size={config.image_size}; put the run's own file back"
        )
    largest = max(int(labels.max(initial=-1)) for labels in (found.train_labels, found.val_labels))
    if largest >= len(classes):
        raise UserError(
            f"{path} has label {largest}, but {CLASSES} only {len(classes)} classes; put the run's own file back"
        )


def _as_config(value: Any, path: epath.Path) -> ConfigDict:
    """A checked configuration from JSON. Raises a UserError that names `path`."""
    config = default()
    if not isinstance(value, dict):
        raise damaged(path, f"expected an object with the configuration's keys, found {type(value).__name__}")
    for key, field in value.items():
        if key not in config:
            raise UserError(f"{path} has an unknown key {key!r}{did_you_mean(key, list(config))}")
        if isinstance(field, bool) != isinstance(config[key], bool):  # else true would pass for 1
            raise damaged(path, f"{key}={field!r}")
    try:
        config.update(value)
        checked = config.copy_and_resolve_references()
        checked.tensorboard = False  # it need not be installed to read a run
        check(checked)
        create_net(checked, num_classes=1)
    except (TypeError, ValueError, UserError) as error:
        raise damaged(path, error) from error
    return config

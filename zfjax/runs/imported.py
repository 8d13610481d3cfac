"""Turn imported weights into a run's folder, on which all commands work, and a run's weights into PyTorch's."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from zfjax.console import sealed
from zfjax.console.errors import UserError
from zfjax.console.files import damaged, read_json, write_json
from zfjax.data import record
from zfjax.data.outside import root_of
from zfjax.models.specs import Dense
from zfjax.runs.claim import begin, held, require_ours
from zfjax.runs.folder import RunInfo, absolute, load_model, open_data, open_own
from zfjax.runs.written import CONFIG, ONNX, ORIGIN, SAID
from zfjax.training import memory
from zfjax.training.checkpoints import CHECKPOINTS, Checkpoints, is_saved
from zfjax.training.config import default, square_size
from zfjax.training.seals import describe, newest_seal, steps_in
from zfjax.training.state import create_net, create_state
from zfjax.weights import layouts, preprocessing
from zfjax.weights.outputs import distinct, require_one_each, with_outputs
from zfjax.weights.preprocessing import Preprocessing
from zfjax.weights.pretrained import Loaded


def run_config(
    model: str, dataset: str, *, data_dir: str = "", width: float = 1.0, image_size: int = 224
) -> ConfigDict:
    """The configuration of a run with imported weights: the model's preset on a dataset, as the paper trains."""
    config = default()
    config.dataset = dataset
    config.data_dir = data_dir
    config.cache_dir = ""  # a cache is checked against the pictures' mean, which is not the run's
    config.net = layouts.model(model).preset
    config.width = width
    config.image_size = image_size
    memory.require_host(12 * square_size(image_size) ** 2, f"image_size={image_size}: its mean image")
    config.dropout = 0.5
    config.adam = False
    config.filter_radius = 0.0  # imported filters have any size
    return config


def require_no_run(workdir: epath.PathLike, source: str) -> None:
    """Refuse a folder with a run, or with files that no run wrote.

    Importing the same file again is allowed: the first import may have been interrupted, or just finished.

    Raises:
        UserError: it holds any of these.
    """
    folder = absolute(workdir)
    if (folder / ONNX / SAID).exists():
        raise already(folder)
    steps, imported = steps_in(folder / CHECKPOINTS), _imported_from(folder)
    if imported is None:
        if steps or (folder / CONFIG).exists():
            raise already(folder)
        require_ours(folder, None)
        return
    if (folder / CONFIG).exists():
        require_ours(folder, newest_seal(folder / CHECKPOINTS))
    if steps and (steps != [0] or imported != source):
        raise already(folder)


def _imported_from(folder: epath.Path) -> str | None:
    """The file whose weights a folder holds, or was meant to hold; None if nothing was imported there."""
    with contextlib.suppress(UserError, ValueError):
        kept = sealed.unseal(read_json(folder / ORIGIN))
        return str(kept.get("source", "")) if {"preprocessing", "modules"} <= kept.keys() else None
    return None


def already(folder: epath.Path) -> UserError:
    """The error for a folder with another run."""
    return UserError(f"workdir {folder} already holds a run; expected another --workdir")


def fit_classes(loaded: Loaded, config: ConfigDict, names: Sequence[str]) -> Loaded:
    """The net with one output per class of the configuration's dataset, in the dataset's order.

    Args:
        loaded: the net.
        config: names the dataset.
        names: the names of the net's outputs, in order; empty if they are the dataset's classes.

    Raises:
        UserError: the dataset cannot be used, or its classes are not outputs of the net.
    """
    if not config.dataset:
        if names:
            require_one_each(loaded, names)
        return loaded
    source = open_own(config, None)
    if names:
        return with_outputs(loaded, names, source.classes, source.name)
    if loaded.outputs != len(source.classes):
        raise UserError(
            f"the net has {loaded.outputs} outputs, but {source.name} has {len(source.classes)} classes;"
            " expected as many, or --class_names=FILE with the outputs' class names, one per line, among them the"
            " dataset's"
        )
    return loaded


def write_run(
    workdir: epath.PathLike, config: ConfigDict, loaded: Loaded, origin: dict[str, Any], names: Sequence[str] = ()
) -> epath.Path:
    """Write configuration, classes, scan and one checkpoint of step 0, as training does; return the folder.

    The dataset is scanned, and its mean image replaced by the mean that the weights expect. Without a dataset the run
    has no pictures, and commands that need some say so. If exactly this was imported before, nothing is written.

    Args:
        workdir: the run's folder.
        config: from `run_config`.
        loaded: a net with as many outputs as the dataset has classes.
        origin: what else to keep with the preprocessing and module names, such as the path of the source.
        names: names of the classes if there is no dataset; default their numbers.

    Raises:
        UserError: the folder holds a run or cannot be written, or the dataset cannot be used.
    """
    kept = {**origin, "preprocessing": loaded.preprocessing._asdict(), "modules": loaded.modules}
    mean = loaded.preprocessing.mean_image(square_size(config.image_size))
    with held(workdir, "zfjax import-weights", root_of(config.dataset, config.data_dir)) as folder:
        require_no_run(folder, kept.get("source", ""))
        if config.dataset:
            data = open_data(config, None)
            pictures, found, classes = len(data.train), data.record._replace(mean=mean), data.classes
        else:
            none = np.zeros(0, np.int32)
            pictures, found = config.batch_size, record.all_readable(mean, none, none)
            classes = distinct(names) or tuple(str(number) for number in range(loaded.outputs))
        variables = jax.device_put(loaded.variables)  # `jnp.asarray` would compile a program for each shape
        state = create_state(config, loaded.outputs, mean, pictures / config.batch_size, variables)
        run = describe(config, classes, mean, origin=kept)
        if steps_in(folder / CHECKPOINTS):
            if not is_saved(folder / CHECKPOINTS, state, run):
                raise already(folder)
            return folder  # exactly this was imported before
        write_json(folder / ORIGIN, sealed.seal(kept))  # first: it marks what follows as an import
        begin(folder, config, classes, found)
        with Checkpoints(folder / CHECKPOINTS, run=run) as checkpoints:
            checkpoints.save(state)
    return folder


def weights_of(run: RunInfo, checkpoint: str = "latest") -> tuple[str, Loaded]:
    """A run's model, one of `layouts.MODELS`, and its weights with the preprocessing that PyTorch's net needs.

    For a run that zfjax trained, this is RGB in 0..255 less the channel means of its mean image.

    Raises:
        UserError: PyTorch has no such model, layers were left out, or there is no such checkpoint.
    """
    by_preset = {known.preset: name for name, known in layouts.MODELS.items()}
    if run.config.net not in by_preset:
        raise UserError(
            f"the run in {run.folder} has the net {run.config.net}, of which PyTorch has no model;"
            f" expected one of {', '.join(by_preset)}"
        )
    _require_no_edits(run)
    name = by_preset[run.config.net]
    net = create_net(run.config, len(run.classes))
    modules = layouts.MODELS[name].modules(net, {})
    origin = _origin(run.folder, modules)
    variables = load_model(run, checkpoint).variables
    notes: tuple[str, ...] = ()
    if origin is None:
        before = preprocessing.of_mean_image(np.asarray(run.mean))
        if np.ptp(run.mean, axis=(0, 1)).max() > 0:
            notes = (_MEAN_NOTE,)
    else:
        before, modules = origin
    if net.image_size != 224 and any(isinstance(layer, Dense) for layer in net.layers[:-1]):
        notes += (f"made for {net.image_size} px: a {name} in PyTorch that is made for 224 will not take fc6",)
    return name, Loaded(net, variables, before, modules, notes)


_MEAN_NOTE = "the run's mean image differs from pixel to pixel; its channel means stand for it in the file"


def _require_no_edits(run: RunInfo) -> None:
    """Raise a UserError for a net whose layers differ from its preset's: no PyTorch model has them."""
    edits = {key: run.config[key] for key in ("without", "fc_units", "maps3to5") if run.config[key]}
    if edits:
        changed = ", ".join(f"{key}={value}" for key, value in edits.items())
        raise UserError(
            f"the run in {run.folder} has a {run.config.net} with {changed}, of which PyTorch has no model;"
            " expected a net without such edits"
        )


def _origin(folder: epath.Path, usual: layouts.Modules) -> tuple[Preprocessing, layouts.Modules] | None:
    """An imported run's preprocessing and module names; `usual` has all layers with weights."""
    path, seal = folder / ORIGIN, newest_seal(folder / CHECKPOINTS)
    kept = seal.run.get("origin") if seal else None
    if kept is None and not path.exists():
        return None
    what_to_do = "import the weights again, into another --workdir"
    written = read_json(path, what_to_do) if kept is None else kept
    try:
        kept = sealed.unseal(written)
        before, modules = Preprocessing.of(kept["preprocessing"]), dict(kept["modules"])
        if modules.keys() != usual.keys() or len(set(modules.values())) < len(modules):
            raise ValueError("modules: expected one for each layer")
        if not all(isinstance(module, str) for module in modules.values()):
            raise ValueError("modules: expected names")
        return before, modules
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise damaged(path, error, what_to_do) from error

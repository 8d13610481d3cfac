"""What a network keeps on disk: each finished layer, and the one that is learning as of its last epoch.

    adn.json               settings, and a digest of the pictures
    layer1.safetensors …   a layer's filters, λ and L
    learning.safetensors   filters, λ and the maps of all images
    pyramids/              features for SVMs, and the words that they count; a file for each hundred images or so

Files are written whole, and each array file has a digest of its content.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from zfjax.console.errors import UserError
from zfjax.console.files import damaged, read_json, read_whole, write_json, write_whole
from zfjax.data.folder import holds_classes
from zfjax.experiments.adn.settings import Settings

FILE, LEARNING, PYRAMIDS = "adn.json", "learning.safetensors", "pyramids"
# What is drawn at the end, beside pictures of each layer.
DRAWN = (
    "filters.png",
    "learning.png",
    "reconstructions.png",
    "sparsity.png",
    "apart.png",
    "switches.png",
    "layers.csv",
    "layers.md",
    "layers.json",
    "classes.csv",
    "classes.md",
    "classes.json",
)
_OF_EACH_LAYER = ("layers", "snr", "weights", "steps")  # settings; of fewer layers than before, the first are compared
_TOLD = "zfjax"  # the key of what is known about the arrays


def layer_file(number: int) -> str:
    """The name of a finished layer's file."""
    return f"layer{number}.safetensors"


def is_network(folder: epath.Path) -> bool:
    """Whether a network was begun there."""
    return (folder / FILE).exists()


def begin(folder: epath.Path, settings: Settings, dataset: str, pictures: str, data_dir: str = "") -> bool:
    """Write what identifies the network, unless it was begun here before; return whether it was.

    Args:
        folder: of the network.
        settings: of the network; more layers than before may be learned.
        dataset: its name.
        pictures: a digest of them.
        data_dir: where datasets of TFDS are.

    Raises:
        UserError: the folder has another network, or other files that would be overwritten.
    """
    now = {**settings.as_json(), "dataset": dataset, "data_dir": data_dir, "pictures": pictures}
    if not is_network(folder):
        ends = (".safetensors", ".png", "_map.png")
        layers = [f"layer{number}{end}" for number in range(1, len(settings.layers) + 1) for end in ends]
        for name in (*layers, LEARNING, PYRAMIDS, *DRAWN, "config.json", "checkpoints"):
            if (folder / name).exists():
                raise UserError(f"workdir {folder} holds {name}, but no {FILE}; give another --workdir")
        if holds_classes(folder):
            raise UserError(f"workdir {folder} holds folders of pictures; give another --workdir")
        write_json(folder / FILE, now)
        return False
    before = read_settings(folder)
    few = min(len(before["layers"]), len(now["layers"]))
    was, asked = _of_layers(before, few), _of_layers(now, few)
    changed = [name for name in now if name not in ("dataset", "data_dir") and was.get(name) != asked[name]]
    if changed:
        values = ", ".join(_changed(name, before.get(name), now[name], dataset) for name in changed)
        raise UserError(
            f"workdir {folder} holds a network with {values}; give the same values to go on, or another --workdir"
        )
    if len(now["layers"]) > len(before["layers"]):
        write_json(folder / FILE, now)
    return True


def _of_layers(settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Settings of the first layers alone; a list's last value is of all further layers too."""
    lists = {name: at for name in _OF_EACH_LAYER if isinstance(at := settings.get(name), list) and at}
    first = {name: [at[min(number, len(at) - 1)] for number in range(count)] for name, at in lists.items()}
    return {**settings, **first}


def _changed(name: str, before: Any, now: Any, dataset: str) -> str:
    return f"other pictures than {dataset} has" if name == "pictures" else f"{name}={before} (now {now})"


def read_settings(folder: epath.Path) -> dict[str, Any]:
    """The content of adn.json. Raises a UserError if it is missing or damaged."""
    found = read_json(folder / FILE, "expected the --workdir of zfjax adn")
    if not isinstance(found, dict) or not {"layers", "side", "pictures"} <= found.keys():
        raise damaged(folder / FILE, "expected an object with layers, side and pictures")
    return found


def write(path: epath.Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write named arrays, and what is known about them. Raises a UserError if that fails."""
    from safetensors.numpy import save

    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    told = json.dumps({"digest": _digest(plain, about), "about": about})
    write_whole(path, save(plain, {_TOLD: told}))  # one entry, since safetensors writes several in any order


def read(path: epath.Path, what_to_do: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `write` was given.

    Args:
        path: the file.
        what_to_do: the end of the error message.

    Raises:
        UserError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = read_whole(path, 64_000_000_000)
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        told = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_TOLD])
        digest, about = told["digest"], told["about"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error, what_to_do) from error
    if digest != _digest(arrays, about):
        raise damaged(path, "its content is not what was written", what_to_do)
    return arrays, about


def known(path: epath.Path, about: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """What `write` was given with exactly `about`; None if the file is missing, damaged or about anything else."""
    with contextlib.suppress(UserError):
        arrays, told = read(path, "")
        return arrays if told == about else None
    return None


def _digest(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"\0{name} {arrays[name].dtype} {arrays[name].shape}\0".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def digest_of(images: np.ndarray) -> str:
    """A digest of pictures."""
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()[:32]

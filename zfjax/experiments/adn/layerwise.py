"""A network learned layer by layer, from the first up."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn import inference, kept
from zfjax.experiments.adn.inference import Bounds, Codes, Method
from zfjax.experiments.adn.learning import Inferred, first_filters, improve, unit_length
from zfjax.experiments.adn.operators import Kernel, project
from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.adn.stack import Stack

_AGAIN = "remove it to learn that again"
_LOOKED_AT = 20  # images from which λ and the first filters are taken, a few of each of some batches
_FOR_BOUND = 8  # of them, at least, from which L is estimated
_MOST = 30.0  # times the λ that a layer begins with, while it learns
_MARGIN = 1.1  # over that estimate, which is from below; twice if it depends on an image's own switches


@shown_by_shape
class Learned(NamedTuple):
    """A finished layer."""

    kernel: Kernel
    weight: float  # λ, of inference
    bounds: Bounds  # L
    reached: float  # dB, with that λ, on average over some images
    history: Float[np.ndarray, "epochs 4"]  # cost of an image, dB, share of values that are not zero, λ


@shown_by_shape
class Progressing(NamedTuple):
    """A layer that is learning."""

    kernel: Kernel
    weight: float  # λ
    codes: list[Codes]  # of each batch
    history: list[list[float]]


@shown_by_shape
class Task(NamedTuple):
    """What a layer learns from."""

    settings: Settings
    stack: Stack  # up to this layer
    filters: tuple[Kernel, ...]  # of the layers below
    images: list[Array]  # batches [N, side, side, 1]
    switches: list[tuple[Array, ...]]  # of each batch
    pictures: int  # without those of zeros

    @property
    def number(self) -> int:
        """Of the layer."""
        return len(self.stack.layers)

    @property
    def some(self) -> list[int]:
        """Batches spread over all, with about as many images as are looked at."""
        count = min(len(self.images), -(-_LOOKED_AT // len(self.images[0])))
        return np.linspace(0, len(self.images) - 1, count).astype(int).tolist()


def learn(
    settings: Settings, images: Float[np.ndarray, "n side side"], folder: epath.Path, mesh: Mesh
) -> list[Learned]:
    """All layers, going on from what `folder` has, which `kept.begin` has checked.

    Args:
        settings: the layers, and how they learn.
        images: normalized pictures.
        folder: where layers and the state of the last epoch are kept.
        mesh: devices that share the images of a batch.

    Raises:
        UserError: the cost is not finite, λ leaves nothing, or a file is damaged or cannot be written.
    """
    # A dataset's images come class by class.
    images = images[np.random.default_rng(settings.seed).permutation(len(images))]
    batches, learned = batched(images, settings.batch_size, mesh), list[Learned]()
    task = Task(settings, settings.stack.of(1), (), batches, [() for _ in batches], len(images))
    below = jnp.concatenate([batches[at] for at in task.some])
    for number in range(1, len(settings.layers) + 1):
        path = folder / kept.layer_file(number)
        if not path.exists():
            write_layer(path, _learn_layer(task, below, folder))
        learned.append(read_layer(path))  # bound to no devices, so that whatever is drawn is compiled once
        above = range(number + 1, len(settings.layers) + 1)
        if not all((folder / kept.layer_file(one)).exists() for one in above):
            layer = learned[-1]._replace(kernel=_everywhere(learned[-1].kernel, batches[0]))
            codes = infer_all(task, layer)
            below = jnp.concatenate([codes[at].values for at in task.some])
            switches = [(*at, own.switches) for at, own in zip(task.switches, codes, strict=True)]
            del codes  # as large as all images
            filters = (*task.filters, layer.kernel)
            task = task._replace(stack=settings.stack.of(number + 1), filters=filters, switches=switches)
    return learned


def evenly(settings: Settings, mesh: Mesh) -> Settings:
    """Settings with batches that the devices share evenly. These are part of what a network is learned with."""
    return settings._replace(batch_size=-(-settings.batch_size // mesh.size) * mesh.size)


def batched(images: Float[np.ndarray, "n side side"], size: int, mesh: Mesh) -> list[Array]:
    """Images in batches [size, side, side, 1] split over the devices; the last is filled up with images of zeros."""
    filled = np.zeros((-(-len(images) // size) * size, *images.shape[1:], 1), np.float32)
    filled[: len(images)] = images[..., None]
    sharding = NamedSharding(mesh, P("data"))
    return [jax.device_put(filled[start : start + size], sharding) for start in range(0, len(filled), size)]


def infer_all(task: Task, layer: Learned) -> list[Codes]:
    """The codes of a learned layer for all images, in batches."""
    found, filters = list[Codes](), (*task.filters, layer.kernel)
    with Progress(f"layer {task.number} of all images", task.pictures) as progress:
        for images, switches in zip(task.images, task.switches, strict=True):
            start = inference.no_codes(task.stack, task.number, images)
            codes = inference.infer(
                task.stack, filters, switches, layer.weight, layer.bounds, images, start, task.settings.inference
            )
            if not bool(jnp.isfinite(codes.values).all()):
                raise UserError(f"layer {task.number}: its maps are not finite; what was saved before is kept")
            found.append(codes)
            progress.advance(min(len(images), task.pictures - (len(found) - 1) * len(images)))
    return found


def _learn_layer(task: Task, below: Array, folder: epath.Path) -> Learned:
    settings, number = task.settings, task.number
    state = _resumed(task, folder) or _first_state(task, below)
    done = len(state.history)
    with Progress(
        f"learning layer {number}", settings.epochs * task.pictures, initial=done * task.pictures
    ) as progress:
        for epoch in range(done, settings.epochs):
            state = _epoch(task, state, epoch, progress)
            _require_possible(settings, number, epoch, state)
            values, switches = (np.concatenate(parts) for parts in zip(*state.codes, strict=True))
            arrays = {"kernel": np.asarray(state.kernel), "values": values, "switches": switches}
            about = {"layer": number, "weight": state.weight, "history": state.history}
            kept.write(folder / kept.LEARNING, arrays, about)
    bounds = _bounds(task, state.kernel, state.weight)
    with Progress(f"layer {number}: λ") as progress:
        weight, reached = weight_for(task, state.kernel, bounds, state.weight, progress)
    return Learned(state.kernel, weight, bounds, reached, np.array(state.history))


def _first_state(task: Task, below: Array) -> Progressing:
    """Filters that are windows of what lies below, and nothing found yet."""
    settings, number = task.settings, task.number
    layer, key = settings.layers[number - 1], jax.random.fold_in(jax.random.key(settings.seed), number)
    kernel = first_filters(below, layer.side, layer.maps, key)
    if settings.weights:
        weight = settings.weights[number - 1]
    else:  # a few times the least that leaves anything
        filters, some = (*task.filters, kernel), task.some
        up = (project(task.stack, filters, task.switches[at], task.images[at]) for at in some)
        weight = 4 / max(1e-6, *(float(jnp.abs(maps).max()) for maps in up))
    codes = [inference.no_codes(task.stack, number, images) for images in task.images]
    return Progressing(kernel, weight, codes, [])


def _resumed(task: Task, folder: epath.Path) -> Progressing | None:
    path = folder / kept.LEARNING
    if not path.exists():
        return None
    arrays, about = kept.read(path, _AGAIN)
    if about["layer"] != task.number:  # of the layer below, which is finished
        return None
    size = len(task.images[0])
    codes = [
        Codes(*(jax.device_put(arrays[name][start : start + size], images.sharding) for name in Codes._fields))
        for start, images in zip(range(0, size * len(task.images), size), task.images, strict=True)
    ]
    kernel = _everywhere(arrays["kernel"], task.images[0])
    return Progressing(kernel, about["weight"], codes, about["history"])


def _everywhere(kernel: Kernel | Float[np.ndarray, "h w below maps"], images: Array) -> Kernel:
    """On all devices of the images, as one that was just learned is; else each program would be compiled twice."""
    return jax.device_put(kernel, NamedSharding(cast(NamedSharding, images.sharding).mesh, P()))


def _epoch(task: Task, state: Progressing, epoch: int, progress: Progress) -> Progressing:
    """One pass over all images, in an order that depends on the seed, the layer and the epoch alone."""
    settings, stack, total = task.settings, task.stack, len(task.images)
    order = np.random.default_rng((settings.seed, task.number, epoch)).permutation(total)
    group = -(-settings.images_between(task.number) // len(task.images[0])) if settings.pixels else total
    kernel, codes, bounds = state.kernel, list(state.codes), _bounds(task, state.kernel, state.weight)
    sums, seen = np.zeros(3), 0
    for start in range(0, total, group):
        batches = []
        for chosen in order[start : start + group]:
            images, switches, filters = task.images[chosen], task.switches[chosen], (*task.filters, kernel)
            known = (stack, filters, switches, state.weight)
            codes[chosen] = inference.infer(*known, bounds, images, codes[chosen], settings.learning)
            cost, error, nonzero = inference.costs(*known, images, codes[chosen])
            parts = (cost.sum(), jnp.nansum(inference.decibels(images, error)), nonzero.sum())
            sums += [float(part) for part in jax.device_get(parts)]  # fetched at once
            batches.append(Inferred(images, switches, codes[chosen]))
            before, seen = seen, min(task.pictures, seen + len(images))
            progress.advance(seen - before, _note(sums, seen))
        kernel = unit_length(improve(stack, (*task.filters, kernel), batches, settings.conjugate_gradients))[0]
    cost, snr, nonzero = (sums / task.pictures).tolist()
    history = [*state.history, [cost, snr, nonzero / float(np.prod(stack.maps(task.number))), state.weight]]
    weight = state.weight
    if not settings.weights:
        weight = min(weight * _change(settings, task.number, epoch, snr), _MOST * history[0][3])
    return Progressing(kernel, weight, codes, history)


def _note(sums: np.ndarray, seen: int) -> str:
    cost, decibels, nonzero = sums / seen
    return f"cost {cost:,.0f}, {decibels:.1f} dB, {nonzero:,.0f} not zero"


def _change(settings: Settings, number: int, epoch: int, snr: float) -> float:
    """By what λ is multiplied after an epoch: toward the ratio wanted by then."""
    part = min(1.0, (epoch + 1) / max(1, settings.epochs * 2 / 3))
    wanted = settings.wanted(number) * (0.25 + 0.5 * part)
    return float(np.clip(10 ** ((wanted - snr) / 10), 0.5, 2)) if np.isfinite(snr) else 1.0


def _bounds(task: Task, kernel: Kernel, weight: float) -> Bounds:
    """L, from some of the images, and with the switches that a few iterations find for them."""
    number, settings = task.number, task.settings
    if settings.steps:
        given = 1 / (settings.weights[number - 1] * settings.steps[number - 1])
        return Bounds(given, given)
    filters, all_cells, pointed_to = (*task.filters, kernel), 0.0, 0.0
    for at in task.some[: -(-_FOR_BOUND // len(task.images[0]))]:
        images, switches = task.images[at], task.switches[at]
        known = task.stack, filters, switches
        values = inference.largest_eigenvalue(*known, images)
        all_cells = max(all_cells, float(values.max()))
        if task.stack.layers[-1].pool:
            start, bounds = inference.no_codes(task.stack, number, images), Bounds(_MARGIN * values, 0.0)
            method = Method(2, momentum=settings.learning.momentum)
            own = inference.infer(*known, weight, bounds, images, start, method).switches
            pointed_to = max(pointed_to, float(inference.largest_eigenvalue(*known, images, own=own).max()))
    return Bounds(_MARGIN * all_cells, _MARGIN**2 * pointed_to or _MARGIN * all_cells)


def weight_for(task: Task, kernel: Kernel, bounds: Bounds, near: float, progress: Progress) -> tuple[float, float]:
    """λ by which inference of images reaches the wanted signal-to-noise ratio, and the ratio that it reaches.

    Where no λ reaches it, it is the λ that comes within a fifth of a decibel of the best. The images are spread over
    all; the ratio is an average of theirs.

    Args:
        task: what the layer learns from.
        kernel: its filters.
        bounds: L.
        near: a λ to begin with; it stays if λ is given.
        progress: is told if the ratio is out of reach.
    """
    known, wanted = (task.stack, (*task.filters, kernel)), task.settings.wanted(task.number)

    def reached(weight: float) -> float:
        found = []
        for at in task.some:
            images, switches = task.images[at], task.switches[at]
            start = inference.no_codes(task.stack, task.number, images)
            codes = inference.infer(*known, switches, weight, bounds, images, start, task.settings.inference)
            found.append(inference.decibels(images, inference.costs(*known, switches, weight, images, codes)[1]))
        return float(np.nanmean(np.concatenate(found)))

    if task.settings.weights:
        return near, reached(near)
    low, high = -2.0, 3.0  # powers of ten
    best = reached(10**high)
    if best < wanted:
        progress.say(f"layer {task.number}: no λ reaches {wanted:g} dB, the most is {best:.1f} dB; see --snr")
        wanted = best - 0.2
    tried = [(high, best)]
    power = min(max(float(np.log10(near)), low + 0.1), high - 0.1)
    for _ in range(8):  # by secants
        ratio, (before, last) = reached(10**power), tried[-1]
        low, high = (power, high) if ratio < wanted else (low, power)
        tried.append((power, ratio))
        if abs(ratio - wanted) < 0.02:
            break
        power += float((wanted - ratio) / np.clip((ratio - last) / (power - before), 2, 100))
        if not low < power < high:
            power = (low + high) / 2
    power, ratio = min(tried, key=lambda pair: abs(pair[1] - wanted))
    return 10**power, ratio


def _require_possible(settings: Settings, number: int, epoch: int, state: Progressing) -> None:
    cost, _, share, weight = state.history[-1]
    saved = "what was saved before is kept"
    smaller, larger = (
        ("its λ was given: try without --preset=paper, or another in --config",) * 2
        if settings.weights
        else (
            "try a smaller --snr",
            "try a larger --snr",
        )
    )
    if not np.isfinite(cost) or not bool(jnp.isfinite(state.kernel).all()):
        raise UserError(f"layer {number}: the cost is not finite in epoch {epoch + 1}; {saved}; {smaller}")
    if share == 0:
        raise UserError(
            f"layer {number}: with λ = {weight:g} nothing is left but zeros in epoch {epoch + 1}; {saved}; {larger}"
        )


def write_layer(path: epath.Path, layer: Learned) -> None:
    """Write a finished layer. Raises a UserError if that fails."""
    arrays = {"kernel": np.asarray(layer.kernel), "history": layer.history}
    kept.write(path, arrays, {"weight": layer.weight, "bounds": list(layer.bounds), "reached": layer.reached})


def read_layer(path: epath.Path) -> Learned:
    """Read a finished layer. Raises a UserError if it is missing or damaged."""
    arrays, about = kept.read(path, _AGAIN)
    weight, bounds, reached = (about[name] for name in ("weight", "bounds", "reached"))
    return Learned(jnp.asarray(arrays["kernel"]), weight, Bounds(*bounds), reached, arrays["history"])

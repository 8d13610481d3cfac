"""Learn an Adaptive Deconvolutional Network (2011): layers of sparse maps that reconstruct images, without labels.

Examples:
  python -m zfjax.adn
      two layers on the built-in `shapes` pictures; pictures of them in runs/adn
  python -m zfjax.adn --config=configs/adn.py --dataset=folder:PHOTOS --images=500 --workdir=runs/adn-photos
      four layers of the paper's sizes, on 500 photographs
  python -m zfjax.adn --dataset=folder:caltech101 --per_class=30 --workdir=runs/adn-101
      also SVMs on what the layers say of all images, against plain pixels

The same command resumes after its last epoch; with more --layers it goes on from those that are learned.
"""

if __name__ == "__main__":  # before the imports, which take time
    from zfjax.console import signals

    signals.listen()

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from zfjax.console import command, options, scripts
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import written

if TYPE_CHECKING:
    import numpy as np
    from etils import epath

    from zfjax.data.source import Source
    from zfjax.experiments.adn.layerwise import Learned
    from zfjax.experiments.adn.settings import Settings
    from zfjax.experiments.probing import Protocol

_PRESETS = ("small", "paper")


def main(argv: Sequence[str]) -> None:
    """Learn as the flags in `argv` say, then draw pictures and print a table."""
    values = flags.FlagValues()
    flags.DEFINE_string("dataset", "shapes", "Dataset: shapes, folder:PATH or tfds:NAME.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "Folder of TFDS datasets; default TFDS's own.", flag_values=values)
    flags.DEFINE_string("workdir", "runs/adn", "Folder for the network.", flag_values=values)
    flags.DEFINE_string("config", "", "Python file with what other flags default to.", flag_values=values)
    flags.DEFINE_enum("preset", "small", _PRESETS, "What other flags default to.", flag_values=values)
    options.whole_number(
        values, "layers", None, "Layers; default as many as --maps, else 2, or 4.", smallest=1, largest=4
    )
    options.names(values, "maps", None, "Maps of each layer; default 15,50,100,150.")
    options.names(values, "snr", None, "Signal-to-noise of reconstructions in dB, or of each layer's; default 10.")
    options.whole_number(values, "images", None, "Images, 0 for all; default 200, or all.")
    options.whole_number(values, "size", None, "Longer side of an image; default 64, or 150.", smallest=1, largest=4096)
    options.whole_number(values, "epochs", None, "Passes over the images; default 12, or 10.", smallest=1)
    options.whole_number(values, "batch_size", 5, "Images at a time.", smallest=1)
    options.whole_number(
        values, "per_class", 0, "Also train SVMs on so many images of each class, and test on others; 0: none."
    )
    options.whole_number(values, "folds", 3, "Number of folds for SVMs.", smallest=1, largest=1000)
    options.seed(values, "Seed for the first filters, the order of images, and what folders keep for validation.")
    command.reject_arguments(command.parse(argv, __doc__ or "", values), "adn")

    with Progress("starting JAX"):
        from zfjax.data.contrast import gray_pictures
        from zfjax.data.opening import open_source
        from zfjax.data.outside import root_of
        from zfjax.experiments.adn import kept, layerwise
        from zfjax.experiments.probing import Protocol
        from zfjax.runs.claim import writing
        from zfjax.runs.folder import absolute
        from zfjax.training.sharding import data_mesh

    mesh = data_mesh()
    settings, folder = layerwise.evenly(_settings(values), mesh), absolute(values.workdir)
    with writing(folder, "zfjax adn", root_of(values.dataset, values.data_dir)):
        source = open_source(values.dataset, data_dir=values.data_dir, seed=values.seed)
        count = values.images if values.images is not None else (0 if values.preset == "paper" else 200)
        images = gray_pictures(source.name, source.train, settings.side, count).images
        images = images[images.any((1, 2))]
        if not len(images):
            raise UserError(f"{source.name}: the pictures have no contrast; expected others")
        kept.begin(folder, settings, source.name, kept.digest_of(images), values.data_dir)
        layers = layerwise.learn(settings, images, folder, mesh)
        with Progress("drawing"):
            drawn = _draw(settings, layers, images, folder)
        if values.per_class:
            protocol = Protocol(values.per_class, folds=values.folds, seed=values.seed)
            drawn += _classify(settings, layers, source, protocol, folder)
    files = [*drawn, *(kept.layer_file(number + 1) for number in range(len(layers)))]
    print(written(folder, files))


def _settings(values: flags.FlagValues) -> "Settings":
    from zfjax.experiments.adn import settings
    from zfjax.experiments.adn.stack import PAPER

    usual = settings.paper() if values.preset == "paper" else settings.Settings()
    if values.config:
        command.reject_unused(values, ("preset",), "with --config")
        usual = _recipe(values.config)
    maps = [options.number_in("maps", word, "numbers of maps, such as 15,50", 1) for word in values.maps or ()]
    number = values.layers or len(maps) or len(usual.layers)
    if maps and len(maps) != number:
        raise UserError(f"--maps has {len(maps)} numbers, but there are {number} layers; expected one for each")
    if number > len(PAPER):
        raise UserError(f"--maps: expected at most {len(PAPER)} numbers, got {number}")
    layers = (*usual.layers, *PAPER[len(usual.layers) :])[:number]
    if maps:
        layers = tuple(layer._replace(maps=count) for layer, count in zip(layers, maps, strict=True))
    if values.snr is not None and usual.weights:
        source = f"--config={values.config}" if values.config else f"--preset={values.preset}"
        raise UserError(f"--snr={','.join(values.snr)}: {source} has a λ of its own; expected one of the two")
    given = {"side": values.size, "epochs": values.epochs, "snr": values.snr and tuple(map(_ratio, values.snr))}
    given |= {name: values[name].value for name in ("batch_size", "seed") if values[name].present or not values.config}
    chosen = usual._replace(layers=layers, **{name: value for name, value in given.items() if value is not None})
    if values.snr is None:
        chosen = chosen._replace(snr=chosen.snr[:number])  # those of fewer layers than the recipe's
    settings.check(chosen)
    return chosen


def _recipe(file: str) -> "Settings":
    """What get_config() of a Python file returns. Raises a UserError if there is none, or it returns anything else."""
    from zfjax.experiments.adn.settings import Settings

    made = getattr(scripts.executed(file, "--config", "configs/adn.py"), "get_config", None)
    found = made() if callable(made) else None
    if not isinstance(found, Settings):
        raise UserError(f"--config: expected get_config() in {file} to return zfjax.experiments.adn.settings.Settings")
    return found


def _ratio(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UserError(f"--snr: expected decibels, such as 10 or 12,10, got {word!r}") from None


def _draw(settings: "Settings", layers: "list[Learned]", images: "np.ndarray", folder: "epath.Path") -> list[str]:
    """Draw the network's pictures into its folder, with a table beside them, and return their names."""
    import jax
    import numpy as np

    from zfjax.console.tables import Table, write
    from zfjax.experiments.adn import dissecting, looking
    from zfjax.plots import adn
    from zfjax.plots.files import save_png
    from zfjax.plots.projections import show

    stack, top, last = settings.stack, min(5, len(images)), len(layers)
    some = looking.spread(images, 200)
    found, few = (looking.coded(settings, layers, of) for of in (some, looking.spread(images, 8)))
    of_all = looking.spread(np.arange(len(some)), 48)
    measured = jax.tree.map(lambda leaf: leaf[of_all], found)
    kernel = np.asarray(layers[0].kernel)[..., 0]
    scores = looking.orientation(kernel)
    figures = {
        "filters.png": show(kernel.transpose(2, 0, 1)[..., None], [f"{score:.2f}" for score in scores], columns=5),
        "learning.png": adn.plot_learning([layer.history for layer in layers]),
    }
    rows, ratios, lines, balance = {}, {}, [], {}
    for number, layer in enumerate(layers, 1):
        name, strongest = f"layer {number}", looking.strongest(stack, number, found.codes[number - 1], top)
        made = looking.alone(stack, layers, found, number, strongest)
        projections, patches = looking.windows(stack, number, strongest, made, some)
        title = f"{name}: each map's strongest activation, and the image there"
        figures[f"layer{number}.png"] = adn.plot_activations(projections[:, 0], patches[:, 0], title)
        best = int(np.abs(strongest.values[:, -1]).argmax())
        title = f"{name}, map {best}: its strongest activations in {top} images"
        figures[f"layer{number}_map.png"] = adn.plot_activations(projections[best], patches[best], title)
        rows[name], ratios[name], _ = looking.reconstructed(settings, layers, few, number)
        _, decibels, share = looking.reconstructed(settings, layers, measured, number)
        wanted = None if settings.weights else settings.wanted(number)
        reached = float(decibels.mean()), 100 * float(share.mean())
        lines.append((name, layer.kernel.shape[2], layer.weight, wanted, *reached))
        curve = dissecting.tradeoff(settings, layers, few, number, 7)
        balance[name] = (curve.shares, curve.decibels)
    shown = np.asarray(few.images)[..., 0]
    figures["reconstructions.png"] = adn.plot_reconstructions(shown, rows, ratios)
    figures["sparsity.png"] = adn.plot_tradeoff(balance)
    if last > 1:
        figures["apart.png"] = adn.plot_apart(dissecting.apart(stack, layers, found, last, strongest, best))
        lost = dissecting.without_switches(settings, layers, few, last)
        figures["switches.png"] = adn.plot_reconstructions(shown, lost, {})
    for name, figure in figures.items():
        save_png(figure, folder / name)
    oriented = int((scores >= looking.ORIENTED).sum())
    note = (
        f"{oriented} of {len(scores)} filters of layer 1 are oriented: at least {looking.ORIENTED:.0%} of the energy of"
        " each lies within 45°."
    )
    header = ("layer", "maps", "λ", "dB wanted", "dB", "not zero (%)")
    table = Table(f"{len(measured.images)} images from each layer", header, lines, note)
    print(f"{table.text()}\n{table.note}")
    return [*figures, *write(table, folder, "layers")]


def _classify(
    settings: "Settings", layers: "list[Learned]", source: "Source", protocol: "Protocol", folder: "epath.Path"
) -> list[str]:
    """Train SVMs on pyramids and on pixels of all pictures, print their table and return the names of its files."""
    import numpy as np

    from zfjax.console.tables import write
    from zfjax.data.contrast import gray_pictures
    from zfjax.experiments.adn import classifying, kept, pyramids

    splits = [gray_pictures(source.name, split, settings.side) for split in (source.train, source.val) if len(split)]
    images, labels = (np.concatenate([getattr(split, name) for split in splits]) for name in ("images", "labels"))
    classifying.require_pictures(source.classes, labels, protocol.per_class)
    with Progress("pyramids", len(images)) as progress:
        found = pyramids.features(settings, layers, images, pyramids.Patches(), folder / kept.PYRAMIDS, progress)
    features = {"pixels": images.reshape(len(images), -1)}
    features |= {name: pyramids.embedded(values) for name, values in found.items()}
    if len(found) > 1:
        features[" and ".join(found)] = np.concatenate([features[name] for name in found], 1)
    accuracies = classifying.accuracies(features, labels, protocol)
    table = classifying.to_table(accuracies, source.name, labels, protocol)
    print(f"{table.text()}\n{table.note}")
    return write(table, folder, "classes")


if __name__ == "__main__":
    command.execute(main)

"""A view as files: a picture, the numbers, and the lines of Python that make them."""

import inspect
import io
from typing import Any, NamedTuple

import jax
import numpy as np

from zfjax.experiments.exploring import menus
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.experiments.exploring.view import View, over, unpacked
from zfjax.experiments.lenses import Lens, Options
from zfjax.explore import drawing
from zfjax.models.edits import layer_title
from zfjax.plots.picture import Picture

MODEL = "zfjax.runs.looking.alone(zfjax.runs.model_files.model_given(sys.argv[1]))"


class Origin(NamedTuple):
    """How a script gets at what the page looks at.

    Attributes:
        subject: the Python that makes the subject of the script's first argument.
        has_numbers: whether the split's pictures have the same numbers there.
    """

    subject: str = MODEL
    has_numbers: bool = False


def numbers(explorer: Explorer, view: View) -> dict[str, np.ndarray]:
    """The arrays behind a settled view."""
    maps = explorer.look(view).maps(view.place)
    found: dict[str, Any] = {
        "square": explorer.square(view.picture),
        "image": explorer.look(view).image,
        "maps": maps,
        "unit": view.unit,
        "cell": np.unravel_index(explorer.cell(view), maps.shape[:2]),
        "projection": explorer.projection(view),
        "fires": explorer.fires(view),
        "painted": over(unpacked(view.painted), explorer.subject.size) if view.painted else None,
        "beside": explorer.square(view.beside) if view.beside else None,
    }
    if explorer.subject.classes:
        found["probabilities"] = explorer.probabilities(view)
    if (strongest := explorer.strongest(view)) is not None:
        top = explorer.known[view.place].top
        found |= {"strongest_values": strongest.values[0], "strongest_pictures": top.images[view.unit]}
        found |= {"strongest_patches": strongest.images[0], "strongest_projections": strongest.projections[0]}
    if view.lens:
        lensed = explorer.lensed(view)
        found |= {"lens": lensed.found, "lens_heat": lensed.heat}
        if view.lens in menus.COMPARING:
            found["others"] = explorer.others()
    return {name: np.asarray(array) for name, array in found.items() if array is not None}


def npz(explorer: Explorer, view: View) -> bytes:
    """The numbers as a file."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **numbers(explorer, view))
    return file.getvalue()


def png(explorer: Explorer, view: View) -> bytes:
    """What is seen as one picture."""
    display, classes = explorer.subject.display, explorer.subject.classes
    rgb = explorer.rgb(view)
    panels = [("as the net gets it", drawing.picture(rgb))]
    if view.painted:
        panels.append(("before the brush", drawing.picture(explorer.rgb(view._replace(painted="")))))
    if view.beside:
        panels.append(("beside", drawing.picture(explorer.rgb(View(view.beside)))))
    if (fires := explorer.fires(view)) is not None:
        panels.append((f"where map {view.unit} fires", drawing.overlaid(fires, rgb)))
    projection = display.signals(explorer.projection(view)[None])[0]
    panels.append((menus.RULES[view.rules].title, drawing.signal(projection)))
    if view.lens and view.label is not None:
        lensed = explorer.lensed(view)
        panels.append((f"{lensed.title} of {classes[view.label]}", drawing.overlaid(lensed.heat, rgb)))
    pairs = drawing.nine(found) if (found := explorer.strongest(view)) is not None else []
    figure = Picture(figsize=(2.4 * max(len(panels), 3), 3.1 + 1.5 * bool(pairs)), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2 if pairs else 1, 1, height_ratios=[2, 1] if pairs else [1])
    upper = grid[0].subgridspec(1, len(panels))
    for number, (title, pixels) in enumerate(panels):
        axes = figure.add_subplot(upper[number])
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(title, fontsize=8, parse_math=False)
        axes.set_axis_off()
    if pairs:
        lower = grid[1].subgridspec(2, len(pairs))
        for column, pair in enumerate(pairs):
            for side, pixels in enumerate(pair):
                axes = figure.add_subplot(lower[side, column])
                axes.imshow(pixels, interpolation="nearest")
                axes.set_axis_off()
    said = ", ".join(f"{classes[label]} {100 * share:.1f} %" for label, share in explorer.classes(view))
    figure.suptitle(f"map {view.unit} of {layer_title(view.place)}{f'; {said}' if said else ''}", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def python(explorer: Explorer, view: View, origin: Origin) -> str:
    """The lines of Python that compute the numbers of a settled view again."""
    is_known = origin.has_numbers and view.picture.isdecimal()
    from_file = not is_known or view.lens in menus.COMPARING
    has_patches = origin.has_numbers and explorer.strongest(view) is not None
    shape = explorer.look(view).maps(view.place).shape
    at = np.unravel_index(explorer.cell(view), shape[:2])
    grid = len(explorer.places[view.place].shape) - 1
    cell = tuple([int(index)] for index in at[2 - grid :]) if grid else ()
    square = f"subject.pictures.load(np.array([{view.picture}]))[0]" if is_known else 'saved["square"][None]'
    lines = _imports(explorer, view, origin, from_file, has_patches)
    lines += [
        f"subject = {origin.subject}",
        "model = subject.model",
        *(["saved = np.load(sys.argv[2])  # what the page saved as NPZ"] if from_file else []),
        f"images = subject.images_of({square})",
    ]
    if view.painted:
        lines += [
            f'mask = over(unpacked("{view.painted}"), subject.size)',
            "images = jnp.where(mask[None, ..., None], subject.display.cover, images)",
        ]
    lines += [
        f'y, project = zfjax.backproject(model.layer("{view.place}"), images, {menus.RULES[view.rules].source})',
        f"seed = zfjax.seeds.at(y, [{view.unit}], {cell})",
        f'found = {{"maps": np.asarray(y, np.float32).reshape({shape})}}',
        'found["projection"] = np.asarray(project(seed), np.float32)[0]',
    ]
    if explorer.subject.classes:
        lines.append('found["probabilities"] = probabilities(np.asarray(model(images)[0]).reshape(-1))')
    if view.lens:
        lines += [
            f"lens = {_called(explorer, explorer.lenses[view.lens], view)}",
            'found["lens"] = np.asarray(getattr(lens, "attributions", lens), np.float32)[0]',
        ]
    if has_patches:
        count = explorer.known[view.place].top.values.shape[1]
        lines += [
            f'top = strongest(subject, ["{view.place}"], {count}, 64)["{view.place}"]  # a pass over all pictures',
            f'nine = gallery(model.layer("{view.place}"), top, [{view.unit}], subject.load, batch_size={count})',
            "nine = in_rgb(nine, subject.display)",
            f'found |= {{"strongest_values": nine.values[0], "strongest_pictures": top.images[{view.unit}]}}',
            'found |= {"strongest_patches": nine.images[0], "strongest_projections": nine.projections[0]}',
        ]
    lines += [
        'np.savez("again.npz", **found)',
        'zfjax.show(subject.display.signals(found["projection"])).savefig("projection.png")',
        'print("wrote again.npz and projection.png")',
    ]
    return "\n".join(lines) + "\n"


def _imports(explorer: Explorer, view: View, origin: Origin, from_file: bool, has_patches: bool) -> list[str]:
    """How the Python begins."""
    package, module = _module(explorer.lenses[view.lens]) if view.lens else ("", "")
    return [
        f'"""What zfjax explore shows as ?{view.link}',
        "",
        f"python view.py {'RUN' if 'open_run' in origin.subject else 'MODEL'}{' view.npz' if from_file else ''}",
        '"""',
        "",
        "import sys",
        "",
        *(["import jax"] if view.lens else []),
        "import jax.numpy as jnp",
        "import numpy as np",
        "",
        "import zfjax",
        *(["from zfjax.experiments.exploring.looks import probabilities"] if explorer.subject.classes else []),
        *(["from zfjax.experiments.exploring.view import over, unpacked"] if view.painted else []),
        *(["from zfjax.experiments.gallery import gallery, in_rgb"] if has_patches else []),
        *(["from zfjax.experiments.passes import strongest"] if has_patches else []),
        *([f"from {package} import {module}"] if package else []),
        *(["import zfjax.runs.given", "import zfjax.runs.looking"] if origin.subject == MODEL else []),
        "",
    ]


def _called(explorer: Explorer, lens: Lens, view: View) -> str:
    """The call of a lens, with all that it is given here."""
    taken, usual = inspect.signature(lens.of).parameters, Options(jax.random.key(0))
    given = {
        "key": "jax.random.key(0)",
        "batch_size": "16",
        "fill": "subject.display.cover",
        "baseline": "subject.display.cover",
        "baselines": 'jnp.asarray(saved["others"])',
        "others": 'jnp.asarray(saved["others"])',
        "n_steps": str(usual.n_steps),
        "n_samples": str(usual.n_samples),
        "reach": repr(explorer.reach()),
        "lower": f'model.layer("{explorer.lower}")',
    }
    where = _module(lens)[1]
    fun = f'model.split("{explorer.cam_layer}")' if lens.at_cut else "model.function"
    options = "".join(f", {name}={value}" for name, value in given.items() if name in taken)
    return f"{where}.{lens.of.__name__}({fun}, images, jnp.array([{view.label}], jnp.int32){options})"


def _module(lens: Lens) -> tuple[str, str]:
    """Where the Python finds a lens: a package to import a module from, empty where it has it, and the module."""
    package, _, module = lens.of.__module__.rpartition(".")
    return ("", "zfjax.attribution") if package.startswith("zfjax.attribution") else (package, module)

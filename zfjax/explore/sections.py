"""What each part of the page says, as HTML: templates filled with what the explorer answers."""

import functools
from typing import Any

import jinja2
import numpy as np

from zfjax.atlas import views
from zfjax.console.text import as_file
from zfjax.experiments.exploring import looks, menus
from zfjax.experiments.exploring.explorer import SHOWN, UPLOADED, Explorer
from zfjax.experiments.exploring.view import CELLS, View
from zfjax.explore import drawing
from zfjax.models.edits import layer_title

_THUMBNAILS = 256  # maps of a layer that have one, the strongest
# Gradio fills in what stands in braces of a template, also in the text that is put there.
_BRACES = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})


class Sections:
    """The parts of the page, for any view."""

    def __init__(self, explorer: Explorer, atlas: str = ""):
        """`atlas` is the address of the run's atlas, if it has one."""
        self._explorer, self._atlas = explorer, atlas

    def pictures(self, view: View) -> str:
        """The picture as the net gets it, and the one beside it."""
        explorer = self._explorer
        place = explorer.places[view.place]
        beside, caption = None, ""
        if view.beside:
            beside, caption = explorer.rgb(View(view.beside)), self._name(view.beside)
        elif view.painted:
            beside, caption = explorer.rgb(view._replace(painted="")), "before the brush"
        size, field = explorer.subject.size, looks.field_of(place, explorer.cell(view))
        return filled(
            "pictures.html",
            size=size,
            cells=CELLS,
            url=drawing.url(drawing.picture(explorer.rgb(view))),
            name=self._name(view.picture),
            beside=None if beside is None else drawing.url(drawing.picture(beside)),
            caption=caption,
            field=field,
            sees_all=field is not None
            and all(begin <= 0 and begin + length >= size for begin, length in zip(field[:2], field[2:], strict=True)),
            view=view,
        )

    def classes(self, view: View) -> str:
        """The most probable classes, with their probabilities in the picture beside."""
        other = View(view.beside) if view.beside else view._replace(painted="") if view.painted else None
        before: dict[int, float] = {}
        explorer = self._explorer
        if other and explorer.subject.classes:
            before = dict(enumerate(explorer.probabilities(other).tolist()))
        found = [
            (label, explorer.subject.classes[label], share, before.get(label))
            for label, share in explorer.classes(view)
        ]
        return filled("classes.html", found=found, view=view, shown=SHOWN)

    def maps(self, view: View) -> str:
        """Thumbnails of the layer's maps, strongest first."""
        explorer = self._explorer
        order = explorer.ranked(view)
        units = order.units[:_THUMBNAILS]
        maps = explorer.look(view).maps(view.place)
        return filled(
            "maps.html",
            sheet=drawing.thumbnails(maps[..., units]),
            units=list(zip(units.tolist(), order.values.tolist(), strict=False)),
            count=len(order.units),
            place=explorer.places[view.place],
            title=layer_title(view.place),
            view=view,
            clicked=view.row is not None and len(explorer.places[view.place].shape) == 3,
            aspect=maps.shape[1] / maps.shape[0],
        )

    def detail(self, view: View) -> str:
        """One map: where it fires, what its activation is made of, and what is known of it."""
        explorer, display = self._explorer, self._explorer.subject.display
        fires = explorer.fires(view)
        rgb = explorer.rgb(view)
        maps = explorer.look(view).maps(view.place)
        cell = explorer.cell(view)
        assert view.unit is not None  # as in all settled views
        projection = display.signals(explorer.projection(view)[None])[0]
        known = explorer.known.get(view.place)
        return filled(
            "detail.html",
            title=layer_title(view.place),
            view=view,
            value=float(maps.reshape(-1, maps.shape[-1])[cell, view.unit]),
            cell=divmod(cell, maps.shape[1]) if maps.shape[:2] != (1, 1) else None,
            fires=None if fires is None else drawing.url(drawing.overlaid(fires, rgb)),
            projection=drawing.url(drawing.signal(projection)),
            rules=menus.RULES[view.rules].title,
            histogram=views.histogram(known.responses, view.unit) if known and known.responses else None,
            excited=self._excited(view),
            label=known.labels[view.unit] if known and known.labels else None,
            atlas=self._atlas and known and f"{self._atlas}/map/{as_file(view.place)}/{view.unit}.html",
        )

    def strongest(self, view: View) -> str:
        """The split's patches that excite the map most."""
        found = self._explorer.strongest(view)
        assert view.unit is not None
        tiles = []
        if found is not None:
            top = self._explorer.known[view.place].top
            for value, number, pair in zip(
                found.values[0], top.images[view.unit].tolist(), drawing.nine(found), strict=True
            ):
                if value > 0:
                    tiles.append((float(value), number, self._label_of(number), *map(drawing.small, pair)))
        return filled("strongest.html", tiles=tiles, known=found is not None, view=view)

    def lens(self, view: View) -> str:
        """What the lens says of the class."""
        if not view.lens:
            return ""
        found, explorer = self._explorer.lensed(view), self._explorer
        assert view.label is not None  # as there is a lens
        rgb = explorer.rgb(view)
        pictures = [("where it is strong", drawing.url(drawing.overlaid(found.heat, rgb)))]
        if found.found.ndim == 3:
            if view.lens in menus.PICTURES:
                drawn = explorer.subject.display.pixels(found.found[None])[0]
                pictures = [("a picture of its own", drawing.url(drawing.picture(drawn)))]
            else:
                signal = explorer.subject.display.signals(found.found[None])[0]
                pictures.append(("signed, gray is zero", drawing.url(drawing.signal(signal))))
        return filled(
            "lens.html", title=found.title, label=explorer.subject.classes[view.label], pictures=pictures, view=view
        )

    def save(self, view: View) -> str:
        """What the view can be saved as."""
        return filled("save.html", link=view.link)

    def _excited(self, view: View) -> list[tuple[str, float]]:
        """The classes that excite the map most, if that is known."""
        known, classes = self._explorer.known.get(view.place), self._explorer.subject.classes
        if known is None or known.responses is None or known.responses.excitation.shape[1] != len(classes):
            return []
        means = np.nan_to_num(known.responses.excitation[view.unit])
        return [
            (classes[label], float(means[label])) for label in np.argsort(-means, kind="stable")[:3] if means[label] > 0
        ]

    def _label_of(self, number: int) -> str:
        label = int(self._explorer.subject.labels[number])
        return self._explorer.subject.classes[label] if label >= 0 else ""

    def _name(self, picture: str) -> str:
        if picture.startswith(UPLOADED):
            return "your picture"
        label = self._label_of(int(picture))
        return f"picture {picture}{f', of class {label}' if label else ''}"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zfjax.explore"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": lambda value: f"{value:.3g}", "percent": lambda share: f"{100 * share:.1f} %"}
    return environment


def filled(template: str, **values: Any) -> str:
    """A template with values in it: as text, whatever they hold."""
    return _environment().get_template(template).render(**values).translate(_BRACES)

"""The page: Gradio's controls and queue around the sections; what one sees is a view, which is the page's address."""

import random
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import gradio as gr
import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import first_line, say
from zfjax.experiments.exploring import menus
from zfjax.experiments.exploring.explorer import Explorer
from zfjax.experiments.exploring.keeping import Cache
from zfjax.experiments.exploring.view import CELLS, View, packed, read, unpacked
from zfjax.explore.sections import Sections, filled

LOOKS, PAINTS, ERASES = "look", "paint", "erase"
AT_ONCE = 2  # pictures that are read, or views that are saved, at the same time; others wait
WIDTHS = (1, 2, 4, 8)  # of the brush, in cells
_LINKS = 1_000_000  # letters of links that are kept, of as many tabs as these make
_HOW = [("asks what looks there", LOOKS), ("paints gray", PAINTS), ("erases", ERASES)]
# Four lines of answers, each computed one at a time and in the order of the questions: what a click shows, projections
# in a picture that is new or painted anew, a map's patches, lenses.
_QUICK: dict[str, Any] = {
    "concurrency_id": "clicks",
    "concurrency_limit": 1,
    "show_progress": "hidden",
    "api_visibility": "private",
    "trigger_mode": "multiple",
}
_PROJECTIONS = _QUICK | {"concurrency_id": "projections"}
_PATCHES = _QUICK | {"concurrency_id": "patches"}
_SLOW = _QUICK | {"concurrency_id": "lenses", "show_progress": "minimal"}
_PARTS = {  # of the page, by what of a view each depends on
    "pictures": ("picture", "painted", "beside", "place", "unit", "row", "column"),
    "classes": ("picture", "painted", "beside"),
    "maps": ("picture", "painted", "place", "row", "column"),
    "detail": ("picture", "painted", "place", "unit", "row", "column", "rules"),
    "save": View._fields,
}


def static(name: str) -> str:
    """The content of one of the page's own files."""
    return (resources.files("zfjax.explore") / "static" / name).read_text(encoding="utf-8")


def theme() -> gr.themes.Base:
    """Gradio's plain theme, with the fonts of the reader's system: none is fetched."""
    return gr.themes.Base(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))


class Page:
    """The page of an explorer: `blocks` is a Gradio app."""

    def __init__(self, explorer: Explorer, title: str, atlas: str = ""):
        """`title` says what is looked at; `atlas` is the address of its atlas, if there is one."""
        self._explorer, self._sections = explorer, Sections(explorer, atlas)
        # The link of each tab's last answer: clicks that come faster than answers all bring the same link, and each has
        # to add to what the one before changed. (A gr.State would take one of a browser's six connections per tab.)
        self._last = Cache[str](_LINKS, len)
        with gr.Blocks(title=f"{title} · zfjax explore", analytics_enabled=False, fill_width=True) as self.blocks:
            # Never shown: the view, its picture, and what the slower parts show of it.
            self._link, self._of_pass, self._of_strongest, self._of_lens = (gr.Textbox(visible=False) for _ in range(4))
            gr.HTML(filled("head.html", title=title, atlas=atlas))
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._lay_out_picture()
                with gr.Column(scale=3, min_width=300):
                    self._lay_out_layer()
            self._save = gr.HTML(js_on_load=static("copy.js"))
            self._connect()

    def _lay_out_picture(self) -> None:
        explorer, count = self._explorer, len(self._explorer.subject.pictures)
        self._take = gr.HTML(filled("take.html"), js_on_load=static("take.js"), elem_id="zx-take")
        with gr.Row(visible=count > 0):
            label = f"or one of the {count:,} pictures, by number"
            self._number = gr.Number(0, label=label, precision=0, minimum=0, maximum=max(count - 1, 0), min_width=120)
            self._another = gr.Button("A random one", size="sm", min_width=80, elem_id="zx-random")
        self._note = gr.HTML(elem_id="zx-note")
        self._pictures = _part("zx-pictures")
        with gr.Row():
            self._how = gr.Radio(_HOW, value=LOOKS, label="A click on the picture", elem_id="zx-how", interactive=True)
            self._width = gr.Radio(WIDTHS, value=4, label="Brush", elem_id="zx-width", interactive=True)
        with gr.Row():
            self._whole = gr.Button("Forget the clicked pixel", size="sm")
            self._clean = gr.Button("Remove the paint", size="sm")
            self._keep = gr.Button("Put this picture beside", size="sm")
            self._alone = gr.Button("Nothing beside", size="sm")
        self._classes = _part("zx-classes")
        named = [("none", ""), *((lens.title, name) for name, lens in explorer.lenses.items())]
        label = "Lens: what does the chosen class depend on?"
        self._lens = gr.Dropdown(named, value="", label=label, visible=len(named) > 1, elem_id="zx-lens")
        self._lensed = gr.HTML()

    def _lay_out_layer(self) -> None:
        self._place = gr.Radio(list(self._explorer.places), label="Layer", elem_id="zx-layer")
        self._maps = _part("zx-maps")
        with gr.Row():
            self._unit = gr.Number(0, label="Map", precision=0, minimum=0, min_width=80)
            named = [(choice.title, name) for name, choice in menus.RULES.items()]
            self._rules = gr.Dropdown(
                named, value="deconvnet", label="Projection by", min_width=200, elem_id="zx-rules"
            )
        self._detail = _part("zx-detail")
        self._strongest = _part("zx-strongest")

    def _connect(self) -> None:
        """Each event changes the view, and shows what this changes; what takes longer follows."""
        # As long as it knows a tab, Gradio 6.31 keeps each component that it skipped or updated (gr.skip, gr.update)
        # and then read, or gave a plain value: what is read always gets values, and what may be skipped only updates.
        controls = [self._number, self._place, self._unit, self._rules, self._lens]
        parts = [self._pictures, self._classes, self._maps, self._detail, self._save]
        self._shown = [self._link, self._of_pass, *controls, self._note, *parts]

        def valued(listen: Callable, change: Callable[..., View], *inputs: Any, again: Sequence[str] = ()) -> None:
            def answer(request: gr.Request, link: str, *values: Any) -> list[Any]:
                return self._answer(request, link, lambda view: change(view, *values), again)

            listen(answer, [self._link, *inputs], self._shown, **_QUICK)

        def told(listen: Callable, change: Callable[[View, Any], View]) -> None:
            def answer(request: gr.Request, link: str, event: gr.EventData) -> list[Any]:
                return self._answer(request, link, lambda view: change(view, event._data))

            listen(answer, self._link, self._shown, **_QUICK)

        def opened(request: gr.Request) -> list[Any]:
            return self._answer(request, str(request.query_params), lambda view: view, tuple(_PARTS), fresh=True)

        self.blocks.load(opened, None, self._shown, **_QUICK)
        told(self._take.select, _pictured)
        told(self._strongest.select, _pictured)
        told(self._pictures.select, _touched)
        told(self._classes.select, lambda view, data: view._replace(label=int(data["label"])))
        told(self._maps.select, lambda view, data: view._replace(unit=int(data["map"])))
        valued(self._number.submit, lambda view, number: _with_picture(view, str(int(number or 0))), self._number)
        valued(self._another.click, lambda view: _with_picture(view, self._drawn()))
        valued(self._whole.click, lambda view: view._replace(row=None, column=None, unit=None))
        valued(self._clean.click, lambda view: view._replace(painted=""))
        valued(self._keep.click, lambda view: view._replace(beside=view.picture))
        valued(self._alone.click, lambda view: view._replace(beside=""))
        valued(self._lens.input, lambda view, lens: view._replace(lens=lens or ""), self._lens)
        valued(self._place.input, lambda view, place: view._replace(place=place, unit=None), self._place)
        valued(self._unit.submit, lambda view, unit: view._replace(unit=int(unit or 0)), self._unit, again=("maps",))
        valued(self._rules.input, lambda view, rules: view._replace(rules=rules), self._rules)
        change = self._link.change
        change(None, self._link, None, js=static("address.js"), api_visibility="private")
        # In order too: a slow answer never replaces a later one.
        self._of_pass.change(self._detail_of, self._link, self._detail, **_PROJECTIONS)
        strongest, lens = [self._of_strongest, self._strongest], [self._of_lens, self._lensed]
        change(self._strongest_of, [self._link, self._of_strongest], strongest, **_PATCHES)
        change(self._lens_of, [self._link, self._of_lens], lens, **_SLOW)

    def _answer(
        self,
        request: gr.Request,
        link: str,
        change: Callable[[View], View],
        again: Sequence[str] = (),
        fresh: bool = False,
    ) -> list[Any]:
        """What all parts show after a change of the view; those that it leaves alone are not sent again."""
        tab = str(request.session_hash)
        link = self._last.get(tab) or link
        before, was = View(), "" if fresh else link
        try:
            before = read(was)
            asked = change(read(link))
            if asked.painted != before.painted:  # first, so that only what changed is computed
                self._explorer.look(asked, before)
            view = self._explorer.settled(asked)
            is_new = not was or _pass(view) != _pass(before)  # what is sent down is not computed yet: `_detail_of`
            changed = {field for field in View._fields if getattr(view, field) != getattr(before, field)}
            parts = [
                gr.update(value=getattr(self._sections, part)(view))
                if (not was or part in again or changed & {*fields}) and not (is_new and part == "detail")
                else gr.skip()
                for part, fields in _PARTS.items()
            ]
        except UserError as error:
            line = str(error)
        except Exception as error:  # the page goes on; the line is for whoever runs it
            say(f"a fault in zfjax explore: {type(error).__name__}: {first_line(error)}")
            line = "that did not work; see the terminal"
        else:
            self._last.put(tab, view.link)
            return [view.link, _pass(view), *_controls(view), "", *parts]
        return [
            was,
            _pass(before) if was else "",
            *_controls(before),
            filled("note.html", line=line),
            *[gr.skip()] * len(_PARTS),
        ]

    def _detail_of(self, request: gr.Request, link: str) -> Any:
        tab = str(request.session_hash)
        view = read(self._last.get(tab) or link)
        try:
            found = self._sections.detail(self._explorer.settled(view))
        except UserError as error:
            found = filled("note.html", line=str(error))
        now = read(self._last.get(tab) or link)
        moved_on = any(getattr(now, field) != getattr(view, field) for field in _PARTS["detail"])
        return gr.skip() if moved_on else gr.update(value=found)  # a later answer shows its own

    def _strongest_of(self, link: str, shown: str) -> tuple[str, Any]:
        view = read(link)
        return self._unless_shown(f"{view.place} {view.unit}", shown, self._sections.strongest, view)

    def _lens_of(self, link: str, shown: str) -> tuple[str, Any]:
        view = read(link)
        what = f"{view.picture} {view.painted} {view.lens} {view.label}" if view.lens else ""
        return self._unless_shown(what, shown, self._sections.lens, view)

    def _unless_shown(self, what: str, shown: str, part: Callable[[View], str], view: View) -> tuple[str, Any]:
        if what == shown or not view.place:
            return shown, gr.skip()
        try:
            return what, gr.update(value=part(self._explorer.settled(view)))
        except UserError as error:
            return what, gr.update(value=filled("note.html", line=str(error)))

    def _drawn(self) -> str:
        return str(random.randrange(len(self._explorer.subject.pictures)))


def _pass(view: View) -> str:
    """What goes through the model."""
    return f"{view.picture} {view.painted}"


def _controls(view: View) -> list[Any]:
    """What the number of the picture, the layer, the map, the rules and the lens show."""
    number = int(view.picture) if view.picture.isdecimal() else None
    return [number, view.place or None, view.unit, view.rules, view.lens]


def _part(name: str) -> gr.HTML:
    return gr.HTML(js_on_load=static("page.js"), elem_id=name)


def _with_picture(view: View, picture: str) -> View:
    """Another picture in the same layer, with the same question; what was clicked and painted was of the old one."""
    return view._replace(picture=picture, painted="", row=None, column=None, label=None)


def _pictured(view: View, data: Any) -> View:
    return _with_picture(view, str(data["picture"]))


def _touched(view: View, data: Any) -> View:
    """After a click or a stroke on the picture: another pixel to ask about, or other cells that are painted."""
    if data["how"] == LOOKS:
        return view._replace(row=int(data["row"]), column=int(data["column"]), unit=None)
    cells, width = unpacked(view.painted), int(data["width"])
    before = (width - 1) // 2
    for row, column in np.clip(np.array(data["cells"], int).reshape(-1, 2), 0, CELLS - 1):
        top, left = max(row - before, 0), max(column - before, 0)
        cells[top : row - before + width, left : column - before + width] = data["how"] == PAINTS
    return view._replace(painted=packed(cells))

"""Draw letters that a figure's font lacks: in another font, or spelled out."""

import functools
import re
import unicodedata
from collections.abc import Iterator

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

_SPOKEN = ("HIRAGANA LETTER", "KATAKANA LETTER", "HANGUL SYLLABLE")  # their names end in the pronunciation
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Mn", "Me"}  # categories of characters that are invisible by themselves


def make_drawable(figure: FigureBase) -> None:
    """Give every text of a figure fonts that have its letters; letters that no installed font has are spelled out.

    Matplotlib would draw a box and warn for each such letter. Emoji become their names in brackets, Korean and Japanese
    syllables their pronunciation, and other letters their code point: `[cat face]`, `go`, `U+732B`.
    """
    for text in list(_texts(figure)):
        written, families = text.get_text(), tuple(text.get_fontfamily())
        if not written.isascii():
            readable, fonts = drawable(written, families)
            text.set(text=readable, fontfamily=list(fonts))


def _texts(artist: Artist) -> Iterator[Text]:
    """All texts inside, but only those axis labels that were set explicitly; numbers are made at draw time."""
    for child in artist.get_children():
        if isinstance(child, Text):
            yield child
        elif not isinstance(child, Axis):
            yield from _texts(child)
        else:
            yield child.label
            if isinstance(child.get_major_formatter(), FuncFormatter):
                labels = child.get_ticklabels()
                texts = [drawable(label.get_text(), tuple(label.get_fontfamily()))[0] for label in labels]
                if texts != [label.get_text() for label in labels]:  # otherwise they would be set again at draw time
                    child.set_ticks(child.get_ticklocs(), labels=texts)
                yield from child.get_ticklabels()


def drawable(text: str, families: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A text made drawable, and the font families that have all its letters.

    Args:
        text: the text to draw.
        families: font families, as from a text's `get_fontfamily`.

    Returns:
        The text, with letters that no installed font has spelled out; and `families`, plus more if these lack letters.
    """
    if text.isascii():
        return text, families
    spelled, more = [], dict.fromkeys(families)
    for letter in text:
        family = "" if letter.isspace() or _has(letter, families) else _family_with(letter)
        if family:
            more[family] = None
        spelled.append(letter if family is not None else _spelled(letter))
    return re.sub(" +", " ", "".join(spelled)).strip(), tuple(more)


def _has(letter: str, families: tuple[str, ...]) -> bool:
    files = (font_manager.findfont(font_manager.FontProperties(family=[family])) for family in families)
    return any(font_manager.get_font(file).get_char_index(ord(letter)) for file in files)


@functools.cache
def _family_with(letter: str) -> str | None:
    """An installed font family that has a letter, preferring plain sans-serif ones."""
    for font in _fonts():
        try:
            if font_manager.get_font(font.fname).get_char_index(ord(letter)):
                return font.name
        except (OSError, RuntimeError):  # a font file that is damaged or gone
            continue
    return None


@functools.cache
def _fonts() -> tuple[font_manager.FontEntry, ...]:
    # Last Resort has a box for every letter; color fonts' pictures cannot be drawn.
    known = [font for font in font_manager.fontManager.ttflist if not font.name.startswith("Last Resort")]
    return tuple(
        sorted(
            (font for font in known if "Color" not in font.name),
            key=lambda font: (
                font.style != "normal",
                str(font.weight) not in ("400", "normal"),
                "Sans" not in font.name,
            ),
        )
    )


def _spelled(letter: str) -> str:
    name, kind = unicodedata.name(letter, ""), unicodedata.category(letter)
    if kind in _UNSEEN:
        return ""
    if name.startswith(_SPOKEN):
        return name.rpartition(" ")[2].lower()
    return f"[{name.lower()}]" if kind.startswith("S") and name else f" U+{ord(letter):04X} "

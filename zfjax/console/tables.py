"""Tables of results, written as Markdown, CSV, JSON or aligned text."""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from etils import epath

from zfjax.console.files import write_whole
from zfjax.console.text import align


class Interval(NamedTuple):
    """A number, and the ends of an interval around it; CSV and JSON have these in columns of their own."""

    value: float
    low: float
    high: float


Plain = str | int | float | None  # None: missing or not measured
Cell = Plain | Interval


class Table(NamedTuple):
    """A header over rows of cells; numbers stay numbers in JSON and CSV."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    note: str = ""  # a sentence below the table: units, and what is compared with what

    def text(self) -> str:
        """The table as aligned text."""
        return align([self.header, *([_shown(cell) for cell in row] for row in self.rows)])

    def markdown(self) -> str:
        """The table as Markdown with title and note; the first column is left-aligned, the others right-aligned."""
        body = as_markdown([self.header, *([_shown(cell) for cell in row] for row in self.rows)])
        return "\n\n".join(part for part in (f"**{self.title}**", body, self.note) if part) + "\n"

    def csv(self) -> str:
        """The table as CSV with plain numbers; a None cell is empty."""
        return as_csv(self._plain())

    def json(self) -> str:
        """The table as a JSON object with title, note and rows; each row is an object keyed by the header's names."""
        header, *lines = self._plain()
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        return json.dumps({"title": self.title, "note": self.note, "rows": rows}, indent=2) + "\n"

    def _plain(self) -> list[list[Plain]]:
        """Header and rows with each interval as three numbers: named as its column, and that with "low" and "high"."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.header)
        header: list[Plain] = []
        found: list[list[Plain]] = []
        for name, cells in zip(self.header, columns, strict=True):
            header.append(name)
            found.append([_there(_value(cell)) for cell in cells])
            if any(isinstance(cell, Interval) for cell in cells):
                for end in ("low", "high"):
                    header.append(f"{name} {end}")
                    found.append([_there(getattr(cell, end, None)) for cell in cells])
        return [header, *map(list, zip(*found, strict=True))]


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the header first, as Markdown; the first column is left-aligned, the others right-aligned."""
    header, *rows = lines
    rule = ("---",) + ("---:",) * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))


def as_csv(lines: Iterable[Iterable[Plain]]) -> str:
    """Lines of cells, the header first, as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def write(table: Table, folder: epath.PathLike, name: str) -> list[str]:
    """Write name.md, name.csv and name.json into `folder`, each atomically; returns these names.

    Raises:
        UserError: the folder cannot be written.
    """
    target = epath.Path(folder).expanduser()
    kinds = {"md": table.markdown(), "csv": table.csv(), "json": table.json()}
    for kind, text in kinds.items():
        write_whole(target / f"{name}.{kind}", text)
    return [f"{name}.{kind}" for kind in kinds]


def _value(cell: Cell) -> Plain:
    return cell.value if isinstance(cell, Interval) else cell


def _there(cell: Plain) -> Plain:
    """Replace NaN, which JSON lacks, by None."""
    return None if isinstance(cell, float) and math.isnan(cell) else cell


def _shown(cell: Cell) -> str:
    if isinstance(cell, Interval):
        half = (cell.high - cell.low) / 2
        value = "–" if math.isnan(cell.value) else f"{cell.value:.1f}"
        return value + (f" ±{half:.1f}" if math.isfinite(half) else "")
    match _there(cell):
        case None:
            return "–"
        case float() as small if 0 < abs(small) < 0.05:
            return f"{small:.1g}"
        case float():
            return f"{cell:.1f}"
        case int():
            return f"{cell:,}"
    return str(cell)

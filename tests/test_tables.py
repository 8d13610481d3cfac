"""Tables of results in four forms."""

import csv
import io
import json
import math

import pytest

from zfjax.console import tables
from zfjax.console.errors import UserError
from zfjax.console.tables import Interval, Table

TABLE = Table(
    "Table 0",
    ("net", "parameters", "error"),
    [("whole", 62_357_608, 38.4), ("without", 5, None), ("bad", 1, math.nan)],
    "In %.",
)


def test_markdown_has_title_rows_and_note():
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "**Table 0**"
    assert "| whole | 62,357,608 | 38.4 |" in lines
    assert "| without | 5 | – |" in lines
    assert "| bad | 1 | – |" in lines
    assert lines[-1] == "In %."


def test_csv_and_json_keep_numbers_and_have_nothing_for_what_is_not_there():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[1:] == [["whole", "62357608", "38.4"], ["without", "5", ""], ["bad", "1", ""]]
    kept = json.loads(TABLE.json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert kept["rows"][0] == {"net": "whole", "parameters": 62357608, "error": 38.4}
    assert [row["error"] for row in kept["rows"]] == [38.4, None, None]


def test_an_interval_is_short_in_text_and_three_numbers_in_csv_and_json():
    rows = [("a", Interval(40.0, 37.0, 42.0), 1), ("b", None, 2), ("c", Interval(math.nan, math.nan, math.nan), 3)]
    table = Table("", ("lens", "IoU", "n"), rows)
    assert [line.split("  ")[-2].strip() for line in table.text().splitlines()[1:]] == ["40.0 ±2.5", "–", "–"]
    assert "| a | 40.0 ±2.5 | 1 |" in table.markdown()
    lines = list(csv.reader(io.StringIO(table.csv())))
    assert lines[:3] == [
        ["lens", "IoU", "IoU low", "IoU high", "n"],
        ["a", "40.0", "37.0", "42.0", "1"],
        ["b", *[""] * 3, "2"],
    ]
    assert json.loads(table.json())["rows"][2] == {"lens": "c", "IoU": None, "IoU low": None, "IoU high": None, "n": 3}
    assert table._replace(rows=[]).csv() == "lens,IoU,n\n"


def test_small_numbers_are_not_shown_as_zero_but_small_means_are():
    table = Table("λ", ("λ",), [(0.005,), (-0.0004,), (0.0,), (0.06,), (Interval(0.004, -1.0, 1.0),)])
    assert [line.strip() for line in table.text().splitlines()[1:]] == ["0.005", "-0.0004", "0.0", "0.1", "0.0 ±1.0"]


def test_text_is_aligned():
    lines = TABLE.text().splitlines()
    assert len({line.rindex(end) for line, end in zip(lines[1:], ("4", "–", "–"), strict=True)}) == 1


def test_files_are_written_whole_and_a_folder_in_the_way_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tables.write(TABLE, "~/here", "found")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["found.csv", "found.json", "found.md"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        tables.write(TABLE, tmp_path / "file", "found")

"""Class folders, files and paths with names that are not plain text, all the way through the commands."""

import io
import json
import os
import unicodedata

import pytest
import tiny_runs

from zfjax import atlas, compare, figures, train
from zfjax.console import command, tables
from zfjax.data.opening import open_source
from zfjax.runs.folder import read_run
from zfjax.runs.subject import Subject

LATIN = os.fsdecode(b"caf\xe9")  # a lone surrogate in Python
CLASSES = ("caf\u00e9", "salt, pepper", "\u00fcber")
FOLDERS = (LATIN, "salt, pepper", "u\u0308ber")


def run(main, *words):
    return command.run(main, ["zfjax", *map(str, words)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run in a folder, on a dataset in a folder, of classes, whose names are in Latin-1, decomposed, with commas."""
    root = tmp_path_factory.mktemp("names")
    photos = tiny_runs.make_folder(root / LATIN / "photos", per_class=12)
    for old, new in zip(tiny_runs.CLASSES, FOLDERS, strict=True):
        (photos / old).rename(photos / new)
        (photos / new / "003.png").rename(photos / new / f"{LATIN}.png")
    workdir = root / "run"
    assert run(train.main, *tiny_runs.train_command(photos, workdir, epochs=1, batch_size=16)[3:]) == 0
    return photos, workdir


def test_a_run_knows_them_as_text(trained):
    photos, workdir = trained
    assert read_run(workdir).classes == CLASSES
    assert open_source(f"folder:{photos}").classes == CLASSES
    assert (workdir / "predictions.png").exists()
    json.loads((workdir / "config.json").read_text(encoding="ascii"))


def test_tables_figures_and_pages_have_them(trained, capsys):
    photos, workdir = trained
    chosen = f'--classes={LATIN},"salt, pepper",u\u0308ber'
    assert run(figures.main, f"--workdir={workdir}", "--only=fig5", chosen) == 0
    assert run(figures.main, f"--workdir={workdir}", "--only=fig5", f"--images={photos}/{LATIN}/{LATIN}.png") == 0
    boxes = workdir / "boxes.json"
    names = open_source(f"folder:{photos}").val.names
    boxes.write_text(json.dumps({unicodedata.normalize("NFD", name): [0, 0, 20, 20] for name in names}))
    asked = ("--only=saliency", "--sanity_images=0", "--count=2", f"--boxes={boxes}")
    assert run(compare.main, f"--workdir={workdir}", *asked) == 0
    assert run(atlas.main, f"--workdir={workdir}", "--layers=relu1") == 0
    pages = "".join(path.read_text() for path in (workdir / "atlas").rglob("*.html"))
    assert all(name in pages for name in CLASSES)
    assert "\ufffd" not in pages
    capsys.readouterr()
    assert run(figures.main, f"--workdir={workdir}", "--only=fig5", "--classes=salt, pepper") == 2
    assert """needs quotes: --classes='"salt, pepper"'""" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301", LATIN])
def test_a_class_is_found_in_any_spelling(name):
    known = Subject(None, None, None, None, CLASSES, 0, None)
    assert known.label_of(name) == 0


def test_a_workdir_that_checkpoints_cannot_have_is_refused(trained, tmp_path, capsys):
    assert run(train.main, *tiny_runs.train_command(trained[0], tmp_path / LATIN)[3:]) == 2
    assert f"{tmp_path}/caf\u00e9: expected a path in UTF-8, which checkpoints need" in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_what_a_terminal_cannot_show_is_escaped(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(shown, "ascii"))
    assert command.run(lambda _: print(LATIN, CLASSES[0]), ["zfjax"]) == 0
    assert shown.getvalue() == b"caf\\udce9 caf\\xe9\n"


def test_a_table_may_name_what_is_no_text(tmp_path):
    table = tables.Table(LATIN, ("class",), [(CLASSES[0],)])
    assert tables.write(table, tmp_path, "table") == ["table.md", "table.csv", "table.json"]
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("**caf\\udce9**")

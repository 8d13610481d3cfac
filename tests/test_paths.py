"""Paths as users write them: expanded, or refused alike by all that take one."""

import os
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from etils import epath

from zfjax import train
from zfjax.atlas import build
from zfjax.console import command, options, paths
from zfjax.console.errors import UserError
from zfjax.console.paths import absolute_path, user_path
from zfjax.data import cache, folder, multilabel, opening, outside
from zfjax.data.source import Source
from zfjax.runs import folder as runs
from zfjax.runs.boxes import _read_boxes
from zfjax.runs.subject import Subject
from zfjax.training.recipe import _called
from zfjax.weights import files, outputs

NOBODY = "~nobody-of-that-name"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("runs/a", "runs/a"),
        (Path("runs/a"), "runs/a"),
        ("~/a", f"{Path.home()}/a"),
        ("./~a", "~a"),
        ("file:///data/a%20b", "/data/a b"),
        ("file://localhost/data", "/data"),
        ("FILE:///data", "/data"),
        ("file:/data", "/data"),
        ("//data/a", "/data/a"),
        ("file:////data", "/data"),
        ("./c:/d", "c:/d"),
        ("/gsx", "/gsx"),
        ("caf\udce9", "caf\udce9"),
    ],
)
def test_a_path_is_taken_as_it_is_meant(path, expected):
    assert os.fspath(user_path(path, "--out")) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "--out '': expected a path"),
        ("a\0b", r"--out 'a\x00b': expected a path"),
        ("a\ud800", r"--out 'a\ud800': expected a path"),
        (
            f"{NOBODY}/x",
            f"--out {NOBODY}/x: there is no user nobody-of-that-name; a folder called {NOBODY} is ./{NOBODY}",
        ),
        ("https://host/x", "--out https://host/x: expected a path on this disk, or gs://BUCKET/PATH"),
        ("nosuch://x", "--out nosuch://x: expected a path on this disk, or gs://BUCKET/PATH"),
        ("a b://x", "--out a b://x: expected a path on this disk"),
        ("gs:/bucket/x", "--out gs:/bucket/x: expected a path on this disk, or gs://BUCKET/PATH"),
        ("gs://", "--out gs://: expected a path on this disk, or gs://BUCKET/PATH"),
        ("gs:///x", "--out gs:///x: expected a path on this disk, or gs://BUCKET/PATH"),
        ("gs://bucket/x", "--out gs://bucket/x: gs:// needs gcsfs: pip install gcsfs"),
        ("s3://bucket/x", "--out s3://bucket/x: s3:// needs s3fs: pip install s3fs"),
        ("file://host/x", "--out file://host/x: expected file:///PATH"),
        ("file://", "--out file://: expected file:///PATH"),
        ("/gs/x", "--out /gs/x: etils.epath takes /gs for gs://"),
    ],
)
def test_what_is_no_path_is_one_line(monkeypatch, path, expected):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        user_path(path, "--out")
    assert str(caught.value).startswith(expected)


def test_a_bucket_is_reached_where_a_package_for_it_is_there(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: object() if name == "gcsfs" else None)
    assert os.fspath(user_path("gs://bucket/x", "--out")) == "gs://bucket/x"
    assert os.fspath(absolute_path("gs://bucket/x", "workdir")) == "gs://bucket/x"
    with pytest.raises(UserError, match=r"expected a path on this disk, since it is mapped"):
        user_path("gs://bucket/x", "cache_dir", local="since it is mapped")


def test_a_folder_that_epath_takes_for_a_bucket_is_refused_though_it_is_not_named(monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/gs/home")
    with pytest.raises(UserError, match=r"workdir /gs/home/runs: etils\.epath takes /gs for gs://; give a link to it"):
        absolute_path("runs", "workdir")


def test_a_current_folder_that_was_removed_is_said_where_it_matters(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert os.fspath(absolute_path(tmp_path / "run", "workdir")) == str(tmp_path / "run")
    with pytest.raises(UserError, match=r"^workdir run: the current folder was removed; change to another one$"):
        absolute_path("run", "workdir")
    assert folder.find_root(str(tmp_path)) == epath.Path(tmp_path)


def trained(word):
    """A command whose mistake is one line raises it here."""
    if command.run(train.main, ["train", word, "--config.cache_dir="]) == command.MISTAKE:
        raise UserError("in one line")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.jpg,b.jpg", ["a.jpg", "b.jpg"]),
        ("a.jpg, b.jpg", ["a.jpg", "b.jpg"]),
        ('"d, e.jpg", a.jpg', ["d, e.jpg", "a.jpg"]),
        ("d, e.jpg", ["d", "e.jpg"]),
        ("there, too.jpg", ["there, too.jpg"]),
        ("a.jpg,there, too.jpg", ["a.jpg", "there", "too.jpg"]),
    ],
)
def test_files_whose_names_have_commas_can_be_named(tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there, too.jpg").touch()
    values = flags.FlagValues()
    options.files(values, "images", "")
    values(["compare", f"--images={words}"])
    assert values.images == expected


SOURCE = Source("none", ("a", "b"), *[folder.FolderExamples(epath.Path("."), (), np.zeros(0, np.int32))] * 2)
TAKERS = {
    "workdir": runs.read_run,
    "workdir of zfjax train": lambda path: trained(f"--workdir={path}"),
    "dataset": lambda path: opening.open_source(f"folder:{path}"),
    "dataset to train on": lambda path: trained(f"--config.dataset=folder:{path}"),
    "data_dir": lambda path: opening.open_source("shapes", data_dir=path),
    "data_dir of a folder": lambda path: folder.find_root("x", path),
    "data_dir of several labels": lambda path: multilabel.open_multilabel("tfds:voc", data_dir=path),
    "cache_dir": lambda path: cache.folder_for(path, SOURCE, 8),
    "--images": lambda path: Subject.of_files(None, [path]),
    "--boxes": _read_boxes,
    "--class_names": outputs.read_names,
    "--config": lambda path: _called(f"{path}.py", ()),
    "file of weights": files.read,
    "--out of weights": lambda path: files.write(f"{path}.safetensors", {}, {}),
    "--out of an atlas": build._local,
    "what is to be written": lambda path: outside.require_outside(path, "--out", Path.cwd()),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_all_that_take_paths_refuse_alike_and_write_nothing(taker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (f"{NOBODY}/x", "nosuch://x", "https://host/x", "gs:/b/x", "file://host/x", "a\0b"):
        with pytest.raises(UserError):
            TAKERS[taker](path)
    assert not list(tmp_path.iterdir())

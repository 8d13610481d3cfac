"""Files that are whole at any moment."""

import os
import shutil

import pytest
from etils import epath

from zfjax.console import files
from zfjax.console.errors import UserError


def test_names_are_found_whatever_the_path_has(tmp_path):
    folder = epath.Path(tmp_path / "[a]*")
    assert files.matching(folder, "*") == []
    (tmp_path / "[a]*" / "sanity.md").mkdir(parents=True)
    (tmp_path / "[a]*" / "sanity").mkdir()
    assert files.matching(folder, "sanity.*") == [folder / "sanity.md"]


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    files.write_whole(tmp_path / "a" / "b.txt", "é")
    files.write_json(tmp_path / "a" / "c.json", {"x": [1, 2]})
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é".encode()
    assert (tmp_path / "a" / "c.json").read_text() == '{\n  "x": [\n    1,\n    2\n  ]\n}\n'
    assert sorted(os.listdir(tmp_path / "a")) == ["b.txt", "c.json"]


@pytest.mark.parametrize("in_the_way", ["folder", "parent is a file", "full disk"])
def test_what_cannot_be_written_is_named_and_the_old_content_stays(tmp_path, monkeypatch, in_the_way):
    path = tmp_path / "x" / "y.txt"
    if in_the_way == "folder":
        path.mkdir(parents=True)
    elif in_the_way == "parent is a file":
        path.parent.write_text("")
    else:
        files.write_whole(path, "old")

        def full(self, content):
            self.touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(files.epath.Path(path)), "write_bytes", full)
    with pytest.raises(UserError, match=rf"^cannot write {path}: \w+"):
        files.write_whole(path, "new")
    assert not list(tmp_path.rglob("*.part"))
    if in_the_way == "full disk":
        assert path.read_text() == "old"


def test_a_folder_goes_although_files_come_faster(tmp_path, monkeypatch):
    folder, rmtree = tmp_path / "draft", shutil.rmtree
    folder.mkdir()

    def beaten(path, **kwargs):
        rmtree(path, **kwargs)
        if path == folder:
            folder.mkdir(exist_ok=True)
            (folder / "new").write_text("half")

    monkeypatch.setattr(shutil, "rmtree", beaten)
    files.remove(folder)
    assert not list(tmp_path.iterdir())

"""The notebooks of colab/: each .ipynb is its .py after a run, and each .py runs.

python colab/build.py      makes the .ipynb files anew
"""

import base64
import contextlib
import io
import os
import pathlib
import re
import runpy
import site
import sys
import types

import jupytext
import nbformat
import numpy as np
import pytest
import tiny_runs
from PIL import Image

from zfjax.data.shapes import builder

COLAB = pathlib.Path(__file__).parents[1] / "colab"
BUILD = types.SimpleNamespace(**runpy.run_path(str(COLAB / "build.py")))
URL = "https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/"
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s'"(=])(?:/[\w.-]+){2,}|[A-Z]:\\""")
LARGEST = 1.5e6  # bytes

each = pytest.mark.parametrize("script", BUILD.scripts(), ids=lambda path: path.stem)


def stored(script: pathlib.Path):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell) -> list[Image.Image]:
    found = []
    for output in cell.outputs:
        data = output.get("data", {})
        encoded = data.get("image/jpeg") or data.get("image/png")
        if encoded:
            found.append(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    return found


def texts(notebook) -> list[str]:
    """All that the cells printed or gave."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs]


def test_every_script_has_its_notebook_and_is_in_the_readme():
    scripts = BUILD.scripts()
    assert [path.stem[:2] for path in scripts] == ["1_", "2_", "3_", "4_"]
    assert sorted(path.stem for path in COLAB.glob("*.ipynb")) == [path.stem for path in scripts]
    linked = re.findall(re.escape(URL) + r"(\S+)\.ipynb", (COLAB / "README.md").read_text())
    assert linked == [path.stem for path in scripts]


@each
def test_script_and_notebook_agree(script):
    """Type and source of every cell, and what jupytext needs to keep them in step."""
    one, other = jupytext.read(script), stored(script)
    assert [(cell.cell_type, cell.source) for cell in one.cells] == [
        (cell.cell_type, cell.source) for cell in other.cells
    ]
    for notebook in (one, other):
        assert notebook.metadata.jupytext.formats == "ipynb,py:percent"
        assert notebook.metadata.kernelspec.name == "python3"
    nbformat.validate(other)


@each
def test_head_says_what_it_is_and_installs_zfjax_alone(script):
    head, install = stored(script).cells[:2]
    assert re.match(r"# \S", head.source)
    assert re.findall(r'<a href="(\S+)">', head.source) == [f"{URL}{script.stem}.ipynb"]
    assert "minutes" in head.source
    # The magic installs for the kernel's Python, whatever pip is first on the PATH.
    (arguments,) = re.findall(r'run_line_magic\("pip", "([^"]*)"\)', install.source)
    # Nothing that could move what Colab has installed, JAX above all.
    assert re.fullmatch(r"install -q git\+https://github\.com/zfjax/zfjax( equinox)?", arguments)
    assert "stored here, made on a CPU" in head.source


@pytest.mark.parametrize("missing", ["zfjax", "equinox"])
@each
def test_installs_what_is_missing_and_stops_if_that_fails(script, missing, monkeypatch):
    """With a pip that does nothing: nothing is asked of it where all is there, else the cell ends in an error."""
    source = stored(script).cells[1].source
    asked = []
    shell = types.SimpleNamespace(run_line_magic=lambda *arguments: asked.append(arguments))
    needed = missing in re.findall(r'find_spec\("(\w+)"\)', source)
    failing = pytest.raises(ImportError, match=missing) if needed else contextlib.nullcontext()
    with monkeypatch.context() as patch, failing:
        patch.setitem(sys.modules, missing, None)  # neither found nor imported
        exec(source, {"get_ipython": lambda: shell})
    assert len(asked) == needed


@each
def test_first_lines_name_the_device_alike(script):
    lines = stored(script).cells[2].source.splitlines()
    first = stored(BUILD.scripts()[0]).cells[2].source.splitlines()[-3:]
    start = lines.index(first[0])
    assert lines[start : start + 3] == first
    assert "device_kind" in first[0]
    assert "Change runtime type" in first[2]


@each
def test_quick_runs_have_their_own_folder(script):
    """A run's settings cannot change, so turning QUICK on after a run needs another folder."""
    (settings,) = (cell.source for cell in code(stored(script)) if BUILD.SWITCH in cell.source)
    quick, full = re.search(r'folder = "(runs/\w+)" if QUICK else "(runs/\w+)"', settings).groups()
    assert quick != full
    sources = "".join(cell.source for cell in code(stored(script)))
    assert "train_and_evaluate(recipe, folder)" in sources
    assert sources.count('"runs/') == 2


@each
def test_stored_run_is_whole_and_clean(script):
    """Of one run from the first cell to the last, with the real settings, pictures, and nothing of the machine."""
    notebook = stored(script)
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("QUICK = False" in cell.source for cell in cells) == 1
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(output.output_type != "error" and output.get("name") != "stderr" for output in outputs)
    assert all(set(cell.metadata) <= {"lines_to_next_cell"} for cell in notebook.cells)  # jupytext's
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST
    for text in texts(notebook):
        assert not ABSOLUTE_PATH.search(text), text
    shown = [picture for cell in cells for picture in pictures(cell)]
    assert len(shown) >= 3
    for picture in shown:
        assert np.asarray(picture).std() > 2  # of 0..255: not blank


@each
def test_cells_are_short_and_pictures_have_words_beside_them(script):
    cells = stored(script).cells
    for number, cell in enumerate(cells):
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line and not re.match(r"import |from ", line)]
            assert len(lines) <= 16, cell.source
            if pictures(cell):
                assert cells[number - 1].cell_type == "markdown", cell.source
                assert number + 1 < len(cells), cell.source
                assert cells[number + 1].cell_type == "markdown", cell.source


def test_absolute_paths_are_seen():
    for text in ("/home/me/x", "at /home/me/x", "'/home/me/x'", r"C:\Users\me", r"in 'C:\\Users\\me'"):
        assert ABSOLUTE_PATH.search(text), text
    for text in ("runs/resnet18", "3/4", "top-1 accuracy: 86 %", "one / two"):
        assert not ABSOLUTE_PATH.search(text), text


def test_a_write_that_fails_leaves_the_stored_notebook(tmp_path):
    path = tmp_path / "one.ipynb"
    BUILD.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("old")]), path)
    before = path.read_bytes()
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("new")], metadata={"no": object()})
    with pytest.raises(TypeError):
        BUILD.write(broken, path)
    assert path.read_bytes() == before
    BUILD.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("new")]), path)
    assert nbformat.read(path, as_version=4).cells[0].source == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_quick_needs_exactly_one_switch():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("QUICK = False  # True: quick\nx = 1")])
    assert BUILD.quick(notebook).cells[0].source == "QUICK = True  # True: quick\nx = 1"
    with pytest.raises(ValueError, match="QUICK = False"):
        BUILD.quick(notebook)


@pytest.fixture(scope="module")
def few_shapes(tmp_path_factory) -> dict[str, str]:
    """The environment of a process for which the data set `shapes` is a few pictures, and home an empty folder."""
    folder = tmp_path_factory.mktemp("home")
    few = builder.ShapesConfig(name="standard", description="few", train=300, validation=150)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder.Shapes, "BUILDER_CONFIGS", (few,))
        builder.prepared_builder(str(folder / "tfds"))
    root = str(COLAB.parent)
    places = {"HOME": str(folder), "TFDS_DATA_DIR": str(folder / "tfds"), "PYTHONUSERBASE": site.getuserbase()}
    path = {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
    return tiny_runs.environment() | places | path | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}


@pytest.mark.colab
@pytest.mark.filterwarnings("default")  # of what talks to the kernel
@each
def test_it_runs(script, tmp_path, few_shapes):
    """With small settings each cell shows as many pictures as in the stored notebook, and nothing is left in colab/."""
    before = sorted(COLAB.iterdir())
    notebook = BUILD.executed(BUILD.quick(jupytext.read(script)), tmp_path, few_shapes, timeout=300)
    shown = [len(pictures(cell)) for cell in code(notebook)]
    assert shown == [len(pictures(cell)) for cell in code(stored(script))]
    assert sorted(COLAB.iterdir()) == before

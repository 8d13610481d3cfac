"""The house's floors (docs/design.md): each folder imports only from those above it, the verbs at the top from all."""

import ast
import pathlib
import re
import shutil
import subprocess

import pytest

import zfjax

PACKAGE = pathlib.Path(zfjax.__file__).parent
ROOT = pathlib.Path(__file__).parents[1]
FLOORS = (
    *("console", "ops", "transform", "models", "weights", "data", "training", "runs"),
    *("attribution", "experiments", "plots", "atlas", "explore", "compare", "explain", "figures"),
)
# `compare` and `figures` are verbs that need a folder; they share no floor with each other or with the atlas.


def imports(path):
    """The folders or files below zfjax/ that a module imports from, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "zfjax":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zfjax."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("zfjax."))


@pytest.mark.parametrize("number", range(len(FLOORS)), ids=FLOORS)
def test_a_floor_imports_only_from_floors_above_it(number):
    allowed = {"version", *FLOORS[: number + 1]}
    found = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in (PACKAGE / FLOORS[number]).rglob("*.py")
        for name in imports(path)
        if name not in allowed
    }
    assert not found


def test_every_folder_is_a_floor():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/**/*.py")}
    assert folders == set(FLOORS)


def test_the_design_lists_every_file():
    tree = (ROOT / "docs" / "design.md").read_text().split("```")[1]
    listed, folders = set(), []
    for line in filter(str.strip, tree.splitlines()):
        if names := re.match(r" *(?:[\w.]+(?:/|\.\w+)(?: |$))+", line):
            folders[(len(line) - len(line.lstrip())) // 2 :] = []
            listed |= {"".join([*folders, name]) for name in names[0].split()}
            folders.append(names[0].split()[0])
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "zfjax").rglob("*.py")}
    assert not {file for file in files - listed if not re.search(r"/__(init|main)__\.py$", file)}
    assert not {name for name in listed if name.startswith("zfjax/") and not (ROOT / name).exists()}
    assert len(listed) > 150


def test_modules_import_each_other_in_no_circle():
    """Looked for in statements at the top of modules and inside functions alike."""
    graph = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = _modules(path)
    done = set()

    def walk(module, trail):
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for other in sorted(graph.get(module, ())):
            walk(other, [*trail, module])
        done.add(module)

    for module in sorted(graph):
        walk(module, [])


def _modules(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zfjax."):
            for alias in node.names:
                inner = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return found


@pytest.mark.parametrize("name", ["runs", "PHOTOS", "dog.jpg"])
def test_ci_leaves_a_contributors_files_alone(tmp_path, name):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / name).write_text("mine")
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{name} is already here and would be overwritten; run this in a fresh clone" in done.stdout
    assert (tmp_path / name).read_text() == "mine"

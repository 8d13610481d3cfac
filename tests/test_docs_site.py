"""What the documentation quotes, lists and links is there."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re

import pytest

import zfjax

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PACKAGE = pathlib.Path(zfjax.__file__).parent
PAGES = sorted(DOCS.glob("*.md")) + sorted(DOCS.glob("api/*.md"))
FRONT = [DOCS.parent / name for name in ("README.md", "CHANGELOG.md")]
SHORT = 40  # characters that a placeholder of a message may stand for


def messages():
    """Every text in the code as a pattern: what is filled in becomes a group. Longest first."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            else:
                continue
            if sum(len(part) for part in parts if part) >= 12:
                found.add("".join("(.*?)" if part is None else re.escape(part) for part in parts))
    return [re.compile(pattern) for pattern in sorted(found, key=len, reverse=True)]


def is_said(line, patterns):
    """Whether some text of the code gives the line, and others whatever long is filled in there."""
    for pattern in patterns:
        found = pattern.fullmatch(line)
        if found and all(len(part) <= SHORT or is_said(part, patterns) for part in found.groups()):
            return True
    return False


def quoted():
    blocks = re.findall(r"^```text\n(.*?)^```", (DOCS / "troubleshooting.md").read_text(), re.DOTALL | re.MULTILINE)
    return [line.removeprefix("RuleWarning: ") for block in blocks for line in block.splitlines() if line]


def test_quoted_errors_are_those_of_the_code():
    patterns = messages()
    lines = quoted()
    assert len(lines) > 40
    assert [line for line in lines if not is_said(line, patterns)] == []


@pytest.mark.parametrize(
    "old", ["is too small for this net", "does not split over", "prepare it with", "plain gradient"]
)
def test_an_error_that_is_worded_anew_is_noticed(old):
    """The test above can fail."""
    line = next(line for line in quoted() if old in line)
    assert not is_said(line.replace(old, "was once called"), messages())


def documented():
    """Full names of what the reference has, by its directives; of modules also what lies in them."""
    names = set()
    for page in DOCS.glob("api/*.md"):
        for kind, name, options in re.findall(r"\.\. (auto\w+|py:data):: (\S+)((?:\n    :.*)*)", page.read_text()):
            names.add(name)
            if kind == "automodule":
                module = importlib.import_module(name)
                left_out = re.findall(r"[\w.]+", "".join(re.findall(r":exclude-members:(.*)", options)))
                own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == name]
                public = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
                names |= {f"{name}.{key}" for key in public if key not in left_out}
    return names


def full_names(package, name):
    """What a public name may be documented as: as it is, or under the module that it comes from."""
    value = getattr(package, name)
    found = {f"{package.__name__}.{name}", f"zfjax.{name}"}
    if inspect.ismodule(value):
        return found | {value.__name__}
    module = getattr(value, "__module__", None) or ""
    if module.startswith("zfjax."):
        parents = [".".join(module.split(".")[:end]) for end in range(2, len(module.split(".")) + 1)]
        found |= {f"{parent}.{value.__qualname__}" for parent in parents if hasattr(value, "__qualname__")}
    return found


def packages():
    found = [zfjax]
    for _, name, is_package in pkgutil.walk_packages(zfjax.__path__, "zfjax."):
        if is_package and hasattr(importlib.import_module(name), "__all__"):
            found.append(importlib.import_module(name))
    return found


def test_every_public_name_is_in_the_reference():
    known = documented()
    assert {"zfjax.deconvnet", "zfjax.ops.max_unpool", "zfjax.attribution.grad_cam"} <= known
    missing = [
        f"{package.__name__}.{name}"
        for package in packages()
        for name in package.__all__
        if name != "__version__" and not full_names(package, name) & known
    ]
    assert missing == []


def test_every_module_for_notebooks_is_in_the_reference():
    known = documented()
    for package in ("zfjax.experiments", "zfjax.plots", "zfjax.training", "zfjax.data"):
        for _, name, _ in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            assert name in known or name in NOT_FOR_NOTEBOOKS, name


NOT_FOR_NOTEBOOKS = {"zfjax.experiments.ledger", "zfjax.plots.colors"}


def anchors(path):
    """The headings of a page as GitHub and MyST name them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES + FRONT, ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_links_lead_somewhere(page):
    """On GitHub too, where nobody checks them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            found = page.parent / name if name else page
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


def test_every_page_is_in_the_contents():
    for folder in (DOCS, DOCS / "api"):
        trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (folder / "index.md").read_text(), re.DOTALL | re.MULTILINE)
        listed = {line for tree in trees for line in tree.split() if not line.startswith(":")}
        assert listed >= {page.stem for page in folder.glob("*.md")} - {"index"}


def test_every_notebook_is_listed():
    text = (DOCS / "notebooks.md").read_text()
    notebooks = sorted((DOCS.parent / "colab").glob("[0-9]*.py"))
    assert len(notebooks) == 4
    for notebook in notebooks:
        assert f"colab.research.google.com/github/zfjax/zfjax/blob/main/colab/{notebook.stem}.ipynb" in text
    assert len(re.findall(r"colab\.research\.google\.com", text)) == len(notebooks)


def test_configuration_table_has_every_key(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    keys = importlib.import_module("generated").config_keys()
    default = importlib.import_module("zfjax.training.config").default()
    assert {key.name: ast.literal_eval(key.default) for key in keys} == default.to_dict()
    assert {key.group for key in keys} == {"The pictures", "The net", "The recipe", "What is written"}
    meanings = {key.name: key.meaning for key in keys}
    assert meanings["max_broken"] == "share of unreadable pictures that stops the run"

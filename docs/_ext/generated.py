"""Directives for what is written in the code: configuration keys, and the commands' help."""

import ast
import io
import os
import pathlib
import subprocess
import sys
import tokenize
from typing import NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from zfjax import cli
from zfjax.training import config

ROOT = pathlib.Path(__file__).parents[2]


def setup(app: Sphinx) -> dict[str, bool]:
    """Adds the directives."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Key(NamedTuple):
    """A configuration key as `zfjax/training/config.py` has it."""

    group: str
    name: str
    default: str
    meaning: str


def config_keys() -> list[Key]:
    """Every key, in the order of the source; its comment, and the comment line above its group."""
    source = pathlib.Path(config.__file__).read_text(encoding="utf-8")
    default = next(
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "default"
    )
    comments = {}  # by line: text, and whether it stands alone
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            comments[token.start[0]] = (token.string.lstrip("# "), alone)
    keys = []
    for node in default.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Attribute):
            headings = [text for line, (text, alone) in sorted(comments.items()) if alone and line < node.lineno]
            meaning, alone = comments.get(node.lineno, ("", False))
            keys.append(Key(headings[-1].rstrip("."), target.attr, ast.unparse(node.value), meaning))
    return keys


class ConfigKeys(SphinxDirective):
    """A table of the keys for each group of them."""

    has_content = True  # what is shown where the page is plain Markdown

    def run(self) -> list[nodes.Node]:
        """The tables."""
        self.env.note_dependency(config.__file__)
        keys = config_keys()
        built: list[nodes.Node] = []
        for group in dict.fromkeys(key.group for key in keys):
            built += [nodes.rubric(text=group), _table([key for key in keys if key.group == group])]
        return built


class Commands(SphinxDirective):
    """A section a verb of `zfjax`, with what its `--help` prints."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """The sections."""
        built: list[nodes.Node] = []
        for verb, what in cli.VERBS.items():
            section = nodes.section(ids=[f"zfjax-{verb}"], names=[f"zfjax {verb}"])
            section += nodes.title(text=verb)
            section += nodes.paragraph(text=f"{what[0].upper()}{what[1:]}.")
            section += nodes.literal_block(text=_help(verb), language="none")
            self.state.document.note_explicit_target(section)
            built.append(section)
        return built


def _help(verb: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "zfjax.cli", verb, "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
    )
    return done.stdout.strip().replace(f"{ROOT}{os.sep}", "")  # where a site is built is nobody's business


def _table(keys: list[Key]) -> nodes.table:
    table, group = nodes.table(classes=["keys"]), nodes.tgroup(cols=3)
    table += group
    for width in (2, 2, 6):
        group += nodes.colspec(colwidth=width)
    head, body = nodes.thead(), nodes.tbody()
    group += [head, body]
    head += _row(*(nodes.Text(title) for title in ("key", "default", "meaning")))
    for key in keys:
        body += _row(nodes.literal(text=key.name), nodes.literal(text=key.default), nodes.Text(key.meaning))
    return table


def _row(*cells: nodes.Node) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        paragraph = nodes.paragraph()
        paragraph += cell
        entry = nodes.entry()
        entry += paragraph
        row += entry
    return row

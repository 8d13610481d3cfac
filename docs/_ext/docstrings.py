"""Autodoc as zfjax's sources are written: signatures and fields as they stand there, comments of fields included."""

import ast
import inspect
import io
import pkgutil
import re
import sys
import textwrap
import tokenize
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext import autosummary


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the handlers; those of docstrings come before napoleon's."""
    autosummary.WELL_KNOWN_ABBREVIATIONS += ("Fig.", "Figs.")  # they end no sentence
    app.connect("builder-inited", unwrap_jitted)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", keep_bars, priority=399)
    app.connect("autodoc-process-docstring", name_returns, priority=400)
    app.connect("autodoc-process-docstring", add_fields, priority=401)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def unwrap_jitted(app: Sphinx) -> None:
    """Puts the plain functions where `jax.jit` made objects of them, which autodoc would take for data."""
    import zfjax

    for name in zfjax.__all__:
        getattr(zfjax, name)
    modules = [found.name for found in pkgutil.walk_packages(zfjax.__path__, "zfjax.")]
    for module_name in modules:
        if module_name.endswith("__main__") or module_name.startswith("zfjax.explore."):  # these need Gradio
            continue
        __import__(module_name)
        module = sys.modules[module_name]
        for name, value in list(vars(module).items()):
            wrapped = getattr(value, "__wrapped__", None)
            if inspect.isfunction(wrapped) and wrapped.__module__ == module_name and not inspect.isfunction(value):
                setattr(module, name, wrapped)


def signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, args: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """The signature as it is written; none for classes whose fields are listed."""
    if not getattr(value, "__module__", "").startswith("zfjax"):
        return None
    if inspect.isclass(value) and issubclass(value, BaseException):
        return None
    if inspect.isclass(value) and (_is_tuple(value) or hasattr(value, "__dataclass_fields__")):
        return "", None
    if inspect.isclass(value) and ("__init__" not in vars(value) or getattr(value, "_is_protocol", False)):
        return "", None
    function = value.__init__ if inspect.isclass(value) else inspect.unwrap(value) if callable(value) else None
    if not inspect.isfunction(function):
        return None
    node = _node(function)
    if not isinstance(node, ast.FunctionDef):
        return None
    if node.args.args and node.args.args[0].arg in ("self", "cls"):
        del node.args.args[0]
    named = _Named(function.__globals__)
    for arg in ast.walk(node.args):
        if isinstance(arg, ast.arg) and arg.annotation:
            arg.annotation = named.annotation(arg.annotation)
    returned = ast.unparse(named.annotation(node.returns)) if node.returns and not inspect.isclass(value) else None
    return f"({ast.unparse(node.args)})", returned


class _Named(ast.NodeTransformer):
    """Names of zfjax's own classes in full, so that they become links."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def annotation(self, node: ast.expr) -> ast.expr:
        """The annotation, out of its quotes."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        return self.visit(node)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """A class of zfjax in full; any other name as it is."""
        found = self._names.get(node.id)
        if inspect.isclass(found) and found.__module__.startswith("zfjax.") and not found.__name__.startswith("_"):
            return ast.Name(f"~{found.__module__}.{found.__qualname__}")
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Shapes without the space that keeps linters from taking them for names."""
        return ast.Constant(node.value.strip() if isinstance(node.value, str) else node.value)


def keep_bars(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Absolute values, |x|, are no substitutions."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"`[^`]*`|(\|)", lambda found: r"\|" if found[1] else found[0], line)


def name_returns(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """`Returns:` as text, or, where each paragraph is `name: what`, as a list; napoleon takes the names for types.

    Of modules the other sections too, which napoleon thinks a function's.
    """
    _as_field(lines, "Returns:", "returns" if what != "module" else "Returns")
    if what == "module":
        _as_field(lines, "Args:", "Arguments")
        _as_field(lines, "Raises:", "Raises")


def _as_field(lines: list[str], heading: str, field: str) -> None:
    try:
        start = lines.index(heading)
    except ValueError:
        return
    end = next((i for i in range(start + 1, len(lines)) if lines[i] and not lines[i].startswith(" ")), len(lines))
    body = textwrap.dedent("\n".join(lines[start + 1 : end])).strip().splitlines()
    tops = [line for line in body if line and not line.startswith(" ")]
    if all(re.match(r"\w+: ", line) for line in tops):
        body = [re.sub(r"^(\w+): ", r"* **\1**: ", line) if not line.startswith(" ") else line for line in body]
        body = [line if line.startswith("*") else f"  {line.strip()}" for line in body]
    lines[start:end] = [f":{field}:", *(f"    {line}" for line in body), ""]


def add_fields(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Lists the fields of a tuple or dataclass with their types and the comments beside them."""
    if not getattr(value, "__module__", "").startswith("zfjax"):
        return None
    if inspect.isclass(value) and issubclass(value, BaseException):
        return None
    if inspect.isclass(value) and (_is_tuple(value) or "__dataclass_fields__" in vars(value)):
        known = "Attributes:" in lines
        found = [] if known else [field for field in _fields(value) if not field[0].startswith("_")]
        if found:
            lines += ["", ":Fields:"]
            for field, kind, comment in found:
                lines.append(f"    * **{field}** (``{kind}``){': ' + comment if comment else ''}")
            lines.append("")


def skip_fields(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what Python says of a tuple's fields: `Alias for field number 0`."""
    return True if type(value).__name__ == "_tuplegetter" else None


def _is_tuple(value: type) -> bool:
    return issubclass(value, tuple) and hasattr(value, "_fields")


def _fields(value: type) -> list[tuple[str, str, str]]:
    """Name, type and comment of each field as the source has them; fields of private types are left out."""
    node = _node(value)
    if not isinstance(node, ast.ClassDef):
        return []
    plain = _Named({})
    comments = _comments(textwrap.dedent(inspect.getsource(value)))
    return [
        (
            field.target.id,
            ast.unparse(plain.visit(field.annotation)).replace("'", '"'),
            comments.get(field.end_lineno or 0, ""),
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and not re.search(r"\b_[A-Z]", ast.unparse(field.annotation))
    ]


def _node(value: Any) -> ast.stmt | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    except (OSError, TypeError):
        return None


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}

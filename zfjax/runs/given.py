"""A model as `--model` names it."""

import re
from collections.abc import Callable

from zfjax.console import scripts
from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean, first_line
from zfjax.models.model import Model
from zfjax.weights.onnx import from_onnx

EXPECTED = "expected FILE.py:NAME, where NAME is a function that returns a zfjax.Model, or NAME.onnx"


def model_given(words: str) -> Model:
    """The model that a function in a Python file returns, or that of an ONNX file.

    Args:
        words: FILE.py:NAME, or a file's name that ends in .onnx.

    Raises:
        UserError: there is no such file or function, or it makes no model.
    """
    if words.lower().endswith(".onnx"):
        return from_onnx(words)
    parts = re.fullmatch(r"(.*\.py):(\w+)", words, re.DOTALL)
    if not parts:
        raise UserError(f"--model={words}: {EXPECTED}")
    file, name = parts.groups()
    made = _function(file, name)
    try:
        model = made()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a program, and the user's
        raise UserError(f"--model: {name}() of {file}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, Model):
        raise UserError(f"--model: {name}() of {file} returned {type(model).__name__}; expected a zfjax.Model")
    return model


def _function(file: str, name: str) -> Callable[[], object]:
    module = scripts.executed(file, "--model", "nets.py:NAME")
    functions = {key: value for key, value in vars(module).items() if callable(value) and not isinstance(value, type)}
    if name not in functions:
        raise UserError(f"--model: no function {name!r} in {file}{did_you_mean(name, list(functions)) or ''}")
    return functions[name]

"""Models that commands are given by `--model`: in a Python file of the user's, or an ONNX file."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from zfjax.console import scripts
from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean, first_line
from zfjax.models.model import Model
from zfjax.runs.written import CONFIG, ONNX, SAID
from zfjax.weights import layouts
from zfjax.weights.onnx import from_onnx


def model_given(words: str) -> Model:
    """A model in a Python file, or the one that a function there returns; or that of an ONNX file.

    Args:
        words: FILE.py:NAME, or a file's name that ends in .onnx.

    Raises:
        UserError: there is no such file or function, or it makes no model.
    """
    if words.lower().endswith(".onnx"):
        return from_onnx(words)
    parts = re.fullmatch(r"(.*\.py):(\w+)", words, re.DOTALL)
    if not parts:
        raise _no_model(words)
    file, name = parts.groups()
    made = _function(file, name)
    called = name if isinstance(made, Model) else f"{name}()"
    try:
        model = made if isinstance(made, Model) else made()
        if isinstance(model, Model):
            model.layers  # noqa: B018  (its function runs for the first time)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a program, and the user's
        raise UserError(f"--model: {called} of {file}: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, Model):
        raise UserError(f"--model: {name}() of {file} returned {type(model).__name__}; expected a zfjax.Model")
    return model


def _no_model(words: str) -> UserError:
    """What to do with a run, weights, the name of a net, or anything else that is no model."""
    path = Path(os.path.expanduser(words))  # of no user, it stays as it is
    if (path / CONFIG).is_file() or (path / ONNX / SAID).is_file():
        return UserError(f"--model={words}: it is a run; expected --workdir={words}")
    if path.suffix != ".py" and path.is_file():
        run = f"zfjax import-weights {words} --model=MODEL --workdir=RUN makes a run"
        return UserError(f"--model={words}: a file of weights is no model; {run}")
    if words in layouts.MODELS:
        run = f"zfjax import-weights FILE --model={words} --workdir=RUN makes a run"
        return UserError(f"--model={words}: it is a net without weights; {run}")
    return UserError(
        f"--model={words}: expected FILE.py:NAME, where NAME is a zfjax.Model or a function that returns one, or"
        " NAME.onnx"
    )


def _function(file: str, name: str) -> Callable[[], object]:
    module = scripts.executed(file, "--model", "nets.py:NAME")
    functions = {key: value for key, value in vars(module).items() if callable(value) and not isinstance(value, type)}
    if name not in functions:
        raise UserError(f"--model: no function {name!r} in {file}{did_you_mean(name, list(functions)) or ''}")
    return functions[name]

"""`--config=FILE.py[:ARG]` and `--config.KEY=VALUE`: command-line arguments as a configuration."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from zfjax.console import command, scripts
from zfjax.console.errors import UserError
from zfjax.console.text import first_line, reason, whole_number
from zfjax.training import config as defaults
from zfjax.training.config import check, default, unknown_key, wrong_kind

_HELP = (
    "FILE.py[:ARG] with the recipe; --config.KEY=VALUE changes one key; default the keys below, which are explained in"
    f" {defaults.__file__}."
)


def config_from(argv: Sequence[str], usage: str, values: flags.FlagValues) -> tuple[ConfigDict, list[str]]:
    """Parse `argv` with `--config=FILE.py[:ARG]` and `--config.KEY=VALUE` in addition to the flags in `values`.

    Returns:
        The checked configuration, and the arguments that are not flags.

    Raises:
        UserError: as in `parse`; a recipe is missing or fails; a value is invalid.
    """
    flags.DEFINE_string("config", "", _HELP, flag_values=values)
    for key, usual in default().items():
        _DEFINE[type(usual)](f"config.{key}", None, "", flag_values=values)
    rest = command.parse(argv, usage, values, keys=dict(default()))
    config = _recipe(values.config) if values.config else default()
    for key in default():
        if values[f"config.{key}"].present:
            config[key] = values[f"config.{key}"].value
    check(config)
    return config, rest


class _WholeNumbers(flags.ArgumentParser):
    """`3,4`, `(3, 4)` or `[3, 4]` as a tuple; nothing, or empty brackets, as an empty one."""

    syntactic_help = "whole numbers with commas between"

    def parse(self, argument: str) -> tuple[int, ...]:
        bare = re.fullmatch(r"\s*[\[(]?([0-9,\s]*)[\])]?\s*", argument)
        words = bare[1].split(",") if bare else [argument]
        return tuple(whole_number(word) for word in words if word.strip())


def _define_whole_numbers(name: str, default: None, text: str, flag_values: flags.FlagValues) -> None:
    flags.DEFINE(_WholeNumbers(), name, default, text, flag_values, flags.ArgumentSerializer())


_DEFINE: Mapping[type, Callable[..., object]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple: _define_whole_numbers,
}


def _recipe(words: str) -> ConfigDict:
    """The default configuration with the keys that the recipe FILE.py[:ARG] sets."""
    with_arg = re.fullmatch(r"(.*?\.py)(?::(.*))?", words, re.DOTALL)  # up to .py: a drive's letter has a colon too
    file, arg = with_arg.groups() if with_arg else (words, None)
    config = default()
    for key, value in _called(file, () if arg is None else (arg,)).items():
        if key not in tuple(config):
            raise UserError(f"--config: {unknown_key(key)}")
        try:
            config[key] = value
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"--config: {wrong_kind(key, value)}") from error
    return config


def _called(file: str, args: Sequence[str]) -> dict[Any, Any]:
    """Call `get_config` in a file and return its result as a dict."""
    module = scripts.executed(file, "--config", "configs/folder.py[:ARG]")
    try:
        returned = module.get_config(*args)
        if isinstance(returned, Mapping | ConfigDict):
            return dict(returned.items())
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"--config: {error.filename or file}: {reason(error)}") from error
    except (Exception, SystemExit) as error:  # a recipe is a program, and the user's
        unknown = re.search(r'Key "(\w+)" does not exist', str(error))
        said = unknown_key(unknown[1]) if unknown else f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"--config: {said}") from error
    raise UserError(
        f"--config: get_config() of {file} returned {type(returned).__name__}; expected an edit of"
        " zfjax.training.config.default()"
    )

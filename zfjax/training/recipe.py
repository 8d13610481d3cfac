"""`--config=FILE.py[:ARG]` and `--config.KEY=VALUE`: a command's words as a configuration."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.console.text import did_you_mean
from zfjax.training import config
from zfjax.training.config import default

_KEYS = Path(config.__file__)
_HELP = (
    "FILE.py[:ARG] with the recipe; --config.KEY=VALUE changes one key; default the keys below, which are explained in"
    f" {_KEYS}."
)


def config_from(argv: Sequence[str], usage: str, values: flags.FlagValues) -> tuple[ConfigDict, list[str]]:
    """Parses `argv` with `--config=FILE.py[:ARG]` and `--config.KEY=VALUE` beside the flags in `values`.

    Raises:
      UserError: as in `parse`, or a configuration file that is missing or fails.
    """
    _check_config_words(argv)
    try:
        config_flags.DEFINE_config_file(
            "config", str(_KEYS), _HELP, flag_values=values, lock_config=True, sys_argv=list(argv)
        )
        rest = command.parse(argv, usage, values, keys=default())
        return values.config, rest
    except (UserError, OSError):
        raise
    except Exception as error:  # a recipe is a program, and the user's
        unknown = re.search(r'Key "(\w+)" does not exist', str(error))
        if unknown:
            raise UserError(f"--config: {_unknown_key(unknown[1])}") from error
        raise UserError(f"--config: {' '.join(str(error).split())}") from error


def _check_config_words(argv: Sequence[str]) -> None:
    for word, following in itertools.pairwise([*argv[1:], ""]):
        recipe = re.fullmatch(r"--?config=(.*)", word)
        if recipe or (following and re.fullmatch(r"--?config", word)):  # --config=FILE.py or --config FILE.py
            _check_recipe(recipe[1] if recipe else following)
        key = re.match(r"--?config\.([^=]*)", word)
        if key and key[1] not in default():
            raise UserError(_unknown_key(key[1]))


def _check_recipe(recipe: str) -> None:
    with_arg = re.fullmatch(r"(.*?\.py)(:.*)?", recipe)  # up to .py: a drive's letter has a colon too
    file = with_arg[1] if with_arg else recipe
    if not Path(file).is_file():
        raise UserError(f"--config: no such file: '{file}'; expected a path like configs/folder.py[:ARG]")
    if ":" in file:  # where ml_collections would cut it
        raise UserError(f"--config: '{file}': expected a path without a colon, such as one from the current folder")


def _unknown_key(key: str) -> str:
    return f"unknown configuration key {key!r}{did_you_mean(key, list(default()))}"

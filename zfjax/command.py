"""What all commands share: flags, `--help` without JAX, a user's error as one line and exit code 2."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from zfjax.config import default
from zfjax.errors import UserError
from zfjax.text import did_you_mean


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    try:
        main(sys.argv if argv is None else argv)
    except UserError as error:
        print(f"zfjax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parse(argv: Sequence[str], usage: str, values: flags.FlagValues) -> list[str]:
    """Parses `argv` into `values` and returns what is no flag; prints the help and ends where that is asked for.

    Raises:
      UserError: an unknown flag or configuration key, or a value that does not fit, with what was expected.
    """
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{usage.strip()}\n\nFlags:\n{_describe(values)}")
        raise SystemExit(0)
    try:
        return values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        known = [name for name in values if name not in ("flagfile", "undefok")]
        raise UserError(f"unknown flag --{error.flagname}{did_you_mean(error.flagname, known, '--')}") from error
    except (flags.Error, OSError) as error:
        text = str(error).strip()
        # A recipe that fails comes with its whole trace; its last line says what is wrong.
        line = f"--config: {text.splitlines()[-1]}" if "Traceback" in text else " ".join(text.split())
        raise UserError(line) from error


def config_from(argv: Sequence[str], usage: str, values: flags.FlagValues) -> tuple[ConfigDict, list[str]]:
    """Parses `argv` with `--config=FILE.py[:ARG]` and `--config.KEY=VALUE` beside the flags in `values`.

    Raises:
      UserError: as in `parse`, or a configuration file that is missing or fails.
    """
    _check_config_words(argv)
    try:
        config_flags.DEFINE_config_file(
            "config",
            str(Path(__file__).parent / "config.py"),
            "FILE.py[:ARG] with the recipe; --config.KEY=VALUE changes one key.",
            flag_values=values,
            lock_config=True,
            sys_argv=list(argv),
        )
        rest = parse(argv, usage, values)
        return values.config, rest
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        unknown = re.search(r'Key "(\w+)" does not exist', str(error))
        if unknown:
            raise UserError(f"--config: {_unknown_key(unknown[1])}") from error
        raise UserError(f"--config: {' '.join(str(error).split())}") from error


def reject_arguments(rest: Sequence[str], command: str) -> None:
    """Raises a UserError where words that are no flags were given."""
    if rest:
        raise UserError(f"{command} takes only flags, not {rest[0]!r} (see --help)")


def _check_config_words(argv: Sequence[str]) -> None:
    for word in argv[1:]:
        file = re.fullmatch(r"--?config=([^:]*)(:.*)?", word)
        if file and not Path(file[1]).is_file():
            raise UserError(f"--config: no such file: {file[1]!r}; expected a path like configs/folder.py[:ARG]")
        key = re.match(r"--?config\.([^=]*)", word)
        if key and key[1] not in default():
            raise UserError(_unknown_key(key[1]))


def _unknown_key(key: str) -> str:
    return f"unknown configuration key {key!r}{did_you_mean(key, list(default()))}"


def _describe(values: flags.FlagValues) -> str:
    lines = []
    for name in sorted(values):
        flag = values[name]
        if name not in ("flagfile", "undefok") and not name.startswith("config."):
            lines.append(f"  --{name}: {flag.help}")
    return "\n".join(lines)

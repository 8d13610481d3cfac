"""What all commands share: flags, `--help` without importing JAX, and errors as one line and an exit code."""

import atexit
import contextlib
import hashlib
import io
import logging
import os
import re
import signal
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from absl import flags

from zfjax.console import options, processes, signals
from zfjax.console.errors import UserError
from zfjax.console.text import brief, did_you_mean, first_line, is_full, is_out_of_memory, one_line, reason, say

WIDTH = 112  # columns of the help
FAULT, MISTAKE = 1, 2  # exit codes: zfjax's fault, the user's mistake
NO_READER = 141  # the exit code that shells show for a program ended by a closed pipe
ISSUES = "https://github.com/zfjax/zfjax/issues"
_STORAGE = (
    "aiohttp",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "s3fs",
    "tensorflow",
)  # raise the errors of gs:// and s3://
_LONGEST = 100  # letters of a flag's name
TRACE = "ZFJAX_TRACE"  # the environment variable that enables stack traces
RUN = {"workdir": "RUN"}  # for `required` of `parse`
MODEL = "Any model instead of a run: FILE.py:NAME of a zfjax.Model or of a function that returns one, or NAME.onnx."


def execute(main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command as this process, and exit with its exit code."""
    if not _traces():
        _silence()
    warnings.formatwarning = _as_notice
    try:
        code = run(main)
    except SystemExit as end:  # after --help
        code = int(end.code or 0)
    if code not in (MISTAKE, FAULT):
        processes.finish()
        atexit._run_exitfuncs()  # after a failure they may deadlock with other processes
        processes.leave()
    # Python's normal exit is slow, deaf to signals, and waits for libraries' threads.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Any exception becomes one line on stderr, preceded by the stack trace if ZFJAX_TRACE=1.

    Returns:
        0 on success, 2 for a user's mistake, 1 for a fault of zfjax, 128 plus the number of a signal that stopped it.
        A command that loses another of its processes ends at once with 3 (`peers`).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's streams accept any text
            stream.reconfigure(errors="backslashreplace")  # file names may contain what a terminal cannot print
    try:
        main(sys.argv if argv is None else argv)
        _flush()
    except BrokenPipeError:
        # With `| head -1` the reader is gone; discard buffered output, or Python would complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except signals.Stopped as stopped:
        return _failed(128 + stopped.number, str(stopped))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        mistake = _mistake(error)
        line = mistake or _fault(error)
        processes.failed(line, mistake=bool(mistake))
        return _failed(MISTAKE if mistake else FAULT, line)
    finally:
        signals.give_way()
    return 0


def run_flags(values: flags.FlagValues, batch_size: int = 0, *, pictures: bool = False, model: bool = False) -> None:
    """Define the flags most commands take: a run and one of its checkpoints.

    Args:
        values: the flags.
        batch_size: the default of --batch_size; 0: no such flag.
        pictures: whether to add --dataset, for commands that read the run's pictures, which may have moved.
        model: whether to add --model, --out and what goes with them, which `runs.given` reads.
    """
    flags.DEFINE_string("workdir", "", "The folder that zfjax train wrote.", flag_values=values)
    flags.DEFINE_string(
        "checkpoint", "latest", "Checkpoint: latest, best (on the val split) or a step.", flag_values=values
    )
    if pictures:
        where = "Where the run's pictures are now; by default where they were."
        flags.DEFINE_string(
            "dataset", "", f"{where} With --model its pictures: shapes, folder:PATH or tfds:NAME." if model else where,
            flag_values=values,
        )  # fmt: skip
    if model:
        model_flags(values, "Folder for what is written; by default one in the run. With --model it must be given.")
    if batch_size:
        options.whole_number(values, "batch_size", batch_size, "Pictures on a device at a time.", smallest=1)


def model_flags(values: flags.FlagValues, out: str) -> None:
    """Define --model and what goes with it, which `runs.given` reads; `out` is the help of --out."""
    flags.DEFINE_string("model", "", MODEL, flag_values=values)
    options.preprocessing(values)
    flags.DEFINE_string(
        "class_names",
        "",
        "With --model=NAME.onnx: file with the names of its outputs, one per line, in order; default their numbers.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir", "", "With --model: folder of TFDS datasets; default TFDS's own.", flag_values=values
    )
    flags.DEFINE_string("out", "", out, flag_values=values)


def parse(
    argv: Sequence[str],
    usage: str,
    values: flags.FlagValues,
    *,
    required: Mapping[str, str] | None = None,
    keys: Mapping[str, object] | None = None,
) -> list[str]:
    """Parse `argv` into `values` and return the arguments that are not flags; with --help, print the help and exit.

    Args:
        argv: the program's name and its arguments.
        usage: the command's docstring.
        values: the flags.
        required: the flags that must be given, each with a placeholder for its value, such as `RUN`.
        keys: the configuration keys that --config.KEY accepts, each with its default.

    Raises:
        UserError: a flag or configuration key is unknown, a value is invalid, or a required flag is missing.
    """
    required, keys = required or {}, keys or {}
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{usage.strip()}\n\nFlags:\n{_described(values, required, keys)}", flush=True)
        raise SystemExit(0)
    for word in argv[1:]:
        name = word.partition("=")[0]
        if word.startswith("-") and len(name) > _LONGEST:  # absl's search for names that are close would never end
            raise UserError(f"unknown flag {brief(name)}")
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, values, keys)) from error
    except flags.IllegalFlagValueError as error:
        raise UserError(_illegal(error, values)) from error
    except (flags.Error, OSError, ValueError) as error:  # the latter two come from --flagfile
        raise UserError(" ".join(str(error).split())) from error
    instead = "model" in values and _given(values["model"].value)
    missing = [name for name in required if not _given(values[name].value) and not (instead and name == "workdir")]
    if missing:
        needed = (f"--{name}={required[name]}, {_inside(values[name].help)}" for name in missing)
        raise UserError(f"missing {'; '.join(needed)} (see --help)")
    for name in values:
        if values[name].present and values[name].value in ("", []) and not name.startswith("config."):
            raise UserError(f"--{name}= is empty; leave it out for the default")
    return rest


def setting(values: flags.FlagValues, *names: str) -> str:
    """File-name suffix listing the flags that differ from their defaults, such as `_per_class-15`."""
    changed = ((name, values[name].value) for name in names if values[name].value != values[name].default)
    suffix = "".join(f"_{name}-{re.sub(r'[^A-Za-z0-9.]+', '-', _shown(value))}" for name, value in changed)
    if len(suffix) <= 150:
        return suffix
    return f"{suffix[:130]}-{hashlib.sha256(suffix.encode()).hexdigest()[:12]}"  # file names have a limit


def reject_arguments(rest: Sequence[str], command: str) -> None:
    """Raise a UserError if there are arguments that are not flags."""
    if rest:
        raise UserError(f"{command} takes only flags, not {rest[0]!r} (see --help)")


def _unknown(name: str, values: flags.FlagValues, keys: Mapping[str, object]) -> str:
    """The message for an unknown flag, with the likely intended one."""
    if keys and name.startswith("config."):
        key = name.removeprefix("config.")
        return f"unknown configuration key {key!r}{did_you_mean(key, list(keys))}"
    if name in keys:
        return f"unknown flag --{name}; did you mean --config.{name}?"
    known = [flag for flag in values if not _is_absls(flag) and not flag.startswith("config.")]
    return f"unknown flag --{name}{did_you_mean(name, known, '--')}"


def _illegal(error: flags.IllegalFlagValueError, values: flags.FlagValues) -> str:
    """The message for an invalid flag value, with what the flag accepts."""
    name, _, said = str(error).removeprefix("flag --").partition("=")
    flag, why = values[name], str(error.__context__)
    expected = "true or false" if flag.boolean else flag.parser.syntactic_help
    return f"--{name}={brief(said.removesuffix(f': {why}'))}: expected {expected}"


def reject_unused(values: flags.FlagValues, names: Sequence[str], why: str) -> None:
    """Raise a UserError if any of these flags was given although it has no effect."""
    for name in names:
        if values[name].present:
            raise UserError(f"--{name} has no meaning {why}: leave it out")


def _given(value: object) -> bool:
    """Whether a flag has a value; commas alone do not count."""
    return any(value) if isinstance(value, list) else bool(value)


def _failed(code: int, line: str) -> int:
    if _traces():
        traceback.print_exc()
    with contextlib.suppress(OSError):  # stderr, too, may go to a full disk or a closed pipe
        say(line)
    return code


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"cannot write what is printed: {reason(error)}") from error


def _traces() -> bool:
    return os.environ.get(TRACE) == "1"


def _mistake(error: Exception) -> str:
    """The message for what the user can mend; empty for anything else."""
    if isinstance(error, UserError):
        return str(error)
    if type(error).__module__.partition(".")[0] in _STORAGE:
        return f"the storage does not answer: {first_line(error)}"
    if isinstance(error, OSError):  # such as a full disk or an unreadable file
        where = f" {error.filename}" if error.filename is not None else ""
        return f"cannot read or write{where}: {reason(error)}"
    if is_full(error):
        return f"cannot write: {first_line(error)}"
    if is_out_of_memory(error):
        return f"out of memory: {first_line(error)}; ask for less at once, such as a smaller batch_size"
    return ""


def _fault(error: Exception) -> str:
    """The message for an unexpected error, with where it occurred."""
    package = os.path.dirname(os.path.dirname(__file__))
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(package)]
    where = f" in {os.path.relpath(ours[-1].filename, package)}, line {ours[-1].lineno}" if ours else ""
    return (
        f"a fault in zfjax, not yours: {type(error).__name__}{where}: {first_line(error)};"
        f" please report it with what {TRACE}=1 prints before it: {ISSUES}"
    )


def _as_notice(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as `say` would print it, without the line of code that caused it."""
    return f"zfjax: {one_line(str(message))}\n"


def _nothing(*_: object) -> None:
    pass


def _silence() -> None:
    """Hide what libraries print about errors that they also raise, often from threads of their own."""
    sys.excepthook = _nothing
    sys.unraisablehook = _nothing
    threading.excepthook = _nothing
    screen = logging.StreamHandler()
    screen.addFilter(lambda record: record.name.partition(".")[0] not in ("absl", "asyncio", *_STORAGE))
    logging.getLogger().addHandler(screen)


def _is_absls(name: str) -> bool:
    """Whether absl itself defines the flag."""
    return name in ("flagfile", "undefok")


def _described(values: flags.FlagValues, required: Mapping[str, str], keys: Mapping[str, object]) -> str:
    """The flags in columns, required ones first; then the configuration keys, if any."""
    names = [name for name in values if not _is_absls(name) and not name.startswith("config.")]
    spelled = {name: _spelled(values[name], required.get(name, "")) for name in names}
    column = max(map(len, spelled.values())) + 4
    lines = []
    for name in sorted(names, key=lambda name: (name not in required, name)):
        says = f"(required) {values[name].help}" if name in required else _with_default(values[name])
        lines.append(
            textwrap.fill(
                says, WIDTH, initial_indent=f"  {spelled[name]}".ljust(column), subsequent_indent=" " * column
            )
        )
    if keys:
        listed = "  ".join(f"{key}={'' if value == () else value}" for key, value in keys.items())
        wrapped = textwrap.fill(listed, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        lines.append(f"\nKeys of --config:\n{wrapped}")
    return "\n".join(lines)


def _spelled(flag: flags.Flag[Any], stands_for: str) -> str:
    return f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}={stands_for}" if stands_for else f"--{flag.name}"


def _with_default(flag: flags.Flag[Any]) -> str:
    """The flag's help, with the default appended unless the help mentions it."""
    text = flag.help or ""
    return text if "default" in text else f"{text.rstrip('.')}; default {_shown(flag.default)}."


def _shown(value: object) -> str:
    match value:
        case None | "" | [] | ():
            return "none"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ",".join(map(str, value))
    return str(value)


def _inside(sentence: str | None) -> str:
    """A flag's help as part of another sentence."""
    text = (sentence or "").rstrip(".")
    return text[:1].lower() + text[1:]

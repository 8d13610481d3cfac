"""`zfjax`, its verbs and their `--help`: one shape, at once."""

import subprocess
import sys

import pytest

from zfjax import cli, train
from zfjax.console import command
from zfjax.training.config import default


def zfjax(capsys, *words):
    """Exit code and what is said by `zfjax WORDS`."""
    try:
        code = command.run(cli.dispatch, ["zfjax", *words])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["TRAIN"], "unknown verb 'TRAIN'; did you mean train?"),
        (["sumary"], "unknown verb 'sumary'; did you mean summary?"),
        (["import_weights"], "unknown verb 'import_weights'; did you mean import-weights?"),
        (["help", "sumary"], "unknown verb 'sumary'; did you mean summary?"),
        (["nonsense"], "unknown verb 'nonsense'; there are train, evaluate, figures"),
        (["summary", "--widht=1"], "unknown flag --widht; did you mean --width?"),
    ],
)
def test_an_unknown_verb_or_flag_is_named(capsys, monkeypatch, words, expected):
    code, _, line = zfjax(capsys, *words)
    assert code == 2
    assert line.startswith(f"zfjax: {expected}")
    assert line.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_without_a_verb_all_are_listed(capsys, monkeypatch, words):
    code, text, _ = zfjax(capsys, *words)
    assert code == 0
    groups, verbs = {}, None
    for line in text.splitlines()[2:]:
        if line.endswith(":"):
            verbs = groups.setdefault(line[:-1], [])
        elif line.startswith("  "):
            verbs.append(line.split()[0])
    assert list(groups) == ["train", "look", "experiments", "weights"]
    assert [verb for verbs in groups.values() for verb in verbs] == list(cli.VERBS)
    assert "zfjax VERB --help" in text
    assert max(map(len, text.splitlines())) <= command.WIDTH


def test_zfjax_and_its_modules_say_the_same(capsys, monkeypatch):
    _, by_verb, _ = zfjax(capsys, "help", "export-weights")
    _, by_flag, _ = zfjax(capsys, "export-weights", "--help")
    words = [sys.executable, "-m", "zfjax.export_weights", "--help"]
    by_module = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert by_verb == by_flag == by_module
    without = [subprocess.run([sys.executable, "-m", module], capture_output=True) for module in ("zfjax", "zfjax.cli")]
    assert without[0].stdout == without[1].stdout != b""
    assert without[0].returncode == 0


HEAVY = ("jax", "matplotlib", "tensorflow_datasets", "flax", "orbax", "sklearn", "scipy", "grain", "PIL", "torch")


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_help_has_the_same_shape_everywhere_and_imports_nothing_heavy(verb):
    code = f"import sys; from zfjax import cli; sys.argv = ['zfjax', '{verb}', '--help']\ntry: cli.main()\n"
    code += "except SystemExit as end: assert not end.code\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {name.split(".")[0] for name in done.stderr.split()} & set(HEAVY)
    what, empty, title, *rest = done.stdout.splitlines()
    assert what.endswith(".")
    assert (empty, title) == ("", "Examples:")
    examples = rest[: rest.index("")]
    called = f"  python -m zfjax.{verb.replace('-', '_')}"
    assert examples[0].startswith(called)
    for line, after in zip(examples, [*examples[1:], ""], strict=True):
        assert line.startswith((called, "      "))
        assert not line.startswith(called) or after.startswith("      ")  # what it does
    assert max(map(len, rest)) <= 120
    flags = rest[rest.index("Flags:") + 1 :]
    flags = flags[: flags.index("")] if "" in flags else flags
    column = len(flags[0]) - len(flags[0].split("  ")[-1].lstrip())
    described = []
    for line in flags:
        assert len(line) <= command.WIDTH
        assert line[column - 1] == " " != line[column]
        if line.startswith("  --"):
            described.append(line[column:])
        else:
            described[-1] += " " + line.strip()
    required = [text.startswith("(required) ") for text in described]
    assert required == sorted(required, reverse=True)
    assert all("default " in text for text, first in zip(described, required, strict=True) if not first)
    assert all(text.endswith(".") for text in described)


def test_help_of_a_command_with_a_recipe_lists_its_keys(capsys):
    with pytest.raises(SystemExit):
        train.main(["train", "--help"])
    keys = capsys.readouterr().out.partition("Keys of --config")[2].partition(":\n")[2].split()
    assert [key.partition("=")[0] for key in keys] == sorted(default())


def test_a_warning_is_one_line_without_the_code_that_caused_it():
    code = (
        "import warnings; from zfjax.console import command;"
        " command.execute(lambda argv: warnings.warn('gelu has\\nno rule', UserWarning))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "zfjax: gelu has\\nno rule\n")

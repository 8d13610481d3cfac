"""Commands as users type them: help, tables, and each mistake as one clear line and exit code 2."""

import os
import subprocess
import sys

import jax
import pytest
import tiny_runs
from absl import flags
from PIL import Image

from zfjax import compare, evaluate, export_weights, figures, probe, summary, train
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.console.signals import Stopped
from zfjax.runs.folder import load_model, read_run
from zfjax.training import loop
from zfjax.training.config import default
from zfjax.training.recipe import config_from


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures")


def said(capsys, main, *words):
    """Exit code and the one line on stderr of a command that fails."""
    code = command.run(main, ["zfjax", *map(str, words)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zfjax: ")]
    assert len(lines) == (code != 0), lines
    return code, lines[0] if lines else ""


def tiny_words(folder, workdir, **changes):
    return tiny_runs.train_command(folder, workdir, **changes)[3:]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--config.lerning_rate=1"], "unknown configuration key 'lerning_rate'"),
        (["--config.epoch=1"], "unknown configuration key 'epoch'; did you mean epochs?"),
        (["--" + "x" * 5000], "unknown flag '--xxx"),
        (["--workdr=x"], "unknown flag --workdr; did you mean --workdir?"),
        (["--epochs=3"], "unknown flag --epochs; did you mean --config.epochs?"),
        (["--config.lr=fast"], "--config.lr=fast: expected a number"),
        (["--config.epochs=1.5"], "--config.epochs=1.5: expected an integer"),
        (["--config.adam=perhaps"], "--config.adam=perhaps: expected true or false"),
        (["--config.without=fc7"], "--config.without=fc7: expected whole numbers with commas between"),
        (["--config="], "--config= is empty; leave it out for the default"),
        (["--config=."], "--config: is a folder: '.'; expected a path like configs/folder.py[:ARG]"),
        (["--workdir="], "--workdir= is empty; leave it out for the default"),
        (["--config=nowhere.py"], "no such file: 'nowhere.py'; expected a path like configs/folder.py[:ARG]"),
        (["--config", "nowhere.py"], "no such file: 'nowhere.py'; expected a path like configs/folder.py[:ARG]"),
        (["-config", "nowhere.py:cpu"], "no such file: 'nowhere.py'; expected"),
        ([r"--config=C:\recipes\x.py"], r"no such file: 'C:\recipes\x.py'; expected"),
        (["--config", r"C:\recipes\x.py:a:b.py"], r"no such file: 'C:\recipes\x.py'; expected"),
        (["--config=nowhere"], "no such file: 'nowhere'; expected"),
        (["--config"], "--config"),
        (["--processes=2"], "--processes and --process need --coordinator"),
        (
            ["--coordinator=localhost:0", "--processes=1", "--process=0"],
            "--coordinator=localhost:0: expected HOST:PORT",
        ),
        (["--coordinator=here:70000", "--processes=1", "--process=0"], "--coordinator=here:70000: expected HOST:PORT"),
        (["--coordinator=here:7", "--processes=2", "--process=2"], "--process=2: expected a number from 0 to 1"),
        (["runs/shapes"], "train takes only flags, not 'runs/shapes'"),
    ],
)
def test_a_mistyped_word_is_named(capsys, words, expected):
    code, line = said(capsys, train.main, *words)
    assert code == 2
    assert expected in line


def test_a_recipe_whose_path_has_a_colon_is_read(tmp_path):
    (tmp_path / "C:").mkdir()
    recipe = tmp_path / "C:" / "x.py"
    recipe.write_text("def get_config(lr='0.5'):\n    return {'lr': float(lr)}\n")
    for words, lr in ((str(recipe), 0.5), (f"{recipe}:0.25", 0.25)):
        config, _ = config_from(["train", f"--config={words}"], "", flags.FlagValues())
        assert config.to_dict() == default().to_dict() | {"lr": lr}


def test_no_words_at_all_are_the_default_recipe():
    config, rest = config_from(["train"], "", flags.FlagValues())
    assert (config.to_dict(), rest) == (default().to_dict(), [])


@pytest.mark.parametrize("spelling", ["--config={}:17", "--config {}:17"])
def test_a_recipe_gets_its_argument(tmp_path, spelling):
    recipe = tmp_path / "x.py"
    recipe.write_text(
        "from zfjax.training.config import default\ndef get_config(epochs):\n"
        "    config = default()\n    config.epochs = int(epochs)\n    return config\n"
    )
    config, rest = config_from(["train", *spelling.format(recipe).split()], "", flags.FlagValues())
    assert (config.epochs, rest) == (17, [])


RECIPE = "from zfjax.training.config import default\ndef get_config():\n    c = default()\n    {}\n    return c\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RECIPE.format("c.witdh = 1.0"), "unknown configuration key 'witdh'; did you mean width?"),
        (RECIPE.format("c.unlock(); c.witdh = 1.0"), "unknown configuration key 'witdh'; did you mean width?"),
        (RECIPE.format("c.lr = None"), "lr=None must be a number"),
        (RECIPE.format("c.lr = 'fast'"), "TypeError: Could not override field 'lr'"),
        (RECIPE.format("c.epochs = True"), "epochs=True must be a whole number"),
        (RECIPE.format("c.dataset = 'folder:a\\0b'"), "dataset='folder:a\\x00b' holds a NUL character"),
        (RECIPE.format("raise SystemExit"), "--config: SystemExit"),
        (RECIPE.format("raise SystemExit(0)"), "--config: SystemExit"),
        (RECIPE.format("return"), "returned NoneType; expected an edit of zfjax.training.config.default()"),
        (RECIPE.format("return 3"), "returned int; expected an edit"),
        ("def get_config():\n    return {'lr': '1', 'epochs': 2}\n", "--config: lr='1' must be a number"),
        ("def get_config():\n    return {1: 2}\n", "--config: unknown configuration key"),
        ("", "has no attribute 'get_config'"),
        ("x", "name 'x' is not defined"),
        ("def (", "invalid syntax"),
        ("x = '\0'", "null bytes"),
        ("raise SystemExit", "--config: SystemExit"),
        ("def get_config(): return get_config()", "RecursionError"),
        ("def get_config(where=''):\n    raise ValueError(f'{where}: expected cpu')\n", "ValueError: : expected cpu"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_one_line(capsys, tmp_path, text, expected):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(text)
    code, line = said(capsys, train.main, f"--config={recipe}")
    assert code == 2
    assert expected in line


def test_a_recipe_may_say_only_what_it_changes(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'lr': 1, 'without': [7]})\n"
    )
    words = ["train", f"--config={recipe}", "--config.epochs", "3", "--noconfig.adam"]
    config, _ = config_from(words, "", flags.FlagValues())
    assert config.to_dict() == default().to_dict() | {"lr": 1.0, "without": (7,), "epochs": 3, "adam": False}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataset": "folder:nowhere"}, "nowhere"),
        ({"dataset": "shape"}, "dataset 'shape': expected shapes, folder:PATH or tfds:NAME"),
        ({"num_classes": 7}, "num_classes=7, but"),
        ({"image_size": 20}, "image_size=20 is too small for this net: conv2"),
        ({"net": "vgg"}, "unknown net 'vgg'; expected one of zfnet, zfnet_post, "),
        ({"dtype": "float16"}, "unknown dtype 'float16'; expected float32 or bfloat16"),
        ({"width": 0.0}, "width=0 must be positive and at most 1000"),
        ({"dropout": 1.0}, "dropout=1 must be at least 0 and below 1"),
        ({"batch_size": 12}, "batch_size=12 does not split over 8 devices"),
        ({"threads": -1}, "threads=-1 must be at least 0"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"log_steps": 0}, "log_steps=0 must be at least 1"),
        ({"image_size": 0}, "image_size=0 must be at least 1"),
        ({"filter_radius": -0.1}, "filter_radius=-0.1 must be at least 0"),
        ({"plateau_factor": 1.0}, "plateau_factor=1 must be at least 1e-06 and below 1"),
        ({"warmup_epochs": 3.0}, "warmup_epochs=3 must be less than epochs=3"),
        ({"batch_size": 8000}, "batch_size=8000 is larger than the 66 training pictures"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(capsys, folder, tmp_path, changes, expected):
    code, line = said(capsys, train.main, *tiny_words(folder, tmp_path / "run", **changes))
    assert code == 2
    assert expected in line


def test_an_empty_class_folder_is_named(capsys, tmp_path):
    folder = tiny_runs.make_folder(tmp_path / "pictures", per_class=4)
    (folder / "empty").mkdir()
    code, line = said(capsys, train.main, *tiny_words(folder, tmp_path / "run"))
    assert code == 2
    assert "empty" in line


def test_one_class_alone_is_refused(capsys, tmp_path):
    (tmp_path / "pictures" / "only").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "only" / "a.png")
    code, line = said(capsys, train.main, *tiny_words(tmp_path / "pictures", tmp_path / "run"))
    assert code == 2
    assert "class" in line


def test_too_many_truncated_pictures_stop_the_run_and_are_named(capsys, tmp_path):
    folder = tiny_runs.make_folder(tmp_path / "pictures", per_class=8)
    (broken,) = list((folder / "noise").glob("003.png"))
    os.truncate(broken, broken.stat().st_size // 2)
    code, line = said(capsys, train.main, *tiny_words(folder, tmp_path / "run"))
    assert code == 2
    assert "003.png" in line
    assert "max_broken" in line


def test_a_workdir_that_cannot_be_written_is_named(capsys, folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, line = said(capsys, train.main, *tiny_words(folder, tmp_path / "file" / "run"))
    assert code == 2
    assert str(tmp_path / "file") in line


def test_a_diverging_run_names_the_step_and_keeps_its_checkpoints(capsys, folder, tmp_path):
    words = tiny_words(folder, tmp_path, lr=1e25, warmup_epochs=0.0, cosine=False, adam=False, checkpoint_steps=1)
    code, line = said(capsys, train.main, *words)
    assert code == 2
    assert "training diverged at step" in line
    step = int(line.split("step ")[1].split(":")[0])
    kept = [int(path.name) for path in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert all(saved < step for saved in kept)


def test_a_mended_first_start_is_no_other_run(capsys, folder, tmp_path):
    assert said(capsys, train.main, *tiny_words(folder, tmp_path, num_classes=7))[0] == 2
    code, line = said(capsys, train.main, *tiny_words(folder, tmp_path, image_size=20))
    assert code == 2
    assert "too small" in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing --workdir=RUN[,RUN…], folders that zfjax train wrote"),
        (["--workdir=,"], "missing --workdir=RUN[,RUN…], folders that zfjax train wrote"),
        (["--workdir=,nowhere"], "no run in"),
        (["--workdir=nowhere"], "no run in"),
        (["--workdir=~nobody-of-that-name/run"], "~nobody-of-that-name/run: "),
        (["--workdir=nowhere", "--batch_size=0"], "batch_size"),
    ],
)
def test_evaluate_names_what_is_missing(capsys, words, expected):
    code, line = said(capsys, evaluate.main, *words)
    assert code == 2
    assert expected in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "missing --workdir=RUN, the folder that zfjax train wrote (see --help)"),
        (["--workdir=nowhere"], "no run in"),
        (["--workdir=nowhere", "--maps=0"], "maps"),
        (["--workdir=nowhere", "--map=3"], "unknown flag --map; did you mean --maps?"),
        (["--workdir=nowhere", "--only=fig3"], "--only: no figure 'fig3'; did you mean fig"),
        (["--workdir=nowhere", "--units=a"], "--units: expected numbers of maps"),
        (["--workdir=nowhere", "--images=a.jpg", "--classes=b"], "--classes has no meaning with --images"),
        (
            ["--workdir=nowhere", "--only=fig2,fig4", "--classes=a"],
            "--classes has no meaning with --only=fig2,fig4, as it is for fig5 and fig7: leave it out",
        ),
        (["--workdir=nowhere", "--only=fig2", "--window=10"], "--window has no meaning with --only=fig2, as it is for"),
        (["--workdir=nowhere", "--only=fig7", "--units=3"], "--units has no meaning with --only=fig7"),
        (["--workdir=nowhere", "--only=fig8", "--compare=a"], "--compare has no meaning with --only=fig8"),
        (["--workdir=nowhere", "--units=3", "--maps=all"], "--maps has no meaning with --units"),
        (["--workdir=nowhere", "--images="], "--images= is empty; leave it out for the default"),
        (
            ["--workdir=nowhere", "--units=\u00b2"],
            "--units: expected numbers of maps, with commas between, got '\u00b2'",
        ),
        (["--workdir=nowhere", f"--maps={'9' * 5000}"], "--maps: expected a number of at least 1, or all, got '9999"),
        (
            ["--workdir=nowhere", "--seed=4294967296"],
            "--seed=4294967296: expected an integer in the range [0, 4294967295]",
        ),
    ],
)
def test_figures_names_what_is_missing(capsys, words, expected):
    code, line = said(capsys, figures.main, *words)
    assert code == 2
    assert expected in line


@pytest.mark.slow
def test_figures_draws_a_picture_for_each_layer_of_a_run(capsys, folder, tmp_path, monkeypatch):
    words = tiny_words(folder, tmp_path, epochs=1, cosine=False, without=(6, 7), matmul_precision="high")
    steps, seen = loop.train_step, set()

    def step(*args):
        seen.add(jax.config.jax_default_matmul_precision)
        return steps(*args)

    monkeypatch.setattr(loop, "train_step", step)
    assert command.run(train.main, ["train", *words]) == 0
    assert seen == {"high"}
    assert load_model(read_run(tmp_path)).precision == "high"
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    for words, expected in (
        (["--checkpoint=77"], "has no checkpoint '77'"),
        (["--only=fig4"], "fig4 compares checkpoints of at least two epochs"),
        (["--only=fig8"], "fig8 needs boxes of parts"),
        (["--only=fig7", "--window=49"], "--window=49 is larger than the images of 48×48 px"),
        (["--only=fig7", "--window=-5"], "--window=-5: expected an integer in the range [0, "),
        (["--only=fig5", "--classes=noise,striped"], "no class 'striped' in the run's 3; did you mean stripes?"),
        (["--only=fig5", f"--images={tmp_path / 'broken.jpg'}"], "cannot read the image"),
        (["--only=fig5", f"--images={tmp_path / 'none.jpg'}"], "cannot read the image"),
        (["--only=fig2", "--layers=relu1", "--units=99"], "map 99: the layer has 5 maps, 0 to 4"),
        (["--only=fig2", "--layers=relu9"], "no layer 'relu9'"),
    ):
        code, line = said(capsys, figures.main, f"--workdir={tmp_path}", *words)
        assert code == 2, words
        assert expected in line, words
    assert command.run(figures.main, ["figures", f"--workdir={tmp_path}", "--only=fig2", "--maps=3"]) == 0
    names = [f"fig2_layer{i}.png" for i in range(1, 6)]
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"fig2: {', '.join(names)}"
    assert last == f"written to {tmp_path / 'figures'}: {', '.join(names)}; each PNG also as .pdf and .npz"
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {name.replace("png", kind) for name in names for kind in ("png", "pdf", "npz")}
    for name in names:
        with Image.open(tmp_path / "figures" / name) as picture:
            assert picture.size[0] == 1500
            assert len(picture.convert("L").getcolors()) > 50  # not blank


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--net=vgg"], "unknown net 'vgg'"),
        (["--image_size=9"], "image_size=9 is too small"),
        (["--csv", "--markdown"], "give one of them"),
        (["--width=-1"], "width=-1 must be positive"),
        (["--width=nan"], "width=nan must be positive"),
    ],
)
def test_summary_names_what_is_wrong(capsys, words, expected):
    code, line = said(capsys, summary.main, *words)
    assert code == 2
    assert expected in line


def test_summary_prints_the_papers_parameters(capsys):
    assert command.run(summary.main, ["summary"]) == 0
    assert "62,357,608" in capsys.readouterr().out
    assert command.run(summary.main, ["summary", "--markdown", "--net=alexnet"]) == 0
    assert capsys.readouterr().out.startswith("| layer |")


def test_summary_of_a_run_is_its_nets(capsys, folder, tmp_path):
    workdir = tmp_path / "run"
    config = tiny_runs.tiny_config(folder, without=(7,))
    tiny_runs.begin(workdir, config)
    assert said(capsys, summary.main, f"--workdir={workdir}") == (0, "")
    assert command.run(summary.main, ["summary", f"--workdir={workdir}", "--csv"]) == 0
    layers = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert "fc6" in layers
    assert "fc7" not in layers
    code, line = said(capsys, summary.main, f"--workdir={workdir}", "--width=2")
    assert (code, line) == (2, "zfjax: --width has no meaning with --workdir, whose net is shown: leave it out")


@pytest.mark.parametrize("words", [["-m", "zfjax.summary"], ["-m", "zfjax.train", "--help"], ["-m", "zfjax"]])
def test_a_reader_that_leaves_is_no_error(words):
    """As behind `| head -1`, here one that has left before the first line."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (command.NO_READER, "")


def remote(kind):
    """An error as libraries of gs:// and s3:// raise them."""
    return type("NotReached", (kind,), {"__module__": "gcsfs.retry"})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyboardInterrupt(), (130, "")),
        (Stopped("after step 3"), (143, "zfjax: stopped after step 3; the same command goes on from there\n")),
        (UserError("one line"), (2, "zfjax: one line\n")),
        (PermissionError(13, "Permission denied", "a/b"), (2, "zfjax: cannot read or write a/b: Permission denied\n")),
        (remote(OSError)("no host"), (2, "zfjax: the storage does not answer: no host\n")),
        (remote(Exception)("no bucket"), (2, "zfjax: the storage does not answer: no bucket\n")),
        (OSError(28, "No space left on device"), (2, "zfjax: cannot read or write: No space left on device\n")),
        (
            ValueError("put: No space left on device [a]"),
            (2, "zfjax: cannot write: put: No space left on device [a]\n"),
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore"),
            (
                2,
                "zfjax: out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.; ask for less at once,"
                " such as a smaller batch_size\n",
            ),
        ),
    ],
)
def test_how_a_command_ends(capsys, error, expected):
    def main(_):
        raise error

    assert (command.run(main, []), capsys.readouterr().err) == expected


def test_a_stack_trace_is_shown_on_request(capsys, monkeypatch):
    def main(_):
        raise UserError("one line")

    monkeypatch.setenv("ZFJAX_TRACE", "1")
    assert command.run(main, []) == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "zfjax: one line")


def test_a_fault_says_where_it_is_and_what_to_report(capsys, unchecked):
    code, line = said(capsys, setting_of_nothing)
    assert code == 1
    assert line.startswith("zfjax: a fault in zfjax, not yours: TypeError in console/command.py, line ")
    assert line.endswith("please report it with what ZFJAX_TRACE=1 prints before it: " + command.ISSUES)


def setting_of_nothing(_):
    command.setting(None, "batch_size")


def test_settings_that_are_not_the_default_are_in_names():
    values = flags.FlagValues()
    flags.DEFINE_list("per_class", ["15", "30"], "", flag_values=values)
    flags.DEFINE_string("checkpoint", "latest", "", flag_values=values)
    values(["probe", "--per_class=15,30"])
    assert command.setting(values, "per_class", "checkpoint") == ""
    values(["probe", f"--per_class={','.join(map(str, range(300)))}"])
    assert len(command.setting(values, "per_class", "checkpoint")) < 150
    values(["probe", "--per_class=5,x/y", "--checkpoint=best"])
    assert command.setting(values, "per_class", "checkpoint") == "_per_class-5-x-y_checkpoint-best"


@pytest.mark.parametrize(
    "main", [evaluate.main, figures.main, compare.main, probe.main, export_weights.main, summary.main]
)
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "no run in"),
        ('{"a": 1}', "no run in"),
        ("[1, 2]", "no run in"),
        ("nonsense", "config.json is damaged"),
        ("{}", "no run in"),
    ],
)
def test_a_workdir_that_is_no_run_is_named(capsys, tmp_path, main, config, expected):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    words = [f"--workdir={tmp_path}", *([f"--out={tmp_path}/a.safetensors"] if main is export_weights.main else [])]
    code, line = said(capsys, main, *words)
    assert code == 2
    assert str(tmp_path) in line
    assert expected in line
    assert len(line) < 400

"""Odd values of keys and flags: each is used or refused in one line, before any work; none ends in a stack trace."""

import contextlib
import functools
import importlib
import json

import jax
import numpy as np
import pytest
import tiny_runs

from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data import record
from zfjax.models.nets import NetModel
from zfjax.runs import training as runs_training
from zfjax.runs.folder import load_model, read_run
from zfjax.training import memory
from zfjax.training.config import check, default
from zfjax.training.loop import RunData, Schedule, schedule_of
from zfjax.training.state import create_net

NUMBERS = ("-1", "0", "1.5", "1e400", "1e300", "nan", "-inf", "2147483648", "4294967296", "9" * 20, "1" * 5000)
TEXTS = (
    "\u00b2",
    "",
    ",",
    " ",
    "None",
    "True",
    "(1,2",
    "(" * 300,
    "[" * 5000,
    "a" * 100_000,
    "a\nb",
    '"a',
    "\u00e9",
    "%s",
    "--",
)
PATHS = ("a\0b", "\udcff", "\ud800", "~nobody-of-that-name/x", "gs:/b/x", "nosuch://x", "file://host/x", "/dev/null")
LAYERS = ("1,2,3,4,5", "1,2,3,4,5,6,7", "1000000000,1000000000,1000000000", "1000000000")
ODD = (*NUMBERS, *TEXTS, *PATHS, *LAYERS)


class Reached(UserError):
    """Where a command would begin to work."""


def stop(*_, **__):
    raise Reached("reached")


def ends(capsys, main, words, where):
    """Assert that a command ends well, or with one line on stderr that is not long, and never in a fault of zfjax's."""
    try:
        code = command.run(main, words)
    except SystemExit as end:
        code = end.code
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("zfjax: ")]
    assert code in (0, command.MISTAKE), (where, err[-2000:])
    assert len(lines) == (code != 0), (where, err[-2000:])
    assert len("".join(lines)) < 1000, where
    assert "Traceback" not in err, where


@pytest.mark.parametrize("key", [*default(), "config"])
def test_odd_values_of_keys_are_used_or_refused(capsys, tmp_path, monkeypatch, key):
    monkeypatch.setattr(runs_training, "open_data", stop)
    monkeypatch.chdir(tmp_path)
    train = importlib.import_module("zfjax.train")
    flag = key if key == "config" else f"config.{key}"
    for value in ODD:
        ends(capsys, train.main, ["train", f"--workdir={tmp_path / 'run'}", f"--{flag}={value}"], (key, value[:50]))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a checkpoint that nobody trained, and its pictures."""
    pictures = tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures", per_class=8)
    folder = tiny_runs.untrained(pictures, tmp_path_factory.mktemp("runs") / "run", net="zfnet_post", image_size=64)
    other = tiny_runs.make_folder(pictures.with_name("other"), per_class=4, seed=1)
    # Read once: most odd values have nothing to do with the weights.
    with pytest.MonkeyPatch.context() as patch:
        model = functools.cache(lambda checkpoint: load_model(read_run(folder), checkpoint))
        for module in ("runs.subject", "runs.given", "runs.imported"):
            patch.setattr(f"zfjax.{module}.load_model", lambda _, checkpoint="latest": model(checkpoint))
        yield folder, other


# Where each command begins to work, and what it needs beside --workdir.
VERBS = {
    "evaluate": ("experiments.evaluation.score_together", ()),
    "figures": ("figures.draw.all_of", ()),
    "compare": ("compare.scores.write_scores", ("boxes", "sanity_images")),
    "atlas": ("atlas.collect.strongest", ()),
    "explain": ("explain.page.explained", ()),
    "probe": ("experiments.probing.kept_features", ("per_class",)),
    "transfer": ("experiments.transfer.kept_features", ("dataset", "per_class")),
    "export_weights": ("weights.pretrained.write", ("out",)),
    "ablate": ("experiments.ablation.open_data", ("config.dataset",)),
    "summary": ("models.layer_table", ()),
    "import_weights": ("runs.imported.write_run", ("model",)),
}
QUICK = ("", ",", "-1", "1e400", "9" * 20, "1" * 5000, "\u00b2", "(" * 300, "a\nb", '"a', *PATHS)


@pytest.mark.parametrize("verb", VERBS)
def test_odd_values_of_flags_are_used_or_refused(capsys, tmp_path, monkeypatch, run, verb):
    folder, other = run
    (tmp_path / "boxes.json").write_text(json.dumps({f"{name}/000.png": [1, 1, 9, 9] for name in tiny_runs.CLASSES}))
    needed = {
        "boxes": tmp_path / "boxes.json",
        "sanity_images": 0,
        "per_class": 2,
        "dataset": f"folder:{other}",
        "out": tmp_path / "w.safetensors",
        "config.dataset": f"folder:{other}",
        "model": "resnet18",
    }
    place, names = VERBS[verb]
    module, function = place.rsplit(".", 1)
    picture = next(other.rglob("*.png"))
    monkeypatch.setattr(importlib.import_module(f"zfjax.{module}"), function, stop)
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(f"zfjax.{verb}").main
    usual = {"workdir": tmp_path / "new" if verb in ("ablate", "import_weights") else folder}
    usual |= {name: needed[name] for name in names}
    if verb == "summary":
        usual = {}
    for flag in flags_of(main, verb):
        for value in QUICK:
            words = {**usual, flag: value}
            file = {"import_weights": [str(tmp_path / "nowhere.pth")], "explain": [str(picture)]}.get(verb, [])
            ends(capsys, main, [verb, *file, *(f"--{name}={word}" for name, word in words.items())], (flag, value[:50]))


def test_a_layer_that_is_not_there_is_named_before_anything_is_drawn(capsys, run):
    folder, _ = run
    main = importlib.import_module("zfjax.figures").main
    assert command.run(main, ["figures", f"--workdir={folder}", "--layers=relu1,relu9"]) == command.MISTAKE
    said = capsys.readouterr()
    assert said.err.count("no layer 'relu9' in the model") == 1
    assert not said.out
    assert not list(folder.rglob("*.png"))


def flags_of(main, verb):
    """The names of a command's own flags."""
    seen = []

    def spy(argv, usage, values, **kwargs):
        seen.extend(name for name in values if not name.startswith("config") and name not in ("flagfile", "undefok"))
        raise SystemExit(0)

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr(command, "parse", spy)
        main([verb])
    return [name for name in seen if name != "help"]


@pytest.mark.parametrize(
    "change", [{"width": 900.0}, {"fc_units": 10**9}, {"batch_size": 10**9}, {"image_size": 60_000}]
)
def test_a_net_that_no_memory_holds_is_refused_with_both_sizes(change):
    config = default()
    config.update(change)
    with pytest.raises(
        UserError, match=r"at least [\d,]+\.\d [GM]B .*, but this machine has [\d,]+\.\d GB; expected a s"
    ):
        runs_training.require_possible(config)


def test_what_a_training_needs_is_counted_by_hand(monkeypatch):
    """As a machine that has one byte too few sees it."""
    config = default()
    config.update({"net": "zfnet", "image_size": 64, "batch_size": 8})
    net = create_net(config, 10)
    variables = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    # Of an image: itself, norm1, norm2, relu3, relu4, pool5, and what is below fc7 and fc8.
    inputs = 64 * 64 * 3 + 15 * 15 * 12 + 3 * 3 * 32 + 2 * 3 * 3 * 48 + 1 * 1 * 32 + 2 * 512
    needed = 4 * (8 * 3 * weights + 8 * inputs)  # eight devices share the host's memory
    monkeypatch.setattr(memory, "_host", lambda: needed)
    memory.require_training(config, net)
    monkeypatch.setattr(memory, "_host", lambda: needed - 1)
    with pytest.raises(UserError, match="training this net takes at least"):
        memory.require_training(config, net)
    with pytest.raises(UserError, match="a mean image takes"):
        memory.require_host(needed, "a mean image")
    model = NetModel(net, variables)
    memory.require_batches(model, 8)
    with pytest.raises(
        UserError, match=r"running this net takes at least .* for a batch of 10000000 on each of 8 devices,"
    ):
        memory.require_batches(model, 10**7)


def test_a_device_with_memory_of_its_own_holds_its_part_of_the_batch(monkeypatch):
    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 40_000_000}

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [Device()] * 8)
    config = default()
    config.batch_size = 512
    net = create_net(config, 10)
    memory.require_training(config, net)
    config.batch_size = 4096
    with pytest.raises(UserError, match=r"each device has 40\.0 MB"):
        memory.require_training(config, net)


@pytest.mark.parametrize("net", ["zfnet", "vgg16"])
def test_a_net_without_convolutions_is_refused(net):
    config = default()
    config.update({"net": net, "without": (1, 2, 3, 4, 5)})
    with pytest.raises(UserError, match="leaves no convolution" if net == "zfnet" else "has no number"):
        create_net(config, 3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 2**32}, "seed=4294967296 must be at least 0 and at most 4294967295"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"threads": 10**6}, "threads=1000000 must be at least 0 and at most 1024"),
        ({"epochs": 2**31}, "epochs=2147483648 must be at least 1 and at most 2147483647"),
        ({"lr": float("nan")}, "lr=nan must be at least 0 and below 1e+38"),
        ({"lr": float("inf")}, "lr=inf must be at least 0 and below 1e+38"),
        ({"init_std": 1e300}, "init_std=1e+300 must be at least 0 and below 1000"),
        ({"max_broken": float("nan")}, "max_broken=nan must be between 0 and 1"),
        ({"maps3to5": (1, True, 1)}, "maps3to5=(1, True, 1) must be three numbers of maps"),
        ({"fc_units": 10**400}, "fc_units=1000000000"),
        ({"epochs": True}, "epochs=True must be a whole number"),
        ({"dataset": None}, "dataset=None must be text"),
    ],
)
def test_every_value_has_a_range_and_a_kind(change, expected):
    config = default()
    config.update(change)
    with pytest.raises(UserError) as caught:
        check(config)
    assert str(caught.value).startswith(expected)
    assert len(str(caught.value)) < 300


def test_a_configuration_has_all_keys_and_no_others():
    config = default().unlock()
    config.x = 1
    with pytest.raises(UserError, match="unknown configuration key 'x'"):
        check(config)
    del config.x, config.lr
    with pytest.raises(UserError, match="the configuration has no 'lr'"):
        check(config)


def test_long_trainings_are_counted_at_once():
    many = Schedule(examples=66, batch_size=8, epochs=10**9)
    for step in (0, 8, 9, 24, 25, 10**6):
        assert many.epochs_after(step)[0] == next(epoch for epoch in range(1, 10**7) if many.end_of(epoch) > step)
    assert [many.epoch_at(step) for step in (9, 17, 18)] == [1, 2, 18 * 8 / 66]
    assert list(Schedule(66, 8, 3).epochs_after(10**9)) == []


def test_a_training_has_fewer_steps_than_32_bits_count():
    config = default()
    config.update({"epochs": 10**9, "batch_size": 4})
    labels = np.zeros(40, np.int32)
    found = record.all_readable(np.zeros((8, 8, 3), np.float32), labels, labels)
    with pytest.raises(
        UserError, match="epochs=1,000,000,000 is 10,000,000,000 steps; expected fewer than 2,147,483,648"
    ):
        schedule_of(config, RunData(("a", "b"), labels, labels, found))

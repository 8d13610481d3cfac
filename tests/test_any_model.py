"""Tables of any model: an unknown function gives what the same net of zfjax gives."""

import json
from pathlib import Path

import jax
import looked_at
import numpy as np
import pytest
import tiny_runs

import zfjax
from zfjax import evaluate, probe, transfer
from zfjax.console import command
from zfjax.data.pictures import CachedPictures
from zfjax.data.pipeline import Batch
from zfjax.experiments import evaluation
from zfjax.experiments.features import Pool, kept_features
from zfjax.training import sharding
from zfjax.training.scoring import AnyModel, Trained

HERE = Path(looked_at.__file__)
SQUARES = np.random.default_rng(0).integers(0, 256, (16, 55, 55, 3), np.uint8)
LABELS = np.arange(16, dtype=np.int32) % 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A dataset of tiny pictures."""
    return tiny_runs.make_folder(tmp_path_factory.mktemp("pictures") / "folder", per_class=20)


@pytest.fixture(scope="module")
def own():
    """The net of zfjax; its mean is the gray that the unknown function subtracts."""
    net, variables = looked_at.own_net()
    return Trained(net, variables, np.full((55, 55, 3), 120, np.float32))


def ends_in_softmax():
    """The unknown function with a softmax behind it."""
    model = looked_at.foreign()
    return zfjax.Model(
        lambda images: jax.nn.softmax(model(images)), (1, *model.image_shape), preprocess=model.preprocess
    )


def test_an_unknown_function_has_the_scores_of_the_same_net(own):
    models = {"own": own, "foreign": AnyModel(looked_at.foreign()), "softmax": AnyModel(ends_in_softmax())}
    batches = [Batch(SQUARES, LABELS, np.ones(16, np.float32))]
    net, *others, _ = evaluation.evaluate(models, lambda: batches, sharding.data_mesh())
    for other in others:
        assert other.single_crop == pytest.approx(net.single_crop, rel=1e-5)
        assert other.ten_crop == pytest.approx(net.ten_crop, rel=1e-5)
    assert net.ten_crop.loss != net.single_crop.loss


def test_what_commands_look_at_gives_logits():
    model = zfjax.look(ends_in_softmax(), SQUARES).val.model
    images = model.preprocess(SQUARES[:2, :48, :48])
    np.testing.assert_allclose(model(images), looked_at.foreign()(images), rtol=1e-4, atol=1e-4)


def run(capsys, main, *words):
    code = command.run(main, ["zfjax", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err.strip().splitlines()[-1:]


def test_evaluate_any_model(capsys, pictures, tmp_path):
    words = f"--dataset=folder:{pictures}", f"--out={tmp_path / 'out'}"
    code, out, errors = run(capsys, evaluate.main, f"--model={HERE}:named", *words)
    assert code == 0, errors
    val = zfjax.look(looked_at.named(), f"folder:{pictures}").val
    left_out = int((val.labels < 0).sum())
    assert f"left out: {left_out} pictures whose class is none of the outputs" in out
    rows = json.loads((tmp_path / "out" / "evaluate.json").read_text())["rows"]
    assert [(row["net"], row["crops"], row["examples"]) for row in rows] == [
        ("named", crops, len(val.labels) - left_out) for crops in (1, 10)
    ]
    code, _, (said,) = run(capsys, evaluate.main, f"--model={HERE}:vit", *words)
    assert code == 2
    assert f"no class of folder:{pictures} is one of the outputs of vit, which are output 0, output 1" in said
    code, _, (said,) = run(capsys, evaluate.main, f"--model={HERE}:no_logits", *words)
    assert code == 2
    assert said.endswith("expected a model that gives logits [N, classes], got float32[1, 48, 48, 3]")
    for flag in ("--bgr", "--data_dir=x", "--out=x"):
        code, _, (said,) = run(capsys, evaluate.main, "--workdir=run", flag)
        assert (code, f"{flag.partition('=')[0]} has no meaning without --model" in said) == (2, True)


def test_an_unknown_function_has_the_features_of_the_same_net(own, tmp_path):
    foreign = AnyModel(looked_at.foreign())
    names = ("relu1", "relu5", "relu7")
    pool = Pool("noise", ("a", "b", "c"), CachedPictures(SQUARES, LABELS, np.arange(16)), LABELS, "as made")
    both = [kept_features(model, pool, names, tmp_path, batch_size=2) for model in (own, foreign)]
    assert len(list(tmp_path.glob("relu7-*"))) == 2  # each under its own key
    for name, values in both[0].items():
        np.testing.assert_allclose(both[1][name], values, rtol=1e-4, atol=1e-5 * np.abs(values).max())
    keys = {foreign.fingerprint("as made"), AnyModel(looked_at.foreign()).fingerprint("as made")}
    assert len(keys) == 1
    other = zfjax.Model(lambda images: foreign.model(images) * 2, (1, 48, 48, 3), preprocess=foreign.model.preprocess)
    assert not keys & {foreign.fingerprint("changed"), AnyModel(other).fingerprint("as made")}


def test_probe_and_transfer_any_model(capsys, pictures, tmp_path):
    words = f"--model={HERE}:small", f"--dataset=folder:{pictures}", f"--out={tmp_path}", "--per_class=3", "--folds=1"
    code, out, errors = run(capsys, probe.main, *words)
    assert code == 0, errors
    assert [line.split()[1] for line in out.splitlines()[1:3]] == ["(relu1)", "(mean1)"]
    code, out, errors = run(capsys, transfer.main, *words)
    assert code == 0, errors
    assert errors == ["zfjax: from scratch: not measured, since only nets of zfjax can be trained here"]
    (row,) = json.loads((tmp_path / "folder" / "transfer_per_class-3_folds-1.json").read_text())["rows"]
    assert row.keys() == {"images per class", "pretrained %", "± std", "folds"}
    assert (row["images per class"], row["folds"]) == (3, 1)
    files = {path.name for path in (tmp_path / "folder").iterdir()}
    assert {"probe_per_class-3_folds-1.png", "fig9_per_class-3_folds-1.png"} < files
    code, _, (said,) = run(capsys, transfer.main, *words, "--layer=9")
    assert (code, "layer 9: expected 1 to 2, or 0 for the last" in said) == (2, True)
    code, _, (said,) = run(capsys, transfer.main, *words, "--scratch_epochs=2")
    assert (code, "--scratch_epochs has no meaning with a model that is not trained here" in said) == (2, True)


def test_a_model_that_gives_no_logits_is_refused(own):
    model = looked_at.no_logits()
    batches = [Batch(SQUARES, LABELS, np.ones(16, np.float32))]
    with pytest.raises(command.UserError, match=r"expected a model that gives logits \[N, classes\], got"):
        evaluation.evaluate({"maps": AnyModel(model)}, lambda: batches, sharding.data_mesh())

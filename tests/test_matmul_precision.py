"""`config.matmul_precision`: which values there are, and that training and all that looks at a run keep to it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from compiles import compiles

import zfjax
from zfjax import atlas, attribution, compare, figures
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data.pictures import CachedPictures
from zfjax.data.pipeline import Batch
from zfjax.experiments import features
from zfjax.runs import subject
from zfjax.runs.folder import read_run
from zfjax.training import config as keys
from zfjax.training import scoring
from zfjax.training.precision import matmul_precision
from zfjax.training.sharding import data_mesh
from zfjax.training.state import create_net, create_state
from zfjax.training.step import train_step

SIDE = 55  # of the squares for 48 px images


def now():
    return jax.config.jax_default_matmul_precision


def recorded(monkeypatch, module, name):
    """The precision at each call of a function, which is then called."""
    seen, called = [], getattr(module, name)

    def record(*args, **options):
        seen.append(now())
        return called(*args, **options)

    monkeypatch.setattr(module, name, record)
    return seen


def small_config(**changes):
    config = keys.default()
    config.update({"image_size": 48, "width": 0.05, "batch_size": 8} | changes)
    return config


@pytest.mark.parametrize("name", ["", *keys._PRECISIONS])
def test_jax_takes_what_a_configuration_may_have(name):
    keys.check(small_config(matmul_precision=name))
    before = now()
    with matmul_precision(name):
        assert now() == (name or before)
    assert now() == before


@pytest.mark.parametrize(("name", "hint"), [("hihgest", "; did you mean highest?"), ("fp32", "")])
def test_other_values_are_named(name, hint):
    with pytest.raises(UserError) as error:
        keys.check(small_config(matmul_precision=name))
    assert str(error.value) == (
        f"matmul_precision={name!r} must be one of default, high, highest, bfloat16, tensorfloat32, float32,"
        f" or empty for JAX's own{hint}"
    )


def test_every_product_of_a_training_step_and_of_a_projection():
    """Also those of derivatives that zfjax writes itself."""
    mean, config = np.zeros((SIDE, SIDE, 3), np.float32), small_config()
    state = jax.eval_shape(lambda: create_state(config, 3, mean, steps_per_epoch=10.0))
    batch = Batch(np.zeros((8, SIDE, SIDE, 3), np.uint8), np.zeros(8, np.int32), np.ones(8, np.float32))
    net = create_net(config, 3)
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 48, 48, 3)))

    def projection(variables, images):
        y, project = zfjax.deconvnet(zfjax.layer(net, variables, "relu5"), images)
        return project(zfjax.strongest(y, 0))

    for fun, *args in ((train_step, state, batch), (projection, variables, jnp.zeros((1, 48, 48, 3)))):
        with matmul_precision("high"):
            text = str(jax.make_jaxpr(fun)(*args))
        assert text.count("Precision.HIGH") >= 10
        assert "precision=None" not in text


def test_functions_follow_jaxs_own_context():
    """As docs/tpu.md says of lenses, `deconvnet` and galleries."""
    x, weights = jnp.ones((2, 3, 4, 3)), jnp.ones((36, 5))

    def fun(x):
        return jax.nn.relu(x.reshape(2, 36) @ weights)

    asks = (lambda: attribution.saliency(fun, x, 1), lambda: zfjax.top_activations(fun, [x], 1))
    for ask in asks:
        ask()
        with compiles() as again:
            ask()
        with jax.default_matmul_precision("high"), compiles() as other:
            ask()
        assert (len(again), bool(other)) == (0, True)


@pytest.mark.parametrize(
    ("main", "words"),
    [(figures.main, ["--only=fig2"]), (atlas.main, []), (compare.main, [])],
    ids=["fig2", "atlas", "compare"],
)
def test_commands_that_look_at_a_run_compute_as_it_did(monkeypatch, tmp_path, main, words):
    tiny_runs.begin(tmp_path, tiny_runs.tiny_config(tmp_path / "pictures", matmul_precision="high"))
    seen, before = recorded(monkeypatch, subject, "of_run"), now()
    assert command.run(main, ["verb", f"--workdir={tmp_path}", *words]) == 2  # it has no checkpoint
    assert seen == ["high"]
    assert now() == before


def test_scores_and_features_are_of_the_models_precision(monkeypatch):
    """Several runs are scored together, each in its own."""
    net = zfjax.zfnet(3, width=1 / 16, image_size=48)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    mean = np.zeros((SIDE, SIDE, 3), np.float32)
    models = [scoring.Trained(net, variables, mean, precision=name) for name in ("high", "")]
    squares, labels = np.zeros((8, SIDE, SIDE, 3), np.uint8), np.zeros(8, np.int32)
    seen, before = recorded(monkeypatch, scoring, "predict"), now()
    scoring.score_together(models, [Batch(squares, labels, np.ones(8, np.float32))], data_mesh())
    assert seen == ["high", before]
    seen = recorded(monkeypatch, features, "_activations")
    pictures = CachedPictures(squares, labels, np.arange(8))
    for model in models:
        for _ in features.features(model, pictures, ["relu2"], 8):
            assert now() == before
    assert seen == ["high", before]
    assert models[0].fingerprint("as made") != models[1].fingerprint("as made")


def test_runs_from_before_the_key_are_read(tmp_path):
    tiny_runs.begin(tmp_path, tiny_runs.tiny_config(tmp_path / "pictures"))
    path = tmp_path / "config.json"
    kept = json.loads(path.read_text())
    assert kept.pop("matmul_precision") == ""
    path.write_text(json.dumps(kept))
    assert read_run(tmp_path).config.matmul_precision == ""

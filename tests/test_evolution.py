"""Figure 4: strongest activations and features from checkpoint to checkpoint."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import zfjax
from zfjax.console.errors import UserError
from zfjax.data.pictures import CachedPictures
from zfjax.experiments.evolution import (
    Evolution,
    LayerEvolution,
    convergence_epochs,
    evolution,
    feature_distances,
    mean_distances,
)
from zfjax.experiments.gallery import gallery, top_activations
from zfjax.figures import fig4
from zfjax.figures.request import NotForThisRun, Request
from zfjax.models.cut import layers
from zfjax.plots.evolution import plot_convergence, plot_evolution
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import of_run
from zfjax.runs.subject import Splits, of_net
from zfjax.training.checkpoints import Checkpoints
from zfjax.training.config import default
from zfjax.training.state import create_state

NAMES = ("relu1", "relu3", "relu6")


@pytest.fixture(scope="module")
def small():
    """A net at three times, with images."""
    net = zfjax.zfnet(10, width=1 / 16, image_size=48)
    rng = np.random.default_rng(0)
    images = 50 * rng.normal(size=(10, 48, 48, 3)).astype(np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    first, last = (
        jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape) / np.sqrt(leaf.size)), shapes)
        for _ in range(2)
    )
    nearer = jax.tree.map(lambda a, b: np.float32(0.1 * a + 0.9 * b), first, last)
    return net, jax.device_put((first, nearer, last)), images


def evolve(small, checkpoints=None, **changes):
    net, three, images = small
    arguments = {
        "maps": {"relu1": np.array([0, 4]), "relu3": np.array([5, 1, 7]), "relu6": np.array([200])},
        "batches": lambda: map(jax.device_put, (images[:6], images[6:])),
        "load": lambda numbers: jax.device_put(images[numbers]),
        "probes": jax.device_put((images[:3], images[3:4])),
    }
    return evolution(net, three if checkpoints is None else checkpoints, **(arguments | changes))


@pytest.fixture(scope="module")
def found(small):
    return evolve(small)


def test_at_each_checkpoint_it_is_the_strongest_of_all_images(small, found):
    net, three, images = small
    assert found.names == NAMES
    for time, variables in enumerate(three):
        acts = jax.device_get(jax.jit(layers(net, variables, NAMES))(images))
        for name, layer in zip(NAMES, found.evolved, strict=True):
            strongest = acts[name].reshape(10, -1, acts[name].shape[-1]).max(axis=1)[:, layer.maps]
            np.testing.assert_allclose(layer.values[:, time], strongest.max(axis=0), rtol=1e-4, atol=1e-4)
            fires = strongest.max(axis=0) > 1e-3
            np.testing.assert_array_equal(layer.images[fires, time], strongest.argmax(axis=0)[fires])


def test_projections_are_the_gallerys_of_that_checkpoint(small, found):
    net, three, images = small
    for time in (0, 2):
        fun = zfjax.layer(net, three[time], "relu3")
        expected = gallery(
            fun, top_activations(fun, [images], k=1), [5, 1, 7], lambda numbers: jax.device_put(images[numbers])
        )
        layer = found.evolved[1]
        assert np.any(layer.projections[:, time])
        most = np.abs(expected.projections).max()
        np.testing.assert_allclose(layer.projections[:, time], expected.projections[:, 0], atol=1e-4 * most)
        np.testing.assert_array_equal(layer.fields[:, time], expected.fields[:, 0])
    assert found.evolved[0].projections.shape == (2, 3, 7, 7, 3)
    assert found.evolved[2].projections.shape == (1, 3, 48, 48, 3)


def test_features_are_compared_by_the_correlation_of_each_map(small, found):
    net, three, images = small
    acts = [jax.device_get(jax.jit(layers(net, variables, NAMES))(images[:4])) for variables in three]
    for number, name in enumerate(NAMES):
        places = [np.linspace(0, size - 1, min(size, 8)).round().astype(int) for size in acts[0][name].shape[1:-1]]
        responses = []
        for one in acts:
            maps = one[name][:, places[0]][:, :, places[1]] if places else one[name]
            responses.append(maps.reshape(-1, maps.shape[-1]))
        for a in range(3):
            for b in range(3):
                each = []
                for x, y in zip(responses[a].T, responses[b].T, strict=True):
                    alive = x.std() > 0, y.std() > 0
                    each.append(1 - np.corrcoef(x, y)[0, 1] if all(alive) else float(any(alive)))
                np.testing.assert_allclose(found.distances[number, a, b], np.mean(each), atol=1e-3)
    np.testing.assert_array_equal(found.to_final, found.distances[:, :, 2])
    np.testing.assert_array_equal(found.moved, [[d[0, 1], d[1, 2]] for d in found.distances])
    assert np.all(found.moved[:, 1] < found.moved[:, 0])  # the second checkpoint is nearly the third


def test_jumps_are_new_strongest_images_of_the_maps_that_fire(small, found):
    net, three, images = small
    for number, name in enumerate(NAMES):
        strongest = []
        for variables in three:
            acts = np.asarray(jax.jit(zfjax.layer(net, variables, name))(images))
            strongest.append(acts.reshape(10, -1, acts.shape[-1]).max(axis=1))
        for time in range(2):
            before, after = strongest[time : time + 2]
            fire = (before.max(axis=0) > 0) & (after.max(axis=0) > 0)
            changed = before.argmax(axis=0)[fire] != after.argmax(axis=0)[fire]
            np.testing.assert_allclose(found.jumps[number, time], changed.mean(), atol=1.01 / fire.sum())
    assert np.all(found.jumps[:, 0] > 0)


def test_nothing_moves_between_equal_checkpoints(small):
    same = evolve(small, checkpoints=[small[1][0]] * 2, maps={"relu3": np.array([1])})
    np.testing.assert_array_equal(same.jumps, 0)
    np.testing.assert_allclose(same.distances, 0, atol=1e-5)


def test_a_checkpoint_is_read_when_the_one_before_is_done(small):
    _, three, images = small
    order = []

    def checkpoints():
        for number in range(2):
            order.append(f"read {number}")
            yield three[number]

    def batches():
        order.append("pass begins")
        yield jax.device_put(images)
        order.append("pass ends")

    evolve(small, checkpoints(), maps={"relu1": np.array([0])}, batches=batches)
    assert order == ["read 0", "pass begins", "pass ends", "read 1", "pass begins", "pass ends"]


def test_distances_know_neither_scale_nor_offset_and_count_dead_maps():
    rng = np.random.default_rng(0)
    responses = rng.random((1, 4000, 3)).repeat(5, axis=0)
    responses[1] = 7 * responses[0] + 3
    responses[2] = rng.random((4000, 3))  # another feature
    responses[3:, :, 0] = 0  # dies
    distances = feature_distances(responses)
    np.testing.assert_allclose(distances, distances.T)
    np.testing.assert_allclose(np.diagonal(distances), 0, atol=1e-12)
    np.testing.assert_allclose(distances[0, 1], 0, atol=1e-12)
    np.testing.assert_allclose(distances[0, 2], 1, atol=0.05)
    np.testing.assert_allclose(distances[0, 3], 1 / 3, atol=1e-12)
    np.testing.assert_allclose(distances[3, 4], 0, atol=1e-12)


def with_final(lines):
    """Of which only distances to the last checkpoint are known."""
    lines = np.array(lines)
    distances = np.zeros((*lines.shape, lines.shape[1]))
    distances[:, :, -1] = lines
    return Evolution(tuple(f"relu{i}" for i in range(1, len(lines) + 1)), (), np.zeros((len(lines), 2)), distances)


def test_convergence_is_read_off_the_curve():
    found = with_final([[0.4, 0.2, 0.0], [0.8, 0.6, 0.0], [0.1, 0.2, 0.0], [0.2, 0.6, 0.0]])
    epochs = (1, 2, 6)
    np.testing.assert_allclose(convergence_epochs(found, epochs, within=0.3), [1.5, 4, 1, 4])
    np.testing.assert_allclose(mean_distances(found, epochs), np.array([0.7, 1.9, 0.55, 1.6]) / 5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"checkpoints": []}, ValueError, "checkpoints: expected at least two, got 0"),
        ({"probes": ()}, ValueError, "probes: expected at least one batch of images, got none"),
        ({"maps": {"relu1": np.array([1, 6])}}, UserError, "map 6: relu1 has 6 maps, 0 to 5"),
        ({"maps": {"relu1": np.array([-1])}}, UserError, "map -1: relu1 has 6 maps, 0 to 5"),
        ({"maps": {"relu9": np.array([0])}}, UserError, "no layer 'relu9'"),
    ],
)
def test_what_does_not_fit_is_named(small, changes, error, message):
    with pytest.raises(error, match=message):
        evolve(small, **changes)


def test_one_checkpoint_is_too_few(small):
    with pytest.raises(ValueError, match="checkpoints: expected at least two, got 1"):
        evolve(small, checkpoints=small[1][:1], maps={"relu1": np.array([0])})


def test_the_blocks_are_labeled_and_bars_mark_other_images():
    layer = LayerEvolution(
        np.array([3, 8]),
        np.ones((2, 3)),
        np.array([[5, 5, 9], [1, 2, 3]]),
        np.zeros((2, 3, 4), int),
        np.random.default_rng(0).normal(size=(2, 3, 11, 11, 3)),
    )
    found = with_final([[0.4, 0.2, 0.0], [0.8, 0.6, 0.0]])._replace(evolved=(layer, layer))
    figure = plot_evolution(found, (1, 2, 7.5))
    assert [axes.get_title() for axes in figure.axes] == ["layer 1 (relu1)", "layer 2 (relu2)"]
    block = figure.axes[0]
    assert [label.get_text() for label in block.get_xticklabels()] == ["1", "2", "7.5"]
    assert [label.get_text() for label in block.get_yticklabels()] == ["3", "8"]
    assert [round(line.get_xdata()[0]) for line in block.lines] == [23, 11, 23]
    curves = plot_convergence(found, (1, 2, 7.5))
    np.testing.assert_array_equal(curves.axes[0].lines[1].get_ydata(), found.to_final[1])
    np.testing.assert_array_equal(curves.axes[1].lines[0].get_xdata(), [2, 7.5])
    for drawn in (figure, curves):
        file = io.BytesIO()
        drawn.savefig(file, format="png")
        assert Image.open(file).size[0] == 1800


@pytest.fixture(scope="module")
def state():
    """Of a run of three epochs of 2.5 steps."""
    return create_state(run_config(), 2, np.full((55, 55, 3), 127.5, np.float32), steps_per_epoch=2.5)


def run_config():
    config = default()
    config.update({"image_size": 48, "width": 0.05, "batch_size": 8, "epochs": 3})
    return config


@jax.jit
def moved(params, step):
    return jax.tree.map(lambda leaf: leaf + 0.02 * jnp.sin(step + 9 * leaf), params)


@pytest.fixture
def request_of(tmp_path, state):
    """Gives requests for such runs with the checkpoints that are named."""

    def make(*steps, **flags):
        squares = np.random.default_rng(0).integers(0, 256, (20, 55, 55, 3), np.uint8)
        labels, mean, classes = np.zeros(20, np.int32), np.full((55, 55, 3), 127.5, np.float32), ("cat", "dog")
        with Checkpoints(tmp_path / "checkpoints", keep_steps=steps) as checkpoints:
            for step in steps:
                params = moved(state.params, np.float32(step))
                checkpoints.save(dataclasses.replace(state, step=jnp.int32(step), params=params), val_top1=0.5)
        pictures = CachedPictures(squares, labels, np.arange(20))
        subject = of_net(state.net, {"params": params}, mean, classes)
        subject = subject._replace(pictures=pictures, labels=labels, kept=np.arange(20))
        run = RunInfo(epath.Path(tmp_path), run_config(), classes, mean)
        return Request(of_run(run, "figures"), Splits(subject, subject), **flags)

    return make


@pytest.mark.slow
def test_fig4_draws_the_epochs_of_a_run(request_of):
    request = request_of(3, 5, 8, layers=("relu1", "relu5"), maps=2, batch_size=16)
    evolved, curves = fig4.draw(request)
    assert (evolved.name, curves.name) == ("fig4_evolution", "fig4_convergence")
    np.testing.assert_array_equal(evolved.arrays["epochs"], [1, 2, 3])
    assert evolved.arrays["relu5_projections"].shape == (2, 3, 48, 48, 3)
    np.testing.assert_array_equal(curves.arrays["layers"], ["relu1", "relu5"])
    assert curves.arrays["distances"].shape == (2, 3, 3)
    assert np.all(curves.arrays["moved"] > 0)
    converged = [row[1] for row in curves.table[1].rows]
    np.testing.assert_allclose(converged, curves.arrays["convergence_epochs"])
    # The last checkpoint's are those of the net itself.
    images = request.subject.load(np.arange(20))
    acts = np.asarray(jax.jit(zfjax.layer(request.subject.net, request.subject.variables, "relu1"))(images))
    expected = acts.max(axis=(0, 1, 2))[evolved.arrays["relu1_maps"]]
    np.testing.assert_allclose(evolved.arrays["relu1_values"][:, 2], expected, rtol=1e-4)
    with pytest.raises(UserError, match=r"map 99: relu1 has \d+ maps"):
        next(fig4.draw(request._replace(units=(0, 99))))


def test_a_stopped_runs_last_checkpoint_counts_too(request_of):
    assert fig4.kept_checkpoints(request_of(3, 4, 5, 6)) == ((3, 5, 6), (1, 2, 2.4))


def test_a_run_without_the_needed_checkpoints_is_told_which(request_of):
    with pytest.raises(NotForThisRun, match="has the one after epoch 3; missing are those after epochs 1, 2, 5, 10"):
        next(fig4.draw(request_of(8)))

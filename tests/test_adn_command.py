"""`zfjax adn`: learns, resumes bit-equal wherever it was killed, and refuses what cannot be."""

import contextlib
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from damages import damage
from etils import epath
from PIL import Image

from zfjax import adn, atlas
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.data.contrast import fitted, gray_pictures, normalized
from zfjax.data.source import Example
from zfjax.experiments.adn import classifying, dissecting, inference, kept, layerwise, looking, operators, pyramids
from zfjax.experiments.adn.inference import Method
from zfjax.experiments.adn.settings import Settings, check, paper
from zfjax.experiments.adn.stack import PAPER, Deconv
from zfjax.experiments.probing import Protocol
from zfjax.training.sharding import data_mesh, first_of

TINY = Settings(
    layers=(Deconv(4, 5, (3, 3, 2)), Deconv(6, 3, (2, 2, 2))),
    side=20,
    snr=(6.0,),
    epochs=2,
    batch_size=4,
    learning=Method(2, momentum=True),
    inference=Method(3, 3, momentum=True, refit=6),
)


@pytest.fixture(scope="module")
def images():
    y, x = np.mgrid[:20, :20]
    waves = [np.sin(0.7 * (x * np.cos(turn) + y * np.sin(turn)) + turn) for turn in np.linspace(0, 3, 10)]
    return np.stack([normalized(wave.astype(np.float32)) for wave in waves])


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("whole"))
    return folder, layerwise.learn(TINY, images, folder, first_of(data_mesh(), 2))


def test_a_network_that_was_killed_anywhere_ends_with_the_same_bits(whole, images, tmp_path, monkeypatch):
    """Files are written whole, so a kill leaves what some number of them left; here each number in turn."""
    folder, write, mesh = epath.Path(tmp_path), kept.write, first_of(data_mesh(), 2)
    written, compiled = 0, programs()

    def killed_after(*args):
        nonlocal written
        write(*args)
        written += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "write", killed_after)
    for _ in range(20):
        with contextlib.suppress(KeyboardInterrupt):
            layerwise.learn(TINY, images, folder, mesh)
            break
    assert written == 2 * (TINY.epochs + 1)
    assert programs() == compiled  # what was read lies on the same devices as what was learned
    for name in ("layer1.safetensors", "layer2.safetensors", kept.LEARNING):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes()


def programs():
    """How many programs there are of each function of an iteration."""
    return [function._cache_size() for function in (inference._step, inference._multiplied, inference._refit)]


def test_learning_lowers_the_error_and_reaches_the_wanted_ratio(whole, images):
    _, layers = whole
    assert [layer.history.shape for layer in layers] == [(2, 4), (2, 4)]
    assert (layers[1].history[-1, 1] > layers[1].history[0, 1]).all()  # dB
    coded = looking.coded(TINY, layers, images)
    _, decibels, share = looking.reconstructed(TINY, layers, coded, 1)
    assert decibels.mean() == pytest.approx(layers[0].reached, abs=0.01)
    assert layers[0].reached == pytest.approx(TINY.wanted(1), abs=0.1)
    assert share.max() <= 1 / 9  # a window of 18 cells keeps one; those at the edge are smaller


def test_a_ratio_that_no_weight_reaches_is_said_and_the_one_reached_is_kept(whole, images, capsys):
    _, layers = whole
    task = layerwise.Task(TINY._replace(snr=(90.0, 6.0)), TINY.stack.of(1), (), [], [], len(images))
    task = task._replace(images=layerwise.batched(images, 4, first_of(data_mesh(), 2)), switches=[()] * 3)
    with Progress("λ") as progress:
        _, reached = layerwise.weight_for(task, layers[0].kernel, layers[0].bounds, 1.0, progress)
    said = re.search(r"layer 1: no λ reaches 90 dB, the most is ([0-9.]+) dB; see --snr", capsys.readouterr().err)
    assert said
    assert -0.3 < reached - float(said[1]) < 0.06


def test_what_is_looked_at_is_spread_over_all_batches():
    """A first batch of images that are easy to reconstruct says nothing about the others."""
    task = layerwise.Task(Settings(), Settings().stack.of(1), (), [np.zeros((5, 64, 64, 1))] * 100, [], 500)
    assert task.some == [0, 33, 66, 99]
    assert task._replace(images=[np.zeros((4, 64, 64, 1))] * 2).some == [0, 1]


def test_the_strongest_activations_lie_where_they_reach(whole, images):
    _, layers = whole
    coded = looking.coded(TINY, layers, images)
    for number in (1, 2):
        found = looking.strongest(TINY.stack, number, coded.codes[number - 1], top=2)
        assert (np.abs(found.values[:, 0]) >= np.abs(found.values[:, 1])).all()
        made = looking.alone(TINY.stack, layers, coded, number, found)
        for rank in range(len(found.values)):
            top, left, height, width = looking.field(TINY.stack, number, *map(int, found.cells[rank, 0]))
            outside = made[rank, 0].copy()
            outside[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = 0
            assert made[rank, 0].any() == bool(found.values[rank, 0])
            assert not outside.any()
        projections, patches = looking.windows(TINY.stack, number, found, made, images)
        assert projections.shape == patches.shape == (*found.values.shape, height, width)
        np.testing.assert_allclose(np.square(projections).sum(), np.square(made).sum(), rtol=1e-5)  # nothing is cut off


def test_activations_are_compared_before_their_values_are_fitted_again(whole, images):
    """Fitted values reconstruct best, and large ones among them cancel each other."""
    _, layers = whole
    coded, kernels = looking.coded(TINY, layers, images), tuple(layer.kernel for layer in layers)
    start = inference.no_codes(TINY.stack, 2, coded.images)
    for codes, method in (
        (coded.codes[1], TINY.inference._replace(refit=0)),
        (looking.fitted(TINY, layers, coded, 2), TINY.inference),
    ):
        known = TINY.stack, kernels, coded.switches(2), layers[1].weight, layers[1].bounds
        expected = inference.infer(*known, coded.images, start, method)
        np.testing.assert_allclose(codes.values, expected.values, rtol=1e-3, atol=1e-4)
    shrunk, refitted = (
        inference.costs(TINY.stack, kernels, coded.switches(2), 1.0, coded.images, codes)[1]
        for codes in (coded.codes[1], looking.fitted(TINY, layers, coded, 2))
    )
    assert (refitted < shrunk).all()


def test_an_activation_is_taken_apart_into_the_strongest_below_it(whole, images):
    _, layers = whole
    coded = looking.coded(TINY, layers, images)
    found = looking.strongest(TINY.stack, 2, coded.codes[1])
    which = int(np.abs(found.values[:, 0]).argmax())
    one, parts = dissecting.apart(TINY.stack, layers, coded, 2, found, which, parts=3)
    assert (len(one), len(parts)) == (1, 3)
    np.testing.assert_allclose(one[0], looking.alone(TINY.stack, layers, coded, 2, found)[which, 0], atol=1e-5)
    everything = dissecting.apart(TINY.stack, layers, coded, 2, found, which, parts=18)[1]  # 3×3 cells of 2 maps
    np.testing.assert_allclose(everything.sum(0), one[0], atol=1e-4)  # all parts together are the whole
    norms = np.square(everything).sum((1, 2))
    assert norms[0] > 0
    np.testing.assert_allclose(parts, everything[:3], atol=1e-5)


def test_without_switches_less_remains(whole, images):
    _, layers = whole
    coded = looking.coded(TINY, layers, images)
    found = dissecting.without_switches(TINY, layers, coded, 2)
    error = {name: np.square(made - images).sum() for name, made in found.items()}
    np.testing.assert_allclose(found["all switches"], looking.reconstructed(TINY, layers, coded, 2)[0], atol=1e-5)
    assert all(error["all switches"] < other for name, other in error.items() if name != "all switches")
    maps = operators.unpooled(TINY.stack, 2, *looking.fitted(TINY, layers, coded, 2))
    switches = coded.codes[0].switches
    every = [jnp.full_like(switches, cell) for cell in range(18)]  # an average over all switches that there are
    sums = sum(operators.reconstruct(TINY.stack, [one.kernel for one in layers], (at,), maps) for at in every)
    np.testing.assert_allclose(found["average"], np.asarray(sums)[..., 0] / np.sqrt(18), atol=1e-4)
    curve = dissecting.tradeoff(TINY, layers, coded, 1, 3)
    assert curve.weights[-1] == pytest.approx(2 * layers[0].weight)
    assert 0 < curve.shares[0] < curve.shares[1] < curve.shares[2]
    assert curve.decibels[0] < curve.decibels[1] < curve.decibels[2]


PATCHES = pyramids.Patches(cell=2, words=6, activations=3)


def pyramids_of(layers, images, folder, patches=PATCHES):
    with Progress("features", len(images)) as progress:
        return pyramids.features(TINY, layers, images, patches, epath.Path(folder), progress)


def test_pyramids_are_kept_and_go_on_from_there(whole, images, tmp_path, monkeypatch):
    _, layers = whole
    monkeypatch.setattr(pyramids, "_IN_A_FILE", 4)
    unbroken = pyramids_of(layers, images, tmp_path / "unbroken")
    files = sorted((tmp_path / "unbroken").iterdir())
    assert len(files) == 1 + 3
    computed, real = [], pyramids._pyramids

    def counted(*args):
        if len(computed) == stop:
            raise KeyboardInterrupt
        computed.append(len(args[2]))
        return real(*args)

    monkeypatch.setattr(pyramids, "_pyramids", counted)
    folder, stop = tmp_path / "broken", 1
    with pytest.raises(KeyboardInterrupt):
        pyramids_of(layers, images, folder)
    stop = 99
    again = pyramids_of(layers, images, folder)
    assert computed == [4, 4, 2]
    for name, values in unbroken.items():
        np.testing.assert_array_equal(again[name], values)
    damage(folder / files[1].name, "flipped")
    pyramids_of(layers, images, folder)
    assert computed == [4, 4, 2, 4]
    for other in ({"images": images[::-1]}, {"patches": PATCHES._replace(activations=2)}, {"layers": layers[:1]}):
        computed.clear()
        pyramids_of(**{"layers": layers, "images": images, "folder": folder, **other})
        assert computed == [4, 4, 2]


def test_pyramids_count_words_and_their_intersections_are_products_of_vectors(whole, images, tmp_path):
    _, layers = whole
    found = pyramids_of(layers, images, tmp_path)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(("layer 1", "layer 2"), (10, 6 * 21))
    for values in found.values():
        np.testing.assert_allclose(values.sum(1), 1, rtol=1e-5)
        weights = values[:, :6].sum(1), values[:, 6:30].sum(1), values[:, 30:].sum(1)
        np.testing.assert_allclose(weights, [[0.25] * 10, [0.25] * 10, [0.5] * 10], rtol=1e-5)
        np.testing.assert_allclose(values[:, 6:30].reshape(10, 4, 6).sum(1), values[:, :6], atol=1e-6)
        vectors = pyramids.embedded(values)
        kernel = np.minimum(values[:, None], values[None]).sum(2)
        np.testing.assert_allclose(vectors @ vectors.T, kernel, atol=1e-5)
    coded = looking.coded(TINY, layers, images[:4])
    below = pyramids.strongest_below(TINY, layers, coded, 2, 3)
    assert below.shape == (3, *TINY.stack.maps(1))
    maps = operators.unpooled(TINY.stack, 2, *coded.codes[1])
    everything = pyramids.strongest_below(TINY, layers, coded, 2, int(np.count_nonzero(maps[2])))
    kernels = tuple(layer.kernel for layer in layers)
    whole_image = operators.reconstruct(TINY.stack, kernels, coded.switches(2), maps)[2, ..., 0]
    made = operators.reconstruct(TINY.stack.of(1), (layers[0].kernel,), (), everything.sum(0, keepdims=True))
    np.testing.assert_allclose(made[0, ..., 0], whole_image, atol=1e-4)


def test_svms_are_tested_on_what_they_did_not_see_and_the_table_says_how_little_that_is():
    labels = np.repeat(np.arange(3), (6, 7, 8))
    values = {"telling": np.eye(3, dtype=np.float32)[labels], "noise": np.random.default_rng(0).normal(size=(21, 5))}
    protocol = Protocol(per_class=4, max_test=50, folds=2)
    found = classifying.accuracies(values, labels, protocol)
    assert found["telling"].tolist() == [1.0, 1.0]
    assert found["noise"].mean() < 0.8
    table = classifying.to_table(found, "photos", labels, protocol)
    assert table.rows[0][:2] == ("telling", 100.0)
    assert table.note.startswith("Each class is tested on 2 to 4 images; fewer than ten make a class's accuracy coarse")
    with pytest.raises(UserError, match="--per_class=6: class 'a' has 6 pictures; expected one or more to test on"):
        classifying.require_pictures(("a", "b", "c"), labels, 6)
    with pytest.raises(UserError, match="--per_class=6: expected pictures of two classes or more, got 1"):
        classifying.require_pictures(("a",), np.zeros(9, int), 6)


def test_waves_are_oriented_and_noise_is_not():
    y, x = np.mgrid[-3:4, -3:4]
    waves = [np.cos(1.2 * (x * np.cos(turn) + y * np.sin(turn))) for turn in (0.0, 0.5, 1.0, 2.0)]
    assert (looking.orientation(np.stack(waves, -1)) > looking.ORIENTED).all()
    noise = np.random.default_rng(0).normal(size=(7, 7, 200))
    assert (looking.orientation(noise) > looking.ORIENTED).mean() < 0.03


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (TINY._replace(weights=(1e-9, 1.0)), "layer 1: with λ = 1e-09 nothing is left but zeros in epoch 1; what was"),
        (TINY._replace(weights=(3e38, 1.0)), "layer 1: the cost is not finite in epoch 1; what was saved before is"),
    ],
)
def test_what_cannot_be_learned_ends_in_one_line(images, tmp_path, settings, line):
    with pytest.raises(UserError, match=line):
        layerwise.learn(settings, 1e3 * images, epath.Path(tmp_path), first_of(data_mesh(), 2))
    assert not list(tmp_path.iterdir())


def test_settings_that_cannot_be_are_refused():
    check(paper())
    with pytest.raises(UserError, match="its filters of 5×5 are larger than images of 4×4; give a larger --size"):
        check(TINY._replace(side=4))
    with pytest.raises(UserError, match=r"weights: expected 2 numbers above 0, got \[0.0, 1.0\]"):
        check(TINY._replace(weights=(0.0, 1.0)))
    with pytest.raises(UserError, match="--snr: expected decibels above 0, got 6,nan"):
        check(TINY._replace(snr=(6.0, float("nan"))))
    with pytest.raises(UserError, match="--snr has 3 numbers, but there are 2 layers"):
        check(TINY._replace(snr=(6.0, 5.0, 4.0)))
    with pytest.raises(UserError, match=r"weights: expected 2 numbers above 0, got \[nan, 1.0\]"):
        check(TINY._replace(weights=(float("nan"), 1.0)))
    with pytest.raises(UserError, match="steps: expected weights too"):
        check(TINY._replace(steps=(1e-3, 1e-3)))
    numbers = ("epochs", 0, 1), ("batch_size", 0, 1), ("conjugate_gradients", 0.5, 1), ("pixels", -1, 0)
    for name, value, least in numbers:
        with pytest.raises(UserError, match=f"{name}: expected a whole number of {least} or more, got {value}"):
            check(TINY._replace(**{name: value}))
    with pytest.raises(UserError, match=r"learning\.fixed: expected a whole number of 0 or more, got -1"):
        check(TINY._replace(learning=Method(2, -1)))
    with pytest.raises(UserError, match="inference: expected one iteration or more, got none"):
        check(TINY._replace(inference=Method(0)))


def test_a_recipe_says_what_flags_leave_open(tmp_path, capsys):
    recipe = epath.Path(__file__).parent.parent / "configs" / "adn.py"
    chosen = settings_of(f"--config={recipe}", "--layers=2", "--size=64")
    assert (chosen.layers, chosen.side, chosen.epochs) == (PAPER[:2], 64, 6)
    assert chosen.snr == (12.5, 9.5)
    assert settings_of(f"--config={recipe}").layers == PAPER
    (tmp_path / "none.py").write_text("def get_config(): return 3")
    assert command.run(adn.main, ["adn", f"--config={tmp_path / 'none.py'}"]) == 2
    assert "none.py to return zfjax.experiments.adn.settings.Settings" in capsys.readouterr().err


def settings_of(*argv):
    """What the command would learn with."""
    found = []

    def enough(settings, _):
        found.append(settings)
        raise UserError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layerwise, "evenly", enough)
        assert command.run(adn.main, ["adn", *argv]) == 2
    return found[0]


def test_the_papers_preset_takes_its_steps():
    task = layerwise.Task(paper(), paper().stack.of(2), (), [], [], 0)
    assert layerwise._bounds(task, jnp.zeros(paper().stack.kernel(2)), 0.1) == pytest.approx((1 / (0.1 * 1e-4),) * 2)


def test_a_folder_keeps_to_its_network(whole, tmp_path):
    folder = epath.Path(tmp_path)
    assert not kept.begin(folder, TINY, "folder:a", "0" * 32)
    assert kept.begin(folder, TINY, "folder:b", "0" * 32)  # the same pictures, moved
    with pytest.raises(
        UserError, match=r"holds a network with snr=\[6.0\] \(now \[7.0\]\); give the same values to go on"
    ):
        kept.begin(folder, TINY._replace(snr=(7.0,)), "folder:a", "0" * 32)
    with pytest.raises(UserError, match="holds a network with other pictures than folder:a has"):
        kept.begin(folder, TINY, "folder:a", "1" * 32)
    more = TINY._replace(layers=(*TINY.layers, Deconv(4, 3)), snr=(6.0, 6.0, 5.0))  # as before, and one for the third
    assert kept.begin(folder, more, "folder:a", "0" * 32)
    assert kept.read_settings(folder)["layers"] == more.as_json()["layers"]
    assert kept.read_settings(folder)["snr"] == [6.0, 6.0, 5.0]
    assert kept.begin(folder, TINY, "folder:a", "0" * 32)  # fewer again: those that are learned
    with pytest.raises(UserError, match=r"snr=\[6.0, 6.0, 5.0\] \(now \[6.0, 5.0\]\)"):
        kept.begin(folder, TINY._replace(snr=(6.0, 5.0)), "folder:a", "0" * 32)
    for name in ("switches.png", "layer2_map.png", "classes.csv"):
        other = epath.Path(tmp_path / f"beside {name}")
        other.mkdir()
        (other / name).write_text("mine")
        with pytest.raises(UserError, match=f"holds {name}, but no adn.json"):
            kept.begin(other, TINY, "folder:a", "0" * 32)
    content = bytearray((whole[0] / "layer1.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "layer1.safetensors").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"is damaged .* remove it to learn that again"):
        layerwise.read_layer(folder / "layer1.safetensors")


def test_normalization_leaves_no_local_mean_and_equal_contrast():
    generator = np.random.default_rng(0)
    gray = generator.normal(size=(60, 80)).astype(np.float32) * np.linspace(1, 9, 80, dtype=np.float32) + 100
    found = normalized(gray)
    assert abs(found.mean()) < 1e-5
    assert found[:, 60:].std() / found[:, 45:60].std() < 1.2  # the median deviation is in the middle
    assert found[:, :20].std() < 0.7 * found[:, 60:].std()  # a weak part is not blown up
    np.testing.assert_allclose(normalized(3 * gray + 50), found, atol=1e-3)
    assert not normalized(np.full((20, 30), 7, np.float32)).any()
    wide = fitted(np.broadcast_to(gray[..., None].clip(0, 255), (60, 80, 3)).astype(np.uint8), 40)
    assert wide.shape == (40, 40)
    assert not wide[:5].any()
    assert not wide[35:].any()
    assert wide[5:35].any()


def test_pictures_are_spread_over_the_split_and_broken_ones_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)).save(tmp_path / "a.png")
    good, bad = (tmp_path / "a.png").read_bytes(), b"no picture"
    examples = [Example(f"{i}.png", bad if i == 3 else good, i % 2) for i in range(9)]
    found = gray_pictures("some", examples, 8, count=5)
    np.testing.assert_array_equal(found.numbers, [0, 2, 4, 6, 8])
    assert found.images.shape == (5, 8, 8)
    with pytest.raises(UserError, match=r"some: 1 of 9 images cannot be read: 3\.png"):
        gray_pictures("some", examples, 8)
    with pytest.raises(UserError, match="some: expected one image or more, found none"):
        gray_pictures("some", [], 8)


def test_the_command_learns_draws_and_says_what_it_found(tmp_path, capsys):
    pictures = tmp_path / "photos"
    for name in ("a", "b"):
        (pictures / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 255, (24, 20, 3), np.uint8)
            Image.fromarray(pixels).save(pictures / name / f"{i}.png")
    run = tmp_path / "run"
    flags = [
        f"--dataset=folder:{pictures}",
        f"--workdir={run}",
        "--size=24",
        "--epochs=1",
        "--maps=3",
        "--batch_size=4",
    ]
    assert command.run(adn.main, ["adn", *flags]) == 0
    out = capsys.readouterr().out
    assert "of 3 filters of layer 1 are oriented" in out
    learned = (run / "layer1.safetensors").read_bytes()
    flags[4] = "--maps=3,4"
    assert command.run(adn.main, ["adn", *flags, "--per_class=2"]) == 0
    assert (run / "layer1.safetensors").read_bytes() == learned
    of_layers = {f"layer{number}{end}" for number in (1, 2) for end in (".png", "_map.png", ".safetensors")}
    assert {path.name for path in run.iterdir()} >= {*kept.DRAWN} | of_layers
    table = capsys.readouterr().out
    assert all(f"\n{name} " in table for name in ("pixels", "layer 1", "layer 2", "layer 1 and layer 2"))
    assert json.loads((run / "adn.json").read_text())["side"] == 24
    assert command.run(atlas.main, ["atlas", f"--workdir={run}"]) == 0
    pages = {path.relative_to(run / "atlas").as_posix() for path in (run / "atlas").rglob("*.html")}
    of_maps = {f"map/layer{number}/{i}.html" for number, count in ((1, 3), (2, 4)) for i in range(count)}
    of_layers = {"layer/layer1.html", "layer/layer2.html"}
    assert {"index.html", "class/1.html", *of_layers, *of_maps} == pages - {"class/0.html"}
    first = (run / "atlas" / "map" / "layer1" / "0.html").read_text()
    assert "each cell sees 7 × 7 px of 24" in first.lower()
    assert first.count("<figure") == 2  # the validation split has two images
    assert command.run(atlas.main, ["atlas", f"--workdir={run}", "--layers=relu1"]) == 2
    assert "no layer 'relu1' in run; expected layer1, layer2" in capsys.readouterr().err
    assert command.run(atlas.main, ["atlas", f"--workdir={run}", "--checkpoint=best"]) == 2
    assert "--checkpoint has no meaning with a --workdir of zfjax adn: leave it out" in capsys.readouterr().err
    assert command.run(adn.main, ["adn", *flags, "--seed=1"]) == 2
    assert "holds a network with seed=0 (now 1)" in capsys.readouterr().err
    assert command.run(adn.main, ["adn", *flags, "--size=6"]) == 2
    assert "its filters of 7×7 are larger than images of 6×6" in capsys.readouterr().err
    assert command.run(adn.main, ["adn", *flags, "--snr=12,x"]) == 2
    assert "--snr: expected decibels, such as 10 or 12,10, got 'x'" in capsys.readouterr().err
    assert command.run(adn.main, ["adn", *flags, "--layers=3"]) == 2
    assert "--maps has 2 numbers, but there are 3 layers" in capsys.readouterr().err

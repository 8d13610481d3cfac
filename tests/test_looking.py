"""Figures, the atlas and the lenses of any model: an unknown function gives what the same net of zfjax gives."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import looked_at
import numpy as np
import pytest
import tiny_runs
import zoo
from etils import epath

import zfjax
from zfjax import atlas, figures
from zfjax import compare as compare_lenses
from zfjax.atlas.collect import with_unknown
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.data.opening import open_source
from zfjax.experiments.comparison import Comparison, Labeled, compare
from zfjax.experiments.lenses import LENSES, Options
from zfjax.experiments.passes import responded, strongest
from zfjax.figures import fig2, fig5, fig6, fig7
from zfjax.figures.request import Request
from zfjax.models.display import display_of
from zfjax.models.landmarks import feature_layers
from zfjax.models.places import Place
from zfjax.runs import given as given_of
from zfjax.runs.given import OfModel
from zfjax.runs.subject import Splits, of_net
from zfjax.weights import Preprocessing

HERE = Path(looked_at.__file__)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A dataset of tiny pictures."""
    return tiny_runs.make_folder(tmp_path_factory.mktemp("pictures") / "folder", per_class=20)


@pytest.fixture(scope="module")
def requests():
    """The same request of zfjax's own net, and of an equal function that it knows nothing of.

    The net has layers of each kind; tracing more of them takes most of the time.
    """
    squares = np.random.default_rng(0).integers(0, 256, (8, 55, 55, 3), np.uint8)
    left_out = (4, 5, 7)
    model = looked_at.foreign(left_out=left_out)
    found = zfjax.look(model, squares).val
    net, variables = looked_at.own_net(left_out)
    own = of_net(net, variables, np.full((55, 55, 3), 120, np.float32), found.classes)
    own = own._replace(pictures=found.pictures, labels=found.labels, kept=found.kept)
    given = OfModel("net", epath.Path("out"), "", "", "net", None, model)
    return [
        Request(given, Splits(one, one), layers=("relu2", "relu3"), maps=2, batch_size=4, window=24, stride=12)
        for one in (own, found)
    ]


@pytest.mark.parametrize("figure", [fig2, fig5, fig6, fig7])
def test_an_unknown_function_gives_the_figures_of_the_same_net(requests, figure):
    own, found = (list(figure.draw(request)) for request in requests)
    assert len(own) == len(found) == (2 if figure is fig2 else 1)
    for one, other in zip(own, found, strict=True):
        assert one.arrays.keys() == other.arrays.keys()
        for name, array in one.arrays.items():
            if array.dtype.kind == "U":  # names of layers, one behind the module's
                continue
            scale = max(np.abs(array).max(initial=0), 1)
            np.testing.assert_allclose(other.arrays[name] / scale, array / scale, atol=2e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore::zfjax.RuleWarning")
@pytest.mark.parametrize(
    ("library", "architecture", "chances"),
    [
        (library, [*zoo.ARCHITECTURES][(number + shift) % 6], shift == 0)
        for shift in (0, 1)
        for number, library in enumerate(zoo.LIBRARIES)
    ],
)
def test_figures_of_each_library_and_each_architecture(library, architecture, chances):
    """Two pairs of each, with figure 7 or an atlas's numbers; test_model.py has all pairs, for the places and cuts."""
    squares = np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8)
    model = looked_at.zoo_model(library, architecture)
    found = zfjax.look(model, squares).val
    name = model.feature_layers[-1]
    given = OfModel("net", epath.Path("out"), "", "", "net", None, model)
    shown = {"files": found.unlabeled(np.array([0])), "layers": (name,), "units": (2, 1)}
    request = Request(given, Splits(found, found), **shown, batch_size=4, window=12, stride=12)
    (drawing,) = fig2.draw(request)
    acts = np.asarray(jax.jit(model.layer(name))(found.load(range(4))))
    highest = acts.max(axis=tuple(range(1, acts.ndim - 1)))[:, [2, 1]]
    np.testing.assert_allclose(drawing.arrays["values"], np.sort(highest.T)[:, ::-1], rtol=1e-4, atol=1e-5)
    assert (np.abs(drawing.arrays["projections"][:, 0]).max(axis=(1, 2, 3)) > 0).all()
    if not chances:
        seen = with_unknown(found)
        said = responded(seen, strongest(seen, [name], 4, 4), 4)[name]
        assert (said.cells == acts[..., 0].size).all()
        highest = acts.max(axis=tuple(range(1, acts.ndim - 1)))
        np.testing.assert_allclose(said.excitation[:, 0], highest.mean(0), rtol=1e-4, atol=1e-5)
        return
    (drawing,) = fig7.draw(request)
    image = np.array(found.load([0])[0])
    image[:12, :12] = np.broadcast_to(found.display.cover, image.shape)[:12, :12]
    chances = np.asarray(jax.jit(lambda images: jax.nn.softmax(model(images)))(image[None]))[0]
    assert drawing.arrays["most_probable"][0, 0, 0] == chances.argmax()
    label = drawing.arrays["labels"][0]
    np.testing.assert_allclose(drawing.arrays["probability"][0, 0, 0], chances[label], rtol=1e-4, atol=1e-6)


def test_an_unknown_function_gets_the_scores_of_the_same_net(requests):
    masks = np.zeros((3, 48, 48), bool)
    masks[:, 10:30, 12:40] = True
    lenses = [lens for lens in LENSES if lens.name in ("saliency", "layer_cam", "occlusion")]
    own, found = (
        compare(
            one.subject.model,
            [Labeled(one.subject.load(np.arange(3)), np.array([0, 1, 2]), masks)],
            lenses,
            layer=one.subject.model.place("relu2").name,
            options=Options(jax.random.key(0), batch_size=196),  # as many as occlusion has positions
            n_steps=4,
        )
        for one in requests
    )
    for name in Comparison._fields[:-1]:
        np.testing.assert_allclose(getattr(found, name), getattr(own, name), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.filterwarnings("ignore::zfjax.RuleWarning")
def test_lenses_are_compared_on_any_model(capsys, pictures, tmp_path):
    names = open_source(f"folder:{pictures}").val.names
    (tmp_path / "boxes.json").write_text(json.dumps({name: [8, 8, 20, 24] for name in names}))
    out = tmp_path / "out"
    words = f"--model={HERE}:vit", f"--dataset=folder:{pictures}", f"--out={out}", "--only=saliency,layer_cam"
    few = "--count=4", "--rows=1", "--sanity_images=2", f"--boxes={tmp_path / 'boxes.json'}"
    code, said, errors = run(capsys, compare_lenses.main, *words, *few)
    assert code == 0, errors
    assert "lenses.md" in said
    rows = json.loads((out / "lenses.json").read_text())
    assert "CAMs use patches" in rows["note"]  # tokens have no positions
    assert "The class of 4 images is what the model says" in rows["note"]  # its five outputs have no names
    sanity = json.loads((out / "sanity.json").read_text())["rows"]
    assert [*sanity[0]][3:9:3] == ["head", "narrow"]
    assert abs(sanity[1]["head"]) < 99.9  # a shuffled head changes the map


def run(capsys, main, *words):
    code = command.run(main, ["zfjax", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err.strip().splitlines()[-1:]


@pytest.mark.filterwarnings("ignore::zfjax.RuleWarning")
def test_all_figures_of_a_convnext(capsys, pictures, tmp_path):
    words = f"--model={HERE}:convnext", f"--dataset=folder:{pictures}", f"--out={tmp_path / 'out'}", "--maps=2"
    image = f"--images={next(pictures.rglob('*.png'))}"
    code, out, errors = run(capsys, figures.main, *words, "--window=12", "--stride=6", image)
    assert code == 0, errors
    assert "fig4: not drawn: it needs the checkpoints of a run" in out
    assert "fig8: not drawn: fig8 needs boxes of parts" in out
    names = {file.name for file in (tmp_path / "out").glob("*.png")}
    expected = {"fig2_layer_scale-add.png", "fig2_wide-gelu.png", "fig5_invariance.png", "fig6.png"}
    assert names == expected | {"fig7_occlusion.png"}


@pytest.mark.filterwarnings("ignore::zfjax.RuleWarning")
def test_the_filters_of_a_vit_are_those_of_its_patches(capsys, pictures, tmp_path):
    words = f"--model={HERE}:vit", f"--dataset=folder:{pictures}", f"--out={tmp_path / 'out'}", "--only=fig6"
    assert run(capsys, figures.main, *words)[0] == 0
    with np.load(tmp_path / "out" / "fig6.npz") as arrays:
        np.testing.assert_array_equal(arrays["run1_kernel"], looked_at.vit()._weights["patches"]["kernel"])


@pytest.mark.filterwarnings("ignore::zfjax.RuleWarning")
def test_the_atlas_of_any_model(capsys, pictures, tmp_path):
    out = tmp_path / "site"
    words = f"--model={HERE}:convnext", f"--dataset=folder:{pictures}", f"--out={out}"
    code, _, errors = run(capsys, atlas.main, *words, "--layers=layer_scale/add")
    assert code == 0, errors
    assert (out / "layer" / "layer_scale-add.html").is_file()
    # The model's outputs have other names than the pictures' classes.
    assert "unknown" in (out / "class" / "0.html").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["site"]  # nothing is left beside it


def test_files_are_enough_for_any_model(capsys, pictures, tmp_path):
    file = next(pictures.rglob("*.png"))
    words = f"--model={HERE}:vit", f"--images={file}", f"--out={tmp_path / 'out'}", "--only=fig5"
    assert run(capsys, figures.main, *words)[0] == 0


@pytest.mark.filterwarnings("ignore::zfjax.RuleWarning")
def test_a_file_of_onnx_takes_what_the_flags_say(capsys, pictures, tmp_path, monkeypatch):
    seen = []

    def from_onnx(file, classes, preprocess):
        seen.append(preprocess)
        return zfjax.Model(
            looked_at.vit().function, (1, *looked_at.vit().image_shape), classes=classes, preprocess=preprocess
        )

    monkeypatch.setattr(given_of, "from_onnx", from_onnx)
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    file = f"--images={next(pictures.rglob('*.png'))}"
    words = "--model=net.onnx", file, f"--out={tmp_path / 'out'}", "--only=fig5", "--bgr", "--mean=1,2,3"
    words = *words, f"--class_names={tmp_path / 'names.txt'}"
    assert run(capsys, figures.main, *words)[0] == 0
    np.testing.assert_allclose(
        seen[0](np.zeros((1, 2, 2, 3), np.uint8))[0, 0, 0], -np.array([1, 2, 3]) / [0.229, 0.224, 0.225]
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--out=o", "--bgr"], "--bgr has no meaning with a model from a Python file"),
        (["--out=o", "--class_names=x"], "--class_names has no meaning with a model from a Python file"),
        (["--dataset=shapes"], "--model needs a folder for what is written: expected --out=FOLDER"),
        (["--out=o"], "--model needs pictures: expected --dataset=folder:PATH"),
        (["--out=o", "--workdir=run"], "--workdir has no meaning with --model"),
        (["--out=o", "--checkpoint=best"], "--checkpoint has no meaning with --model, which has no checkpoints"),
        (["--out=o", "--dataset=shapes", "--only=fig4"], "it needs the checkpoints of a run, which a model has not"),
    ],
)
def test_what_a_model_lacks_is_said_in_one_line(capsys, monkeypatch, tmp_path, words, line):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OfModel, "splits", OfModel.splits if len(words) < 3 else lambda given: _splits())
    code, _, (said,) = run(capsys, figures.main, f"--model={HERE}:vit", *words)
    assert code == 2
    assert line in said


def _splits():
    return zfjax.look(looked_at.vit(), np.zeros((2, 32, 32, 3), np.uint8))


def test_labels_are_outputs_of_the_same_name(pictures):
    def model(classes=None, outputs=3):
        def fun(images):
            return jnp.tile(images.mean((1, 2, 3))[:, None], (1, outputs))

        return zfjax.Model(fun, (1, 32, 32, 3), classes=classes, preprocess=looked_at.PREPROCESSING)

    spec = f"folder:{pictures}"
    val = zfjax.look(model(), spec).val
    assert val.classes == tiny_runs.CLASSES  # as many, without names of their own
    named = zfjax.look(model(["Stripes", "dogs", "circles"]), spec).val
    expected = {"circles": 2, "noise": -1, "stripes": 0}
    assert named.labels.tolist() == [expected[tiny_runs.CLASSES[label]] for label in val.labels]
    assert set(zfjax.look(model(outputs=4), spec).val.labels) == {-1}
    cranes = zfjax.look(model(["crane", "noise", "crane"]), np.zeros((1, 32, 32, 3), np.uint8)).val
    assert cranes.classes == ("crane (0)", "noise", "crane (2)")


def test_models_that_cannot_be_looked_at_are_refused():
    wide = zfjax.Model(lambda images: images, (1, 24, 32, 3), preprocess=lambda squares: squares / 255)
    with pytest.raises(UserError, match="images of 24×32 px; expected as many rows as columns"):
        zfjax.look(wide, np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="does not know what to make of a picture"):
        zfjax.look(zfjax.Model(lambda images: images, (1, 32, 32, 3)), np.zeros((1, 32, 32, 3), np.uint8))
    three = zfjax.Model(
        lambda images: images.mean((1, 2)), (1, 32, 32, 3), classes=["a"], preprocess=looked_at.PREPROCESSING
    )
    with pytest.raises(UserError, match="1 classes are named, but the model has 3 outputs; expected one name for each"):
        zfjax.look(three, np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="at least the 24 px of the model's images, got 16"):
        zfjax.look(looked_at.vit(), np.zeros((1, 16, 16, 3), np.uint8))


SQUARES = np.random.default_rng(1).integers(0, 256, (3, 6, 6, 3), np.uint8)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Preprocessing((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 255.0, bgr=True),
        lambda squares: squares / np.float32(255) * 2 - 1,
        lambda squares: squares.astype(np.float32) - SQUARES[:1].astype(np.float32),  # a mean image
    ],
)
def test_a_display_gives_back_the_pictures(preprocess):
    display = display_of(preprocess, (6, 6))
    images = np.asarray(preprocess(SQUARES))
    np.testing.assert_allclose(display.pixels(images), SQUARES, atol=0.02)
    fields = np.array([[1, 2, 3, 4]] * 3)
    np.testing.assert_allclose(display.pixels(images[:, 1:4, 2:6], fields), SQUARES[:, 1:4, 2:6], atol=0.02)
    # A signal at the images is one at the pictures: <signal, image of a change> is <signal shown, change>.
    signal, change = np.random.default_rng(2).normal(size=(2, 1, 6, 6, 3)).astype(np.float32)
    moved = change @ display.mixing
    np.testing.assert_allclose((signal * moved).sum(), (display.signals(signal) * change).sum(), rtol=1e-3)
    middle = display.pixels(np.broadcast_to(display.cover, (1, 6, 6, 3)))
    assert 32 <= middle.mean() <= 223


def test_pictures_that_are_made_in_another_way_are_shown_from_black_to_white():
    display = display_of(lambda squares: np.square(squares.astype(np.float32)), (6, 6))
    assert display.mixing is None
    shown = display.pixels(np.square(SQUARES.astype(np.float32)))
    assert (shown.min(), shown.max()) == (0, 255)
    gray = display_of(lambda squares: squares.mean(-1, keepdims=True) / 255, (6, 6))
    assert gray.pixels(np.zeros((2, 6, 6, 1))).shape == (2, 6, 6, 3)


def _place(name, kind, *shape):
    return Place(name, kind, shape, 0, 0, None, None, None)


def test_the_layers_to_look_at():
    chain = [_place(f"relu{number}", "relu", size, size, 8) for number, size in enumerate((32, 16, 8, 8, 8), start=1)]
    assert feature_layers([*chain, _place("relu6", "relu", 64)]) == ("relu1", "relu2", "relu3", "relu4", "relu5")
    blocks = [_place(f"block{number}", "block", 16 >> number // 2, 16 >> number // 2, 8) for number in range(8)]
    assert feature_layers(blocks) == ("block1", "block3", "block5", "block7")
    kinds = {"block": ("dense", "gelu", "add"), "linear": ("dense", "shift")}  # a matrix product and its bias, in ONNX
    nested = [
        _place(name, kind, 16, 16, 8)
        for number in range(4)
        for outer, inner in kinds.items()
        for name, kind in [(f"{outer}{number}", "block"), *((f"{outer}{number}/{kind}", kind) for kind in inner)]
    ]
    assert feature_layers(nested) == ("block0", "block1", "block2", "block3")
    vit = [_place("patches", "conv", 4, 4, 8), *(_place(f"add{number}", "add", 17, 8) for number in range(1, 13))]
    assert feature_layers(vit) == ("add3", "add6", "add9", "add12")
    with pytest.raises(UserError, match="no maps to show"):
        feature_layers([_place("head", "dense", 10)])

"""`zfjax explain`: one page for one picture, what would change the answer, and bad input in one line each."""

import json
import re

import jax
import jax.numpy as jnp
import looked_at
import numpy as np
import pytest
import tiny_runs
from PIL import Image

import zfjax
from zfjax import explain
from zfjax.console import command
from zfjax.data.boxes import edges
from zfjax.experiments import explanation
from zfjax.experiments.explanation import CELLS, MEASURES, Explanation, Flip, Missed, Why, best_of, flipped
from zfjax.experiments.lenses import LENSES, MORE, Options, case_of, highest_maps
from zfjax.explain import page, words
from zfjax.runs import looking

SIDE = 4 * CELLS


def answering(weights):
    """A model of pictures of 7×7 squares: each class's logit adds up what some squares show."""

    def net(images):
        kernel = jnp.full((4, 4, 1, 1), 1 / 16, jnp.float32)
        maps = jax.lax.conv_general_dilated(images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.einsum("nhwc,khw->nk", maps, jnp.asarray(weights, jnp.float32))

    return zfjax.Model(net, (1, SIDE, SIDE, 1))


def case_for(weights, batch_size=32):
    model = answering(weights)
    image = np.ones((1, SIDE, SIDE, 1), np.float32)
    return case_of(model, "conv1", image, np.array([0]), Options(jax.random.key(0), batch_size))


def squares(found):
    """The rows and columns of squares, in their order."""
    return [(top // 4, left // 4) for top, left, *_ in edges(found.boxes).tolist()]


def test_the_one_square_that_changes_the_answer_is_found():
    weights = np.zeros((3, CELLS, CELLS))
    weights[0, 2, 3], weights[0, 5, 5], weights[1, 0, 0], weights[2, 1, 1] = 3, 1, 1.5, 2
    found = flipped(case_for(weights), 0, None)
    assert squares(found) == [(2, 3)]
    assert found.becomes == 2
    np.testing.assert_allclose(found.probability, np.exp(2) / np.exp([1, 1.5, 2]).sum(), rtol=1e-5)
    assert found.boxes.tolist() == [[8, 12, 4, 4]]
    # For another class than the next, what speaks for the next has to go as well.
    found = flipped(case_for(weights, batch_size=5), 0, 1)
    assert sorted(squares(found)) == [(1, 1), (2, 3)]
    assert found.becomes == 1


def test_squares_that_are_not_needed_after_all_are_given_back():
    """The largest step comes first, and is not needed once two others are there: those both remove more together."""
    weights = np.zeros((2, CELLS, CELLS))
    weights[0, 3, 3], weights[0, 3, 4], weights[0, 3, 5] = 4, 3.9, 3.8
    weights[1, 0, 0] = 4.1
    found = flipped(case_for(weights), 0, 1)
    hidden = {*squares(found)}
    for left_out in hidden:  # none can be left out
        rest = weights[0].sum() - sum(weights[0][square] for square in hidden - {left_out})
        assert rest > 4.1
    assert weights[0].sum() - sum(weights[0][square] for square in hidden) < 4.1
    assert len(hidden) == 2


def test_an_answer_that_nothing_changes_has_no_squares():
    weights = np.ones((2, CELLS, CELLS))
    weights[1] = 0.5
    assert flipped(case_for(weights), 0, 1) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    pictures = tiny_runs.make_folder(folder / "pictures", per_class=6)
    return tiny_runs.untrained(pictures, folder / "run"), pictures


def test_a_page_a_picture_and_numbers_are_written(capsys, monkeypatch, run, tmp_path):
    workdir, pictures = run
    picture = tmp_path / "<b>one & two.png"
    picture.write_bytes((pictures / "noise" / "000.png").read_bytes())
    one = [lens for lens in LENSES if lens.name == "grad_cam"]
    answers = []

    def explained_once(*arguments):
        answers.append(answers[0] if answers else explanation.explained(*arguments, lenses=one))
        return answers[0]

    monkeypatch.setattr(page, "explained", explained_once)
    assert command.run(explain.main, ["explain", str(picture), f"--workdir={workdir}", "--nearest=3"]) == 0
    said = capsys.readouterr().out.strip()
    files = {path.suffix: path for path in (workdir / "explain").iterdir()}
    assert {*files} == {".html", ".png", ".json"}
    assert said.startswith(f"written to {workdir}/explain: ")
    values = json.loads(files[".json"].read_text())
    assert np.isclose(sum(values["probabilities"].values()), 1)
    assert values["says"] == max(values["probabilities"], key=values["probabilities"].get)
    assert {*values["measures"]} == {*values["maps"]} == {"grad_cam"}
    measures = values["measures"]["grad_cam"]
    assert {*measures} == {measure.name for measure in MEASURES}
    assert measures["agreement"] is None  # there is no other lens
    assert np.shape(values["maps"]["grad_cam"]) == (48, 48)
    assert values["contrasts"] == {}
    # The picture is one of the split, which may be the training split: then it is its own nearest picture.
    cosines = [one["cosine"] for one in values["nearest"]]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)
    assert all(one["picture"].startswith(one["class"]) for one in values["nearest"])
    html = files[".html"].read_text()
    assert "<b>one" not in html  # a name is text
    assert "&lt;b&gt;one" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)  # needs no other file
    assert html.count("<img ") == 1 + (values["flip"] is not None) + 1 + 3
    assert all(line in html.replace("&#39;", "'") for line in values["words"])
    with Image.open(files[".png"]) as drawn:
        assert drawn.width == 1500

    # The same picture replaces its page; another one with its name does not.
    other = tmp_path / "other" / picture.name
    other.parent.mkdir()
    other.write_bytes((pictures / "noise" / "001.png").read_bytes())
    for file, count in ((picture, 1), (other, 2), (other, 2)):
        assert command.run(explain.main, ["explain", str(file), f"--workdir={workdir}", "--nearest=0"]) == 0
        assert len([*(workdir / "explain").glob("*.json")]) == count
    assert (workdir / "explain" / f"{files['.json'].stem}-2.html").exists()
    assert json.loads(files[".json"].read_text())["picture"] == str(picture)


def test_an_expected_class_is_asked_about(run):
    workdir, pictures = run
    subject = zfjax.open_run(workdir).train
    image = subject.of_files(pictures / "noise" / "000.png").images
    options = Options(jax.random.key(0), 32)
    (lens,) = (lens for lens in LENSES if lens.name == "grad_cam")
    said = explanation.explained(subject.model, "relu5", image, None, options, [lens]).said
    other = (said + 1) % 3
    found = explanation.explained(subject.model, "relu5", image, other, options, [lens])
    (why,) = found.why
    expected = zfjax.attribution.grad_cam(
        subject.model.split("relu5"), image, lambda logits: logits[:, other] - logits[:, said]
    )
    assert (why.contrast.max() > 0) == bool(np.asarray(expected).max() > 0)
    assert np.isnan(why.measures["agreement"])  # with no other lens
    if found.flip is not None:
        assert found.flip.becomes == other
    answer = words.lines(found, subject.classes, ())[0]
    assert f"expected was {subject.classes[other]}" in answer


def test_the_page_of_an_expected_class_is_whole(capsys, run, tmp_path):
    """Nothing replaced: all five lenses, of any model."""
    _, pictures = run
    picture, model = pictures / "noise" / "000.png", f"--model={looked_at.__file__}:small"
    image = looking.alone(looked_at.small()).of_files(picture).images
    *_, other, said = np.argsort(looked_at.small()(image)[0]).tolist()
    words = [str(picture), model, f"--out={tmp_path}", f"--expected=output {other}"]
    assert command.run(explain.main, ["explain", *words]) == 0, capsys.readouterr().err
    (file,) = tmp_path.rglob("*.json")
    values, html = json.loads(file.read_text()), file.with_suffix(".html").read_text()
    assert (values["says"], values["expected"]) == (f"output {said}", f"output {other}")
    names = [lens.name for lens in explanation.FIVE]
    for each in ("measures", "maps", "contrasts"):
        assert list(values[each]) == names
    assert all(None not in values["measures"][name].values() for name in names if np.any(values["maps"][name]))
    assert any(np.any(contrast) for contrast in values["contrasts"].values())
    flip = values["flip"]
    assert flip is None or flip["becomes"] == values["expected"]
    assert values["nearest"] == []
    assert f"Why <bdi>output {other}</bdi> rather than <bdi>output {said}</bdi>" in html
    for lens in explanation.FIVE:
        assert f'alt="The map of {lens.title} for output {other} rather than output {said}"' in html
    assert html.count("<img ") == 1 + (flip is not None) + 2 * len(names)
    assert file.with_suffix(".png").exists()

    # LRP shares out the logit; integrated gradients what it gains over the empty picture, here the mean.
    logits = looked_at.small()(np.concatenate([image, np.zeros_like(image)]))[:, said]
    missed = values["missed"]
    assert {*missed} == {"lrp", "integrated_gradients"}
    assert missed["lrp"]["whole"] == pytest.approx(float(logits[0]), rel=1e-4)
    assert missed["integrated_gradients"]["whole"] == pytest.approx(float(logits[0] - logits[1]), rel=1e-4)
    for one in missed.values():
        assert one["share"] == pytest.approx(abs(one["error"] / one["whole"]))
        assert one["share"] < 0.05
    assert html.count("its parts add up to") == 2
    assert "its parts add up to 100 % of the logit<" in html


def test_probabilities_that_are_of_no_softmax_are_told_as_they_are():
    one = looked_at.small()

    def of_two(images):
        return (jax.nn.softmax(one(images)) + jax.nn.softmax(one(-images))) / 2

    model, image = (
        zfjax.Model(of_two, (1, *one.image_shape)),
        jax.random.normal(jax.random.key(1), (1, *one.image_shape)),
    )
    lens = next(lens for lens in LENSES if lens.name == "grad_cam")
    found = explanation.explained(model, highest_maps(one), image, None, Options(jax.random.key(0), 49), [lens])
    np.testing.assert_allclose(found.probabilities, of_two(image)[0], rtol=1e-5)


def test_a_softmax_at_the_end_changes_nothing_of_an_explanation():
    plain = looked_at.small()
    ends = zfjax.Model(lambda images: jax.nn.softmax(plain(images)), (1, *plain.image_shape))
    image = jax.random.normal(jax.random.key(1), (1, *plain.image_shape))
    some = [lens for lens in (*LENSES, *MORE) if lens.name in ("grad_cam", "lrp")]
    options = Options(jax.random.key(0), 49)
    expected, found = (
        explanation.explained(model, highest_maps(model), image, 2, options, some) for model in (plain, ends)
    )
    assert expected.said != 2
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5)
    for one, other in zip(found.why, expected.why, strict=True):
        np.testing.assert_allclose(one.heat, other.heat, rtol=1e-4, atol=1e-4 * other.heat.max())
        np.testing.assert_allclose(one.contrast, other.contrast, rtol=1e-4, atol=1e-4 * np.abs(other.contrast).max())
        assert one.measures == pytest.approx(other.measures, rel=1e-3, abs=1e-5, nan_ok=True)
    assert expected.flip is not None
    assert found.flip.boxes.tolist() == expected.flip.boxes.tolist()
    assert found.flip.probability == pytest.approx(expected.flip.probability, rel=1e-4)


def test_words_say_what_was_found():
    why = Why(LENSES[0], np.ones((4, 4)), None, {measure.name: 0.5 for measure in MEASURES})
    nothing = Why(LENSES[1], np.ones((4, 4)), None, {measure.name: np.nan for measure in MEASURES})
    shares = np.array([0.7, 0.2, 0.1])
    found = Explanation(shares, 0, None, (nothing, why), Flip(np.array([[0, 0, 4, 4]]), 1, 0.6), None)
    first, change, near, trust = words.lines(found, "abc", ["b", "a", "b"])
    assert first == "The net says a (70.0%), then b (20.0%)."
    assert change == "Covering one square, of 49, makes it say b (60.0%)."
    assert near == "The 3 nearest training pictures are of: 2 b, 1 a."
    assert trust.startswith("On this picture gradient × input does best by 7 of 7") == (
        LENSES[1].title == why.lens.title
    )
    assert best_of(found, "road") == 1
    assert words.sum_of(why) == ""
    assert words.sum_of(why._replace(missed=Missed(-2.0, 0.06, False))) == "its parts add up to 97 % of the logit"
    gains = why._replace(missed=Missed(4.0, 0.04, True))
    assert words.sum_of(gains) == "its parts add up to 101 % of what the logit gains over an empty picture"
    assert words.sum_of(why._replace(missed=Missed(0.0, 0.06, False))) == ""
    many = found._replace(expected=2, flip=Flip(np.zeros((3, 4), int), 2, 0.5))
    first, change, _ = words.lines(many, "abc", [])
    assert first == "The net says a (70.0%); expected was c, which it gives 10.0%, place 3 of 3."
    assert "covering 3 makes it say c (50.0%)" in change
    assert "say c." in words.lines(many._replace(flip=None), "abc", [])[1]
    assert words.lines(found._replace(expected=0), "abc", [])[0] == "The net says a (70.0%), as expected."
    alone = found._replace(why=(nothing,))
    assert best_of(alone, "road") is None
    assert words.lines(alone, "abc", [])[-1] == "No map can be measured: all are constant."


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ([], "explain takes one picture, such as explain dog.jpg --workdir=RUN; got none"),
        (
            ["a.png", "b.png"],
            "explain takes one picture, such as explain dog.jpg --workdir=RUN; got 2: 'a.png', 'b.png'",
        ),
        (["nowhere.png"], "nowhere.png"),
        (["PICTURES"], "PICTURES"),
        (["PICTURE", "--expected=circle"], "no class 'circle' in the run's 3; did you mean circles?"),
        (["PICTURE", "--nearest=-1"], "--nearest=-1: expected"),
        (["PICTURE", "--layer=relu5"], "unknown flag --layer"),
        (["PICTURE", "--checkpoint=77"], "has no checkpoint '77'"),
    ],
)
def test_bad_input_is_one_line(capsys, run, more, line):
    workdir, pictures = run
    named = {"PICTURES": str(pictures), "PICTURE": str(pictures / "noise" / "000.png")}
    assert (
        command.run(explain.main, ["explain", *(named.get(word, word) for word in more), f"--workdir={workdir}"]) == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("zfjax: ")
    assert named.get(line, line) in said


def test_a_model_without_logits_is_refused(capsys, tmp_path, run):
    _, pictures = run
    (tmp_path / "nets.py").write_text(
        "import jax, zfjax\n"
        "def maps(images): return jax.nn.relu(images)\n"
        "def mine():\n"
        "    return zfjax.Model(maps, (1, 16, 16, 3), preprocess=lambda pictures: pictures / 255.0)\n"
    )
    words = [str(pictures / "noise" / "000.png"), f"--model={tmp_path / 'nets.py'}:mine", f"--out={tmp_path / 'out'}"]
    assert command.run(explain.main, ["explain", *words]) == 2
    assert "explain needs a model that gives logits [N, classes]" in capsys.readouterr().err

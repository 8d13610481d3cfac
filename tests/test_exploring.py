"""Looking at a picture through a model, without a page: views, kept passes, projections, the brush, lenses."""

import importlib.util
import inspect
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import randomized

import zfjax
from zfjax import attribution
from zfjax.console.errors import UserError
from zfjax.experiments import passes
from zfjax.experiments.exploring import keeping, looks, menus, painting
from zfjax.experiments.exploring.explorer import Explorer, Known
from zfjax.experiments.exploring.keeping import Cache
from zfjax.experiments.exploring.view import CELLS, View, over, packed, read, unpacked
from zfjax.models import incremental
from zfjax.models.nets import NetModel
from zfjax.transform import seeds

SIDE = 48


@pytest.fixture(scope="module")
def subject():
    net = zfjax.zfnet(4, width=0.05, image_size=SIDE)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3))))
    squares = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE, 3), np.uint8)
    model = NetModel(net, variables, classes="abcd", preprocess=lambda squares: jnp.asarray(squares, jnp.float32) - 128)
    return zfjax.look(model, squares).val


@pytest.fixture(scope="module")
def explorer(subject):
    return Explorer(subject, {"relu2": Known(passes.strongest(subject, ["relu2"], 9, 4)["relu2"], None)})


def painted(*boxes):
    cells = np.zeros((CELLS, CELLS), bool)
    for top, left, size in boxes:
        cells[top : top + size, left : left + size] = True
    return packed(cells)


@pytest.mark.parametrize(
    "view",
    [
        View(),
        View("7", painted((3, 4, 5)), "2", "block1/conv2 & more", 0, 0, 5, "guided", 3, "grad_cam"),
        View("u12ab", place="relu5", unit=12),
    ],
)
def test_a_link_brings_back_its_view(view):
    assert read(view.link) == view
    assert read(f"?{view.link}&utm=x") == view


@pytest.mark.parametrize("link", ["map=x", "class=-1", "row=1e3", "column=99999999999999999999"])
def test_a_link_of_no_view_is_one_line(link):
    with pytest.raises(UserError, match=f"{link.partition('=')[0]}: expected a whole number"):
        read(link)


def test_painted_cells_come_back_and_cover_their_share(subject):
    cells = np.random.default_rng(1).random((CELLS, CELLS)) < 0.3
    assert np.array_equal(unpacked(packed(cells)), cells)
    assert packed(np.zeros_like(cells)) == ""
    assert over(unpacked(painted((0, 0, CELLS))), 45).all()
    assert np.array_equal(over(cells, CELLS), cells)
    assert over(unpacked(painted((0, 0, CELLS // 2))), SIDE).sum() == SIDE * SIDE // 4
    some = packed(cells)
    for letters in ("x", "eNpj", "é", "A" * 300, f'{some}")#;', some + "\n" * 4):
        with pytest.raises(UserError, match="painted: expected what a link of this page has"):
            unpacked(letters)


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        ("deconvnet", [("conv2", None), ("relu3", (20, 30)), ("fc8", None)]),
        ("guided", [("relu4", (40, 10))]),
        ("epsilon_gamma_box", [("pool5", None), ("fc7", None)]),
    ],
)
def test_a_projection_is_that_of_the_layer_alone(explorer, rules, asked):
    """One tape serves all places; the answer is what `backproject` gives of each."""
    for place, pixel in asked:
        row, column = pixel or (None, None)
        view = explorer.settled(View("3", place=place, row=row, column=column, rules=rules))
        image = jnp.asarray(explorer.image(view))[None]
        shape = explorer.places[place].shape
        cell = divmod(explorer.cell(view), shape[1]) if len(shape) == 3 else ()

        @jax.jit
        def alone(layer, image, unit=view.unit, cell=cell):
            y, project = zfjax.backproject(layer, image, menus.RULES[rules].rules)
            return project(seeds.at(y, [unit], tuple(np.array([index]) for index in cell)))[0]

        expected = np.asarray(alone(explorer.subject.model.layer(place), image))
        found = explorer.projection(view)
        assert np.allclose(found, expected, atol=1e-5 * float(np.abs(expected).max()) + 1e-12), place
        assert found.any(), place


def test_the_python_of_each_set_of_rules_names_it():
    for choice in menus.RULES.values():
        assert eval(choice.source, {"zfjax": zfjax}) is choice.rules


def test_maps_come_strongest_first_and_a_clicked_pixel_asks_what_looks_there(explorer):
    view = explorer.settled(View("5", place="relu2"))
    maps = np.asarray(explorer.subject.model.layer("relu2")(explorer.subject.load([5])))[0]
    order = explorer.ranked(view)
    assert np.allclose(order.values, np.sort(maps.max((0, 1)))[::-1])
    assert view.unit == order.units[0]
    place = explorer.places["relu2"]
    row, column = (round(place.offset[axis] + place.stride[axis] * cell) for axis, cell in enumerate((1, 2)))
    clicked = explorer.settled(view._replace(row=row, column=column, unit=None))
    assert explorer.cell(clicked) == place.shape[1] + 2
    assert np.allclose(explorer.ranked(clicked).values, np.sort(maps[1, 2])[::-1])
    top, left, height, width = looks.field_of(place, explorer.cell(clicked))
    assert (height, width) == place.receptive_field
    assert abs(top + (height - 1) / 2 - row) <= 0.5
    assert abs(left + (width - 1) / 2 - column) <= 0.5


def test_nan_comes_last_in_the_order_of_maps():
    order = looks.ranked(np.array([[[np.nan, 1.0, 3.0]]]))
    assert order.units.tolist() == [2, 1, 0]


@pytest.mark.parametrize("boxes", [[(0, 0, 3)], [(13, 20, 4)], [(29, 29, 3)], [(4, 4, 3), (8, 10, 2)]])
def test_the_brush_computes_what_changed_as_a_whole_pass_does(explorer, boxes):
    before = View("1")
    near = explorer.look(before)
    view = before._replace(painted=painted(*boxes))
    image = explorer.image(view)
    found = painting.recomputed(explorer._painting, explorer.subject.model, near.acts, (near.image, image))
    assert found is not None
    expected = looks.forward(explorer._fun, jnp.asarray(image)[None])
    assert found.keys() >= expected.keys()
    for name, act in expected.items():
        assert np.allclose(found[name], act, atol=1e-5 * float(jnp.abs(act).max())), name
    again = explorer.look(view, before)
    more = view._replace(painted=painted(*boxes, (10, 10, 2)))
    twice = painting.recomputed(
        explorer._painting, explorer.subject.model, again.acts, (again.image, explorer.image(more))
    )
    expected = looks.forward(explorer._fun, jnp.asarray(explorer.image(more))[None])
    assert np.allclose(twice["fc8"], expected["fc8"], atol=1e-5)


def test_a_brush_over_everything_is_a_whole_pass(explorer):
    view = View("1", painted((0, 0, CELLS)))
    near = explorer.look(View("1"))
    images = near.image, explorer.image(view)
    assert painting.recomputed(explorer._painting, explorer.subject.model, near.acts, images) is None
    assert not explorer.look(view, View("1")).image.any()  # the mean, which is subtracted


def test_what_a_plan_lists_is_what_rectangles_reach(explorer):
    net, size = explorer.subject.net, incremental.Size(SIDE, SIDE, 3)
    one = [np.array([side], np.int32) for side in (5, 30, 9, 9)]
    plan, (changed,) = incremental.plan(net, ("relu5",), size, [incremental.Rectangles(*one)])
    for planned, found in zip(changed, incremental.reached(plan, incremental.Rectangles(*one)), strict=True):
        assert [side.tolist() for side in planned] == [side.tolist() for side in found]


def test_a_picture_goes_through_the_model_once(subject, monkeypatch):
    counted = []
    forward = looks.forward
    monkeypatch.setattr(looks, "forward", lambda *args: counted.append(1) or forward(*args))
    explorer = Explorer(subject)
    for unit in range(3):
        view = explorer.settled(View("2", place="relu1", unit=unit))
        explorer.classes(view), explorer.ranked(view), explorer.fires(view)
    assert len(counted) == 1


def test_the_strongest_patches_are_the_gallerys(explorer, subject):
    from zfjax.experiments.gallery import gallery

    view = explorer.settled(View(place="relu2", unit=3))
    expected = gallery(subject.model.layer("relu2"), explorer.known["relu2"].top, [3], subject.load)
    found = explorer.strongest(view)
    assert np.array_equal(found.values, expected.values)
    assert np.allclose(found.projections, expected.projections)
    assert explorer.strongest(explorer.settled(View(place="relu3", unit=0))) is None


def test_the_menu_has_all_lenses():
    functions = {name for name in attribution.__all__ if inspect.isfunction(getattr(attribution, name))}
    here = {lens.of.__name__ for lens in menus.ALL.values()}
    assert functions - here == {"per_pixel", "spectrum", "upsample"}


@pytest.mark.parametrize("name", ["saliency", "gradient_times_input", "grad_cam", "unit_relevance", "gradient_shap"])
def test_a_lens_says_what_it_says_alone(explorer, subject, name):
    view = explorer.settled(View("4", lens=name, label=2, painted=painted((0, 0, 4))))
    found = explorer.lensed(view)
    image, target = jnp.asarray(explorer.image(view))[None], np.array([2])
    split = subject.model.split("relu5")
    assert explorer.cam_layer == "relu5"
    match name:
        case "grad_cam" | "unit_relevance":
            expected = getattr(attribution, name)(split, image, target)
            expected = expected.sum(-1) if name == "unit_relevance" else expected
        case "gradient_shap":
            expected = attribution.gradient_shap(
                subject.model.function, image, target, subject.load(np.arange(12)), jax.random.key(0), n_samples=50,
                batch_size=16,
            ).attributions  # fmt: skip
        case _:
            expected = getattr(attribution, name)(subject.model.function, image, target)
    assert np.allclose(found.found, expected[0], rtol=1e-4, atol=1e-7)
    assert found.heat.shape == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (View("12"), "picture 12: expected a number below 12"),
        (View("03"), "picture 03: expected a number below 12"),
        (View("٣"), "picture ٣: expected a number below 12"),
        (View("-1"), "picture -1: expected a number below 12"),
        (View("u00"), "this picture is not here any more"),
        (View(beside="99"), "picture 99"),
        (View(place="relu9"), "did you mean"),
        (View(place="relu2", unit=999), "map 999: relu2 has"),
        (View(row=3), "row and column: expected a pixel"),
        (View(row=3, column=SIDE), "row and column: expected a pixel"),
        (View(rules="guide"), "no rules guide; did you mean guided"),
        (View(lens="grad_cm"), "no lens grad_cm; did you mean grad_cam"),
        (View(label=4), "class 4: the model has 4"),
    ],
)
def test_a_view_of_nothing_is_one_line(explorer, view, line):
    with pytest.raises(UserError, match=line):
        explorer.settled(view)


def test_a_file_that_is_no_picture_is_refused_as_everywhere(explorer):
    with pytest.raises(UserError, match=r"cannot read the image notes\.txt: "):
        explorer.add(b"no picture", "notes.txt")


def test_any_model_is_looked_at():
    """Without our layers, classes or pictures: a function with a convolution and a skip."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 5)) / 5

    def fun(images):
        y = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y) + y

    model = zfjax.Model(fun, (1, 16, 16, 3), preprocess=lambda squares: squares.astype(jnp.float32) / 255)
    squares = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    explorer = Explorer(zfjax.look(model, squares).val)
    view = explorer.settled(View("2"))
    assert explorer.classes(view) == []
    assert not explorer.lenses
    assert view.label is None
    for name in explorer.places:
        assert explorer.projection(explorer.settled(view._replace(place=name, unit=1))).shape == (16, 16, 3)
    assert explorer.look(view._replace(painted=painted((0, 0, 2))), view).acts


def test_kept_results_have_bounded_room_and_are_made_once(monkeypatch):
    kept = Cache[bytes](100, len)
    for number in range(50):
        kept.or_made(number, lambda: bytes(30))
    assert [number for number in range(50) if kept.get(number) is not None] == [47, 48, 49]
    assert kept.or_made("large", lambda: bytes(1000)) == kept.get("large")  # the last one stays
    kept = Cache[bytes](100, len)
    for size in (90, 10, 10):  # another result in place of the first
        kept.put("same", bytes(size))
    kept.put("other", bytes(85))
    assert kept.get("same") == bytes(10)
    kept.put("other", bytes(95))
    assert kept.get("same") is None
    monkeypatch.setattr(keeping, "give_back", lambda: given.append(1))
    given, much = [], Cache[int](0, lambda size: size)  # of what only says how large it is
    for number in range(8):
        much.put(number, 50_000_000)
    assert len(given) == 2
    started, go, made = threading.Event(), threading.Event(), []

    def make():
        started.set()
        go.wait(10)
        made.append(1)
        return b"x"

    threads = [threading.Thread(target=kept.or_made, args=("slow", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go.set()
    for thread in threads:
        thread.join()
    assert made == [1]
    with pytest.raises(ZeroDivisionError):
        kept.or_made("wrong", lambda: 1 // 0)
    assert kept.or_made("wrong", lambda: b"right") == b"right"


def test_without_gradio_the_page_says_what_it_needs(explorer, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else find(name))
    with pytest.raises(UserError, match=r"pip install 'zfjax\[explore\]'"):
        zfjax.explore(explorer.subject)


def test_the_function_keeps_its_name_from_the_command():
    """Whichever of the two is imported first, and whatever of the package is imported later."""
    assert inspect.isfunction(zfjax.explore)
    command = importlib.import_module("zfjax.explore")
    assert inspect.ismodule(command)
    del vars(zfjax)["explore"]
    importlib.reload(command)
    importlib.import_module("zfjax.explore.opening")
    assert inspect.isfunction(zfjax.explore)

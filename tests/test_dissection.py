"""Labels of maps: thresholds and overlaps counted one picture at a time, on one device or many, at once or in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zfjax.data import colors
from zfjax.data.annotations import Annotations
from zfjax.data.shapes import owners, prepared_builder
from zfjax.data.shapes.annotations import DrawnObjects
from zfjax.data.shapes.builder import ShapesConfig
from zfjax.data.shapes.canvas import CLUTTER
from zfjax.experiments import dissection
from zfjax.experiments.dissection import STEP, Concept, Overlaps, Pictured, concepts_of, labels_of, overlaps
from zfjax.experiments.gallery import top_activations
from zfjax.experiments.lenses import Grid, placed
from zfjax.experiments.responses import LabeledImages, responses
from zfjax.runs.boxes import BoxedObjects, Known
from zfjax.training.sharding import data_mesh

GRID = Grid((1.5, 2.5), (4.0, 4.0))
NAMES = {"class": ("a", "b"), "part": ("c", "d", "e")}


def layers(images):
    return {"one": images[:, ::4, ::4], "two": images[:, 1::4, 1::4, :2] * 2.0}


@pytest.fixture(scope="module")
def pictured():
    """Sixteen images of 16×16 and what they show; the last two are padding."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(16, 16, 16, 3)).astype(np.float32)
    pictures = rng.integers(0, 256, (16, 20, 20, 3), np.uint8)
    pixels = rng.integers(0, [3, 4], (16, 16, 16, 2)).astype(np.uint8)
    numbers = np.array([*range(14), -1, -1], np.int32)
    return Pictured(*map(jnp.asarray, (images, numbers, pictures, pixels)))


THRESHOLDS = {"one": np.array([0.5, 1.0, 0.0], np.float32), "two": np.array([0.2, 9.0], np.float32)}


def counted(batches, mesh=None, before=None):
    return overlaps(layers, batches, THRESHOLDS, {"one": GRID, "two": GRID}, (2, 3), mesh, before)


def test_overlaps_are_those_of_masks_counted_one_by_one(pictured):
    found, concepts = counted([pictured]), concepts_of(NAMES)
    assert [concept.name for concept in concepts[:5]] == ["a", "b", "c", "d", "e"]
    shown = np.asarray(colors.color_numbers(pictured.pictures[:14, 2:18, 2:18]))
    every = np.concatenate([np.asarray(pictured.pixels[:14]), shown[..., None]], axis=-1)
    every = every[:, ::STEP, ::STEP]
    masks = [every[..., k] == number + 1 for k, count in enumerate((2, 3, 11)) for number in range(count)]
    for name, maps in layers(np.asarray(pictured.images[:14])).items():
        for unit, threshold in enumerate(THRESHOLDS[name]):
            fires = placed(maps[..., unit], GRID, (16, 16))[:, ::STEP, ::STEP] > threshold
            assert found[name].of_map[unit] == fires.sum()
            assert found[name].both[unit].tolist() == [(fires & mask).sum() for mask in masks]
    assert found["one"].of_concept.tolist() == [mask.sum() for mask in masks]
    assert found["two"].of_map[1] == 0
    assert np.isfinite(found["two"].iou).all()


def test_devices_and_parts_make_no_difference(pictured):
    whole = counted([pictured])
    halves = [Pictured(*(part[some] for part in pictured)) for some in (slice(0, 8), slice(8, 16))]
    first = counted(halves[:1])
    mesh = data_mesh()
    rows = [jax.device_put(half, jax.NamedSharding(mesh, jax.P("data"))) for half in halves]
    for again in (counted(halves[1:], before=first), counted(rows, mesh)):
        for name, one in whole.items():
            assert all(np.array_equal(*pair) for pair in zip(one, again[name], strict=True))
    assert not np.array_equal(first["one"].both, whole["one"].both)  # nothing was added to what was given


def test_no_batches_are_an_error():
    with pytest.raises(ValueError, match="batches: expected at least one"):
        counted([])


@pytest.mark.parametrize("share", [0.0, 0.005, 0.1, 0.9])
def test_thresholds_leave_the_share_above_them(share):
    images = jax.random.normal(jax.random.key(1), (40, 8, 8, 5)) * jnp.array([[[[1, 10, 0.1, 1, 0]]]])
    images = images.at[..., 3].set(-jnp.abs(images[..., 3]) - 1)  # never fires; nor does the last
    top = top_activations(lambda x: x, [images])
    found = responses(lambda x: x, [LabeledImages(images, np.zeros(40, np.int64))], top, 1)
    cells = np.asarray(images).reshape(-1, 5)
    assert found.fine.sum(axis=1).tolist() == (cells > 0).sum(axis=0).tolist()
    thresholds = found.threshold(share)
    assert ((cells > thresholds[None] * 1.0001).mean(axis=0) <= share + (thresholds == 0)).all()
    finer = thresholds - 2 * found.edges[:, -1] / found.fine.shape[1]
    assert ((cells > finer[None]).mean(axis=0) > share)[thresholds > 0].all()
    assert (thresholds[3:] == 0).all()


def test_a_label_is_the_largest_overlap_above_the_floor():
    found = Overlaps(np.array([[5, 5, 0], [0, 1, 0], [0, 0, 0]]), np.array([10, 10, 0]), np.array([10, 10, 0]))
    concepts = tuple(Concept("part", name) for name in "abc")
    first, second, third = labels_of(found, concepts, floor=0.05)
    assert (first.concept.name, first.iou) == ("a", 1 / 3)  # of equals the first
    assert (second.concept.name, second.iou) == ("b", 1 / 19)
    assert third is None
    assert labels_of(found, concepts, floor=0.06)[1] is None
    # What the floor is said to exclude: a mask of the share of the cells, laid at random over half of all pixels.
    assert dissection.SHARE * 0.5 / (dissection.SHARE + 0.5 - dissection.SHARE * 0.5) < dissection.FLOOR / 4


def test_colors_have_their_names():
    numbers = np.asarray(colors.color_numbers(np.array([COLORS[name] for name in colors.NAMES], np.uint8)))
    assert [{colors.NAMES[number - 1] for number in pair} for pair in numbers] == [{name} for name in colors.NAMES]


COLORS = {
    "black": [[0, 0, 0], [40, 20, 30]],
    "gray": [[128, 128, 128], [90, 95, 100]],
    "white": [[255, 255, 255], [230, 225, 220]],
    "red": [[255, 0, 0], [150, 20, 30]],
    "orange": [[255, 165, 0], [230, 126, 34]],
    "brown": [[139, 69, 19], [101, 67, 33]],
    "yellow": [[255, 255, 0], [200, 190, 40]],
    "green": [[0, 128, 0], [60, 200, 90]],
    "blue": [[0, 0, 255], [70, 130, 180]],
    "purple": [[128, 0, 128], [120, 40, 200]],
    "pink": [[255, 192, 203], [255, 105, 180]],
}


def test_pixels_of_drawings_are_those_of_their_parts(tmp_path):
    """Found again by their objects' pixels, although TFDS stores them in another order."""
    config = ShapesConfig(name="few", train=10, validation=20, seed=3)
    builder = prepared_builder(str(tmp_path), config)
    annotations = DrawnObjects(builder, "validation")
    pixels = annotations.pixels(np.arange(20), square=128, size=128)
    masks = annotations.masks(np.arange(20), square=128, size=128)
    names = annotations.pixel_names
    whole, part, around = np.moveaxis(pixels, -1, 0)
    assert ((whole > 0) == masks).all()
    assert ((part > 0) == masks).all()
    assert ((around > 0) == ~masks).all()
    for of_picture, of_parts in zip(whole, part, strict=True):
        (label,) = set(np.unique(of_picture)) - {0}
        drawn = {names["part"][number - 1] for number in np.unique(of_parts) if number}
        assert {name.split()[0] for name in drawn} == {names["class"][label - 1]}
    # Those of one drawing, whichever its place in the file.
    first = owners(np.random.default_rng((3, 1, 0)), 0)
    same = [i for i in range(20) if np.array_equal(masks[i], (first > 0) & (first < CLUTTER))]
    (place,) = same
    assert (part[place] == np.where(masks[place], first, 0)).all()  # the first class's parts come first
    assert (around[place] == np.select([masks[place], first == 0, first == CLUTTER], [0, 1, 2], 3)).all()


def test_boxes_say_of_which_class_pixels_are():
    """By the pictures' numbers in the dataset, of which broken ones are left out; unknown classes show nothing."""
    boxes = {0: (0, 0, 2, 2), 2: (1, 1, 3, 3), 3: (0, 0, 4, 4)}

    def masks(numbers):
        found = np.zeros((len(numbers), 4, 4), bool)
        for mask, number in zip(found, numbers, strict=True):
            top, left, height, width = boxes[int(number)]
            mask[top : top + height, left : left + width] = True
        return found

    kept, labels = np.array([1, 4, 5, 9]), np.array([1, 0, 0, -1])
    known = BoxedObjects(Known(np.array([0, 2, 3]), masks), kept, labels, ("a", "b"))
    assert known.pixel_names == {"class": ("a", "b")}
    found = known.pixels(np.array([9, 1, 4, 5]), square=5, size=4)[..., 0]
    assert not found[0].any()  # of no class of the model
    assert found[1].tolist() == [[2, 2, 0, 0], [2, 2, 0, 0], [0] * 4, [0] * 4]
    assert not found[2].any()  # it has no box
    assert (found[3] == np.pad(np.ones((3, 3)), ((1, 0), (1, 0)))).all()
    many = BoxedObjects(known.known, kept, labels, tuple(map(str, range(300))))
    assert many.pixel_names == {"object": ("object",)}
    assert (many.pixels(np.array([1]), square=5, size=4) == (found[1:2, ..., None] > 0)).all()
    assert isinstance(known, Annotations)

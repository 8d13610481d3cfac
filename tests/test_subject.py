"""The images that experiments look at: one of each class, or files."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import zfjax
from zfjax.console.errors import UserError
from zfjax.data.pictures import CachedPictures
from zfjax.data.shapes.masks import masks
from zfjax.models.edits import without
from zfjax.models.nets import NetModel
from zfjax.runs.subject import of_net

CLASSES = ("blue", "green", "red")


def colors(net_color):
    """A net that knows the three colors by their sum over the image, and pictures of them, one class missing."""
    net = zfjax.ConvNet((zfjax.models.specs.Dense("fc1", 3),), image_size=8)
    kernel = np.tile(np.eye(3, dtype=np.float32)[::-1], (64, 1)) * net_color
    variables = {"params": {"fc1": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}}
    squares = np.zeros((6, 9, 9, 3), np.uint8)
    labels = np.array([2, 0, 2, 0, 2, 2], np.int32)
    for square, label in zip(squares, labels, strict=True):
        square[..., 2 - label] = 200
    squares[0] = squares[1]  # a red one that looks blue
    pictures = CachedPictures(squares, labels, np.arange(6))
    subject = of_net(net, variables, np.zeros((9, 9, 3), np.float32), CLASSES)
    return subject._replace(pictures=pictures, labels=labels, kept=np.arange(6))


def test_one_of_each_class_is_one_that_the_net_gets_right():
    for seed in range(5):
        chosen = colors(1.0).one_of_each([2, 0], np.random.default_rng(seed))
        assert chosen.labels.tolist() == [2, 0]
        assert chosen.names == ("red", "blue")
        assert chosen.numbers[0] in (2, 4, 5)  # not 0
        assert chosen.images.shape == (2, 8, 8, 3)
    wrong_net = colors(-1.0).one_of_each([2], np.random.default_rng(0))
    assert wrong_net.numbers[0] in (0, 2, 4, 5)


def test_a_class_without_images_and_one_that_is_none_are_named():
    subject = colors(1.0)
    with pytest.raises(UserError, match="the split has no image of class 'green'"):
        subject.one_of_each([1], np.random.default_rng(0))
    with pytest.raises(UserError, match="did you mean green"):
        subject.label_of("gren")
    with pytest.raises(UserError, match="there are blue, green, red"):
        subject.label_of("violet")


def test_the_class_of_a_file_is_its_folder_or_what_the_net_says(tmp_path):
    pixels = np.zeros((12, 16, 3), np.uint8)
    pixels[..., 0] = 250
    paths = [tmp_path / "green" / "a.png", tmp_path / "mine" / "b.png"]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(colors(1.0).of_files(str(paths[1])).images, colors(1.0).of_files(paths[1:]).images)
    with pytest.raises(UserError, match="images: expected one file or more"):
        colors(1.0).of_files([])
    chosen = colors(1.0).of_files(paths)
    assert chosen.labels.tolist() == [1, 2]
    assert chosen.names == ("a", "b")
    classes = colors(1.0).classes
    assert chosen.titles(classes) == [classes[1], f"b (net: {classes[2]})"]  # a guess is not shown as the truth
    np.testing.assert_allclose(chosen.images[0], pixels[:8, :8], atol=1)
    gray = tmp_path / "gray.png"
    Image.fromarray(pixels[..., 0]).save(gray)
    assert colors(1.0).of_files([gray]).images.shape == (1, 8, 8, 3)
    gray.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"cannot read the image .*gray.png"):
        colors(1.0).of_files([gray])
    with pytest.raises(UserError, match=r"cannot read the image .*none.png"):
        colors(1.0).of_files([tmp_path / "none.png"])


@pytest.mark.parametrize("number", [-1, 6])
def test_numbers_that_no_picture_has_are_named(number):
    assert colors(1.0).load([0, 5]).shape == (2, 8, 8, 3)
    with pytest.raises(IndexError, match=f"numbers: expected some of the split's 6 pictures, 0 and up; got {number}"):
        colors(1.0).load([0, number])


def test_layers_are_named_whatever_was_left_out():
    net = zfjax.zfnet(10, width=0.05, image_size=96)
    assert NetModel(net, {}).feature_layers == ("relu1", "relu2", "relu3", "relu4", "relu5")
    assert NetModel(without(net, (3, 5)), {}).feature_layers == ("relu1", "relu2", "relu4")
    assert NetModel(net, {}).last_hidden == "relu7"
    assert NetModel(without(net, (7,)), {}).last_hidden == "relu6"
    with pytest.raises(UserError, match="no maps to show"):
        colors(1.0).model.feature_layers  # noqa: B018


def test_masks_lie_where_the_objects_are():
    """As the pictures do that are decoded to squares and cropped: here half the size, and 4 px off each side."""
    drawn = np.zeros((2, 128, 128), np.uint8)
    drawn[0, 20:60, 40:100] = 255
    drawn[1, 8:, 8:12] = 255
    encoded = []
    for mask in drawn:
        file = io.BytesIO()
        Image.fromarray(mask).save(file, format="PNG")
        encoded.append({"mask": file.getvalue()})
    builder = SimpleNamespace(as_data_source=lambda split, decoders: encoded)
    found = masks(builder, "validation", np.array([1, 0]), square=64, size=56)
    expected = np.zeros((2, 56, 56), bool)
    expected[0, 0:, 0:2] = True
    expected[1, 6:26, 16:46] = True
    assert (found != expected).mean() < 0.01

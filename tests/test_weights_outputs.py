"""What outputs are called: files of names, names that several have, and nets cut to some of them."""

import codecs
import os

import numpy as np
import pytest
from goldens import make_logits as goldens

from zfjax.console.errors import UserError
from zfjax.models import preset
from zfjax.weights import files, layouts, outputs, pretrained

NAMES = ("tench", "café", "maillot", "naïve owl")


class TestFiles:
    """One name per line."""

    def read(self, tmp_path, content):
        (tmp_path / "names.txt").write_bytes(content)
        return outputs.read_names(tmp_path / "names.txt")

    def said(self, tmp_path, content):
        with pytest.raises(UserError) as raised:
            self.read(tmp_path, content)
        return str(raised.value)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
    def test_encodings_and_ends_of_lines(self, tmp_path, encoding, end):
        mark = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-32-be": codecs.BOM_UTF32_BE}.get(encoding, b"")
        for text in (end.join(NAMES), end.join(f" {name}\t " for name in NAMES) + end * 3, end + end.join(NAMES)):
            assert self.read(tmp_path, mark + text.encode(encoding)) == (NAMES, ())

    def test_windows_1252_is_said(self, tmp_path):
        names, notes = self.read(tmp_path, "\r\n".join((*NAMES, "8… €")).encode("cp1252"))
        assert names == (*NAMES, "8… €")
        path = tmp_path / "names.txt"
        assert notes == (f"{path} is not UTF-8 and was read as Windows-1252: line 2 is 'café'",)

    def test_letters_are_composed(self, tmp_path):
        assert self.read(tmp_path, "cafe\u0301".encode()).names == ("café",)

    def test_other_separators_are_parts_of_names(self, tmp_path):
        assert self.read(tmp_path, "a\u2028b\nc\x0bd".encode()).names == ("a\u2028b", "c\x0bd")

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "is empty; expected class names, one per line, in the order of the net's outputs"),
            (b" \n\r\n", "is empty"),
            (b"a\n\nb\n \nc\n", "has no name in line 2, 4; expected one per line"),
            ("a\nb".encode("utf-16-le"), "is not text in UTF-8; expected class names, one per line"),
            (b"a\n\x81\x8d\n", "is not text in UTF-8 (line 2); expected class names, one per line"),
            (b"a\rb\r\x81\x8d\r", "is not text in UTF-8 (line 3); expected class names"),
            (codecs.BOM_UTF8 + b"caf\xe9", "is not text in UTF-8 (line 1); expected class names"),
            (codecs.BOM_UTF16_LE + b"a", "is not text in UTF-8 (line 1); expected class names"),
        ],
    )
    def test_what_has_no_names(self, tmp_path, content, expected):
        assert expected in self.said(tmp_path, content)

    @pytest.mark.parametrize(
        "text",
        [
            '["tench", " cafe\u0301 "]',
            '{"1": "café", "0": "tench"}',
            '{"0": ["n01440764", "tench"], "1": ["n1", "café"]}',
            "{0: 'tench',\n 1: 'café'}\n",
        ],
    )
    def test_lists_and_dictionaries(self, tmp_path, text):
        assert self.read(tmp_path, text.encode()) == (("tench", "café"), ())

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("[]", "names.txt has no name; expected a list of class names, or names by the outputs' numbers"),
            ('{"0": "a", "2": "b"}', "names.txt has no name for output 1; expected a list of class names"),
            *(('["a", 3]', "has no name for output 1"), ('[["n1"], []]', "has no name for output 1")),
            ('{"0": {"a": "b"}}', "has no name for output 0"),
        ],
    )
    def test_those_without_names(self, tmp_path, text, expected):
        assert expected in self.said(tmp_path, text.encode())

    def test_names_that_only_look_like_a_list(self, tmp_path):
        assert self.read(tmp_path, b"[other]\ntench").names == ("[other]", "tench")
        assert len(self.read(tmp_path, b"[" * 100_000).names) == 1

    def test_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "nowhere.txt", tmp_path / "pipe", "/dev/zero"):
            with pytest.raises(UserError, match="cannot read the class names in "):
                outputs.read_names(path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("crane", "tench", "crane"), ("crane (0)", "tench", "crane (2)")),
        (("a", "b"), ("a", "b")),
        (("a", "a", "a (0)"), ("a (0) (0)", "a (1)", "a (0) (2)")),
        ((), ()),
    ],
)
def test_names_that_several_have(names, expected):
    assert outputs.distinct(names) == expected
    assert outputs.distinct(expected) == expected


class TestCut:
    """The last layer cut to a dataset's classes."""

    @pytest.fixture(scope="class")
    @classmethod
    def loaded(cls):
        sizes = {"width": 1 / 16, "image_size": 64}
        net = preset("resnet18", 5, **sizes)
        slots = layouts.slots(net, layouts.MODELS["resnet18"].modules(net, {}))
        tensors = goldens.state_dict({slot.name: slot.shape for slot in slots})
        return pretrained.from_file(files.TensorFile(tensors, {}), "a.pth", "resnet18", **sizes)

    def test_rows_in_the_datasets_order(self, loaded):
        cut = outputs.with_outputs(loaded, list("abcde"), ["d", "a"], "folder:x")
        assert (cut.outputs, cut.net.layers[-1].features) == (2, 2)
        before, after = loaded.variables["params"]["fc"], cut.variables["params"]["fc"]
        np.testing.assert_array_equal(after["kernel"], before["kernel"][:, [3, 0]])
        np.testing.assert_array_equal(after["bias"], before["bias"][[3, 0]])
        assert loaded.outputs == 5

    def test_letters_composed_or_not(self, loaded):
        names = ["a", "cafe\u0301", "c", "d", "e"]
        cut = outputs.with_outputs(loaded, names, ["café", "a"], "folder:x")
        bias = loaded.variables["params"]["fc"]["bias"]
        np.testing.assert_array_equal(cut.variables["params"]["fc"]["bias"], bias[[1, 0]])

    @pytest.mark.parametrize(
        ("names", "wanted", "expected"),
        [
            ("abcd", "ab", "4 classes are named, but the net has 5 outputs"),
            (
                ["one", "two", "three", "four", "five"],
                ["thre", "x", "y", "z", "one"],
                r"folder:x has classes that the net does not know: thre, x, y and 1 more; did you mean three\?",
            ),
            (
                "abbde",
                "ab",
                r"the net has 2 outputs called 'b'; expected the class of folder:x to be one of b \(1\), b \(2\)",
            ),
        ],
    )
    def test_names_that_do_not_fit(self, loaded, names, wanted, expected):
        with pytest.raises(UserError, match=expected):
            outputs.with_outputs(loaded, list(names), list(wanted), "folder:x")

    def test_a_name_twice_does_not_matter_where_it_is_not_wanted_or_told_apart(self, loaded):
        cut = outputs.with_outputs(loaded, list("abbde"), ["e", "b (2)"], "folder:x")
        bias = loaded.variables["params"]["fc"]["bias"]
        np.testing.assert_array_equal(cut.variables["params"]["fc"]["bias"], bias[[4, 2]])

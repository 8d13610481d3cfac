"""Files of weights: what is read, what is refused, and that nothing in a pickle is run."""

import json
import os
import pathlib
import pickle
import struct
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from zfjax.console.errors import UserError
from zfjax.weights import files


def tensors():
    rng = np.random.default_rng(0)
    return {"conv.weight": rng.normal(size=(2, 3, 1, 1)).astype(np.float32), "conv.bias": np.arange(2.0)}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value)


class Payload:
    """A pickle that makes a file as it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.target),)


def test_safetensors_back_and_forth(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    files.write(path, tensors(), {"what": "a test"})
    found = files.read(path)
    same(found.tensors, tensors())
    assert found.metadata == {"what": "a test"}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.safetensors"]


def test_a_transposed_tensor_is_written_as_it_is_seen(tmp_path):
    value = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    files.write(tmp_path / "a.safetensors", {"x": value}, {})
    np.testing.assert_array_equal(files.read(tmp_path / "a.safetensors").tensors["x"], value)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8])
def test_safetensors_keep_their_dtype(tmp_path, dtype):
    value = np.array([1.5, -2, 3]).astype(dtype)
    if dtype is ml_dtypes.bfloat16:  # as other programs write it: safetensors' older NumPy writers cannot
        header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + value.tobytes())
    else:
        save_file({"x": value}, tmp_path / "a.safetensors")
    same(files.read(tmp_path / "a.safetensors").tensors, {"x": value})


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_all_names_are_taken_off(tmp_path, prefix):
    save_file({prefix + name: value for name, value in tensors().items()}, tmp_path / "a.safetensors")
    assert files.read(tmp_path / "a.safetensors").tensors.keys() == tensors().keys()


def test_a_prefix_of_some_names_stays(tmp_path):
    save_file({"module.x": np.zeros(1), "y": np.zeros(1)}, tmp_path / "a.safetensors")
    assert set(files.read(tmp_path / "a.safetensors").tensors) == {"module.x", "y"}


@pytest.mark.parametrize(
    "content", [b"", b"no weights at all, and long enough", b"\x10\0\0\0\0\0\0\0{'x': not json}"], ids=len
)
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.safetensors is no safetensors file that can be read: ") as raised:
        files.read(path)
    assert "\n" not in str(raised.value)


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="no safetensors file"):
        files.read(path)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*nowhere\.pth; expected weights as \.pth, \.pt or"):
        files.read(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="no such file"):  # a folder
        files.read(tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"HDF")
    with pytest.raises(UserError, match=r"weights\.h5 is no file of weights that zfjax knows"):
        files.read(tmp_path / "weights.h5")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"expected a name that ends in \.safetensors"):
        files.write(tmp_path / "a.pth", tensors(), {})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.write(tmp_path / "file" / "a.safetensors", tensors(), {})


def test_without_pytorch_the_command_to_install_it_is_told(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"needs PyTorch: pip install 'zfjax\[torch\]'"):
        files.read(tmp_path / "a.pth")


class TestTorch:
    """.pth files; these need PyTorch."""

    @pytest.fixture(autouse=True)
    def torch(self):
        self.torch = pytest.importorskip("torch")
        return self.torch

    def save(self, path, value):
        self.torch.save(value, path)
        return path

    def state(self):
        return {name: self.torch.from_numpy(value) for name, value in tensors().items()}

    @pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "pth.tar"])
    def test_a_state_dict(self, tmp_path, suffix):
        found = files.read(self.save(tmp_path / f"a.{suffix}", self.state()))
        same(found.tensors, tensors())
        assert found.metadata == {}

    def test_pytorchs_older_format(self, tmp_path):
        self.torch.save(self.state(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
        same(files.read(tmp_path / "a.pth").tensors, tensors())

    @pytest.mark.parametrize("key", files.WRAPPERS)
    def test_a_training_scripts_checkpoint(self, tmp_path, key):
        wrapped = {
            "epoch": 3,
            key: {f"module.{name}": value for name, value in self.state().items()},
            "optimizer": {"state": {}, "param_groups": []},
        }
        same(files.read(self.save(tmp_path / "a.pth", wrapped)).tensors, tensors())

    def test_parameters_and_half_precision(self, tmp_path):
        weight = self.torch.nn.Parameter(self.torch.tensor([1.5, -2.25]))
        half = {"a": weight, "b": weight.detach().bfloat16(), "c": weight.detach().half()}
        found = files.read(self.save(tmp_path / "a.pth", half)).tensors
        assert [value.dtype.name for value in found.values()] == ["float32", "bfloat16", "float16"]
        for value in found.values():
            np.testing.assert_array_equal(value.astype(np.float32), [1.5, -2.25])

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, tmp_path, zipped):
        target = tmp_path / "made"
        self.torch.save(
            {"x": self.torch.zeros(1), "y": Payload(target)},
            tmp_path / "a.pth",
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(UserError, match=r"a\.pth is refused, and nothing of it was run: it asks for ") as raised:
            files.read(tmp_path / "a.pth")
        assert "\n" not in str(raised.value)
        assert not target.exists()

    def test_a_plain_pickle_with_code_is_refused_and_not_run(self, tmp_path):
        target = tmp_path / "made"
        (tmp_path / "a.pth").write_bytes(pickle.dumps(Payload(target)))
        with pytest.raises(UserError, match=r"a\.pth is (refused|no checkpoint)"):
            files.read(tmp_path / "a.pth")
        assert not target.exists()
        pickle.loads((tmp_path / "a.pth").read_bytes())  # the payload does what it is there for
        assert target.exists()

    def test_a_whole_module_is_refused(self, tmp_path):
        with pytest.raises(
            UserError, match=r"it asks for torch\.nn.* beside tensors; expected what torch.save\(model\.s"
        ):
            files.read(self.save(tmp_path / "a.pth", self.torch.nn.Linear(2, 2)))

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 and then nothing", b"\x80\x02."], ids=len)
    def test_what_is_no_checkpoint_is_named(self, tmp_path, content):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.pth is no checkpoint that PyTorch can read.*expected what") as raised:
            files.read(tmp_path / "a.pth")
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize(
        ("value", "found"),
        [([1, 2], "found a list"), ({}, "found a dict"), ({"epoch": 3}, "found an int under 'epoch'")],
    )
    def test_what_is_no_state_dict_is_named(self, tmp_path, value, found):
        with pytest.raises(UserError, match=f"holds no state_dict: expected tensors by name, {found}"):
            files.read(self.save(tmp_path / "a.pth", value))

    def test_a_tensor_that_is_no_array_is_named(self, tmp_path):
        sparse = self.torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)
        with pytest.raises(UserError, match=r"conv\.weight in .*a\.pth is no plain array"):
            files.read(self.save(tmp_path / "a.pth", {"conv.weight": sparse}))

    def test_a_pytorch_that_runs_code_all_the_same_is_refused(self, tmp_path, monkeypatch):
        path = self.save(tmp_path / "a.pth", self.state())
        monkeypatch.setattr(self.torch, "__version__", "2.5.1+cpu")
        with pytest.raises(UserError, match=r"PyTorch 2\.5\.1\+cpu lets a \.pth file run code .*expected 2\.6"):
            files.read(path)


def test_others_can_read_what_is_written(tmp_path):
    mask = os.umask(0o022)
    try:
        files.write(tmp_path / "net.safetensors", {"x": np.zeros(3, np.float32)}, {})
    finally:
        os.umask(mask)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o644

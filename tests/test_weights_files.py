"""Files of weights: what is read, what is refused, and that nothing in a pickle is run. PyTorch is not needed."""

import collections
import functools
import io
import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
from goldens import make_checkpoints as checkpoints
from safetensors.numpy import save_file

from zfjax.console.errors import UserError
from zfjax.weights import files, pickles, torch_files


def tensors():
    rng = np.random.default_rng(0)
    return {"conv.weight": rng.normal(size=(2, 3, 1, 1)).astype(np.float32), "conv.bias": np.arange(2.0)}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        np.testing.assert_array_equal(found[name], value)


def refused(path):
    """The line that says why a file is not read."""
    with pytest.raises(UserError) as raised:
        files.read(path)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 1000
    return line


def test_safetensors_back_and_forth(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    assert files.write(path, tensors(), {"what": "a test"}) == path
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


def headed(**header):
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content


def test_dtypes_and_sizes_that_numpy_lacks(tmp_path):
    """They are named, and do not hide the others."""
    odd = {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}, {"shape": [0, 2**62], "data_offsets": [2, 2]}
    header = {"x": odd[0], "y": {"dtype": "F32"} | odd[1]}
    (tmp_path / "a.safetensors").write_bytes(headed(**header) + b"\0" * 2)
    assert "holds no tensors that can be read: x, y is F32, F8_E8M0" in refused(tmp_path / "a.safetensors")
    header["z"] = {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}
    (tmp_path / "a.safetensors").write_bytes(headed(**header) + b"\0" * 6)
    found = files.read(tmp_path / "a.safetensors")
    assert (found.tensors.keys(), found.unread) == ({"z"}, {"x": "F8_E8M0", "y": "F32"})


@pytest.mark.parametrize("name", ["a.SafeTensors", "a.bin", "a"])
def test_a_file_is_what_is_in_it(tmp_path, name):
    save_file(tensors(), tmp_path / name)
    same(files.read(tmp_path / name).tensors, tensors())


@pytest.mark.parametrize(
    "content", [b"no weights at all, and long enough", b"\x10\0\0\0\0\0\0\0{'x': not json}"], ids=len
)
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert "a.safetensors is not a readable safetensors file: " in refused(tmp_path / "a.safetensors")


def test_a_truncated_file_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    files.write(path, tensors(), {})
    path.write_bytes(path.read_bytes()[:-3])
    assert "is not a readable safetensors file" in refused(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (
            b"no checkpoint",
            "is not a file of weights that zfjax knows; expected .pth, .pt, .ckpt, .bin or .safetensors",
        ),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is Git LFS's pointer to a file of weights"),
        (b"<!doctype html>", "is a page of the web"),
        (b'{"weight_map": {}}', "is JSON, such as the index of a model in several files"),
    ],
    ids=len,
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_else_lies_under_such_names_is_said(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    line = refused(tmp_path / name)
    assert expected in line or (content == b"no checkpoint" and "is not a readable safetensors file" in line)


def test_missing_files_and_folders(tmp_path):
    assert f"{tmp_path / 'nowhere.pth'} is not there; expected a file of weights, .pth" in refused(
        tmp_path / "nowhere.pth"
    )
    assert f"{tmp_path} is a folder; expected a file of weights" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    assert "pipe.pth is not a regular file; expected a file of weights" in refused(tmp_path / "pipe.pth")
    assert "cannot read " in refused(tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.pth", r"cannot write weights to a\.pth: expected a name that ends in \.safetensors"),
        ("https://host/a.safetensors", r"--out https://host/a\.safetensors: expected a path on this disk"),
    ],
)
def test_what_cannot_be_written(tmp_path, monkeypatch, path, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected):
        files.write(path, tensors(), {})
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        files.write(tmp_path / "file" / "a.safetensors", tensors(), {})


def test_others_can_read_what_is_written(tmp_path):
    mask = os.umask(0o022)
    try:
        files.write(tmp_path / "net.safetensors", {"x": np.zeros(3, np.float32)}, {})
    finally:
        os.umask(mask)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o644


# What each of the files that PyTorch wrote has besides the convolution's tensors.
WEIGHTS = {
    "state_dict.pth": {"": 1.0},
    "old.PTH": {"": 1.0},
    "protocol4.pt": {"": 1.0},
    "no_checksums.pth": {"": 1.0},
    "training.pth": {"model.": 1.0, "model_ema.module.": 0.5},
    "old_training.pth": {"model.": 1.0, "model_ema.module.": 0.5},
    "lightning.ckpt": {"state_dict.net._orig_mod.": 1.0},
    "module.pt": {"model.module.": 1.0},
}


class TestPyTorchs:
    """Files that PyTorch wrote; those in the repository, and, where it is installed, of today's."""

    @pytest.mark.parametrize("live", [False, True])
    def test_their_tensors_by_name(self, tmp_path, live):
        folder = checkpoints.FOLDER
        if live:
            pytest.importorskip("torch")
            checkpoints.save(folder := tmp_path)
        assert {path.name for path in folder.iterdir()} == set(WEIGHTS)
        for name, prefixes in WEIGHTS.items():
            found = files.read(folder / name)
            assert found.metadata == {}
            convs = {key: value for key, value in found.tensors.items() if "conv" in key}
            same(
                convs,
                {
                    prefix + key: value * np.float32(factor)
                    for prefix, factor in prefixes.items()
                    for key, value in checkpoints.tensors().items()
                },
            )
            assert not [key for key in found.tensors if "optim" in key or "exp_avg" in key]

    def test_other_dtypes_views_and_parameters(self, tmp_path):
        torch = pytest.importorskip("torch")
        weight = torch.nn.Parameter(torch.tensor([[1.5, -2.25, 3.0], [0.0, 7.0, 1.0]]))
        whole = weight.detach()
        kinds = [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool, torch.uint16, torch.complex64]
        saved = {
            **{"parameter": weight, "turned": whole.T, "part": whole[1:, 1:], "spread": whole[0, 0].expand(4, 5)},
            **{str(kind): whole.to(kind) for kind in kinds},
            **{"empty": torch.zeros(0, 3), "scalar": torch.tensor(3), "float8": whole.to(torch.float8_e4m3fn)},
        }
        torch.save(saved, tmp_path / "a.pth")
        found = files.read(tmp_path / "a.pth").tensors
        assert found.keys() == saved.keys()
        for name, value in saved.items():
            assert found[name].shape == tuple(value.shape), name
            plain = value.detach().to(torch.complex64 if value.is_complex() else torch.float64).numpy()
            np.testing.assert_array_equal(found[name].astype(plain.dtype), plain, err_msg=name)
        assert [found[str(kind)].dtype.name for kind in kinds] == [str(kind).removeprefix("torch.") for kind in kinds]

    @pytest.mark.parametrize("kind", ["sparse", "quantized", "meta"])
    def test_a_tensor_that_is_no_array_is_named(self, tmp_path, kind):
        torch = pytest.importorskip("torch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer PyTorchs say that quantized tensors are old
            value = {
                "sparse": lambda: torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True),
                "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
                "meta": lambda: torch.zeros(2, device="meta"),
            }[kind]()
        torch.save({"conv.weight": value}, tmp_path / "a.pth")
        assert "holds no plain tensors: conv.weight (torch._utils._rebuild_" in refused(tmp_path / "a.pth")

    def test_state_dicts_in_lists_and_objects(self, tmp_path):
        """As scripts keep them: (weights, epoch), a learner with its net, a named tuple."""
        torch = pytest.importorskip("torch")
        held = {
            "": collections.UserDict(checkpoints.state()),
            "0.": (checkpoints.state(), 3),
            "nets.0.": {"nets": [checkpoints.state(), [1, 2]], "optimizer": checkpoints.optimizer()},
            "model.": checkpoints.Learner(checkpoints.net()),
            "optimized_model.": {"optimized_model": checkpoints.state(), "opt": checkpoints.state()},
            "best.0.": {"best": checkpoints.Trained(checkpoints.net(), 3)},
        }
        for prefix, value in held.items():
            torch.save(value, tmp_path / "a.pth")
            names = {name.removeprefix("data.") for name in files.read(tmp_path / "a.pth").tensors}  # UserDict's
            assert names == {prefix + name for name in checkpoints.tensors()}

    def test_a_module_has_all_names_of_its_parts(self, tmp_path):
        torch = pytest.importorskip("torch")
        net = torch.nn.ModuleDict({"stem": (inner := checkpoints.net()), "model": inner})
        torch.save(net, tmp_path / "a.pth")
        assert files.read(tmp_path / "a.pth").tensors.keys() == net.state_dict().keys()

    def test_tensors_that_are_no_arrays_do_not_hide_the_others(self, tmp_path):
        torch = pytest.importorskip("torch")
        from zfjax.weights.pretrained import from_file

        beside = {
            "sparse": torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True),
            "numpy": np.ones(3),
            "negated": torch._neg_view(torch.ones(3)),
            "uninitialized": torch.nn.UninitializedParameter(),
            "ema": {"shadow_params": [torch.ones(2)] * 9, "rng": [torch.ones(2)] * 8, "numpy": ("MT19937", np.ones(2))},
        }
        torch.save({"state_dict": checkpoints.state(), **beside}, tmp_path / "a.pth")
        found = files.read(tmp_path / "a.pth")
        same(found.tensors, {f"state_dict.{name}": value for name, value in checkpoints.tensors().items()})
        assert found.unread.keys() == {*beside, "ema.shadow_params"} - {"ema"}
        assert found.unread["ema.shadow_params"] == "9 tensors without names"
        with pytest.raises(UserError, match=r"; no plain tensors: sparse \(torch\._utils\._rebuild_sparse_"):
            from_file(found, "a.pth", "resnet18")

    def test_numbers_that_are_repeated_a_billion_times(self, tmp_path):
        torch = pytest.importorskip("torch")
        torch.save({"fc.weight": torch.zeros(1).expand(10**6, 1000)}, tmp_path / "a.pth")
        assert "holds fc.weight, which repeats its numbers far beyond the size of" in refused(tmp_path / "a.pth")

    def test_torchscript_is_named_and_the_remedy_works(self, tmp_path, monkeypatch):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
            for name in ("data.pkl", "constants.pkl"):
                archive.writestr(f"a/{name}", b"")
        assert "a.pt is a TorchScript archive, which is a program; expected a state_dict" in refused(tmp_path / "a.pt")
        torch = pytest.importorskip("torch")
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer PyTorchs say that TorchScript is old
            torch.jit.script(checkpoints.net()).save(tmp_path / "it's.pt")
            remedy = refused("it's.pt").partition("makes of it: ")[2]
            exec(remedy, {"torch": torch})
        same(files.read("weights.pth").tensors, checkpoints.tensors())


class Call:
    """Pickled, it asks for a function to be called."""

    def __init__(self, function, *args):
        self.asked = function, args

    def __reduce__(self):
        return self.asked


def pickled(value, protocol=2, old=False):
    """A file as torch.save writes it, without tensors; for a newer PyTorch a zip archive."""
    if old:
        return b"".join(
            pickle.dumps(part, protocol) for part in (torch_files.MAGIC, 1001, {"little_endian": True}, value, [])
        )
    return zipped(pickle.dumps(value, protocol))


def zipped(content, **entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {"data.pkl": content, "byteorder": b"little", "data/0": b"\0" * 8, **entries}.items():
            archive.writestr(f"a/{name}", data)
    return file.getvalue()


class TestCode:
    """Nothing that a pickle asks for is run."""

    @pytest.mark.parametrize(
        ("protocol", "old"), [(0, False), (1, False), (2, False), (4, False), (2, True), (4, True)]
    )
    def test_what_means_harm_is_refused(self, tmp_path, protocol, old):
        target = tmp_path / "made"
        harms = [
            (Call(os.system, f"touch {target}"), ".system"),
            (Call(eval, f"open({str(target)!r}, 'w')"), "builtins.eval"),
            (Call(functools.partial(os.system, f"touch {target}")), ".system"),
            (Call(subprocess.check_call, ["touch", str(target)]), ".check_call"),
        ]
        for call, name in harms:
            for value in (call, {"x": call}, {"state_dict": {"x": [call]}}):
                (tmp_path / "a.pth").write_bytes(pickled(value, protocol, old))
                line = refused(tmp_path / "a.pth")
                assert "a.pth is refused, and nothing of it was run: it asks for " in line
                assert f"{name} beside tensors; expected what torch.save(model.state_dict(), …) writes" in line
        assert not target.exists()

    @pytest.mark.parametrize("old", [False, True])
    def test_whatever_else_is_asked_for_is_not_done(self, tmp_path, old):
        target = tmp_path / "made"
        call = Call(pathlib.Path.touch, target)
        (tmp_path / "a.pth").write_bytes(pickled({"x": call}, old=old))
        assert "a.pth holds no state_dict: expected tensors by name, found a " in refused(tmp_path / "a.pth")
        assert not target.exists()
        pickle.loads(pickle.dumps(call))  # the call does what it is there for
        assert target.exists()

    @pytest.mark.parametrize("name", [*pickles._KNOWN, "torch.FloatStorage", "torch.float32", "some.thing"])
    def test_nothing_can_be_set_on_what_a_pickle_gets(self, tmp_path, name):
        module, _, name = name.rpartition(".")
        state = b"}X\x08\x00\x00\x00__call__K\x01s"
        kept = pickles._KNOWN.copy()
        before = dict(vars(pickles.Placeholder)), dict(vars(pickles._Maker))
        for made in (b"", b")R"):  # itself, and what calling it gives
            for build in (state, b"N" + state + b"\x86", state + state + b"\x86"):
                content = b"\x80\x02c" + f"{module}\n{name}\n".encode() + made + build + b"b."
                (tmp_path / "a.pth").write_bytes(zipped(content))
                refused(tmp_path / "a.pth")
        assert kept == pickles._KNOWN
        assert before == (dict(vars(pickles.Placeholder)), dict(vars(pickles._Maker)))


class TestDamaged:
    """One line each, and no more memory than the file."""

    def test_pickles_of_others_are_said(self, tmp_path):
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"x": 1}))
        assert "a.pth is a pickle, but none of torch.save's; expected what torch.save(" in refused(tmp_path / "a.pth")
        np.savez(tmp_path / "a.npz", x=np.zeros(2))
        assert "is a zip archive, but none of torch.save's: it holds x.npy" in refused(tmp_path / "a.npz")

    def test_tensors_that_pickle_wrote_are_said(self, tmp_path):
        torch = pytest.importorskip("torch")
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"x": torch.ones(2)}))
        assert "a.pth is a pickle, but none of torch.save's; expected what torch.save(" in refused(tmp_path / "a.pth")

    @pytest.mark.parametrize(
        ("value", "found"),
        [([1, 2], "a list"), ({}, "a dict"), ({"epoch": 3}, "an int under 'epoch'"), ({3: [1]}, "a list under 3")],
    )
    def test_what_has_no_tensors_is_named(self, tmp_path, value, found):
        (tmp_path / "a.pth").write_bytes(pickled(value))
        assert f"a.pth holds no state_dict: expected tensors by name, found {found}" in refused(tmp_path / "a.pth")

    @pytest.mark.parametrize("name", ["state_dict.pth", "old.PTH"])
    def test_a_download_cut_short_is_said(self, tmp_path, name):
        content = (checkpoints.FOLDER / name).read_bytes()
        (tmp_path / "a.pth").write_bytes(content[: -10 if name == "old.PTH" else -60])
        assert "a.pth is cut short" in refused(tmp_path / "a.pth")

    def test_a_changed_byte_is_seen(self, tmp_path):
        content = bytearray((checkpoints.FOLDER / "state_dict.pth").read_bytes())
        content[content.index(checkpoints.tensors()["conv.weight"].tobytes()) + 5] ^= 4
        (tmp_path / "a.pth").write_bytes(content)
        assert "does not fit its checksum: the file is damaged" in refused(tmp_path / "a.pth")

    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02}r\x00\x00\x00\x10.",  # room for 2^28 names
            b"\x80\x02}p268435456\n.",
            b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # a terabyte of bytes
            b"\x80\x02" + b"(" * 100_000,
        ],
        ids=["memo", "text memo", "bytes", "marks"],
    )
    def test_a_byte_cannot_ask_for_memory(self, tmp_path, content):
        (tmp_path / "a.pth").write_bytes(zipped(content))
        assert "a.pth is not a readable checkpoint (ValueError: " in refused(tmp_path / "a.pth")

    def test_many_ways_through_the_same_containers(self, tmp_path):
        value = leaf = {}
        for _ in range(100):  # 2^100 paths
            value = {"a": value, "b": value}
        leaf["me"] = value
        (tmp_path / "a.pth").write_bytes(pickled(value))
        assert "holds no state_dict" in refused(tmp_path / "a.pth")

    def test_a_few_hundred_mutations(self, tmp_path):
        """Each is read or refused in a line."""
        save_file(checkpoints.tensors(), tmp_path / "a.safetensors", {"zfjax": "{}"})
        chosen = [checkpoints.FOLDER / name for name in ("state_dict.pth", "old.PTH", "module.pt", "old_training.pth")]
        rng, path, outcomes = random.Random(0), tmp_path / "b", collections.Counter()
        for original in [tmp_path / "a.safetensors", *chosen] * 40:
            path.write_bytes(mutated(original.read_bytes(), rng))
            line = ""
            try:
                files.read(path)
            except UserError as error:
                line = str(error)
            outcomes["refused" if line else "read"] += 1
            assert "\n" not in line
        assert min(outcomes.values()) > 20


def mutated(content, rng):
    """Some bytes changed, cut, repeated or put in; of a zip archive those of its pickle."""
    if content.startswith(torch_files.ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        return zipped(mutated(entries.pop("data.pkl"), rng), **entries)
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place : place + rng.randrange(1, 20)]
            case 2:
                content[place:place] = rng.randbytes(rng.randrange(1, 10))
            case 3:
                content[place : place + 4] = struct.pack("<I", rng.choice((0, 255, 2**16, 2**28, 2**32 - 1)))
    return bytes(content)

"""`zfjax import-weights` and `export-weights` as users type them, on tiny nets and a folder of pictures."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_runs
from etils import epath
from goldens import make_logits as goldens
from safetensors.numpy import load_file, save_file

import zfjax
from zfjax import evaluate, export_weights, figures, import_weights
from zfjax.console import command, sealed
from zfjax.console.errors import UserError
from zfjax.models import preset
from zfjax.runs import imported as imported_runs
from zfjax.runs.folder import RunInfo, load_model, read_run
from zfjax.runs.subject import without_pictures
from zfjax.weights import files, layouts, load, preprocessing

WIDTH, SIZE = 1 / 16, 64
SIZES = (f"--width={WIDTH}", f"--image_size={SIZE}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_runs.make_folder(tmp_path_factory.mktemp("data") / "pictures", per_class=8)


def state_dict(model="resnet18", classes=3):
    net = preset(layouts.MODELS[model].preset, classes, width=WIDTH, image_size=SIZE)
    modules = layouts.MODELS[model].modules(net, {})
    return goldens.state_dict({slot.name: slot.shape for slot in layouts.slots(net, modules)})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(state_dict(), path)
    return path


def run(capsys, main, *words):
    """Exit code, what was printed, and the one line on stderr of a command that fails."""
    code = command.run(main, ["zfjax", *map(str, words)])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("zfjax: ")]
    assert len(lines) == (code != 0), err
    return code, out, lines[0] if lines else ""


@pytest.fixture(scope="module")
def imported(folder, source, tmp_path_factory):
    """A run of a ResNet-18 on the folder's three classes."""
    workdir = tmp_path_factory.mktemp("runs") / "run"
    words = (source, "--model=resnet18", f"--workdir={workdir}", f"--dataset=folder:{folder}", *SIZES)
    assert command.run(import_weights.main, ["zfjax", *map(str, words)]) == 0
    return workdir


def test_the_run_is_a_run(imported, folder):
    info = read_run(imported)
    assert info.classes == tiny_runs.CLASSES
    assert (info.config.net, info.config.width, info.config.image_size) == ("resnet18", WIDTH, SIZE)
    side = info.mean.shape[0]
    np.testing.assert_array_equal(info.mean, preprocessing.TORCHVISION.mean_image(side))
    assert json.loads((imported / "weights.json").read_text())["preprocessing"]["std"] == [0.229, 0.224, 0.225]
    val = zfjax.open_run(imported).val
    np.testing.assert_array_equal(val.image_mean, preprocessing.TORCHVISION.mean_image(SIZE))


def test_other_pictures_are_refused(imported, folder, tmp_path):
    """Which its mean image, that of the weights, does not tell apart."""
    copied = shutil.copytree(folder, tmp_path / "copied")
    assert zfjax.open_run(imported, dataset=f"folder:{copied}").val.classes == tiny_runs.CLASSES
    shutil.copy(copied / "noise" / "000.png", copied / "noise" / "001.png")
    with pytest.raises(UserError, match=r"have changed since the run .* the first that differs is .*noise/001.png"):
        zfjax.open_run(imported, dataset=f"folder:{copied}")


def test_its_answers_are_pytorchs(imported):
    torch = pytest.importorskip("torch")
    val = zfjax.open_run(imported).val
    squares, _ = val.pictures.load(np.arange(2))
    corner = (squares.shape[1] - SIZE) // 2
    crops = squares[:, corner : corner + SIZE, corner : corner + SIZE]
    net = goldens.torch_net("resnet18", classes=3, width=WIDTH)
    expected = torch.softmax(torch.from_numpy(goldens.torch_logits(net, crops)), 1).numpy()
    np.testing.assert_allclose(jax.nn.softmax(val.model(val.images_of(squares))), expected, atol=1e-4)


@pytest.mark.parametrize("checkpoint", ["latest", "best", "0"])
def test_its_checkpoint_has_the_weights(imported, checkpoint):
    model = load_model(read_run(imported), checkpoint)
    modules = layouts.MODELS["resnet18"].modules(model.net, {})
    expected = layouts.from_torch(model.net, modules, state_dict())
    kernel = preprocessing.fold(expected["params"]["conv1"]["kernel"], preprocessing.TORCHVISION)
    expected["params"]["conv1"]["kernel"] = kernel
    assert jax.tree.all(jax.tree.map(np.array_equal, model.variables, expected))


def test_evaluate(capsys, imported):
    code, out, _ = run(capsys, evaluate.main, f"--workdir={imported}", "--batch_size=8")
    assert code == 0
    assert "top-1 accuracy" in out


def test_export_gives_the_tensors_back(capsys, imported, tmp_path):
    out = tmp_path / "out.safetensors"
    code, said, _ = run(capsys, export_weights.main, f"--workdir={imported}", f"--out={out}")
    assert code == 0
    assert "resnet18 with 3 outputs" in said
    found, expected = load_file(out), state_dict()
    assert found.keys() - expected.keys() == {name for name in found if name.endswith("num_batches_tracked")}
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-6 * np.abs(value).max(), name
        assert name == "conv1.weight" or np.array_equal(found[name], value), name


def test_export_loads_into_pytorch_strictly(capsys, imported, tmp_path):
    torch = pytest.importorskip("torch")
    import torch_nets
    from safetensors.torch import load_file as load_torch

    out = tmp_path / "out.safetensors"
    run(capsys, export_weights.main, f"--workdir={imported}", f"--out={out}")
    net = torch_nets.resnet18(classes=3, width=WIDTH)
    net.load_state_dict(load_torch(out), strict=True)
    pictures = goldens.pictures(size=SIZE)
    expected = goldens.torch_logits(goldens.torch_net("resnet18", classes=3, width=WIDTH), pictures)
    np.testing.assert_allclose(goldens.torch_logits(net.eval(), pictures), expected, atol=1e-5 * np.abs(expected).max())
    assert torch.is_tensor(net.bn1.num_batches_tracked)


def test_an_exported_file_says_what_it_is(capsys, imported, folder, tmp_path):
    """Imported again, it needs no flags: model, sizes, classes and preprocessing travel with it."""
    out, again = tmp_path / "out.safetensors", tmp_path / "again"
    run(capsys, export_weights.main, f"--workdir={imported}", f"--out={out}")
    words = (out, f"--workdir={again}", f"--dataset=folder:{folder}")
    code, _, _ = run(capsys, import_weights.main, *words)
    assert code == 0
    one, two = (load_model(read_run(workdir)) for workdir in (imported, again))
    np.testing.assert_array_equal(one.mean, two.mean)
    for before, after in zip(jax.tree.leaves(one.variables), jax.tree.leaves(two.variables), strict=True):
        np.testing.assert_allclose(after, before, rtol=3e-7)


def test_the_last_layer_is_cut_to_the_datasets_classes(capsys, folder, tmp_path):
    tensors = state_dict("zfnet_pytorchcv", classes=5)
    save_file(tensors, tmp_path / "net.safetensors")
    names = ("stripes", "zebras", "noise", "circles", "plains")
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n\n")
    words = (
        *(tmp_path / "net.safetensors", "--model=zfnet_pytorchcv", f"--workdir={tmp_path / 'run'}", *SIZES),
        *(f"--dataset=folder:{folder}", f"--class_names={tmp_path / 'names.txt'}"),
    )
    code, out, _ = run(capsys, import_weights.main, *words)
    assert code == 0
    assert f"fc8 was cut from 5 outputs to the 3 classes of folder:{folder}" in out
    model = load_model(read_run(tmp_path / "run"))
    order = [names.index(name) for name in tiny_runs.CLASSES]
    found = model.variables["params"]["fc8"]
    np.testing.assert_array_equal(found["kernel"], tensors["output.fc3.weight"][order].T)
    np.testing.assert_array_equal(found["bias"], tensors["output.fc3.bias"][order])
    out = tmp_path / "out.safetensors"
    assert run(capsys, export_weights.main, f"--workdir={tmp_path / 'run'}", f"--out={out}")[0] == 0
    back, conv2 = load_file(out), "features.stage2.unit1.conv.weight"
    assert back.keys() == tensors.keys()
    np.testing.assert_array_equal(back[conv2], tensors[conv2])
    np.testing.assert_array_equal(back["output.fc3.bias"], tensors["output.fc3.bias"][order])


def test_caffes_preprocessing_travels_there_and_back(capsys, folder, source, tmp_path):
    flags = ("--bgr", "--pixel_max=255", "--mean=103.939,116.779,123.68", "--std=1,1,1")
    words = (source, "--model=resnet18", f"--workdir={tmp_path / 'run'}", f"--dataset=folder:{folder}", *SIZES, *flags)
    code, out, _ = run(capsys, import_weights.main, *words)
    assert code == 0
    assert "the net takes BGR in 0..255, less 103.939,116.779,123.68, divided by 1,1,1; folded into conv1" in out
    info = read_run(tmp_path / "run")
    np.testing.assert_allclose(info.mean[0, 0], [123.68, 116.779, 103.939], rtol=1e-6)
    kernel = load_model(info).variables["params"]["conv1"]["kernel"]
    theirs = state_dict()["conv1.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0)[:, :, ::-1])
    run(capsys, export_weights.main, f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'a.safetensors'}")
    np.testing.assert_array_equal(load_file(tmp_path / "a.safetensors")["conv1.weight"], theirs)


def test_half_precision_is_said(capsys, folder, tmp_path):
    save_file({name: value.astype(np.float16) for name, value in state_dict().items()}, tmp_path / "a.safetensors")
    words = (tmp_path / "a.safetensors", "--model=resnet18", f"--workdir={tmp_path / 'run'}", *SIZES)
    code, out, _ = run(capsys, import_weights.main, *words, f"--dataset=folder:{folder}")
    assert code == 0
    assert "102 tensors in float16 were converted to float32\n" in out


def test_a_training_scripts_file_and_names_that_two_outputs_have(capsys, tmp_path):
    """Without a dataset: raw weights by their key, and classes that can be told apart wherever one is asked for."""
    tensors = {f"model.module.{name}": value for name, value in state_dict().items()}
    save_file(tensors | {f"model_ema.{name}": value * 2 for name, value in state_dict().items()}, tmp_path / "a.PTH")
    (tmp_path / "names.txt").write_bytes("crane\r\n café\r\ncrane ".encode("utf-16"))
    flags = ("--model=resnet18", "--key=model", f"--class_names={tmp_path / 'names.txt'}", *SIZES)
    words = (tmp_path / "a.PTH", f"--workdir={tmp_path / 'run'}", *flags)
    assert run(capsys, import_weights.main, *words)[0] == 0
    known = read_run(tmp_path / "run")
    assert known.classes == ("crane (0)", "café", "crane (2)")
    head = load_model(known).variables["params"]["fc"]
    np.testing.assert_array_equal(head["kernel"], state_dict()["fc.weight"].T)
    subject = without_pictures(known)
    assert [subject.label_of(name) for name in known.classes] == [0, 1, 2]
    with pytest.raises(UserError, match=r"no class 'crane' in the run's 3; expected one of crane \(0\), crane \(2\)"):
        subject.label_of("crane")


def test_a_run_whose_weights_are_not_finite_is_not_shown(capsys, source, tmp_path):
    """One that was imported before such weights were refused."""
    loaded = load(source, "resnet18", width=WIDTH, image_size=SIZE)
    loaded.variables["params"]["fc"]["bias"][1] = np.nan
    config = imported_runs.run_config("resnet18", "", width=WIDTH, image_size=SIZE)
    imported_runs.write_run(tmp_path / "run", config, loaded, {})
    code, _, line = run(capsys, export_weights.main, f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'a'}")
    assert code == 2
    assert line.endswith("run holds NaN or infinity in params/fc/bias; expected finite weights")


@pytest.mark.parametrize("moment", ["begin", "Checkpoints.save", "Checkpoints.__exit__", None])
def test_an_import_that_was_stopped_goes_on_and_one_that_is_done_is_left_alone(
    capsys, source, tmp_path, monkeypatch, moment
):
    words = (source, "--model=resnet18", f"--workdir={tmp_path / 'run'}", *SIZES)

    def stopped(*args):
        if moment == "Checkpoints.__exit__":
            function(*args)
        raise KeyboardInterrupt

    if moment:
        *owner, name = moment.split(".")
        owner = functools.reduce(getattr, owner, imported_runs)
        function = getattr(owner, name)
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, stopped)
            assert command.run(import_weights.main, ["import-weights", *map(str, words)]) == 130
    for _ in range(2):
        code, out, line = run(capsys, import_weights.main, *words)
        assert code == 0, line
        assert f"written to {tmp_path / 'run'}: config.json" in out
    code, _, line = run(capsys, import_weights.main, *words, "--bgr")
    assert (code, line) == (2, f"zfjax: workdir {tmp_path / 'run'} already holds a run; expected another --workdir")


def test_a_workdir_with_a_run_is_not_written(capsys, imported, folder, source, tmp_path):
    trained = tmp_path / "trained"  # a run that has not got so far as a checkpoint
    trained.mkdir()
    (trained / "config.json").write_text("{}")
    other = shutil.copy(source, tmp_path / "other.pth")
    for workdir in (imported, trained):
        before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
        words = (other, "--model=resnet18", f"--workdir={workdir}", f"--dataset=folder:{folder}", *SIZES)
        code, _, line = run(capsys, import_weights.main, *words)
        assert code == 2
        assert line == f"zfjax: workdir {workdir} already holds a run; expected another --workdir"
        assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_an_import_that_came_to_nothing_can_be_done_again(capsys, folder, source, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "pictures")
    for path in broken.glob("noise/*"):
        path.write_bytes(b"no picture")
    words = (source, "--model=resnet18", f"--workdir={tmp_path / 'run'}", *SIZES)
    code, _, line = run(capsys, import_weights.main, *words, f"--dataset=folder:{broken}")
    assert code == 2
    assert "images are broken" in line
    assert run(capsys, import_weights.main, *words, f"--dataset=folder:{folder}")[0] == 0
    assert read_run(tmp_path / "run").config.dataset == f"folder:{folder}"


class TestMistakes:
    """Each is one line, and no folder is made."""

    def said(self, capsys, tmp_path, *words):
        code, _, line = run(capsys, import_weights.main, *words, f"--workdir={tmp_path / 'run'}")
        assert code == 2
        assert not (tmp_path / "run").exists()
        return line

    def test_words_that_are_missing(self, capsys):
        for count, words in ((0, ()), (2, ("a.pth", "b.pth"))):
            line = run(capsys, import_weights.main, "--workdir=run", *words)[2]
            assert f"takes one file of weights, such as resnet18.pth, not {count}" in line
        assert "missing --workdir=RUN, the folder of the new run" in run(capsys, import_weights.main, "a.pth")[2]
        line = run(capsys, export_weights.main)[2]
        assert "missing --workdir=RUN, the folder that zfjax train wrote; --out=FILE.safetensors, the file" in line

    def test_a_file_that_does_not_say_what_it_is(self, capsys, tmp_path, folder, source):
        line = self.said(capsys, tmp_path, source, f"--dataset=folder:{folder}", *SIZES)
        assert f"missing --model=MODEL: {source} does not say what it is; expected one of alexnet, vgg16" in line

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (("--model=resnet19",), "unknown model 'resnet19'; did you mean resnet18?"),
            (("--model=vgg16",), "; did you mean --model=resnet18?"),
            (("--model=resnet18", "--mean=a,b,c"), "--mean=a,b,c: expected three numbers with commas between"),
            (("--model=resnet18", "--std=1,2"), "std=1,2 must be three positive numbers"),
            (("--model=resnet18", "--std=0,1,1"), "std=0,1,1 must be three positive numbers"),
            (("--model=resnet18", "--mean=1e300,0,0"), "mean=1e+300,0,0 is not a color where white is 1"),
            (("--model=resnet18", "--pixel_max=nan"), "pixel_max=nan must be positive"),
            (("--model=resnet18", "--key=ema"), "net.safetensors: it has no net under 'ema'; it has bn1.bias,"),
            (("--model=resnet18", "--dataset=folder:nowhere"), "image folder nowhere: not there"),
            (("--model=resnet18", "--class_names=nowhere.txt"), "cannot read the class names in nowhere.txt"),
            (("--model=resnet18", "--image_sise=3"), "unknown flag --image_sise; did you mean --image_size?"),
        ],
    )
    def test_words_that_do_not_fit(self, capsys, tmp_path, folder, source, words, expected):
        dataset = () if any(word.startswith("--dataset") for word in words) else (f"--dataset=folder:{folder}",)
        assert expected in self.said(capsys, tmp_path, source, *SIZES, *dataset, *words)

    def test_other_widths_name_tensors_with_both_shapes(self, capsys, tmp_path, folder, source):
        line = self.said(capsys, tmp_path, source, "--model=resnet18", f"--dataset=folder:{folder}")
        assert f"{source} is not resnet18 at 224 px: the tensors do not fit: " in line
        assert "conv1.weight is (4, 3, 7, 7), expected (64, 3, 7, 7); " in line
        assert line.endswith("; and 97 more")

    def test_outputs_that_are_not_the_datasets_classes(self, capsys, tmp_path, folder):
        save_file(state_dict(classes=5), tmp_path / "a.safetensors")
        words = (tmp_path / "a.safetensors", "--model=resnet18", f"--dataset=folder:{folder}", *SIZES)
        line = self.said(capsys, tmp_path, *words)
        assert (
            f"the net has 5 outputs, but folder:{folder} has 3 classes; expected as many, or --class_names=FILE" in line
        )
        (tmp_path / "names.txt").write_text("a\nb\ncircle\nd\nnoise\n")
        line = self.said(capsys, tmp_path, *words, f"--class_names={tmp_path / 'names.txt'}")
        assert "has classes that the net does not know: circles, stripes; did you mean circle?" in line
        (tmp_path / "names.txt").write_text("\n")
        assert "names.txt is empty" in self.said(capsys, tmp_path, *words, f"--class_names={tmp_path / 'names.txt'}")

    def test_weights_that_are_not_finite(self, capsys, tmp_path, folder):
        save_file(state_dict() | {"bn1.bias": np.full(4, np.inf, np.float32)}, tmp_path / "a.safetensors")
        words = (tmp_path / "a.safetensors", "--model=resnet18", f"--dataset=folder:{folder}", *SIZES)
        line = self.said(capsys, tmp_path, *words)
        assert line.endswith("bn1.bias has 4 of 4 values that are NaN, infinite or beyond float32")


@pytest.mark.slow
def test_a_run_that_zfjax_trained_is_exported(capsys, folder, tmp_path):
    changes = {"net": "zfnet_post", "image_size": SIZE, "epochs": 1, "checkpoint_steps": 0}
    done = tiny_runs.run(tiny_runs.train_command(folder, tmp_path / "run", **changes))
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out.safetensors"
    code, said, _ = run(capsys, export_weights.main, f"--workdir={tmp_path / 'run'}", f"--out={out}")
    assert code == 0
    assert "mean image differs from pixel to pixel" in said
    info, tensors = read_run(tmp_path / "run"), load_file(out)
    params = load_model(info).variables["params"]
    np.testing.assert_array_equal(tensors["features.0.weight"], params["conv1"]["kernel"].transpose(3, 2, 0, 1))
    kept = json.loads(files.read(out).metadata["zfjax"])
    np.testing.assert_allclose(kept["preprocessing"]["mean"], info.mean.mean(axis=(0, 1)), rtol=1e-5)
    assert (kept["preprocessing"]["std"], kept["preprocessing"]["pixel_max"]) == ([1, 1, 1], 255)
    assert kept["classes"] == list(tiny_runs.CLASSES)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"net": "zfnet"},
            "has the net zfnet, of which PyTorch has no model; expected one of alexnet_torchvision, vgg",
        ),
        ({"net": "zfnet_post", "without": (3, 4)}, r"has a zfnet_post with without=\(3, 4\), of which PyTorch has no"),
        ({"net": "zfnet_post", "fc_units": 64}, r"has a zfnet_post with fc_units=64, of which PyTorch has no model"),
        ({"net": "vgg16", "maps3to5": (8, 8, 8)}, r"has a vgg16 with maps3to5=\(8, 8, 8\), of which PyTorch has no"),
    ],
)
def test_nets_that_pytorch_does_not_have(folder, tmp_path, changes, expected):
    info = RunInfo(
        epath.Path(tmp_path), tiny_runs.tiny_config(folder, **changes), tiny_runs.CLASSES, np.zeros((4, 4, 3))
    )
    with pytest.raises(UserError, match=expected):
        imported_runs.weights_of(info)


def test_what_import_says_is_what_it_wrote(capsys, folder, source, tmp_path):
    words = (source, "--model=resnet18", f"--workdir={tmp_path / 'run'}", f"--dataset=folder:{folder}", *SIZES)
    code, out, _ = run(capsys, import_weights.main, *words)
    assert code == 0
    *_, last = out.splitlines()
    start, _, names = last.partition(": ")
    assert start == f"written to {tmp_path / 'run'}"
    assert {name.rstrip("/") for name in names.split(", ")} == {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"preprocessing": {}, "modules": {}}', None])
def test_a_damaged_origin_is_taken_from_the_checkpoint_or_named(imported, tmp_path, text):
    workdir = shutil.copytree(imported, tmp_path / "run")
    if text is None:
        (workdir / "weights.json").unlink()
    else:
        (workdir / "weights.json").write_text(text)
    wanted = imported_runs.weights_of(read_run(imported))[1]
    found = imported_runs.weights_of(read_run(workdir))[1]
    assert (found.preprocessing, found.modules) == (wanted.preprocessing, wanted.modules)
    metadata = workdir / "checkpoints" / "0" / "_CHECKPOINT_METADATA"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"custom_metadata": {}}))  # an older zfjax's
    if text is not None:
        with pytest.raises(UserError, match=r"weights\.json is damaged .*; import the weights again"):
            imported_runs.weights_of(read_run(workdir))


def test_a_digit_changed_in_the_origin_is_noticed(imported, tmp_path):
    workdir = shutil.copytree(imported, tmp_path / "run")
    (workdir / "checkpoints" / "0" / "_CHECKPOINT_METADATA").write_text('{"custom_metadata": {}}')
    text = (workdir / "weights.json").read_text()
    (workdir / "weights.json").write_text(text.replace("0.229", "0.228"))
    with pytest.raises(UserError, match=r"weights\.json is damaged \(its content is not what was written\)"):
        imported_runs.weights_of(read_run(workdir))


def test_an_origin_of_other_modules_is_named(imported, tmp_path):
    workdir = shutil.copytree(imported, tmp_path / "run")
    (workdir / "checkpoints" / "0" / "_CHECKPOINT_METADATA").write_text('{"custom_metadata": {}}')
    known, kept = read_run(workdir), sealed.unseal(json.loads((workdir / "weights.json").read_text()))
    modules = kept["modules"]
    for wrong in ({}, modules | {"conv1": "bn1"}, modules | {"conv1": 1}, modules | {"extra": "x"}, list(modules)):
        (workdir / "weights.json").write_text(json.dumps(kept | {"modules": wrong}))
        with pytest.raises(UserError, match=r"weights\.json is damaged"):
            imported_runs.weights_of(known)


def test_without_a_dataset_the_run_has_no_pictures(capsys, source, tmp_path):
    workdir = tmp_path / "run"
    assert run(capsys, import_weights.main, source, "--model=resnet18", f"--workdir={workdir}", *SIZES)[0] == 0
    known = read_run(workdir)
    assert known.classes == tuple(map(str, range(len(known.classes))))
    out = tmp_path / "back.safetensors"
    assert run(capsys, export_weights.main, f"--workdir={workdir}", f"--out={out}")[0] == 0
    assert files.read(source).tensors.keys() <= files.read(out).tensors.keys()
    code, _, line = run(capsys, evaluate.main, f"--workdir={workdir}")
    assert code == 2
    assert "has no pictures: its weights were imported without a --dataset" in line


def test_a_gallery_of_ones_own_photographs(capsys, folder, source, tmp_path):
    """For a run without pictures: folders at any depth, in which some files are broken."""
    workdir, photos = tmp_path / "run", tmp_path / "photos"
    shutil.copytree(folder / "noise", photos / "of" / "noise")
    (photos / "of" / "up").symlink_to(photos)
    (photos / "000broken.jpg").write_bytes(b"no picture")
    assert run(capsys, import_weights.main, source, "--model=resnet18", f"--workdir={workdir}", *SIZES)[0] == 0
    words = (f"--workdir={workdir}", "--only=fig2", "--layers=relu1", "--maps=2", f"--images={photos}")
    assert command.run(figures.main, ["zfjax", *words]) == 0
    assert "skipped broken images: " in capsys.readouterr().err
    with np.load(workdir / "figures" / "fig2_layer1.npz") as drawn:
        assert drawn["values"].shape == (2, 8)
        assert np.isfinite(drawn["values"]).all()
        assert np.ptp(drawn["images"]) > 0
    (tmp_path / "empty").mkdir()
    code, _, line = run(capsys, figures.main, f"--workdir={workdir}", "--only=fig2", f"--images={tmp_path / 'empty'}")
    assert (code, "empty: expected pictures in it, found none" in line) == (2, True)


def test_images_are_not_for_the_gallery_of_a_run_with_pictures(capsys, imported):
    code, _, line = run(capsys, figures.main, f"--workdir={imported}", "--only=fig2", "--images=a.png")
    assert (code, "--images has no meaning with --only=fig2 and the pictures of a dataset" in line) == (2, True)

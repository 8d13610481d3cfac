"""Which of a file's tensors are a net's: prefixes, wrappers, averaged weights, and what a refusal says."""

import functools

import numpy as np
import pytest
from goldens import make_logits as goldens

from zfjax.console.errors import UserError
from zfjax.models import preset
from zfjax.weights import files, layouts, pretrained

WIDTH, SIZE = 1 / 16, 64


def tiny(model="resnet18", classes=3):
    net = preset(layouts.MODELS[model].preset, classes, width=WIDTH, image_size=SIZE)
    modules = layouts.MODELS[model].modules(net, {})
    return goldens.state_dict({slot.name: slot.shape for slot in layouts.slots(net, modules)})


@pytest.fixture(scope="module")
def plain():
    return tiny()


def under(prefix, tensors, factor=1.0):
    return {prefix + name: value * np.float32(factor) for name, value in tensors.items()}


def load(tensors, model="resnet18", key=""):
    file = files.TensorFile(tensors, {})
    return pretrained.from_file(file, "a.pth", model, width=WIDTH, image_size=SIZE, key=key)


def factor(loaded, plain):
    """What all weights of the last layer were multiplied by."""
    ratio = loaded.variables["params"]["fc"]["kernel"] / plain["fc.weight"].T
    np.testing.assert_allclose(ratio, ratio[0, 0])
    return float(ratio[0, 0])


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "base_model.", "module.model."),
        *("state_dict.module.", "model_state_dict._orig_mod.module.", "a.b.c.d.", "model_state.net.backbone."),
    ],
)
def test_any_prefix(plain, prefix):
    loaded = load(under(prefix, plain))
    assert factor(loaded, plain) == 1
    assert loaded.notes == ((f"took the weights under {prefix[:-1]}",) if prefix else ())
    assert loaded.modules["conv1"] == "conv1"


def test_wrappers_in_the_middle_of_names():
    plain = tiny("alexnet", 5)
    for wrapper in ("module", "_orig_mod", "_fsdp_wrapped_module._checkpoint_wrapped_module"):
        for prefix in ("", "state_dict.module."):
            names = {name: f"{prefix}{name.replace('features.', f'features.{wrapper}.')}" for name in plain}
            loaded = load({names[name]: value for name, value in plain.items()}, "alexnet")
            np.testing.assert_array_equal(loaded.variables["params"]["fc8"]["kernel"], plain["classifier.6.weight"].T)
            left = [f"left {name} out of names" for name in sorted(wrapper.split("."))]
            assert [note for note in loaded.notes if note.startswith("left")] == left


def test_names_of_ones_own_under_a_prefix():
    plain = tiny("zfnet_post", 5)
    layer = dict(zip(("features.0", "features.3"), ("conv1", "conv2"), strict=True))
    layer |= {f"features.{place}": f"conv{number}" for number, place in ((3, 6), (4, 8), (5, 10))}
    layer |= {f"classifier.{place}": f"fc{number}" for number, place in ((6, 1), (7, 4), (8, 6))}
    own = {f"{layer[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in plain.items()}
    for tensors in (own, under("model.net.", own), under("model.", own, 2.0) | under("ema.module.", own)):
        loaded = load(tensors, "zfnet_post")
        assert loaded.modules["fc8"] == "fc8"
        np.testing.assert_array_equal(loaded.variables["params"]["fc8"]["bias"], plain["classifier.6.bias"])


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        *(("model.", "model_ema.module."), ("state_dict.", "state_dict_ema."), ("params.", "params_ema.")),
        *(("", "ema."), ("model.", "ema.shadow."), ("net.", "swa_model.module."), ("online_model.", "ema_model.")),
    ],
)
def test_averaged_weights_are_taken_and_that_is_said(plain, raw, averaged):
    counts = {f"{averaged}n_averaged": np.array(3), f"{averaged}bn1.num_batches_tracked": np.array(9)}
    tensors = under(raw, plain) | under(averaged, plain, 2.0) | counts
    loaded = load(tensors)
    assert factor(loaded, plain) == 2
    (note,) = loaded.notes
    assert note.startswith(f"took the weights under {averaged[:-1]}, which are averaged")
    assert note.endswith(f"; --key={raw[:-1] or '.'} takes the others")
    again = load(tensors, key=raw[:-1] or ".")
    assert (factor(again, plain), again.notes) == (1, (f"took the weights under {raw[:-1]}",) if raw else ())


@pytest.mark.parametrize(
    ("raw", "averaged", "key"),
    [
        *(
            ("model.", "ema.model.", "model"),
            ("model.", "model.ema.", "model"),
            ("model.module.", "ema.model.", "model"),
        ),
        *(("state_dict.net.", "state_dict.net_ema.", "net"), ("state_dict.", "ema.state_dict.", "state_dict")),
        *(("", "ema.module.", "."), ("module.", "module.ema.", "."), ("model.module.", "ema.model.", "model")),
    ],
)
def test_a_key_names_the_others_even_if_the_averaged_ones_have_it_too(plain, raw, averaged, key):
    tensors = under(raw, plain) | under(averaged, plain, 2.0)
    assert factor(load(tensors), plain) == 2
    assert factor(load(tensors, key=key), plain) == 1
    assert factor(load(tensors, key=averaged[:-1]), plain) == 2


def test_a_key_that_several_have_asks_again(plain):
    for wrapper in ("", "module."):
        tensors = under(f"a.model.{wrapper}", plain) | under("b.ema.model.", plain, 2.0)
        expected = (
            rf"several nets that fit: a\.model{wrapper and '.module'}, b\.ema\.model; expected --key=NAME for one"
        )
        with pytest.raises(UserError, match=expected):
            load(tensors, key="model")


def test_prefixes_that_no_line_can_show(plain):
    for prefix in ("a\nb", "x" * 9999, "\u202eevil"):
        (note,) = load(under(f"{prefix}.", plain)).notes
        assert note.isprintable()
        assert len(note) < 200
        with pytest.raises(UserError) as raised:
            load(under(f"{prefix}.", plain) | under("other.", plain, 2.0))
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) < 300


def test_mixed_dtypes_are_converted_and_counted(plain):
    kinds = ("float16", "bfloat16", "float64", "float32")
    mixed = {name: value.astype(kinds[number % 4]) for number, (name, value) in enumerate(plain.items())}
    assert np.dtype("bfloat16") in {value.dtype for value in mixed.values()}
    notes = load(mixed).notes
    assert [note.partition(" tensors in ")[2] for note in notes] == [
        f"{kind} were converted to float32" for kind in kinds[:3]
    ]
    assert sum(int(note.split()[0]) for note in notes) == sum(value.dtype != np.float32 for value in mixed.values())


def test_what_is_not_averaged_is_not_taken_for_it(plain):
    with pytest.raises(UserError, match="several nets that fit: model, model_without_ema; expected --key=NAME"):
        load(under("model.", plain) | under("model_without_ema.", plain, 2.0))


def test_one_net_under_two_names_is_no_choice(plain):
    loaded = load(under("state_dict.", plain) | under("best.", plain))
    assert (factor(loaded, plain), loaded.notes) == (1, ("took the weights under best",))


@pytest.mark.parametrize("first", ["", "module."])
def test_plain_and_wrapped_weights_beside_each_other(plain, first):
    one, other = under(first, plain), under("module." if not first else "", plain, 2.0)
    with pytest.raises(UserError, match=r"it holds several nets that fit: the top of the file \(--key=\.\), module;"):
        load(one | other)
    assert factor(load(one | other, key="module"), plain) == (1 if first else 2)
    assert factor(load(one | other, key="."), plain) == (2 if first else 1)


def test_averaged_weights_that_are_not_all_there_are_not_taken(plain):
    part = {name: value for name, value in plain.items() if "running" not in name}
    loaded = load(under("model.", plain) | under("ema.", part, 2.0))
    assert factor(loaded, plain) == 1
    assert loaded.notes == ("took the weights under model; of ema only 62 of 102 tensors are there",)


def test_where_none_is_the_averaged_one_the_file_asks(plain):
    tensors = under("student.backbone.", plain) | under("teacher.backbone.", plain, 2.0)
    with pytest.raises(UserError) as raised:
        load(tensors)
    assert str(raised.value) == (
        "cannot take a resnet18 from a.pth: it holds several nets that fit: student.backbone, teacher.backbone;"
        " expected --key=NAME for one"
    )
    for key, expected in (("student", 1), ("teacher", 2), ("teacher.backbone", 2)):
        assert factor(load(tensors, key=key), plain) == expected
    with pytest.raises(UserError, match=r"it has no net under 'teachers'; did you mean teacher\?; it has student\."):
        load(tensors, key="teachers")
    with pytest.raises(UserError, match=r"it has no net under 'layer4'; it has student\."):
        load(tensors, key="layer4")


def test_what_is_not_the_nets_is_left_aside_and_that_is_said(plain):
    beside = {"state_dict.loss.weight": np.ones(2, np.float32), "best": np.float32(1)[()], "step": np.array(3)}
    tensors = {name: np.asarray(value) for name, value in (under("state_dict.net.", plain) | beside).items()}
    assert load(tensors).notes == (
        "took the weights under state_dict.net",
        "left aside what is not the net's: state_dict.loss.weight, best",
    )


def test_averaged_weights_without_names_are_mentioned(plain):
    file = files.TensorFile(under("model.", plain), {}, {"ema.shadow_params": "62 tensors without names"})
    loaded = pretrained.from_file(file, "a.pth", "resnet18", width=WIDTH, image_size=SIZE)
    _, note = loaded.notes
    assert note == "left aside what is no plain tensor: ema.shadow_params (62 tensors without names)"


class TestRefusals:
    """They show names that are in the file."""

    def said(self, tensors, model="resnet18"):
        with pytest.raises(UserError) as raised:
            load(tensors, model)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def test_names_of_another_library(self):
        other = {f"net.stem.{number}.weight": np.zeros((2, 3), np.float32) for number in range(200)}
        said = self.said(other)
        assert said.startswith(
            "a.pth is not resnet18 at 64 px: the tensors do not fit: conv1.weight (4, 3, 7, 7) is mis"
        )
        assert "net.stem.0.weight (2, 3) is not expected" in said

    def test_a_layer_by_another_name(self, plain):
        renamed = {name.replace("fc.", "head."): value for name, value in plain.items()}
        said = self.said(under("model.", renamed))
        assert "fc.weight (1000, 32) is missing; model.head.weight (3, 32) is not expected" in said
        outside = {name: value for name, value in under("model.", plain).items() if ".fc." not in name}
        said = self.said(outside | {"head.weight": np.zeros((3, 32), np.float32)})
        assert said.endswith("fc.bias (1000,) is missing; it also has head.weight")

    def test_relatives_of_resnets(self, plain):
        """As timm builds them."""
        zeros = functools.partial(np.zeros, dtype=np.float32)
        stem = {f"conv1.{place}.weight": zeros((4, 4, 3, 3)) for place in (0, 3, 6)}
        deep = {name: value for name, value in plain.items() if name != "conv1.weight"} | stem
        pooled = {f"layer{stage}.0.downsample.1.weight": zeros((4, 4, 1, 1)) for stage in (2, 3, 4)}
        cases = {
            "a stem of several convolutions": deep,
            "a stem of several convolutions, shortcuts that pool": deep | pooled,
            "squeeze-and-excite": plain | {"layer1.0.se.fc1.weight": zeros((2, 4, 1, 1))},
            "convolutions in groups": plain | {"layer1.0.conv2.weight": zeros((8, 2, 3, 3))},
            "norms without running averages": {name: value for name, value in plain.items() if "running" not in name},
        }
        for what, tensors in cases.items():
            expected = f"a.pth is a relative of resnet18 that zfjax does not have, with {what}; expected torchvision's"
            assert self.said(under("state_dict.", tensors)) == f"{expected} resnet18"
        assert "is not resnet18" in self.said({"conv1.0.weight": zeros((2, 3, 3, 3)), "a.se.bias": zeros(3)})

    def test_another_shape_is_told_by_the_files_name(self, plain):
        changed = plain | {"bn1.bias": np.zeros(9, np.float32)}
        assert "model.module.bn1.bias is (9,), expected (4,)" in self.said(under("model.module.", changed))

    def test_another_model_under_a_prefix(self):
        said = self.said(under("state_dict.module.", tiny("resnet34")))
        assert "state_dict.module.layer1.2.conv1.weight (4, 4, 3, 3) is not expected" in said
        assert said.endswith("; did you mean --model=resnet34?")

    def test_names_that_no_line_can_show(self, plain):
        said = self.said(plain | {"a\nb": np.zeros(2, np.float32), "x" * 9999: np.zeros(2, np.float32)})
        assert "'a\\nb' (2,) is not expected" in said
        assert len(said) < 500
        deep = "a" + ".a" * 30_000  # its beginnings, all of them, would be 900 MB
        assert " (2,) is not expected" in self.said(plain | {deep: np.zeros(2, np.float32)})


class TestNoWeights:
    """Values that no net can have are refused, and the tensor is named as in the file."""

    def said(self, plain, **changes):
        tensors = {name: value.copy() for name, value in plain.items()}
        for name, change in changes.items():
            tensors[name] = change(tensors[name])
        with pytest.raises(UserError) as raised:
            load(under("model.", tensors))
        return str(raised.value)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
    @pytest.mark.parametrize("name", ["conv1.weight", "fc.bias", "layer2.0.downsample.1.running_mean"])
    def test_not_finite(self, plain, name, dtype, value):
        def change(tensor):
            tensor = tensor.astype(dtype)
            tensor.flat[1] = value
            return tensor

        said = self.said(plain, **{name: change})
        size = plain[name].size
        assert said == (
            f"a.pth has weights that cannot be used: model.{name} has 1 of {size} values that are NaN, infinite or"
            " beyond float32"
        )

    def test_beyond_float32(self, plain):
        said = self.said(plain, **{"fc.weight": lambda tensor: np.full(tensor.shape, 1e300)})
        assert "model.fc.weight has 96 of 96 values that are NaN, infinite or beyond float32" in said
        said = self.said(plain, **{"fc.weight": lambda tensor: tensor * 0 + np.float32(1e30)})
        assert "model.fc.weight has values as large as 1e+30, which no net can multiply in float32" in said

    def test_negative_variances(self, plain):
        said = self.said(plain, **{"bn1.running_var": lambda tensor: -tensor})
        assert "model.bn1.running_var has negative values; expected variances" in said

    def test_all_are_counted(self, plain):
        said = self.said(plain, **dict.fromkeys(list(plain)[:9], lambda tensor: tensor * np.nan))
        assert said.count("model.") == 4
        assert said.endswith("; and 5 more")

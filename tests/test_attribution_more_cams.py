"""HiResCAM, XGrad-CAM, Ablation-CAM, Eigen-CAM, Finer-CAM: as pytorch-grad-cam's, by formulas; a split as fun."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_cams as goldens
from goldens import make_logits, make_relevance
from lens_nets import FEATURES, HEAD, IMAGES, NET, TARGETS, assert_close, draw, numpy_features, numpy_head
from lens_nets import slope as numpy_slope

import zfjax
from zfjax import attribution as lenses
from zfjax.models.presets import preset
from zfjax.weights import files, layouts, pretrained

SPLIT = FEATURES, HEAD
MAPS = numpy_features(IMAGES).astype(np.float32)
SLOPES = numpy_slope(numpy_head, MAPS, TARGETS)
WEIGHTS = draw((6, 4), 8)
OF_A_CLASS = {name: getattr(lenses, name) for name in goldens.CAMS if name != "eigen_cam"}
EVERY = OF_A_CLASS | {"grad_cam_plus_plus": lenses.grad_cam_plus_plus, "eigen_cam": lenses.eigen_cam}


def mean_head(maps):
    return maps.mean(axis=(1, 2)) @ WEIGHTS.astype(maps.dtype)


@pytest.mark.parametrize("name", goldens.LAYERS)
def test_the_same_as_pytorch_grad_cam(name):
    sizes = make_relevance.SIZES
    net = preset(layouts.MODELS[name].preset, 1000, width=sizes["width"], image_size=make_relevance.SIZE)
    shapes = {slot.name: slot.shape for slot in layouts.slots(net, layouts.MODELS[name].modules(net, {}))}
    last = {key: (sizes["classes"], *shape[1:]) for key, shape in shapes.items() if shape[0] == 1000}
    file = files.TensorFile(make_logits.state_dict(shapes | last), {})
    found = pretrained.from_file(file, name, name, width=sizes["width"], image_size=make_relevance.SIZE)
    images = make_relevance.pictures() - np.asarray(found.preprocessing.pixel_mean, np.float32)
    split = zfjax.split(found.net, found.variables, goldens.LAYERS[name])
    with np.load(goldens.FILE) as stored:
        for cam in goldens.CAMS:
            expected = stored[f"{name}.{cam}"]
            given = np.asarray(getattr(lenses, cam)(split, images, goldens.TARGETS[name]))
            if cam.startswith("eigen"):  # the other sign may be meant
                expected = np.stack(
                    [
                        np.maximum(one if np.sum(one * mine) > 0 else -one, 0)
                        for one, mine in zip(expected, given, strict=True)
                    ]
                )
            assert_close(given, expected, 1e-4)


def test_hires_cam_by_loops():
    expected = np.maximum((MAPS * SLOPES).sum(axis=-1), 0)
    assert_close(lenses.hires_cam(SPLIT, IMAGES, TARGETS), expected)


def test_hires_and_xgrad_cam_below_a_mean_are_grad_cam():
    """Where the gradient is the same all over a map."""
    split = FEATURES, mean_head
    for lens in (lenses.hires_cam, lenses.xgrad_cam):
        assert_close(lens(split, IMAGES, TARGETS), lenses.grad_cam(split, IMAGES, TARGETS))


def test_the_sum_of_hires_cam_is_the_score_of_a_linear_head():
    """Of one dense layer without a bias; its positive part is that of positive weights here."""
    weights = np.abs(draw((4 * 5 * 6, 4), 1))

    def head(maps):
        return maps.reshape(len(maps), -1) @ weights

    assert_close(lenses.hires_cam((FEATURES, head), IMAGES, 2).sum(axis=(1, 2)), head(MAPS)[:, 2])


def test_xgrad_cam_by_loops():
    shares = (MAPS * SLOPES).sum(axis=(1, 2)) / MAPS.sum(axis=(1, 2))
    expected = np.maximum(np.einsum("nhwk,nk->nhw", MAPS, shares), 0)
    assert_close(lenses.xgrad_cam(SPLIT, IMAGES, TARGETS), expected)


def test_ablation_cam_by_brute_force():
    rows, lost = np.arange(3), np.zeros((3, 6))
    whole = numpy_head(MAPS)[rows, TARGETS]
    for unit in range(6):
        left = MAPS.copy()
        left[..., unit] = 0
        lost[:, unit] = (whole - numpy_head(left)[rows, TARGETS]) / np.abs(whole)
    expected = np.maximum(np.einsum("nhwk,nk->nhw", MAPS, lost), 0)
    for batch_size in (1, 4, 100):
        assert_close(lenses.ablation_cam(SPLIT, IMAGES, TARGETS, batch_size=batch_size), expected)


def test_ablation_cam_computes_no_dead_map():
    seen = []

    def head(maps):
        jax.debug.callback(lambda maps: seen.append(len(maps)), maps)
        return HEAD(maps)

    maps = MAPS.copy()
    maps[0, ..., 1:] = 0
    found = lenses.ablation_cam(head, maps, TARGETS, batch_size=4)
    jax.effects_barrier()
    assert sum(seen) <= 2 + 7 + 7 + 3  # of 21 places, 5 dead; the last chunk is full
    assert_close(found, jax.jit(lambda maps: lenses.ablation_cam(HEAD, maps, TARGETS))(maps))


def test_eigen_cam_is_the_first_principal_component_where_maps_are_strong():
    found = np.asarray(lenses.eigen_cam(SPLIT, IMAGES))
    for maps, one in zip(MAPS.reshape(3, 20, 6).astype(np.float64), found.reshape(3, 20), strict=True):
        _, directions = np.linalg.eigh(np.cov(maps, rowvar=False))
        along = (maps - maps.mean(axis=0)) @ directions[:, -1]
        along *= np.sign((along * maps.sum(axis=1)).sum())
        assert_close(one, np.maximum(along, 0))
    assert_close(lenses.eigen_cam(SPLIT, IMAGES, 3), found)


def test_eigen_grad_cam_of_one_direction_is_hires_cam_without_its_mean():
    """All maps alike: one component holds everything."""
    maps = np.abs(draw((3, 4, 5, 1), 2)) * np.ones(6, np.float32)
    products = (maps * WEIGHTS[:, 1] / 20).sum(axis=-1)
    found = np.asarray(lenses.eigen_grad_cam(mean_head, maps, 1))
    centered = products - products.mean(axis=(1, 2), keepdims=True)
    scale = np.linalg.norm(WEIGHTS[:, 1]) / abs(WEIGHTS[:, 1].sum())
    assert_close(found, np.maximum(centered * scale, 0), 1e-4)


def test_finer_cam_of_a_sure_net_is_no_nan():
    """The others' share of all classes is zero in float32, but not among themselves."""
    features, head = SPLIT
    sure = (features, lambda maps: head(maps) * 1e4)
    assert np.isfinite(lenses.finer_cam(sure, IMAGES, 2)).all()


def test_finer_cam_is_grad_cam_of_the_weighted_difference():
    def ahead(logits):
        """Of class 2: among four classes, all three others."""
        others = jax.nn.softmax(logits)[:, jnp.array([0, 1, 3])]
        differences = logits[:, 2:3] - 0.6 * logits[:, jnp.array([0, 1, 3])]
        return (others * differences).sum(axis=1) / others.sum(axis=1)

    for n_similar in (3, 9):
        found = lenses.finer_cam(SPLIT, IMAGES, 2, alpha=0.6, n_similar=n_similar)
        assert_close(found, lenses.grad_cam(SPLIT, IMAGES, ahead))
    logits = np.asarray(NET(IMAGES))
    nearest = np.argsort(np.abs(logits - logits[:, 2:3]), axis=1)[:, 1]
    expected = [
        lenses.grad_cam(SPLIT, IMAGES[i : i + 1], lambda logits, other=other: logits[:, 2] - logits[:, other])
        for i, other in enumerate(nearest)
    ]
    assert_close(lenses.finer_cam(SPLIT, IMAGES, 2, n_similar=1), np.concatenate(expected))
    assert_close(lenses.finer_cam(SPLIT, IMAGES, 2, alpha=0, n_similar=1), lenses.grad_cam(SPLIT, IMAGES, 2))
    alone = FEATURES, lambda maps: HEAD(maps)[:, 2:3]
    assert_close(lenses.finer_cam(alone, IMAGES, 0), lenses.grad_cam(SPLIT, IMAGES, 2))


def test_a_split_or_the_head_alone():
    for lens in EVERY.values():
        assert_close(lens(SPLIT, IMAGES, TARGETS), lens(HEAD, jax.jit(FEATURES)(IMAGES), TARGETS), 1e-6)
    of_split = lenses.score_cam(SPLIT, IMAGES, TARGETS)
    assert_close(of_split, lenses.score_cam(NET, IMAGES, TARGETS, jax.jit(FEATURES)(IMAGES)))
    product = lenses.guided_grad_cam(SPLIT, IMAGES, TARGETS)
    old = r"is now guided_grad_cam\(\(features_fun, head\), images"
    with pytest.warns(DeprecationWarning, match=old) as caught:
        assert_close(lenses.guided_grad_cam(FEATURES, HEAD, IMAGES, TARGETS), product, 1e-6)
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=old):
        assert_close(lenses.guided_grad_cam(FEATURES, head=HEAD, images=IMAGES, target=TARGETS), product, 1e-6)
    with pytest.warns(DeprecationWarning, match="head is now called fun"):
        lenses.grad_cam(head=HEAD, inputs=MAPS, target=0)


@pytest.mark.parametrize("lens", [lenses.grad_cam, lenses.eigen_cam, lenses.score_cam, lenses.ablation_cam])
def test_a_cut_beside_a_skip_connection(lens):
    """What passes the cut by stays as it is."""
    kernel = draw((3, 6), 3)

    def net(x):
        return mean_head(jax.nn.relu(x @ kernel) + 0.1 * (x @ kernel))

    model = zfjax.Model(net, IMAGES)
    (place,) = [name for name, one in model.layers.items() if one.kind == "relu"]
    split = model.split(place)
    at = jax.nn.relu(IMAGES @ kernel)
    if lens is lenses.score_cam:
        expected = lens(net, IMAGES, TARGETS, at)
    else:

        def one(i):
            return lens(lambda maps: mean_head(maps + 0.1 * (IMAGES[i : i + 1] @ kernel)), at[i : i + 1], TARGETS[i])

        expected = np.concatenate([one(i) for i in range(3)])
    assert_close(lens(split, IMAGES, TARGETS), expected)
    if lens is lenses.ablation_cam:
        found = lens(split, IMAGES, lambda logits: logits[:, 1], batch_size=4)
        assert_close(found, lens(split, IMAGES, 1))


@pytest.mark.parametrize("merged", [False, True])
def test_ablation_beside_a_skip_whose_first_axis_is_not_images(merged):
    """As in PyTorch's attention, [rows, n, …]; or rows and images along one axis."""
    kernel = draw((3, 6), 3)
    images = np.concatenate([IMAGES] * 2)[:4, :4]  # as many as rows

    def net(x):
        n, h, w, _ = x.shape
        skip = (x @ kernel).transpose(1, 0, 2, 3)
        skip = jnp.sin(skip.reshape(h * n, w, 6) if merged else skip)
        return mean_head(jax.nn.relu(x @ kernel) + 0.1 * skip.reshape(h, n, w, 6).transpose(1, 0, 2, 3))

    model = zfjax.Model(net, images)
    (place,) = [name for name, one in model.layers.items() if one.kind == "relu"]
    target = np.arange(4) % 3
    found = lenses.ablation_cam(model.split(place), images, target, batch_size=5)

    def one(i):
        return lenses.ablation_cam(model.split(place), images[i : i + 1], target[i])

    assert_close(found, np.concatenate([one(i) for i in range(4)]))
    head = lambda maps: mean_head(maps + 0.1 * jnp.sin(images @ kernel))  # noqa: E731
    maps = np.maximum(images @ kernel, 0)
    whole = head(maps)[np.arange(4), target]
    lost = np.stack([whole - head(np.where(np.arange(6) == k, 0, maps))[np.arange(4), target] for k in range(6)], 1)
    assert_close(found, np.maximum((maps * (lost / np.abs(whole)[:, None])[:, None, None]).sum(-1), 0))


@pytest.mark.parametrize("fill", [0.5, np.float32([[[[0.2, -0.4, 0.6]]]])])
def test_what_score_cam_masks_with(fill):
    """As if the mean had been subtracted from the images, and added again before the net."""
    moved = lenses.score_cam(lambda x: NET(x + fill), IMAGES - fill, TARGETS, MAPS)
    assert_close(lenses.score_cam(NET, IMAGES, TARGETS, MAPS, fill=np.squeeze(fill)), moved)


@pytest.mark.parametrize("name", EVERY)
def test_dead_and_constant_maps_give_no_nan(name):
    flat = np.ones_like(MAPS) * np.arange(6, dtype=np.float32)
    for maps in (np.zeros_like(MAPS), flat, np.where(np.arange(6) == 2, 0, MAPS)):
        found = np.asarray(EVERY[name](HEAD, maps.astype(np.float32), TARGETS))
        assert np.isfinite(found).all()
        assert (found >= 0).all()
    for maps in (MAPS, np.zeros_like(MAPS)):
        assert not np.any(EVERY[name](lambda maps: 0 * mean_head(maps), maps, TARGETS)) or name == "eigen_cam"


@pytest.mark.parametrize("name", EVERY)
def test_half_precision(name):
    found = EVERY[name](mean_head, jnp.asarray(MAPS, jnp.bfloat16), TARGETS)
    assert found.dtype == jnp.float32
    assert_close(found, EVERY[name](mean_head, jnp.asarray(MAPS, jnp.bfloat16).astype(jnp.float32), TARGETS), 0.1)


def test_what_is_no_split(unchecked):
    with pytest.raises(TypeError, match=r"fun: expected a function, or \(features, head\) .*; got 3$"):
        lenses.grad_cam((FEATURES, HEAD, HEAD), IMAGES, 0)
    with pytest.raises(TypeError, match="features: expected a function, got int"):
        lenses.grad_cam((3, HEAD), IMAGES, 0)
    with pytest.raises(TypeError, match=r"fun: expected \(features, head\) .* got Partial"):
        lenses.guided_grad_cam(NET, IMAGES, 0)
    with pytest.raises(TypeError, match=r"maps: expected them beside the whole function, .*; got neither"):
        lenses.score_cam(NET, IMAGES, 0)
    with pytest.raises(TypeError, match=r"maps: expected them beside the whole function, .*; got both"):
        lenses.score_cam(SPLIT, IMAGES, 0, MAPS)
    with pytest.raises(TypeError, match="images: expected floating-point"):
        lenses.grad_cam(SPLIT, IMAGES.astype(np.uint8), 0)
    with pytest.raises(ValueError, match="target: expected a class, which finer_cam compares with others"):
        lenses.finer_cam(SPLIT, IMAGES, lambda logits: logits[:, 0])
    with pytest.raises(ValueError, match="alpha: expected 0 or more, got -1"):
        lenses.finer_cam(SPLIT, IMAGES, 0, alpha=-1)

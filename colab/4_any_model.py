# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Any model: Flax NNX, Equinox, an imported ResNet
#
# <a href="https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/4_any_model.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open in Colab"></a>
#
# [zfjax](https://github.com/zfjax/zfjax)'s deconvnet and lenses take any JAX function of images. Here they look into
# three nets: a ResNet-18 read from a file in PyTorch's names and layout, a Flax NNX module and an Equinox module. At
# the end, twelve lenses side by side. It took five and a half minutes on two busy CPU cores, most of them for training,
# including drawing the pictures, which is done once.
#
# Comments on single maps and pictures refer to the run stored here, made on a CPU; yours will differ in detail.

# %%
import importlib.util

if not (importlib.util.find_spec("zfjax") and importlib.util.find_spec("equinox")):
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/zfjax/zfjax equinox")
    importlib.import_module("zfjax")  # stops here if the installation failed
    importlib.import_module("equinox")

# %%
# %matplotlib inline
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import zfjax
from zfjax import attribution
from zfjax.data import shapes
from zfjax.data.decode import decode_square
from zfjax.data.loose import picture_files
from zfjax.data.shapes.masks import masks
from zfjax.experiments.gallery import gallery, some_maps
from zfjax.experiments.lenses import LENSES, Options, case_of, heat, maps_by
from zfjax.models.nets import NetModel
from zfjax.plots.comparison import plot_comparison
from zfjax.plots.gallery import plot_gallery
from zfjax.runs import subject
from zfjax.runs.folder import read_run
from zfjax.runs.imported import weights_of
from zfjax.runs.training import train_and_evaluate
from zfjax.training import config
from zfjax.weights.pretrained import save

print(f"{jax.device_count()} × {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("A CPU will do. Colab has accelerators under Runtime > Change runtime type.")

# %% [markdown]
# ## Settings

# %%
QUICK = False  # True: seconds instead of minutes, for tests; the nets then learn next to nothing

recipe = config.default()
recipe.net = "resnet18"
recipe.width = 0.125 if QUICK else 0.25
recipe.image_size = 48 if QUICK else 96  # pixels
recipe.epochs = 1 if QUICK else 2
passes = 1 if QUICK else 2  # of the small nets over the training set
lenses = LENSES[:3] if QUICK else LENSES
folder = "runs/resnet18_quick" if QUICK else "runs/resnet18"  # other settings need another folder
zfnet_file = ""  # zfnet-1727-d010ddca.pth, for the ZFNet trained on ImageNet; empty: that part is skipped
photographs = "PHOTOS"  # a folder with photographs of yours, for that part

# %% [markdown]
# ## A ResNet from a file
#
# To avoid a download, we train a quarter-width ResNet-18 on drawn things for two epochs and write it with
# torchvision's names and layout. Pretend that the file is someone else's. (The first time, the
# pictures are drawn, which takes a minute.)

# %%
outcome = train_and_evaluate(recipe, folder)
run = read_run(outcome.folder)
train, val = subject.of_run(run)
file = outcome.folder / "resnet18.safetensors"
save(file, "resnet18", weights_of(run)[1], val.classes, recipe.width)
print(outcome.scores)

# %% [markdown]
# Reading it takes one line. For torchvision's own weights, use the `.pth` file that PyTorch has downloaded.

# %%
loaded = zfjax.weights.load(file, "resnet18")  # or "resnet18.pth"
print(loaded.preprocessing)

# %% [markdown]
# The net takes RGB in 0 … 255 less the mean; whatever scaling it was trained with has been folded into its first
# layer.
#
# ## The deconvnet through a ResNet
#
# Four validation images, and for each layer and image the map that fires most: its strongest unit, sent down.

# %%
chosen = val.one_of_each([val.label_of(name) for name in ("face", "car", "flower", "boat")], np.random.default_rng(0))
pictures, target = np.asarray(chosen.images + val.image_mean), jnp.asarray(chosen.labels)
objects = masks(
    shapes.prepared_builder(), "validation", val.kept[chosen.numbers], square=val.side, size=recipe.image_size
)


def strongest(features, images):
    y, project = zfjax.deconvnet(features, images)
    return project(zfjax.strongest(y, y.max(axis=(1, 2)).argmax(axis=1)))


images = jnp.asarray(pictures - loaded.preprocessing.pixel_mean)
names = ["relu1", "stage1", "stage2", "stage3", "stage4"]
found = [strongest(zfjax.layer(loaded.net, loaded.variables, name), images) for name in names]
zfjax.show(found, labels=[name for name in names for _ in images])

# %% [markdown]
# The first layer sees an edge; stages 1 to 3 see a wheel of the car and parts of an eye, a mast or a petal. In stage 4
# stripes run over the whole image: after two epochs the filters are still rough, and every step down adds their
# pattern.
#
# ## Deconvnet and Grad-CAM
#
# From here on a model is a `zfjax.Model`: a function of images with named places. `model.split(name)` cuts it at one,
# into a function from images to the maps there, and one from these to logits. We ask Grad-CAM about the true class and
# then, in all four images, about flowers.


# %%
def look(model, name, images):
    features, head = model.split(name)
    flower = val.label_of("flower")
    print("says", *[val.classes[i] for i in model(images).argmax(axis=1)])
    columns = {
        "strongest map": strongest(features, images),
        "deconvnet, class": attribution.deconvolution(model, images, target),
        "gradient": attribution.gradient(model, images, target),
        "Grad-CAM": attribution.upsample(zfjax.grad_cam((features, head), images, target), images.shape[1:3]),
        "Grad-CAM, flower": attribution.upsample(zfjax.grad_cam((features, head), images, flower), images.shape[1:3]),
    }
    return plot_comparison(pictures, objects, {name: np.asarray(map) for name, map in columns.items()}, chosen.names)


resnet = NetModel(loaded.net, loaded.variables)
look(resnet, "stage4", images)

# %% [markdown]
# From left to right: the strongest map's projection, the deconvnet from the class's logit, its gradient, and Grad-CAM.
# Stage 4 has 3 × 3 cells, so Grad-CAM is coarse; it covers the objects. Asked about flowers it moves away: into a
# corner of the face's and the boat's picture, and in the car nothing at all suggests a flower. The two columns of
# the deconvnet look alike although one was asked about the class and the other was not: it shows what the net lets
# through rather than why it chose.
#
# ## Flax NNX
#
# A small net. Any other module will do; `net.eval()` first if it has dropout or batch norm.


# %%
class NnxNet(nnx.Module):
    def __init__(self, classes, rngs):
        self.conv1 = nnx.Conv(3, 16, (5, 5), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.conv3 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dense = nnx.Linear(64, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.conv1(x / 64)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        return self.dense(nnx.relu(self.conv3(x)).mean(axis=(1, 2)))


# %% [markdown]
# Two passes over the training set, so that there is something to see.


# %%
def batches():
    for _ in range(passes):
        for number, images in enumerate(train.batches(64)):
            yield images, train.labels[64 * number :][: len(images)]


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


@nnx.jit
def nnx_step(net, optimizer, images, labels):
    optimizer.update(net, nnx.grad(lambda net: cross_entropy(net(images), labels))(net))


nnx_net = NnxNet(len(val.classes), nnx.Rngs(0))
optimizer = nnx.Optimizer(nnx_net, optax.adam(3e-3), wrt=nnx.Param)
for batch in batches():
    nnx_step(nnx_net, optimizer, *batch)

# %% [markdown]
# zfjax reads the names of its places from the weights that they use:

# %%
nnx_model = zfjax.Model(nnx_net, chosen.images)
print(nnx_model)
look(nnx_model, "conv3/relu", chosen.images)

# %% [markdown]
# The last maps have 12 × 12 cells, so Grad-CAM is finer. Asked about flowers it points at round things, near the
# face's eyes and at the car's wheels: to this net a flower is mainly its center. The deconvnet of such a small net
# is mostly texture.
#
# ## Equinox
#
# The same net. Equinox works on one image [C, height, width] at a time, which is said once, in `zfjax.Model`; all that
# looks at it takes and gives [N, height, width, C].


# %%
class EqxNet(eqx.Module):
    below: eqx.nn.Sequential
    dense: eqx.nn.Linear

    def __init__(self, classes, key):
        keys = jax.random.split(key, 4)
        relu, pool = eqx.nn.Lambda(jax.nn.relu), eqx.nn.MaxPool2d(2, 2)
        conv1 = eqx.nn.Conv2d(3, 16, 5, stride=2, padding=2, key=keys[0])
        conv2 = eqx.nn.Conv2d(16, 32, 3, padding=1, key=keys[1])
        conv3 = eqx.nn.Conv2d(32, 64, 3, padding=1, key=keys[2])
        self.below = eqx.nn.Sequential([conv1, relu, pool, conv2, relu, pool, conv3, relu])
        self.dense = eqx.nn.Linear(64, classes, key=keys[3])

    def __call__(self, image):
        return self.dense(self.below(image / 64).mean(axis=(1, 2)))


# %%
adam = optax.adam(3e-3)


@eqx.filter_jit
def eqx_step(net, state, images, labels):
    images = jnp.moveaxis(images, -1, 1)
    grads = eqx.filter_grad(lambda net: cross_entropy(jax.vmap(net)(images), labels))(net)
    updates, state = adam.update(grads, state)
    return eqx.apply_updates(net, updates), state


eqx_net = EqxNet(len(val.classes), jax.random.key(0))
state = adam.init(eqx.filter(eqx_net, eqx.is_inexact_array))
for batch in batches():
    eqx_net, state = eqx_step(eqx_net, state, *batch)

# %% [markdown]
# And again:

# %%
eqx_model = zfjax.Model(eqx_net, (3, recipe.image_size, recipe.image_size), layout="CHW")
print(*eqx_model.layers)
look(eqx_model, "layers/6/relu", chosen.images)

# %% [markdown]
# Different initial weights, a different library, much the same answers.
#
# ## A ZFNet trained on ImageNet
#
# The package pytorchcv gives away weights of the paper's net, trained on ImageNet. With its file and some hundred
# photographs of your own (see
# [docs/imagenet-zfnet.md](https://github.com/zfjax/zfjax/blob/main/docs/imagenet-zfnet.md)), both named in the
# settings, this draws the paper's Fig. 2 for layer 5. Here nothing was named, so there is no picture.


# %%
def fig2(file, photographs):
    zfnet = zfjax.weights.load(file, "zfnet_pytorchcv")
    fun = zfjax.layer(zfnet.net, zfnet.variables, "relu5")
    files = picture_files([photographs])
    squares = np.stack([decode_square(file.read_bytes(), 256, file.name) for file in files])
    images = squares[:, 16:240, 16:240] - zfnet.preprocessing.pixel_mean  # RGB 0 … 255
    top = zfjax.top_activations(fun, np.array_split(images, -(-len(images) // 64)))
    maps = some_maps(top, 8, np.random.default_rng(0))
    found = gallery(fun, top, maps, lambda numbers: images[numbers])
    return plot_gallery(found, zfnet.preprocessing.mean_image(224), "relu5, and your photographs")


fig2(zfnet_file, photographs) if zfnet_file else None

# %% [markdown]
# ## Lenses side by side
#
# All twelve on the ResNet, for the true class. `heat` puts the cells of a CAM where their receptive fields
# are.

# %%
case = case_of(resnet, "stage4", images, target, Options(jax.random.key(0)))
found = {lens.title: maps_by(lens, case) for lens in lenses}
columns = {title: np.asarray(one) if one.ndim == 4 else heat(case, one) for title, one in found.items()}
plot_comparison(pictures, objects, columns, chosen.names)

# %% [markdown]
# Guided backprop draws the objects most clearly; integrated gradients and gradient × input mark a few places: the eyes,
# the wheels, the flower's center. Occlusion agrees with these. The CAMs say "about here" (each cell is placed at its
# field; the picture above stretched them over the image). Saliency looks like noise, and the deconvnet like stripes.
#
# Which to believe? Not the clearest: guided backprop and the deconvnet draw nearly the same picture when the upper
# layers' weights are random.
# [docs/lenses.md](https://github.com/zfjax/zfjax/blob/main/docs/lenses.md) measures that, and which lenses find the
# object; `python -m zfjax.compare --workdir=RUN` does it for your own net.

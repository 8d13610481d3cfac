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
# # The deconvnet from scratch
#
# <a href="https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/2_deconvnet_from_scratch.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open in Colab"></a>
#
# A unit of a ConvNet fired for an image. What in the image made it? Zeiler & Fergus (2013, section 2.1) send the unit's
# activation back down to pixels: unpool, rectify, filter. We do this by hand for one unit, with a picture for each
# step, check that [zfjax](https://github.com/zfjax/zfjax)'s `deconvnet` gives the same, and then send a photograph
# through it, yours if you like. It takes about two and a half minutes on two CPU cores, including drawing the pictures,
# which is done once.
#
# Comments on single maps and pictures refer to the run stored here, made on a CPU; yours will differ in detail.

# %%
import importlib.util

if importlib.util.find_spec("zfjax") is None:
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/zfjax/zfjax")
    importlib.import_module("zfjax")  # stops here if the installation failed

# %%
# %matplotlib inline
import importlib.resources
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import zfjax
from zfjax import ops
from zfjax.data.decode import decode_square
from zfjax.plots.projections import shared
from zfjax.runs.training import train_and_evaluate
from zfjax.training import config

print(f"{jax.device_count()} × {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("A CPU will do. Colab has accelerators under Runtime > Change runtime type.")
# By default TPUs and GPUs round factors to bfloat16 or TF32; below, two ways to compute the same pixels must agree.
jax.config.update("jax_default_matmul_precision", "float32")

# %% [markdown]
# ## Settings

# %%
QUICK = False  # True: seconds instead of minutes, for tests; the net then learns next to nothing

recipe = config.default()
recipe.epochs = 1 if QUICK else 4
recipe.image_size = 64 if QUICK else 96  # pixels
photo_size = 96 if QUICK else 256
folder = "runs/one_epoch" if QUICK else "runs/four_epochs"  # other settings need another folder

# %% [markdown]
# ## A net
#
# A net an eighth as wide as the paper's, trained on ten kinds of drawn things. The first time, these are drawn, which
# takes a minute. Then we take a face that the net has never seen.

# %%
outcome = train_and_evaluate(recipe, folder)
val = zfjax.open_run(outcome.folder).val
print(outcome.scores)

# %% [markdown]
# Good enough: chance would be 10 %. Nets take images with the mean subtracted, [N, height, width, 3].

# %%
images = val.one_of_each([val.label_of("face")], np.random.default_rng(0)).images
print(images.shape)
Image.fromarray(np.uint8(images[0] + val.image_mean)).resize((240, 240), 0)

# %% [markdown]
# ## Up
#
# A net is a tuple of layers. These lead to layer 2's rectified maps:

# %%
print(*val.net.layers[:6], sep="\n")

# %% [markdown]
# **Filter and rectify.** In pictures of maps, gray is zero and white is the largest value of all.

# %%
weights = val.variables["params"]


def filtered(x, name, padding):
    return ops.conv(x, weights[name]["kernel"], (2, 2), padding) + weights[name]["bias"].reshape(1, 1, 1, -1)


def maps(x, columns=6):
    return zfjax.show(np.moveaxis(np.asarray(x[0]), -1, 0)[..., None], contrast=shared, columns=columns)


relu1 = ops.rectify(filtered(images, "conv1", ((1, 1), (1, 1))))
print(relu1.shape)
maps(relu1)

# %% [markdown]
# Layer 1 finds edges of one orientation, or light and dark areas.
#
# **Pool.** Of each 3 × 3 cells we keep the largest, and a *switch* that says which of the nine it was. `ceil` above
# means that the last window may extend past the edge, here by one cell: a padding of (0, 1).

# %%
pool = {"window": (3, 3), "strides": (2, 2), "padding": ((0, 1), (0, 1))}
pool1, switches = ops.max_pool_with_switches(relu1, **pool)
print("the first switches of map 0:", *switches[0, :2, :3, 0].tolist())
maps(pool1)

# %% [markdown]
# Half the resolution; eyes and mouth are still there. What was lost, the position of each maximum in its window, is in
# the switches.
#
# **Normalize, filter and rectify** once more: layer 2.

# %%
norm1 = ops.local_response_norm(pool1)
relu2 = ops.rectify(filtered(norm1, "conv2", ((0, 0), (0, 0))))
print(relu2.shape)
maps(relu2, columns=8)

# %% [markdown]
# Several maps fire for the eyes, others hardly at all.
#
# ## One unit
#
# Of all these we keep one activation, the strongest, and see which part of the image it covers: 27 × 27 pixels.

# %%
unit = int(relu2.max(axis=(0, 1, 2)).argmax())
seed = zfjax.strongest(relu2, unit)
_, row, column, _ = (int(place[0]) for place in jnp.nonzero(seed))
print(f"map {unit}, row {row}, column {column}: {seed[0, row, column, unit]:.1f}")
seen = np.s_[:, max(0, 8 * row - 1) : 8 * row + 26, max(0, 8 * column - 1) : 8 * column + 26]
Image.fromarray(np.uint8((images + val.image_mean)[seen][0])).resize((160, 160), 0)

# %% [markdown]
# An eye under an eyebrow.
#
# ## Down
#
# Each step undoes one step of the way up, from the top. **Rectify**, which does nothing to a positive seed; then
# **filter** with layer 2's filters, flipped. Only the cells that the signal reaches are shown.

# %%
signal = ops.rectify(seed)
in_norm1 = ops.conv_transpose(signal, weights["conv2"]["kernel"], (2, 2), ((0, 0), (0, 0)), norm1.shape)
in_pool1 = in_norm1  # contrast normalization passes the signal unchanged
maps(in_pool1[:, 2 * row : 2 * row + 5, 2 * column : 2 * column + 5])

# %% [markdown]
# These are the unit's own filters, times its activation: what it would like to see in each map of layer 1. The image
# is not involved yet.
#
# **Unpool**: each value goes where the maximum was.

# %%
unpooled = ops.max_unpool(in_pool1, switches, **pool, input_shape=relu1.shape)
maps(unpooled[:, 4 * row : 4 * row + 11, 4 * column : 4 * column + 11])

# %% [markdown]
# Now the values are where *this* image has its edges. Where windows overlap they add up.
#
# **Rectify**: layer 1's output is never negative, so the signal that comes down to it should not be either.

# %%
rectified = ops.rectify(unpooled)
maps(rectified[:, 4 * row : 4 * row + 11, 4 * column : 4 * column + 11])

# %% [markdown]
# **Filter** with layer 1's filters, flipped, and we are at pixels: the whole image, and the part that the unit sees.

# %%
pixels = ops.conv_transpose(rectified, weights["conv1"]["kernel"], (2, 2), ((1, 1), (1, 1)), images.shape)
near = jax.image.resize(pixels[seen], pixels.shape, "nearest")
zfjax.show(jnp.concatenate([pixels, near]), columns=2)

# %% [markdown]
# A dark bar, white below it, dark again: the eyebrow, the white of the eye and the iris. The rest of what the unit
# sees, hair and skin, did not contribute. The last step is a filter, so pixels may be below zero, darker than gray.
#
# ## The same by `zfjax.deconvnet`
#
# `zfjax.deconvnet` takes any JAX function of images, like `jax.vjp`. It walks the function's equations backward and
# does at each what we did by hand.

# %%
y, project = zfjax.deconvnet(zfjax.layer(val.net, val.variables, "relu2"), images)
same = project(zfjax.strongest(y, unit))
np.testing.assert_allclose(same, pixels, rtol=0, atol=1e-4 * float(jnp.abs(pixels).max()))
print(f"largest difference: {jnp.abs(same - pixels).max() / jnp.abs(pixels).max():.1e} of the largest pixel")

# %% [markdown]
# The same picture up to rounding, in two lines, for any layer.
#
# ## What makes the picture
#
# `zfjax.backproject` takes other rules. Top: the strongest unit of layer 2, the one from above; bottom: that of layer
# 5. *No switches* puts every value into the middle of its window. *Guided* backprop also stops the signal where the
# unit did not fire on the way up, and the *gradient* does only that.

# %%
no_switches = zfjax.DECONVNET.extend(reduce_window_max=zfjax.rules.unpool_at_centers)
rules = {"deconvnet": zfjax.DECONVNET, "no switches": no_switches, "guided": zfjax.GUIDED, "gradient": zfjax.GRADIENT}


def down(rules, layer):
    y, project = zfjax.backproject(zfjax.layer(val.net, val.variables, layer), images, rules)
    return project(zfjax.strongest(y, int(y.max(axis=(0, 1, 2)).argmax())))[0]


zfjax.show([down(way, layer) for layer in ("relu2", "relu5") for way in rules.values()], labels=[*rules] * 2, columns=4)

# %% [markdown]
# Without switches nothing of the face is left: in the other pictures, it is the positions of the maxima that follow the
# image's edges. Guided backprop gives the cleanest picture: two eyes.
#
# A clean picture is not a better explanation. Nie et al. (2018) showed that deconvnet and guided backprop partly
# restore the image, whichever unit you start from. They show *what* reaches a unit, not *why* the net chose a class;
# for that, see [what it relies
# on](https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/3_what_it_relies_on.ipynb).
#
# ## Your own photograph
#
# Check the box on Colab to upload your own; otherwise it is a photograph that comes with scikit-learn. Convolutions
# take images of any size, so it may be larger than those the net was trained on.

# %%
UPLOAD = False  # @param {type:"boolean"}

if UPLOAD:
    from google.colab import files

    path = pathlib.Path(next(iter(files.upload())))
else:
    path = importlib.resources.files("sklearn.datasets.images") / "flower.jpg"
photo = decode_square(path.read_bytes(), photo_size)
images = jnp.asarray(photo - val.image_mean.mean(axis=(0, 1)))[None]
Image.fromarray(photo)

# %% [markdown]
# For layers 1, 2, 3 and 5 we take the four maps with the strongest units, one row per layer, and now send the whole map
# down instead of one unit. Such a function compiles as one: one way up, four down.


# %%
@jax.jit
def projections(fun, images):
    y, project = zfjax.deconvnet(fun, images)
    units = jnp.argsort(-y.max(axis=(0, 1, 2)))[:4]
    seeds = jax.vmap(lambda unit: zfjax.seeds.whole_map(y, unit))(units)
    return jax.vmap(project)(seeds)[:, 0]


layers = [zfjax.layer(val.net, val.variables, f"relu{number}") for number in (1, 2, 3, 5)]
zfjax.show(np.stack([projections(fun, images) for fun in layers]))

# %% [markdown]
# Layer 1 responds to edges of one orientation or to the dark background, layer 2 to one side of the flower's rim or to
# its texture, layer 3 to most of its outline. What layer 5 picks out is harder to name: this net knows ten drawn
# things, and a dahlia on a dark background is none of them. The fine grid where the photograph is flat comes from the
# net, not from the photograph: it is the spacing of its windows.
#
# ## Click through it
#
# The live page does all of this at a click: any layer, any unit, any picture that you drop on it. In Colab it opens
# below, after a minute or two of installing Gradio and compiling. Elsewhere it is off, since a stored notebook could
# only show an empty frame: set `EXPLORE` to True.

# %%
EXPLORE = "google.colab" in sys.modules

if EXPLORE:
    get_ipython().run_line_magic("pip", "install -q 'gradio>=6.31,<7'")
    zfjax.explore(val)

# %% [markdown]
# **Next**: [what the net relies
# on](https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/3_what_it_relies_on.ipynb);
# [docs/deconvnet.md](https://github.com/zfjax/zfjax/blob/main/docs/deconvnet.md) for your own rules, and for what
# the paper leaves open.

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
# # Train a ZFNet and watch its features evolve
#
# <a href="https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/1_train_a_zfnet.ipynb">
# <img src="https://colab.research.google.com/assets/colab-badge.svg" alt="Open in Colab"></a>
#
# We train a small version of the net of Zeiler & Fergus (2013) on pictures that
# [zfjax](https://github.com/zfjax/zfjax) draws itself, and look inside: what its filters and feature maps respond to,
# and how that evolved. These are the paper's Figures 6, 2 and 4. It took under five minutes on two busy CPU cores,
# including drawing the pictures, which is done once.
#
# Comments on single maps and pictures refer to the run stored here, made on a CPU; yours will differ in detail.

# %%
import importlib.util

if importlib.util.find_spec("zfjax") is None:
    get_ipython().run_line_magic("pip", "install -q git+https://github.com/zfjax/zfjax")
    importlib.import_module("zfjax")  # stops here if the installation failed

# %%
# %matplotlib inline
import jax
import numpy as np
from PIL import Image

import zfjax
from zfjax.data import shapes
from zfjax.experiments.evolution import evolution
from zfjax.experiments.gallery import gallery, some_maps
from zfjax.models import layers
from zfjax.plots.curves import plot_curves
from zfjax.plots.evolution import plot_evolution
from zfjax.plots.filters import plot_filters
from zfjax.plots.gallery import plot_gallery
from zfjax.runs import subject
from zfjax.runs.folder import load_model, read_run
from zfjax.runs.training import train_and_evaluate
from zfjax.training import config
from zfjax.training.checkpoints import Checkpoints
from zfjax.training.metrics import read_metrics

print(f"{jax.device_count()} × {jax.devices()[0].device_kind}")
if jax.default_backend() == "cpu":
    print("A CPU will do. Colab has accelerators under Runtime > Change runtime type.")

# %% [markdown]
# ## Settings
#
# `config.default()` holds every key of a training run; the same keys are flags of `python -m zfjax.train`. On an
# accelerator there is time for `recipe.width = 0.5` and twenty epochs; the text below is about the settings here.

# %%
QUICK = False  # True: seconds instead of minutes, for tests; the net then learns next to nothing

recipe = config.default()
recipe.epochs = 2 if QUICK else 6
recipe.width = 0.125  # of the paper's 96, 256, 384, 384 and 256 maps
recipe.image_size = 64 if QUICK else 96  # pixels
folder = "runs/train_a_zfnet_quick" if QUICK else "runs/train_a_zfnet"  # other settings need another folder

# %% [markdown]
# ## The pictures
#
# The dataset `shapes` has ten kinds of drawn things on cluttered backgrounds, 10,000 pictures to train on and 2,000
# to validate. Here is one of each.

# %%
rng = np.random.default_rng(0)
pictures = [shapes.scene(rng, label).image for label in range(10)]
print(", ".join(shapes.CLASSES))
Image.fromarray(np.hstack(pictures)).reduce(2)

# %% [markdown]
# Colors are random: the net must learn shapes.
#
# ## Training
#
# A run lives in a folder. Stop this cell at any moment and run it again: it resumes from the last checkpoint. The
# first time, the dataset is drawn, which takes a minute.

# %%
outcome = train_and_evaluate(recipe, folder)
print(outcome.scores)

# %% [markdown]
# Chance would be 10 %. How the run went:

# %%
plot_curves(read_metrics(outcome.folder))

# %% [markdown]
# The net learns most in the first three epochs. The validation error stays close to the training error, so nothing is
# memorized yet; more epochs would still help (the default run's fifteen reach about 97 %).
#
# ## Layer 1: filters
#
# The weights of layer 1 are small RGB pictures. Gray is zero.

# %%
run = read_run(outcome.folder)
train, val = subject.of_run(run)
plot_filters(np.asarray(val.variables["params"]["conv1"]["kernel"]))

# %% [markdown]
# Edges of several orientations and colors; about half of the twelve have hardly formed. The paper's Figure 6 shows the
# same kinds, crisper, from a net eight times as wide after many more epochs.
#
# ## What each map fires for
#
# Above layer 1, weights are no longer pictures. So we ask which nine validation images excite a map most, and project
# the strongest unit on each down to pixels by the *deconvnet*: on the left what drove the unit, on the right the patch
# that it sees. Gray is zero. First, four maps of layer 2:

# %%
names = ["relu1", "relu2", "relu5"]
tops = zfjax.top_activations(layers(val.net, val.variables, names), val.batches(64))
chosen = {name: some_maps(tops[name], 4, np.random.default_rng(0)) for name in names}


def gallery_of(name):
    found = gallery(zfjax.layer(val.net, val.variables, name), tops[name], chosen[name], val.load)
    return plot_gallery(found, val.image_mean)


gallery_of("relu2")

# %% [markdown]
# Maps 2 and 11 look for rings: eyes, wheels, and map 11 also windows. Map 21 looks for a dark spot, map 25 for level
# edges. The projections show the shape that the nine patches share and leave out what differs, such as most colors.
#
# And four maps of layer 5, each of which sees nearly the whole image:

# %%
gallery_of("relu5")

# %% [markdown]
# Judging by the patches, map 21 is about boats, map 11 about houses and map 2 about cups, with a stray car or house
# among them; map 25 mixes flowers, cups, a tree and a boat. In the projections you can make out a mast or a window here
# and there, and much noise: five layers up, in a net this small, the patches say more than the projections.
#
# Either way these are the nine *strongest* images. They do not show what a map does for all the others.
#
# ## How they evolved
#
# The run has kept checkpoints. At each of them we look for the strongest activation of the same maps over the training
# set, and project it (the paper's Figure 4).

# %%
with Checkpoints(run.folder / "checkpoints", create=False) as checkpoints:
    steps = checkpoints.steps()
epochs = [step * recipe.batch_size / len(train.pictures) for step in steps]
weights = (jax.device_put(load_model(run, str(step)).variables) for step in steps)
probes = [val.load(np.arange(32))]
found = evolution(val.net, weights, chosen, lambda: train.batches(64), train.load, probes)
plot_evolution(found, epochs)

# %% [markdown]
# Each column is an epoch; a black bar marks where the strongest image changed. Layer 1's edges have their
# orientation after an epoch or two. Layer 2's rings are there after the second or fifth epoch. In layer 5 the
# strongest images keep changing longest, and little of it is recognizable by the end: the order that the paper found
# on ImageNet. The last two columns look alike in the lower layers because the learning rate has fallen to nearly zero
# by then.
#
# **Next**: [the deconvnet from
# scratch](https://colab.research.google.com/github/zfjax/zfjax/blob/main/colab/2_deconvnet_from_scratch.ipynb) shows
# how these projections are made. For your own photographs, one folder per class, set `recipe.dataset =
# "folder:PHOTOS"` and another `folder` for the run; leave everything else.

"""See what a ConvNet sees: Zeiler & Fergus (2013) in JAX.

The names below are imported when they are first used, so that `import zfjax` and the commands' `--help` are quick.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from zfjax.version import __version__

if TYPE_CHECKING:
    from zfjax import attribution, ops, rules, seeds, weights
    from zfjax.attribution import grad_cam
    from zfjax.backproject import RuleWarning, backproject, deconvnet
    from zfjax.experiments.gallery import top_activations
    from zfjax.experiments.occlusion import occlusion
    from zfjax.experiments.subject import open_run
    from zfjax.models import (
        ConvNet,
        alexnet,
        alexnet_torchvision,
        layer,
        layer_table,
        resnet18,
        resnet34,
        resnet50,
        split,
        vgg16,
        zfnet,
        zfnet_post,
    )
    from zfjax.ops import renormalize_filters
    from zfjax.plots.projections import show
    from zfjax.rules import DECONVNET, GRADIENT, GUIDED
    from zfjax.seeds import strongest

_HOME = {
    "ConvNet": "zfjax.models",
    "DECONVNET": "zfjax.rules",
    "GRADIENT": "zfjax.rules",
    "GUIDED": "zfjax.rules",
    "RuleWarning": "zfjax.backproject",
    "alexnet": "zfjax.models",
    "alexnet_torchvision": "zfjax.models",
    "backproject": "zfjax.backproject",
    "deconvnet": "zfjax.backproject",
    "grad_cam": "zfjax.attribution",
    "layer": "zfjax.models",
    "layer_table": "zfjax.models",
    "occlusion": "zfjax.experiments.occlusion",
    "open_run": "zfjax.experiments.subject",
    "renormalize_filters": "zfjax.ops",
    "resnet18": "zfjax.models",
    "resnet34": "zfjax.models",
    "resnet50": "zfjax.models",
    "show": "zfjax.plots.projections",
    "split": "zfjax.models",
    "strongest": "zfjax.seeds",
    "top_activations": "zfjax.experiments.gallery",
    "vgg16": "zfjax.models",
    "zfnet": "zfjax.models",
    "zfnet_post": "zfjax.models",
}

_MODULES = ("attribution", "ops", "rules", "seeds", "weights")

__all__ = [
    "DECONVNET",
    "GRADIENT",
    "GUIDED",
    "ConvNet",
    "RuleWarning",
    "__version__",
    "alexnet",
    "alexnet_torchvision",
    "attribution",
    "backproject",
    "deconvnet",
    "grad_cam",
    "layer",
    "layer_table",
    "occlusion",
    "open_run",
    "ops",
    "renormalize_filters",
    "resnet18",
    "resnet34",
    "resnet50",
    "rules",
    "seeds",
    "show",
    "split",
    "strongest",
    "top_activations",
    "vgg16",
    "weights",
    "zfnet",
    "zfnet_post",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"zfjax.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zfjax' has no attribute {name!r}")


class _Package(types.ModuleType):
    """Here `zfjax.backproject` is the function; an import of the module of that name would put the module there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backproject" and isinstance(value, types.ModuleType):
            value = value.backproject
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(__all__)

"""See what a ConvNet sees: Zeiler & Fergus (2013) in JAX.

The names below are imported when they are first used, so that `import zfjax` and the commands' `--help` are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zfjax.version import __version__

if TYPE_CHECKING:
    from zfjax import ops
    from zfjax.models import ConvNet, alexnet, layer_table, zfnet, zfnet_post
    from zfjax.ops import renormalize_filters

_HOME = {
    "ConvNet": "zfjax.models",
    "alexnet": "zfjax.models",
    "layer_table": "zfjax.models",
    "renormalize_filters": "zfjax.ops",
    "zfnet": "zfjax.models",
    "zfnet_post": "zfjax.models",
}

__all__ = [
    "ConvNet",
    "__version__",
    "alexnet",
    "layer_table",
    "ops",
    "renormalize_filters",
    "zfnet",
    "zfnet_post",
]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("zfjax.ops")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'zfjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

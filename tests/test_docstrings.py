"""Every example in a docstring does what it says."""

import doctest
import importlib.util
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zfjax

HAS_GRADIO = importlib.util.find_spec("gradio") is not None  # of an extra, which the live page needs
NAMES = {"jax": jax, "jnp": jnp, "np": np, "zfjax": zfjax}


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for found in pkgutil.walk_packages(zfjax.__path__, "zfjax."):
        if not found.name.endswith("__main__") and (HAS_GRADIO or not found.name.startswith("zfjax.explore.")):
            module = importlib.import_module(found.name)
            tests = finder.find(module, found.name, globs={**vars(module), **NAMES})
            yield from (pytest.param(test, id=test.name) for test in tests if test.examples)


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_does_what_it_says(example):
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)

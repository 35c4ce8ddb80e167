"""Settings of every test: float64, no silent broadcasting, shapes checked as annotated.

The import hook must be installed before any module of bayleaf is imported, so it stands first.

Most of the time of a quick test goes into optimising a program that runs for milliseconds, so quick
tests are compiled without most of XLA's optimisations; slow tests, whose programs run for long, are
compiled as users have them. ``BAYLEAF_TEST_OPTIMISED=1`` compiles all of them so: CI does that on
one of its Pythons, since an optimised program may round otherwise.
"""

from __future__ import annotations

import os

import jax
import pytest
from jaxtyping import install_import_hook

# ArviZ puts a lazy NumPyro into sys.modules, and `import numpyro.distributions` then loads that
# module twice, the second time without its submodules (from Python 3.12 on). Load it whole first.
from numpyro import distributions as _distributions  # noqa: F401

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

install_import_hook("bayleaf", "beartype.beartype")

OPTIMISE_ALL = os.environ.get("BAYLEAF_TEST_OPTIMISED") == "1"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the fixtures of any scope, which compile too."""
    is_quick = item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", is_quick and not OPTIMISE_ALL)

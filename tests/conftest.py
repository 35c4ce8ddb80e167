"""Settings of every test: float64, no silent broadcasting.

Most of the time of a quick test goes into tracing and optimising a program that runs for
milliseconds. So quick tests are compiled without most of XLA's optimisations (slow tests, whose
programs run for long, as users have them), and annotated shapes are not checked.
``BAYLEAF_TEST_THOROUGH=1`` does both: CI sets it on one of its Pythons, since an optimised program
may round otherwise.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

# ArviZ puts a lazy NumPyro into sys.modules, and `import numpyro.distributions` then loads that
# module twice, the second time without its submodules (from Python 3.12 on). Load it whole first.
from numpyro import distributions as _distributions  # noqa: F401

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

OPTIMISE_ALL = os.environ.get("BAYLEAF_TEST_THOROUGH") == "1"
if OPTIMISE_ALL:
    # Before any module of bayleaf is imported.
    install_import_hook("bayleaf", "beartype.beartype")

# Programs that are kept for later calls are millions of objects, none of which is ever garbage:
# looking through them all the time takes a tenth of the time of the tests.
gc.set_threshold(200_000, 50, 100)

# Every compiled program holds some pages mapped, and Linux ends a process that asks for more than
# 65,530 of them. Programs of earlier tests go before it comes to that; not after every test, since
# what they share would be compiled anew.
MAPS = Path("/proc/self/maps")
MANY_MAPS = 40_000


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before the fixtures of any scope, which compile too."""
    is_quick = item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", is_quick and not OPTIMISE_ALL)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After a module, or a slow test: to count takes some milliseconds."""
    is_last = nextitem is None or nextitem.path != item.path
    is_slow = item.get_closest_marker("slow") is not None
    if (is_last or is_slow) and MAPS.exists() and MAPS.read_text().count("\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()

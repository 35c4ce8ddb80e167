"""Adaptive rejection as a kernel: exact draws of the conditionals, alone and in Gibbs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.logconcave.hull import SecantHull, TangentHull
from bayleaf.mcmc import AdaptiveRejection, Gibbs, MetropolisHastings, RandomWalk
from tests.conftest import OPTIMISE_ALL
from tests.tools.chains import end_positions, run_chains
from tests.tools.statistics import assert_cdf

NUM = 5000
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_to_compile():
    """Slow tests too: it is the compiler that makes them slow."""
    jax.config.update("jax_disable_most_optimizations", not OPTIMISE_ALL)


def log_gamma(y):
    """Of log y for y ~ Gamma(2.5)."""
    return 2.5 * y - jnp.exp(y)


@SLOW
@pytest.mark.parametrize("hull", [TangentHull(), SecantHull()])
def test_one_step_from_anywhere_is_an_exact_draw(hull):
    """In one dimension a step is an independent draw, from starts far in both tails too."""
    starts = jnp.linspace(-20.0, 6.0, NUM)
    kernel = AdaptiveRejection(hull=hull)
    draws, info = run_chains(kernel, log_gamma, starts, key=jax.random.key(0), num_draws=1)
    assert jnp.all(info.is_log_concave)
    assert not jnp.any(info.is_nan)
    assert_cdf(np.exp(draws[:, 0]), stats.gamma(2.5).cdf, iid=True)
    correlation = stats.spearmanr(starts, draws[:, 0])
    assert correlation.pvalue > 1e-6


class Truncated:
    """x and y with x + y > 1 and both in (0, 1): the density is uniform on a triangle."""

    @staticmethod
    def log_density(p):
        return jnp.where(p["x"] + p["y"] > 1, 0.0, -jnp.inf) + 0.0 * p["x"]

    @staticmethod
    def cdf(x):
        return x**2


@SLOW
def test_gibbs_with_a_support_and_a_density_that_is_zero_inside_of_it():
    kernel = Gibbs(
        {"x": AdaptiveRejection(support=(0, 1)), "y": AdaptiveRejection(support=(0.0, 1.0))}
    )
    starts = {"x": jnp.full(NUM, 0.9), "y": jnp.full(NUM, 0.9)}
    ends = end_positions(kernel, Truncated.log_density, starts, key=jax.random.key(1), num_steps=12)
    assert_cdf(ends["x"], Truncated.cdf, iid=True)


@SLOW
def test_a_block_beside_another_kernel_of_gibbs():
    def joint(p):
        return log_gamma(p["a"]) - 0.5 * jnp.sum((p["b"] - p["a"]) ** 2)

    kernel = Gibbs({"a": AdaptiveRejection(), "b": MetropolisHastings(RandomWalk(1.5))})
    a = np.log(stats.gamma(2.5).rvs(NUM, random_state=0))
    b = a[:, None] + np.random.default_rng(1).normal(size=(NUM, 2))
    starts = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    ends = end_positions(kernel, joint, starts, key=jax.random.key(2), num_steps=3)
    assert_cdf(np.exp(ends["a"]), stats.gamma(2.5).cdf, iid=True)


@SLOW
def test_a_conditional_that_is_not_log_concave_stays_and_is_flagged():
    def student(x):
        return -2 * jnp.log1p(x * x / 3)

    starts = jnp.linspace(-3.0, 3.0, 50)
    draws, info = run_chains(
        AdaptiveRejection(), student, starts, key=jax.random.key(0), num_draws=1
    )
    assert not jnp.any(info.is_log_concave)
    np.testing.assert_array_equal(draws[:, 0], starts)
    assert not jnp.any(info.is_nan)


@pytest.mark.parametrize("support", [(1, 0), (0, 0), (np.nan, 1)])
def test_a_support_that_holds_nothing_is_refused(support):
    with pytest.raises(BayleafError, match="support: got"):
        AdaptiveRejection(support=support)

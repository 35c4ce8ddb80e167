"""Adaptive rejection Metropolis: the right law for densities that are not log-concave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.montecarlo import adaptive_rejection_metropolis
from bayleaf.montecarlo.adaptive_rejection_metropolis import chain
from tests.tools.statistics import assert_cdf, assert_counts


def mixture(x):
    return jnp.logaddexp(-0.5 * (x - 5) ** 2, -0.5 * (x + 5) ** 2)


def student(x):
    return -2 * jnp.log1p(x * x / 3)


def gamma(x):
    return jnp.where(x > 0, -0.5 * jnp.log(jnp.where(x > 0, x, 1)) - x, -jnp.inf)


KINDS = (mixture, student, gamma, lambda x: 0 * x, jnp.log)


def one_of_them(x, which):
    return jax.lax.switch(which, KINDS, x)


def mixture_cdf(x):
    return 0.5 * stats.norm.cdf(x - 5) + 0.5 * stats.norm.cdf(x + 5)


@pytest.fixture(scope="module")
def found():
    return adaptive_rejection_metropolis(
        one_of_them,
        key=jax.random.key(0),
        num_draws=20_000,
        support=(np.array([-np.inf, -np.inf, 0.0]), np.inf),
        args=np.arange(3),
    )


def test_laws_that_are_not_log_concave(found):
    """Nearly every step moves; the draws are judged as those of a chain all the same."""
    laws = (mixture_cdf, stats.t(3).cdf, stats.gamma(0.5).cdf)
    for draws, cdf in zip(found.draws.T, laws, strict=True):
        assert_cdf(draws[None], cdf)
    assert found.metropolis_rate > 0.95
    assert found.acceptance_rate > 0.8


# Three states with f and a hull that is below f at two of them: proposals ~ min(f, h).
F, H = np.array([4.0, 2.0, 1.0]), np.array([1.0, 3.0, 0.2])


def exact_matrix(weight):
    proposal = np.minimum(F, H) / np.minimum(F, H).sum()
    matrix = proposal[None] * np.minimum(1, weight[None] / weight[:, None])
    np.fill_diagonal(matrix, 0)
    np.fill_diagonal(matrix, 1 - matrix.sum(1))
    return matrix


def count(excess_of_state):
    """Counted transitions of `chain` with independent proposals."""
    num = 200_000
    proposal = np.minimum(F, H) / np.minimum(F, H).sum()
    states = jax.random.choice(jax.random.key(1), 3, (num, 1), p=jnp.asarray(proposal))
    at, _ = chain(jax.random.key(2), jnp.asarray(excess_of_state)[states])
    visited = np.asarray(jnp.take_along_axis(states, at, axis=0))[:, 0]
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (visited[:-1], visited[1:]), 1)
    return counts


def test_one_step_is_that_of_equation_5():
    matrix = exact_matrix(np.maximum(1, F / H))
    np.testing.assert_allclose(F @ matrix, F)  # f is invariant
    assert_counts(count(np.log(F / H)), matrix)


def test_weights_without_the_minimum_are_caught():
    """w = f / h in place of max(1, f / h): not the law of equation 5, and f is not invariant."""
    wrong = exact_matrix(F / H)
    assert not np.allclose(F @ wrong, F)
    with pytest.raises(AssertionError):
        assert_counts(count(np.log(F / H)), wrong)


def test_what_cannot_be_normalised_or_is_nan_is_refused():
    settings = {"key": jax.random.key(0), "num_draws": 10}
    for which, said in ((3, "cannot be normalised"), (4, "NaN at x = -1000")):
        with pytest.raises(BayleafError, match=said):
            adaptive_rejection_metropolis(one_of_them, args=np.array([which]), **settings)

"""Rejection sampling: exact draws, the normalising constant, and bounds that do not hold."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.gaussian import Gaussian
from bayleaf.montecarlo import find_log_bound, rejection
from tests.tools.statistics import FALSE_ALARM, assert_cdf


def beta(x):
    """Beta(2, 5) without its constant, 30."""
    return jnp.log(x) + 4 * jnp.log1p(-x)


UNIFORM = dist.Uniform(0.0, 1.0)
LOG_BOUND = float(np.log(0.2 * 0.8**4))  # at the mode, 1/5
SETTINGS = {"key": jax.random.key(0), "num_draws": 20_000}


@pytest.fixture(scope="module")
def found():
    return rejection(beta, UNIFORM, LOG_BOUND, **SETTINGS)


def test_draws_rate_and_normalising_constant_are_exact(found):
    assert_cdf(found.draws, stats.beta(2, 5).cdf, iid=True)
    rate = 1 / (30 * 0.2 * 0.8**4)
    error = np.sqrt(rate * (1 - rate) / found.num_proposals)
    limit = stats.norm.isf(FALSE_ALARM / 4)
    assert abs(found.acceptance_rate - rate) < limit * error
    assert abs(found.log_normalizer + np.log(30)) < limit * found.log_normalizer_error
    np.testing.assert_allclose(found.log_normalizer_error, error / rate, rtol=0.05)
    assert not found.is_bound_estimated


def test_a_bound_is_found_and_said_to_be_an_estimate():
    bound = find_log_bound(beta, UNIFORM, key=jax.random.key(1))
    np.testing.assert_allclose(bound.log_bound - bound.margin, LOG_BOUND, atol=1e-6)
    np.testing.assert_allclose(bound.position, 0.2, atol=1e-3)
    assert bound.num_agreeing == bound.num_climbs
    found = rejection(beta, UNIFORM, **SETTINGS)
    assert found.is_bound_estimated
    assert_cdf(found.draws, stats.beta(2, 5).cdf, iid=True)


def test_a_bound_that_is_violated_is_an_error_that_says_where():
    with pytest.raises(BayleafError, match=r"violated at .* of 16384 proposals") as caught:
        rejection(beta, UNIFORM, LOG_BOUND - 0.5, **SETTINGS)
    assert "x = 0.2" in str(caught.value) or "x = 0.19" in str(caught.value)
    assert "larger by 0.5" in str(caught.value)


def test_without_the_check_the_draws_would_be_wrong():
    """The planted bug is the bound that is too small: the peak is cut off."""
    u = np.random.default_rng(0)
    x = u.uniform(size=200_000)
    kept = x[np.log(u.uniform(size=x.size)) <= np.asarray(beta(x)) - LOG_BOUND + 0.5]
    with pytest.raises(AssertionError):
        assert_cdf(kept, stats.beta(2, 5).cdf, iid=True)


class Pair:
    """Draws are dictionaries, one entry discrete."""

    def sample(self, key):
        one, other = jax.random.split(key)
        return {"x": jax.random.normal(one), "k": jax.random.randint(other, (), 0, 2)}

    def log_prob(self, p):
        return -0.5 * p["x"] ** 2 + 0.0 * p["k"]


def test_pytrees_with_discrete_entries():
    def density(p):
        return -0.5 * (p["x"] ** 2) - jnp.where(p["k"] == 1, 0.0, 1.0)

    found = rejection(density, Pair(), 0.0, key=jax.random.key(0), num_draws=5000)
    assert found.draws["k"].dtype.kind == "i"
    share, expected = found.draws["k"].mean(), 1 / (1 + np.exp(-1))
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / 5000)
    assert found.summary()["x"].sd == pytest.approx(1, abs=0.06)


def test_a_ratio_without_a_bound_is_refused():
    normal = Gaussian(np.zeros(1), np.eye(1))
    with pytest.raises(BayleafError, match="still grows at x = "):
        rejection(lambda x: -jnp.sum(jnp.abs(x)), normal, **SETTINGS)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((3, UNIFORM, 0.0), "log_density: got 3"),
        ((beta, None, 0.0), r"proposal: got None, expected an object with sample\(key\)"),
        ((beta, Gaussian, 0.0), "proposal: got <class"),
        ((beta, UNIFORM, np.nan), "log_bound: got nan"),
        ((beta, UNIFORM, np.inf), "log_bound: got inf"),
        ((beta, UNIFORM, "high"), "log_bound: got high"),
        ((beta, UNIFORM, 30.0), r"max_proposals: got 0 of \d+ proposals accepted"),
        ((lambda x: x * jnp.nan, UNIFORM, 0.0), r"got NaN for log p - log q at x = 0\."),
    ],
)
def test_unusable_arguments_are_refused_by_name(arguments, match):
    with pytest.raises(BayleafError, match=match):
        rejection(*arguments, **SETTINGS)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"num_draws": 0}, "num_draws: got 0"), ({"key": 1}, "key: got 1, expected one typed key")],
)
def test_unusable_options_are_refused_by_name(options, match):
    with pytest.raises(BayleafError, match=match):
        rejection(beta, UNIFORM, LOG_BOUND, **{**SETTINGS, **options})

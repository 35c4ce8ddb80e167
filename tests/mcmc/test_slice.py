"""Slice sampling: the textbook's law, exact CDFs from stationarity, learnt widths, bounded work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.mcmc import slice as slice_module
from bayleaf.mcmc.slice import HitAndRunSlice, Slice
from tests.textbook.slice import slice_sampling
from tests.tools.chains import end_positions, run_chains, warm_up
from tests.tools.geweke import geweke_test
from tests.tools.statistics import assert_cdf, assert_mean, assert_same

STARTS = jax.random.gamma(jax.random.key(5), 3.0, (10_000,))


def gamma_log_density(x):
    """Gamma(3, 1): skewed, zero density below 0."""
    return jnp.where(x > 0, 2 * jnp.log(jnp.where(x > 0, x, 1.0)) - x, -jnp.inf)


def gamma_log_density_numpy(x):
    return 2 * np.log(x) - x if x > 0 else -np.inf


@pytest.mark.parametrize(("width", "max_steps"), [(0.7, 3), (20.0, 8)])
def test_it_has_the_law_of_the_textbook_loop(width, max_steps):
    """Small widths meet the limit of the steps, large ones shrink: both from a fixed start."""
    rng = np.random.default_rng(0)
    reference = np.array(
        [
            slice_sampling(gamma_log_density_numpy, 1.0, width, max_steps, 2, rng)[-1]
            for _ in range(5000)
        ]
    )
    ends = end_positions(
        Slice(width, max_steps),
        gamma_log_density,
        jnp.ones(5000),
        key=jax.random.key(0),
        num_steps=2,
    )
    ends = np.asarray(ends)
    assert_same([ends, ends**2], [reference, reference**2], iid=True)
    assert stats.ks_2samp(ends, reference).pvalue > 1e-6


@pytest.mark.parametrize("kernel", [Slice(0.5, 3), Slice(5.0), HitAndRunSlice(1.0, 2.0, 2)])
def test_started_at_stationarity_it_stays_there(kernel):
    starts = STARTS if isinstance(kernel, Slice) else STARTS[:, None]
    density = gamma_log_density if isinstance(kernel, Slice) else lambda x: gamma_log_density(x[0])
    ends = end_positions(kernel, density, starts, key=jax.random.key(1), num_steps=3)
    assert_cdf(np.asarray(ends).ravel(), stats.gamma(3).cdf, iid=True)


class RandomWith:
    """jax.random with one function replaced: how a bug is planted in the slice sampler."""

    def __init__(self, name, function):
        self.name, self.function = name, function

    def __getattr__(self, name):
        return self.function if name == self.name else getattr(jax.random, name)


class JaxWith:
    def __init__(self, random):
        self.random = random

    def __getattr__(self, name):
        return getattr(jax, name)


PLANTED = {
    # The height is drawn as the log of the root of a uniform number.
    "wrong height": (
        "exponential",
        lambda key, dtype: 0.5 * jax.random.exponential(key, dtype=dtype),
    ),
    # All steps go to one end: the interval then depends on which of its points looks for it.
    "steps not shared at random": ("randint", lambda key, shape, low, high: jnp.asarray(high - 1)),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_planted_bugs_are_caught(bug, monkeypatch):
    monkeypatch.setattr(slice_module, "jax", JaxWith(RandomWith(*PLANTED[bug])))
    ends = end_positions(
        Slice(0.7, 3), gamma_log_density, STARTS, key=jax.random.key(1), num_steps=3
    )
    with pytest.raises(AssertionError):
        assert_cdf(ends, stats.gamma(3).cdf, iid=True)


def test_a_draw_that_is_not_checked_against_the_slice_is_caught():
    """The first draw is taken wherever the density is positive."""

    class Unchecked(Slice):
        def step(self, log_density, key, state):
            flat = lambda x: jnp.where(log_density(x) > -jnp.inf, 0.0, -jnp.inf)  # noqa: E731
            state, info = Slice.step(self, flat, key, state._replace(log_density=0.0 * state[1]))
            return state._replace(log_density=log_density(state.position)), info

    ends = end_positions(
        Unchecked(2.0, 2), gamma_log_density, STARTS, key=jax.random.key(1), num_steps=3
    )
    with pytest.raises(AssertionError):
        assert_cdf(ends, stats.gamma(3).cdf, iid=True)


def test_geweke():
    geweke_test(
        Slice(1.0),
        prior=lambda key: {"theta": jax.random.normal(key, (2,))},
        simulate=lambda key, p: jnp.prod(p["theta"]) + jax.random.normal(key),
        log_joint=lambda p, y: (
            -0.5 * jnp.sum(p["theta"] ** 2) - 0.5 * (y - jnp.prod(p["theta"])) ** 2
        ),
        key=jax.random.key(0),
        num_chains=10_000,
        num_sweeps=3,
    )


COVARIANCE = np.array([[1.0, 9.9, 0.0], [9.9, 100.0, 0.0], [0.0, 0.0, 1e-4]])


def gaussian_log_density(x):
    return -0.5 * x @ jnp.linalg.solve(jnp.asarray(COVARIANCE), x)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [Slice(), HitAndRunSlice()])
def test_warm_up_learns_widths(kernel):
    """Scales differ ten-thousandfold, correlation 0.99: few evaluations, right moments."""
    starts = jnp.zeros((4, 3)) + jnp.array([[1.0, 1.0, 0.0]])
    tuned, starts = warm_up(
        kernel, gaussian_log_density, starts, key=jax.random.key(0), num_warmup=600
    )
    draws, info = run_chains(
        tuned, gaussian_log_density, starts, key=jax.random.key(1), num_draws=8000
    )
    lines = 3 if isinstance(kernel, Slice) else 1
    assert info.num_evaluations.mean() < 6 * lines
    assert not jnp.any(info.is_exhausted)
    assert_mean([draws, draws**2], [np.zeros(3), np.diag(COVARIANCE)])
    if isinstance(kernel, Slice):
        # Mean width of a Gaussian's slice: 2 sqrt(2 E) with E = Exp(1) + chi^2 / 2, about 3.2 sd
        # of the conditional, not of the margin.
        conditional_sd = 1 / np.sqrt(np.diag(np.linalg.inv(COVARIANCE)))
        np.testing.assert_allclose(tuned.width, 3.2 * conditional_sd, rtol=0.35)


def test_given_parameters_are_kept():
    assert Slice(1.0).tuner() is None
    assert HitAndRunSlice(1.0, 1.0).tuner() is None
    kernel, _ = warm_up(
        HitAndRunSlice(shape=jnp.array([1.0, 10.0, 0.01])),
        gaussian_log_density,
        jnp.zeros((4, 3)),
        key=jax.random.key(0),
        num_warmup=100,
    )
    np.testing.assert_array_equal(kernel.shape, [1.0, 10.0, 0.01])
    assert kernel.width.shape == ()


def test_nan_is_outside_and_flagged_zero_density_is_not():
    def half(x):
        return jnp.where(x < 0, jnp.nan, -0.5 * x**2)

    for density, is_nan in ((half, True), (gamma_log_density, False)):
        draws, info = run_chains(
            Slice(3.0), density, jnp.ones(4), key=jax.random.key(0), num_draws=200
        )
        assert jnp.all(draws >= 0)
        assert bool(jnp.any(info.is_nan)) == is_nan
        assert not jnp.any(info.is_exhausted)


def test_the_work_is_bounded_and_a_hopeless_search_is_flagged():
    """NaN wherever the chain looks: it stays, says so, and ends."""
    algorithm = Slice(1.0, max_steps=4, max_shrinks=7).bind(
        lambda x: jnp.where(x == 1.0, 0.0, jnp.nan)
    )
    state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.asarray(1.0)))
    assert info.is_exhausted
    assert info.is_nan
    assert state.position == 1.0
    assert state.log_density == 0.0
    assert info.num_evaluations <= 7 + 4
    # A flat, improper density: the interval grows to its limit and no further.
    algorithm = Slice(1.0, max_steps=4).bind(lambda x: 0.0 * x)
    state, info = algorithm.step(jax.random.key(0), algorithm.init(jnp.asarray(1.0)))
    assert abs(state.position - 1.0) <= 4.0
    assert info.num_evaluations == 4


def test_a_large_log_density_in_float32_does_not_lose_the_slice():
    """At 1e8 the exponential draw is below round-off: the slice still holds the point itself."""
    density = lambda x: jnp.float32(1e8) - 0.5 * x**2  # noqa: E731
    _, info = run_chains(
        Slice(1.0), density, jnp.ones(4, jnp.float32), key=jax.random.key(0), num_draws=50
    )
    assert not jnp.any(info.is_exhausted)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Slice(-1.0), "width: got -1.0"),
        (lambda: Slice(max_steps=0), "max_steps: got 0, expected a whole number >= 1"),
        (lambda: HitAndRunSlice(max_shrinks=0), "max_shrinks: got 0"),
        (lambda: _step(Slice()), "width: got None, expected a value"),
        (lambda: _step(HitAndRunSlice(1.0)), "shape: got None, expected a value"),
        (lambda: _step(Slice(jnp.ones(3))), r"width: got shape \(3,\)"),
        (lambda: _step(Slice(1.0), jnp.ones(2, int)), "dtype int64, expected real numbers"),
    ],
)
def test_unusable_configurations_are_refused(make, match):
    with pytest.raises(BayleafError, match=match):
        make()


def _step(kernel, position=None):
    algorithm = kernel.bind(lambda x: -0.5 * jnp.sum(x.astype(float) ** 2))
    state = algorithm.init(jnp.ones(2) if position is None else position)
    return algorithm.step(jax.random.key(0), state)

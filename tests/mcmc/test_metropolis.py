"""Metropolis-Hastings: exact transitions, invariance, tuning; every planted bug is caught."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.mcmc.metropolis import Independence, Langevin, MetropolisHastings, RandomWalk
from bayleaf.mcmc.moments import moments_init, moments_update
from bayleaf.mcmc.step_size import dual_averaging_init, dual_averaging_update
from tests.textbook.metropolis import metropolis_hastings
from tests.tools.chains import end_positions, run_chains, warm_up
from tests.tools.geweke import geweke_test
from tests.tools.statistics import assert_cdf, assert_mean, assert_same
from tests.tools.transitions import (
    assert_invariant_matrix,
    assert_transitions,
    count_transitions,
    metropolis_matrix,
)

TARGET = np.array([0.1, 0.2, 0.3, 0.4])
MATRIX = np.array(
    [[0.1, 0.6, 0.2, 0.1], [0.2, 0.2, 0.5, 0.1], [0.3, 0.1, 0.0, 0.6], [0.4, 0.2, 0.2, 0.2]]
)


class Table:
    """A user's proposal on the states 0..3, as the documentation invites: two methods."""

    def propose(self, key, point):
        draw = jax.random.categorical(key, jnp.log(MATRIX)[point.position])
        return draw.astype(point.position.dtype)

    def log_proposal(self, proposed, point):
        return jnp.log(MATRIX)[point.position, proposed]


class TableWithoutHastings(Table):
    """Planted bug: the proposal is taken for symmetric."""

    def log_proposal(self, proposed, point):
        return 0.0


def table_counts(proposal):
    kernel = MetropolisHastings(proposal)
    log_density = lambda i: jnp.log(TARGET)[i]  # noqa: E731

    def step(key, i):
        return kernel.step(log_density, key, kernel.init(log_density, i))[0].position

    return count_transitions(step, 4, key=jax.random.key(1), num_steps=20_000)


def test_discrete_proposal_has_the_exact_transition_matrix():
    matrix = metropolis_matrix(TARGET, MATRIX)
    assert_invariant_matrix(matrix, TARGET)
    assert_transitions(table_counts(Table()), matrix)


def test_missing_hastings_ratio_is_caught():
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(table_counts(TableWithoutHastings()), metropolis_matrix(TARGET, MATRIX))


def test_independence_has_the_exact_transition_matrix():
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    proposal = Independence(
        lambda key: jax.random.categorical(key, jnp.log(weights)), lambda i: jnp.log(weights)[i]
    )
    matrix = metropolis_matrix(TARGET, np.tile(weights, (4, 1)))
    assert_transitions(table_counts(proposal), matrix)


def gamma_log_density(x):
    """Gamma(3, 1): skewed, zero density below 0."""
    return jnp.where(x > 0, 2 * jnp.log(jnp.where(x > 0, x, 1.0)) - x, -jnp.inf)


def gamma_log_density_numpy(x):
    return 2 * np.log(x) - x if x > 0 else -np.inf


def test_random_walk_has_the_law_of_the_textbook_loop():
    """From a fixed start, far from stationarity: the kernel itself, not its limit."""
    rng = np.random.default_rng(0)
    num_chains, num_steps, sd = 5000, 4, 1.5
    reference = [
        metropolis_hastings(
            gamma_log_density_numpy,
            lambda x, rng: x + sd * rng.normal(),
            lambda to, start: 0.0,
            1.0,
            num_steps,
            rng,
        )[-1]
        for _ in range(num_chains)
    ]
    ends = end_positions(
        MetropolisHastings(RandomWalk(sd)),
        gamma_log_density,
        jnp.ones(num_chains),
        key=jax.random.key(0),
        num_steps=num_steps,
    )
    ends, reference = np.asarray(ends), np.array(reference)
    assert_same([ends, ends**2, ends == 1.0], [reference, reference**2, reference == 1.0], iid=True)
    assert stats.ks_2samp(ends, reference).pvalue > 1e-6


STARTS = jax.random.gamma(jax.random.key(5), 3.0, (20_000,))


@pytest.mark.parametrize(
    "proposal",
    [RandomWalk(2.0), Langevin(1.0, 1.0), Independence.from_gaussian(jnp.asarray(3.0), [[6.0]])],
    ids=lambda proposal: type(proposal).__name__,
)
def test_started_at_stationarity_it_stays_there(proposal):
    ends = end_positions(
        MetropolisHastings(proposal), gamma_log_density, STARTS, key=jax.random.key(1), num_steps=3
    )
    assert np.mean(np.asarray(ends) != np.asarray(STARTS)) > 0.5
    assert_cdf(ends, stats.gamma(3).cdf, iid=True)


class LangevinWithoutHalf(Langevin):
    """Planted bug: the drift lacks its one half in the move, not in the correction."""

    def propose(self, key, point):
        drift = 0.5 * self.step_size**2 * point.gradient
        return super().propose(key, point) + drift


class LangevinWithoutReverse(Langevin):
    """Planted bug: taken for symmetric."""

    def log_proposal(self, proposed, point):
        return jnp.zeros(())


@pytest.mark.parametrize("bug", [LangevinWithoutHalf, LangevinWithoutReverse])
def test_planted_langevin_bugs_are_caught(bug):
    kernel = MetropolisHastings(bug(1.0, 1.0))
    ends = end_positions(kernel, gamma_log_density, STARTS, key=jax.random.key(1), num_steps=3)
    with pytest.raises(AssertionError):
        assert_cdf(ends, stats.gamma(3).cdf, iid=True)


def test_langevin_proposes_the_law_that_it_says():
    """The acceptance step would hide a drift that is wrong in both methods."""
    scales = np.array([0.5, 2.0])
    kernel = MetropolisHastings(Langevin(0.7, scales))
    state = kernel.init(lambda x: -0.5 * jnp.sum((x - 1) ** 2), jnp.array([2.0, -3.0]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = jax.vmap(kernel.proposal.propose, in_axes=(0, None))(keys, state)
    mean = np.array([2.0, -3.0]) + 0.5 * 0.7**2 * scales**2 * np.array([-1.0, 4.0])
    variance = 0.7**2 * scales**2
    draws = np.asarray(draws)
    assert_mean([draws, (draws - mean) ** 2], [mean, variance], iid=True)
    log_q = stats.norm(mean, np.sqrt(variance)).logpdf
    points = np.array([[0.3, 1.0], [-1.0, 0.5]])
    got = [kernel.proposal.log_proposal(jnp.asarray(point), state) for point in points]
    expected = [log_q(point).sum() for point in points]
    np.testing.assert_allclose(got[0] - got[1], expected[0] - expected[1], rtol=1e-12)


class LogScaleWalk:
    """x* = x exp(s z) on the half line: log q(x* | x) holds the Jacobian -log x*."""

    def __init__(self, jacobian=True):
        self.jacobian = jacobian

    def propose(self, key, point):
        return point.position * jnp.exp(jax.random.normal(key, dtype=point.position.dtype))

    def log_proposal(self, proposed, point):
        return -jnp.log(proposed) if self.jacobian else jnp.zeros(())


def test_a_wrong_jacobian_is_caught():
    for jacobian in (True, False):
        kernel = MetropolisHastings(LogScaleWalk(jacobian))
        ends = end_positions(kernel, gamma_log_density, STARTS, key=jax.random.key(2), num_steps=3)
        if jacobian:
            assert_cdf(ends, stats.gamma(3).cdf, iid=True)
        else:
            with pytest.raises(AssertionError):
                assert_cdf(ends, stats.gamma(3).cdf, iid=True)


def curved_model():
    """theta ~ N(0, 1), two data N(exp(theta / 2), 1): a skewed posterior."""
    return {
        "prior": lambda key: {"theta": jax.random.normal(key)},
        "simulate": lambda key, p: jnp.exp(p["theta"] / 2) + jax.random.normal(key, (2,)),
        "log_joint": lambda p, y: (
            -0.5 * p["theta"] ** 2 - 0.5 * jnp.sum((y - jnp.exp(p["theta"] / 2)) ** 2)
        ),
    }


@pytest.mark.parametrize("proposal", [RandomWalk(1.0), Langevin(0.8, 1.0)])
def test_geweke(proposal):
    geweke_test(MetropolisHastings(proposal), **curved_model(), key=jax.random.key(3))


def test_geweke_catches_a_drift_without_its_half():
    with pytest.raises(AssertionError):
        geweke_test(
            MetropolisHastings(_ScaledDrift(0.8, 1.0)), **curved_model(), key=jax.random.key(3)
        )


class _ScaledDrift(Langevin):
    def propose(self, key, point):
        drift = 0.5 * self.step_size**2 * point.gradient["theta"]
        proposed = super().propose(key, point)
        return {"theta": proposed["theta"] + drift}


COVARIANCE = jnp.array([[1.0, 9.0, 0.0], [9.0, 100.0, 0.0], [0.0, 0.0, 1e-4]])


def gaussian_log_density(x):
    return -0.5 * x @ jnp.linalg.solve(COVARIANCE, x)


@pytest.mark.parametrize(("proposal", "rate"), [(RandomWalk(), 0.234), (Langevin(), 0.574)])
def test_warm_up_learns_scales_that_differ_a_thousandfold(proposal, rate):
    kernel, positions = warm_up(
        MetropolisHastings(proposal),
        gaussian_log_density,
        jnp.zeros((4, 3)) + jnp.array([[1.0, 1.0, 0.0]]),
        key=jax.random.key(0),
        num_warmup=2000,
    )
    draws, info = run_chains(
        kernel, gaussian_log_density, positions, key=jax.random.key(1), num_draws=8000
    )
    assert abs(float(info.acceptance_rate.mean()) - rate) < 0.08
    assert_mean([draws, draws**2], [jnp.zeros(3), jnp.diag(COVARIANCE)])
    if isinstance(proposal, RandomWalk):
        covariance = np.asarray(kernel.proposal.scale @ kernel.proposal.scale.T)
        correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert abs(correlation - 0.9) < 0.05


def test_one_dimension_is_tuned_to_its_own_rate():
    kernel, positions = warm_up(
        MetropolisHastings(),
        lambda x: -0.5 * (x / 50.0) ** 2,
        jnp.zeros(4),
        key=jax.random.key(0),
        num_warmup=1000,
    )
    _, info = run_chains(
        kernel, lambda x: -0.5 * (x / 50.0) ** 2, positions, key=jax.random.key(1), num_draws=2000
    )
    assert abs(float(info.acceptance_rate.mean()) - 0.44) < 0.06


def test_given_parameters_are_kept():
    assert MetropolisHastings(RandomWalk(0.5)).tuner() is None
    assert MetropolisHastings(Table()).tuner() is None
    assert MetropolisHastings(Langevin(0.5, 1.0)).tuner() is None
    kernel, _ = warm_up(
        MetropolisHastings(Langevin(step_size=0.25)),
        lambda x: -0.5 * jnp.sum((x / 7.0) ** 2),
        jnp.zeros((4, 2)),
        key=jax.random.key(0),
        num_warmup=1000,
    )
    assert kernel.proposal.step_size == 0.25
    assert np.all(np.asarray(kernel.proposal.scales) > 1.5)


def test_zero_density_is_no_nan_and_nan_is_flagged():
    def half(x):
        return jnp.where(x < 0, jnp.nan, -0.5 * x**2)

    for log_density, is_nan in ((gamma_log_density, False), (half, True)):
        draws, info = run_chains(
            MetropolisHastings(RandomWalk(3.0)),
            log_density,
            jnp.ones(4),
            key=jax.random.key(0),
            num_draws=200,
        )
        assert bool(jnp.any(info.is_nan)) == is_nan
        assert not jnp.any(info.is_nan & info.is_accepted)
        assert jnp.all(draws >= 0)
    _, info = run_chains(
        MetropolisHastings(RandomWalk(3.0)),
        lambda x: x * jnp.nan,
        jnp.ones(4),
        key=jax.random.key(0),
        num_draws=20,
    )
    assert jnp.all(info.is_nan)


def test_a_start_of_zero_density_is_left():
    draws, info = run_chains(
        MetropolisHastings(RandomWalk(1.0)),
        gamma_log_density,
        jnp.full(4, -1.0),
        key=jax.random.key(0),
        num_draws=100,
    )
    assert jnp.all(draws[:, -1] > 0)
    assert not jnp.any(info.is_nan)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MetropolisHastings(RandomWalk), "an object, not the class"),
        (lambda: MetropolisHastings(0.5), "proposal: got 0.5, expected an object with the method"),
        (lambda: RandomWalk(-1.0), "scale: got -1.0, expected positive numbers"),
        (lambda: RandomWalk(jnp.ones((2, 3))), "scale: got shape"),
        (lambda: RandomWalk.from_covariance(-jnp.eye(2)), "covariance: .* not positive definite"),
        (lambda: Langevin(0.0), "step_size: got 0.0"),
        (lambda: Langevin(0.1, jnp.array([1.0, jnp.nan])), "scales"),
    ],
)
def test_unusable_configurations_are_refused(make, match):
    with pytest.raises(BayleafError, match=match):
        make()


@pytest.mark.parametrize(
    ("proposal", "position", "match"),
    [
        (RandomWalk(), jnp.ones(2), "scale: got None, expected a value"),
        (
            RandomWalk(jnp.ones(3)),
            jnp.ones(2),
            r"scale: got shape \(3,\), .* or 2",
        ),
        (RandomWalk(1.0), jnp.ones(2, int), "position: got dtype int64, expected real numbers"),
        (Langevin(0.1), jnp.ones(2), "scales: got None"),
        (
            Independence(lambda key: jnp.ones(3), lambda x: 0.0),
            jnp.ones(2),
            "proposal.propose: got a draw like",
        ),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(proposal, position, match):
    algorithm = MetropolisHastings(proposal).bind(lambda x: -0.5 * jnp.sum(x.astype(float) ** 2))
    state = algorithm.init(position)
    with pytest.raises(BayleafError, match=match):
        algorithm.step(jax.random.key(0), state)


def test_dual_averaging_finds_the_step_size():
    """Acceptance 1 / (1 + step): 0.8 is at 0.25. A NaN now and then only makes it more careful."""

    def update(state, is_bad):
        rate = jnp.where(is_bad, jnp.nan, 1 / (1 + jnp.exp(state.log_step)))
        return dual_averaging_update(state, rate, 0.8), None

    for dtype in (jnp.float32, jnp.float64):
        for start in (1e-3, 1e3):
            state = dual_averaging_init(jnp.asarray(start, dtype))
            state, _ = jax.lax.scan(update, state, jnp.zeros(2000, bool))
            assert state.log_step.dtype == state.log_step_avg.dtype == dtype
            assert abs(float(jnp.exp(state.log_step_avg)) - 0.25) < 0.02
    state, _ = jax.lax.scan(update, dual_averaging_init(1.0), jnp.arange(2000) % 20 == 0)
    assert jnp.isfinite(state.log_step_avg)
    assert jnp.exp(state.log_step_avg) < 0.25


def test_dual_averaging_follows_the_paper():
    """Equations 6 and 7 by hand for two steps: gamma 0.05, t0 10, kappa 0.75."""
    state = dual_averaging_init(0.5)
    h, log_avg = 0.0, 0.0
    for m, alpha in enumerate([0.9, 0.3], start=1):
        state = dual_averaging_update(state, jnp.asarray(alpha), 0.65)
        h = (1 - 1 / (m + 10)) * h + (0.65 - alpha) / (m + 10)
        log_step = np.log(5.0) - np.sqrt(m) / 0.05 * h
        log_avg = m**-0.75 * log_step + (1 - m**-0.75) * log_avg
        np.testing.assert_allclose(state.log_step, log_step, rtol=1e-12)
        np.testing.assert_allclose(state.log_step_avg, log_avg, rtol=1e-12)


def test_running_moments_weigh_draws_by_their_step():
    draws = np.random.default_rng(0).normal(size=(30, 4, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    moments = moments_init(2, jnp.float64)
    for draw in draws:
        moments = moments_update(moments, jnp.asarray(draw))
    weights = np.repeat(np.arange(1, 31), 4) / np.arange(1, 31).sum() / 4
    flat = draws.reshape(-1, 2)
    mean = weights @ flat
    covariance = (flat - mean).T @ (weights[:, None] * (flat - mean))
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-12)

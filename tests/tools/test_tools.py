"""The tools that judge the samplers are judged first: calibrated on the truth, sharp on bugs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.mcmc.kernel import Kernel
from tests.tools import statistics
from tests.tools.compiling import compilations
from tests.tools.geweke import geweke_test
from tests.tools.transitions import (
    assert_invariant_counts,
    assert_invariant_matrix,
    assert_transitions,
    count_transitions,
    gibbs_matrix,
    metropolis_matrix,
)


def ar1(rng, correlation, num_chains, num_draws, mean=0.0):
    """A stationary Gaussian chain whose law is N(mean, 1)."""
    noise = rng.normal(size=(num_chains, num_draws)) * np.sqrt(1 - correlation**2)
    noise[:, 0] = rng.normal(size=num_chains)
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0]
    for t in range(1, num_draws):
        values[:, t] = correlation * values[:, t - 1] + noise[:, t]
    return mean + values


def fails(assertion, *args, **kwargs):
    try:
        assertion(*args, **kwargs)
    except AssertionError:
        return True
    return False


def assert_rate_at_most(num_failures, num_tries, rate):
    """The failures are no more than ``rate`` explains (itself at 1e-6)."""
    assert stats.binom.sf(num_failures - 1, num_tries, rate) > 1e-6, (num_failures, num_tries)


@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize("assertion", ["mean", "cdf"])
def test_false_alarms_are_as_rare_as_stated(correlation, assertion):
    rng = np.random.default_rng(1)
    check, reference = {
        "mean": (statistics.assert_mean, 0.0),
        "cdf": (statistics.assert_cdf, stats.norm.cdf),
    }[assertion]
    num_tries = 200
    failures = sum(
        fails(check, ar1(rng, correlation, 4, 500), reference, false_alarm=0.05)
        for _ in range(num_tries)
    )
    assert_rate_at_most(failures, num_tries, 0.05)


def test_independent_draws_are_judged_exactly():
    rng = np.random.default_rng(2)
    tries = [rng.normal(size=400) for _ in range(300)]
    kinds = [(statistics.assert_mean, 0.0), (statistics.assert_cdf, stats.norm.cdf)]
    for check, reference in kinds:
        failures = sum(fails(check, x, reference, iid=True, false_alarm=0.05) for x in tries)
        assert_rate_at_most(failures, 300, 0.05)
        assert failures > 0, "a test at 5 % that never fails is no test"
        assert fails(check, tries[0] + 0.5, reference, iid=True)


def test_naive_standard_error_would_raise_alarms():
    """The reason for effective sizes: the same chains fail when taken as independent."""
    rng = np.random.default_rng(3)
    chains = [ar1(rng, 0.95, 4, 2000) for _ in range(40)]
    naive = sum(fails(statistics.assert_mean, c.ravel(), 0.0, iid=True) for c in chains)
    honest = sum(fails(statistics.assert_mean, c, 0.0) for c in chains)
    assert naive >= 3
    assert honest == 0


def test_a_biased_sampler_is_rejected_by_name():
    rng = np.random.default_rng(4)
    draws = {"mu": ar1(rng, 0.5, 4, 2000), "tau": np.stack([ar1(rng, 0.5, 4, 2000, 0.3)] * 2, -1)}
    with pytest.raises(AssertionError, match=r"2 of 3 means.*\n.*\['tau'\]\[[01]\].*expected 0"):
        statistics.assert_mean(draws, {"mu": 0.0, "tau": np.zeros(2)})
    statistics.assert_mean(draws, {"mu": 0.0, "tau": np.full(2, 0.3)})
    # The reference's own uncertainty excuses a gap of its size.
    statistics.assert_mean(draws["tau"], np.zeros(2), mcse=0.1)


def test_the_right_mean_with_a_wrong_spread_is_rejected():
    rng = np.random.default_rng(5)
    draws = 1.2 * ar1(rng, 0.5, 4, 4000)
    statistics.assert_mean(draws, 0.0)
    with pytest.raises(AssertionError, match="share below quantile"):
        statistics.assert_cdf(draws, stats.norm.cdf)


def test_stuck_or_broken_chains_are_rejected():
    with pytest.raises(AssertionError, match="expected 0"):
        statistics.assert_mean(np.ones((4, 100)), 0.0)
    with pytest.raises(AssertionError, match="not finite"):
        statistics.assert_mean(np.full((4, 100), np.nan), 0.0)
    stuck = np.repeat(np.array([[-1.0], [1.0], [-1.0], [1.0]]), 100, axis=1)
    stuck += 1e-3 * np.random.default_rng(0).normal(size=stuck.shape)
    with pytest.raises(AssertionError, match="effective sample size"):
        statistics.assert_mean(stuck, 0.0)
    with pytest.raises(AssertionError, match="lack their leading axes"):
        statistics.assert_mean(np.ones(4), 0.0)


def test_two_samplers_are_compared():
    rng = np.random.default_rng(6)
    one, two = ar1(rng, 0.5, 4, 2000), ar1(rng, 0.9, 4, 2000)
    statistics.assert_same(one, two)
    assert fails(statistics.assert_same, one, two + 1.0)


def test_counts():
    rng = np.random.default_rng(7)
    p = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    failures = sum(
        fails(statistics.assert_counts, rng.multinomial(500, p), p, false_alarm=0.05)
        for _ in range(300)
    )
    assert_rate_at_most(failures, 300, 0.05)
    with pytest.raises(AssertionError, match=r"cell \(1, 2\): 1 of 500"):
        statistics.assert_counts(np.array([[50, 100, 350], [250, 249, 1]]), p)


TARGET = np.array([0.1, 0.2, 0.3, 0.4])
PROPOSAL = np.array(
    [[0.1, 0.6, 0.2, 0.1], [0.2, 0.2, 0.5, 0.1], [0.3, 0.1, 0.1, 0.5], [0.4, 0.2, 0.2, 0.2]]
)


def metropolis_step(hastings):
    """Plain Metropolis-Hastings on four states, with or without its Hastings ratio."""
    log_target, log_proposal = jnp.log(TARGET), jnp.log(PROPOSAL)

    def step(key, i):
        key_propose, key_accept = jax.random.split(key)
        j = jax.random.categorical(key_propose, log_proposal[i])
        log_ratio = log_target[j] - log_target[i]
        if hastings:
            log_ratio += log_proposal[j, i] - log_proposal[i, j]
        return jnp.where(jnp.log(jax.random.uniform(key_accept)) < log_ratio, j, i)

    return step


def test_transition_counts_tell_the_right_kernel_from_the_wrong_one():
    matrix = metropolis_matrix(TARGET, PROPOSAL)
    assert_invariant_matrix(matrix, TARGET)
    right, wrong = (
        count_transitions(metropolis_step(h), 4, key=jax.random.key(0), num_steps=50_000)
        for h in (True, False)
    )
    assert_transitions(right, matrix)
    assert_invariant_counts(right, TARGET)
    assert fails(assert_transitions, wrong, matrix)
    assert fails(assert_invariant_counts, wrong, TARGET)


def test_gibbs_matrix_leaves_the_joint_invariant():
    joint = np.array([[0.1, 0.2, 0.05], [0.3, 0.05, 0.3]])
    for order in [(0, 1), (1, 0), (1,)]:
        assert_invariant_matrix(gibbs_matrix(joint, order), joint)
    assert not np.allclose(gibbs_matrix(joint, (0, 1)), gibbs_matrix(joint, (1, 0)))


class ExactState(NamedTuple):
    position: Any


class ExactNormal(Kernel):
    """Draws theta | y exactly for theta ~ N(0, 1), y ~ N(theta, 1), or with a wrong variance."""

    variance: float = 0.5

    def init(self, log_density, position):
        return ExactState(position)

    def step(self, log_density, key, state):
        mean = 0.5 * jax.grad(log_density)(jnp.zeros(()))  # y / 2
        noise = jax.random.normal(key)
        return ExactState(mean + jnp.sqrt(self.variance) * noise), None


def normal_model():
    return {
        "prior": lambda key: jax.random.normal(key),
        "simulate": lambda key, theta: theta + jax.random.normal(key),
        "log_joint": lambda theta, y: -0.5 * theta**2 - 0.5 * (y - theta) ** 2,
    }


def test_geweke_accepts_the_exact_kernel_and_rejects_a_wrong_variance():
    geweke_test(ExactNormal(), **normal_model(), key=jax.random.key(0))
    with pytest.raises(AssertionError):
        geweke_test(ExactNormal(variance=0.6), **normal_model(), key=jax.random.key(0))


def test_compilations_are_counted_and_only_inside_the_block():
    triple = jax.jit(lambda x: x * 3 + 1)
    with compilations() as compiled:
        triple(np.float64(1.0))
    assert len(compiled) == 1
    with compilations() as again:
        triple(np.float64(2.0))
    assert again == []
    triple(np.float32(1.0))  # another program, but nobody listens
    assert len(compiled) == 1
    assert again == []

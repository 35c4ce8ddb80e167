"""Particle marginal Metropolis: exact for any number of particles, resumable to the bit."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import bayleaf as bl
from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.mcmc import Langevin, RandomWalk
from bayleaf.montecarlo import StateSpaceModel
from bayleaf.montecarlo.particle_metropolis import ParticleMarginalMetropolis
from tests.conftest import OPTIMISE_ALL
from tests.textbook.kalman import kalman
from tests.tools.chains import run_chains
from tests.tools.statistics import assert_mean

Y = np.array([0.4, 1.2, -0.3, 0.9])
LEVELS = np.array([0.1, 0.5, 0.9])
QUIET: dict[str, Any] = {"progress": False}


# A random walk seen with noise: the weight ``a`` of the past is unknown.
MODEL = StateSpaceModel(
    lambda key, p: jax.random.normal(key),
    lambda key, x, t, p: p["a"] * x + jax.random.normal(key),
    lambda x, y, t, p: norm.logpdf(y, x, 0.5),
    params={"a": jnp.zeros(())},
)


@pytest.fixture(autouse=True)
def quick_to_compile():
    """Slow tests too: it is the compiler that makes them slow."""
    jax.config.update("jax_disable_most_optimizations", not OPTIMISE_ALL)


def exact_log_likelihood(a):
    one = np.eye(1)
    return kalman(Y[:, None], np.array([[a]]), one, one, 0.25 * one, np.zeros(1), one)[0]


class Level(eqx.Module):
    """Moves among three values of the parameter, which stand for a discrete space."""

    def propose(self, key, point):
        return {"a": jnp.asarray(LEVELS)[jax.random.randint(key, (), 0, 3)]}

    def log_proposal(self, proposed, point):
        return 0.0


def flat(position):
    return 0.0 * position["a"]


def stationary_shares(kernel, num_steps=4000, num_chains=64):
    """How often each level is visited, as indicators ``[chain, draw, level]``."""
    starts = {"a": jnp.asarray(LEVELS)[jnp.arange(num_chains) % 3]}
    draws, info = run_chains(kernel, flat, starts, key=jax.random.key(0), num_draws=num_steps)
    assert not np.any(info.is_nan)
    return np.asarray(draws["a"])[:, 200:, None] == LEVELS


def exact_shares():
    values = np.exp([exact_log_likelihood(a) for a in LEVELS])
    return values / values.sum()


@pytest.mark.slow
def test_few_particles_are_exact():
    """Two particles: estimates are off by factors, and the law of the chain is not."""
    kernel = ParticleMarginalMetropolis(MODEL, Y, num_particles=2, proposal=Level())
    assert_mean(stationary_shares(kernel), exact_shares())


@pytest.mark.slow
def test_estimating_the_current_point_anew_is_caught():
    """The planted bug that looks like a repair: fresh noise for the point where the chain is."""

    class Anew(ParticleMarginalMetropolis):
        def step(self, log_density, key, state):
            key_again, key = jax.random.split(key)
            state = self._evaluate(log_density, key_again, state.position)
            return super().step(log_density, key, state)

    kernel: Any = Anew
    kernel = kernel(MODEL, Y, num_particles=2, proposal=Level())
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_mean(stationary_shares(kernel), exact_shares())


TARGET = bl.Target(
    lambda p: norm.logpdf(p["a"], 0.0, 1.0),
    init={"a": 0.5},
    constrain={"a": bl.constraints.interval(-1.0, 1.0)},
)


@pytest.fixture(scope="module")
def run():
    kernel = ParticleMarginalMetropolis(MODEL, Y, num_particles=30)
    return bl.sample(TARGET, kernel, key=jax.random.key(2), num_draws=4000, **QUIET)


@pytest.mark.slow
def test_a_constrained_parameter_by_the_runner(run):
    """Against quadrature of prior times Kalman likelihood; the step size is learnt."""
    grid = np.linspace(-1, 1, 4001)[1:-1]
    log_posterior = -0.5 * grid**2 + [exact_log_likelihood(a) for a in grid]
    weights = np.exp(log_posterior - log_posterior.max())
    weights /= weights.sum()
    draws = run.draws["a"]
    assert_mean(draws, weights @ grid)
    assert_mean(draws**2, weights @ grid**2)
    assert 0.1 < run.stats["acceptance_rate"].mean() < 0.7
    estimates = run.stats["log_likelihood"]
    is_same = np.diff(draws, axis=1) == 0
    assert np.all(np.diff(estimates, axis=1)[is_same] == 0), "the estimate stays with its point"


@pytest.mark.slow
def test_interrupted_runs_resume_bit_for_bit(run, tmp_path):
    """From the checkpoint of a shorter run, in a session of its own, as after a kill."""
    kernel = ParticleMarginalMetropolis(MODEL, Y, num_particles=30)
    settings: dict[str, Any] = {"key": jax.random.key(2), "checkpoint": tmp_path / "run", **QUIET}
    with warnings.catch_warnings():
        # So few draws may well disagree, and say so.
        warnings.simplefilter("ignore", SamplingWarning)
        bl.sample(TARGET, kernel, num_draws=100, **settings)
        resumed = bl.sample(TARGET, kernel, num_draws=300, **settings)
    np.testing.assert_array_equal(resumed.draws["a"], run.draws["a"][:, :300])
    np.testing.assert_array_equal(
        resumed.stats["log_likelihood"], run.stats["log_likelihood"][:, :300]
    )


@pytest.mark.slow
def test_jit_equals_eager():
    kernel = ParticleMarginalMetropolis(
        MODEL, Y, num_particles=4, proposal=RandomWalk(0.3), ess_threshold=1.0
    )
    algorithm = kernel.bind(TARGET)
    state = algorithm.init({"a": jnp.asarray(0.2)})
    found, info = algorithm.step(jax.random.key(1), state)
    again, _ = kernel.step(TARGET, jax.random.key(1), state)
    np.testing.assert_allclose(found.log_density, again.log_density, rtol=1e-12)
    assert np.isfinite(info.log_likelihood)


@pytest.mark.slow
def test_impossible_and_nan():
    """Zero prior: never entered and not NaN; a NaN of the model: never entered and told."""
    kernel = ParticleMarginalMetropolis(MODEL, Y, num_particles=4, proposal=Level())

    def bounded(position):
        return jnp.where(position["a"] > 0.7, -jnp.inf, 0.0)

    starts = {"a": jnp.asarray(LEVELS[:2])}
    draws, info = run_chains(kernel, bounded, starts, key=jax.random.key(0), num_draws=300)
    assert np.max(draws["a"]) < 0.7
    assert not np.any(info.is_nan)
    assert np.mean(info.acceptance_rate == 0) > 0.2

    sick = StateSpaceModel(
        lambda key, p: jax.random.normal(key),
        lambda key, x, t, p: x,
        lambda x, y, t, p: jnp.where(p["a"] > 0.7, jnp.nan, 0.0) * x,
        params=MODEL.params,
    )
    kernel = ParticleMarginalMetropolis(sick, Y, num_particles=4, proposal=Level())
    draws, info = run_chains(kernel, flat, starts, key=jax.random.key(0), num_draws=300)
    assert np.max(draws["a"]) < 0.7
    assert np.any(info.is_nan)


def test_what_is_refused():
    bare = StateSpaceModel(
        lambda key: jax.random.normal(key), lambda key, x, t: x, lambda x, y, t: 0.0 * x
    )
    cases: dict[str, Any] = {
        "model: got one without parameters": (bare, {}),
        "num_particles: got 0": (MODEL, {"num_particles": 0}),
        "proposal: got Langevin": (MODEL, {"proposal": Langevin()}),
        "proposal: .*method propose": (MODEL, {"proposal": 3.0}),
    }
    for message, (given, settings) in cases.items():
        with pytest.raises(BayleafError, match=message):
            ParticleMarginalMetropolis(given, Y, **settings)
    kernel = ParticleMarginalMetropolis(MODEL, Y, proposal=RandomWalk(0.3), num_particles=4)
    with pytest.raises(BayleafError, match="params: got"):
        kernel.init(lambda p: 0.0, {"b": jnp.zeros(())})
    with pytest.raises(BayleafError, match="block of Gibbs"):
        kernel.refresh(flat, None)

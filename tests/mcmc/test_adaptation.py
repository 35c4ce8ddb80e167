"""Warm-up of HMC and NUTS: what it learns, what it leaves alone, and how short it may be."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.mcmc import adaptation
from bayleaf.mcmc.adaptation import HamiltonianTuner, num_slots
from bayleaf.mcmc.hmc import HMC
from bayleaf.mcmc.metric import Dense, Diagonal, LowRank
from bayleaf.mcmc.nuts import NUTS
from tests.tools.chains import run_chains

DIM = 30
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
COVARIANCE = ROTATION @ np.diag(np.logspace(-3, 3, DIM)) @ ROTATION.T
PRECISION = np.linalg.inv(COVARIANCE)


def gaussian(x):
    """Thirty dimensions, condition number a million, no axis of its own."""
    return -0.5 * x @ (jnp.asarray(PRECISION, x.dtype) @ x)


def starts(num_chains=4, dim=DIM, dtype=np.float64):
    x = np.random.default_rng(1).uniform(-2, 2, size=(num_chains, dim))
    return jnp.asarray(x.astype(dtype))


def whitened(metric, precision):
    """Eigenvalues of M^-1 P: all 1 for the perfect metric."""
    inverse_mass = jax.vmap(metric.velocity, out_axes=1)(jnp.eye(len(precision)))
    return np.sort(np.linalg.eigvals(np.asarray(inverse_mass) @ precision).real)


@eqx.filter_jit
def warm_up(kernel, log_density, positions, key, num_warmup):
    """The tuned kernel and where its chains are; compiled once for all lengths."""
    tuner = kernel.tuner()
    states = jax.vmap(lambda position: kernel.init(log_density, position))(positions)
    kernel, tuning = tuner.init(log_density, kernel, states)
    arrays, static = eqx.partition(kernel, eqx.is_array)

    def step(i, carry):
        arrays, states, tuning = carry
        kernel = eqx.combine(arrays, static)
        keys = jax.random.split(jax.random.fold_in(key, i), len(positions))
        states, infos = jax.vmap(lambda k, s: kernel.step(log_density, k, s))(keys, states)
        tuning = tuner.observe(tuning, states, infos, i)
        kernel, tuning = tuner.update(kernel, tuning, states, infos, i, num_warmup)
        return eqx.filter(kernel, eqx.is_array), states, tuning

    arrays, states, _ = jax.lax.fori_loop(0, num_warmup, step, (arrays, states, tuning))
    return eqx.combine(arrays, static), states.position


def learn(kernel, log_density, positions, num_warmup=300):
    return warm_up(kernel, log_density, positions, jax.random.key(0), jnp.asarray(num_warmup))


def draw(kernel, log_density, positions, num_draws):
    return run_chains(kernel, log_density, positions, key=jax.random.key(1), num_draws=num_draws)


@pytest.fixture(scope="module")
def tuned():
    """NUTS after the default 300 steps on the ill-conditioned Gaussian."""
    return learn(NUTS(), gaussian, starts())


def test_the_metric_whitens_an_ill_conditioned_gaussian(tuned):
    kernel, _ = tuned
    assert isinstance(kernel.metric, Dense)
    eigenvalues = whitened(kernel.metric, PRECISION)
    assert eigenvalues[0] > 1 / 3
    assert eigenvalues[-1] < 3


def test_the_target_acceptance_is_reached_and_trajectories_are_short(tuned):
    kernel, positions = tuned
    _, info = draw(kernel, gaussian, positions, 400)
    assert abs(float(jnp.mean(info.acceptance_rate)) - kernel.target_acceptance) < 0.05
    assert float(jnp.mean(info.num_gradients)) < 12
    assert not jnp.any(info.is_divergent)


SMALL_PRECISION = np.diag([1.0, 0.25, 4.0])


def small_gaussian(x):
    return -0.5 * x @ (jnp.asarray(SMALL_PRECISION, x.dtype) @ x)


def test_another_target_is_reached_by_hmc():
    kernel, positions = learn(HMC(4, target_acceptance=0.95), small_gaussian, starts(8, 3))
    _, info = draw(kernel, small_gaussian, positions, 300)
    assert abs(float(jnp.mean(info.acceptance_rate)) - 0.95) < 0.05


def test_what_is_given_is_kept_bit_for_bit():
    metric = Diagonal(jnp.array([0.3, 1.7, 0.9]))
    kernel, _ = learn(HMC(4, metric=metric), small_gaussian, starts(4, 3), 40)
    assert eqx.tree_equal(kernel.metric, metric)
    assert kernel.step_size > 0
    kernel, _ = learn(HMC(4, 0.123), small_gaussian, starts(4, 3), 40)
    assert kernel.step_size == 0.123
    assert np.max(np.abs(whitened(kernel.metric, SMALL_PRECISION) - 1)) < 0.5
    for kernel in (NUTS(step_size=0.1, metric=metric), HMC(4, 0.1, metric)):
        assert kernel.tuner() is None


@pytest.mark.parametrize("num_chains", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_short_warm_up_leaves_a_kernel_that_moves(num_chains):
    begin = starts(num_chains)
    for num_warmup in (1, 5, 10, 20):
        kernel, positions = learn(NUTS(), gaussian, begin, num_warmup)
        for leaf in jax.tree.leaves(eqx.filter((kernel, positions), eqx.is_array)):
            assert np.all(np.isfinite(np.asarray(leaf)))
        assert 1e-4 < float(kernel.step_size) < 10
        assert np.all(np.asarray(kernel.metric.scales) > 0)
        # One step may be refused; in twenty every chain moves.
        assert num_warmup < 20 or np.all(np.any(np.asarray(positions != begin), axis=1))


def test_more_chains_than_the_history_has_room_for():
    """Two steps are kept at least, however many chains: 3000 exceed the 1024 rows."""
    assert num_slots(3000, 3) == 2
    assert num_slots(4, 3) == 256
    kernel, _ = learn(HMC(2), small_gaussian, starts(3000, 3), 30)
    assert np.max(np.abs(whitened(kernel.metric, SMALL_PRECISION) - 1)) < 0.1


WIDE = 210  # beyond the limit of the dense metric
WIDE_VECTORS = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDE, 3)))[0]
STRETCH = np.array([400.0, 100.0, 0.01])
WIDE_PRECISION = np.eye(WIDE) + WIDE_VECTORS @ np.diag(1 / STRETCH - 1) @ WIDE_VECTORS.T


def wide_gaussian(x):
    """A unit sphere but for three oblique directions."""
    along = x @ jnp.asarray(WIDE_VECTORS)
    return -0.5 * (x @ x + along**2 @ jnp.asarray(1 / STRETCH - 1))


@pytest.mark.slow
def test_many_dimensions_learn_a_low_rank_metric():
    assert WIDE > adaptation.DENSE_LIMIT
    kernel, positions = learn(NUTS(max_depth=6), wide_gaussian, starts(4, WIDE), 150)
    assert isinstance(kernel.metric, LowRank)
    eigenvalues = whitened(kernel.metric, WIDE_PRECISION)
    assert eigenvalues[0] > 1 / 3
    assert eigenvalues[-1] < 3
    # The identity would leave a condition number of 40,000.
    assert np.all(np.isfinite(np.asarray(positions)))


def test_the_metric_is_learnt_from_recent_draws_only():
    """The history is a circle: what its oldest slots hold is forgotten or out of the window."""
    slots, num_chains, dim = 8, 2, 3
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, num_chains, dim))
    draws, scores = np.full((2, slots, num_chains, dim), 1e6)
    for step in range(20):
        draws[step % slots] = x[step]
        scores[step % slots] = -x[step] @ SMALL_PRECISION
    history = adaptation.History(jnp.asarray(draws), jnp.asarray(scores))
    for first, last in ((15, 19), (12, 19), (3, 19)):
        # A window longer than the history is cut to it.
        rows = x[max(first, last - slots + 1) : last + 1].reshape(-1, dim)
        used = jnp.ones(len(rows), bool)
        expected = adaptation.fisher_dense(
            jnp.asarray(rows), jnp.asarray(-rows @ SMALL_PRECISION), used, adaptation.SHRINKAGE
        )
        got = adaptation.history_metric(history, first, last)
        np.testing.assert_allclose(got.inverse_mass, expected.inverse_mass, atol=1e-9)


def renewals(num_warmup):
    """The steps after which the metric is another one."""
    tuner = HamiltonianTuner.for_kernel(HMC(1))
    states = jax.vmap(lambda x: HMC(1).init(small_gaussian, x))(starts(4, 3))
    infos = NamedRate(jnp.full(4, 0.9))
    kernel, tuning = tuner.init(small_gaussian, HMC(1), states)

    def step(carry, i):
        arrays, tuning = carry
        tuning = tuner.observe(tuning, states, infos, i)
        new, after = tuner.update(eqx.combine(arrays, static), tuning, states, infos, i, num_warmup)
        return (eqx.filter(new, eqx.is_array), after), after.window != tuning.window

    arrays, static = eqx.partition(kernel, eqx.is_array)
    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(num_warmup))[1])
    return (np.flatnonzero(scan((arrays, tuning))) + 1).tolist()


class NamedRate(eqx.Module):
    acceptance_rate: jax.Array


@pytest.mark.parametrize("num_warmup", [100, 300])
def test_windows_grow_and_the_last_metric_is_left_to_settle(num_warmup):
    ends = np.array(renewals(num_warmup))
    lengths = np.diff(ends, prepend=0)
    settling = num_warmup - int(np.ceil(adaptation.SETTLING_SHARE * num_warmup))
    assert ends[0] == adaptation.FIRST_WINDOW
    assert ends[-1] == settling
    assert np.all(lengths[1:] >= lengths[:-1])

"""What kernels learn between two temperatures: `Tuner.resume`, from draws of the new density."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl

COVARIANCE = np.array([[4.0, 1.2], [1.2, 0.5]])
PRECISION = np.linalg.inv(COVARIANCE)
DRAWS = np.random.default_rng(0).multivariate_normal(np.zeros(2), COVARIANCE, 400)


def log_density(x):
    return -0.5 * x @ (jnp.asarray(PRECISION) @ x)


@eqx.filter_jit
def resumed(free, num_chains=8):
    """The kernel begun on few far points, then resumed on draws of the density."""
    tuner = free.tuner()
    far = 1e3 * jnp.asarray(DRAWS[:num_chains])
    states = jax.vmap(lambda x: free.init(log_density, x))(far)
    kernel, tuning = tuner.init(log_density, free, states)
    states = jax.vmap(lambda x: kernel.init(log_density, x))(jnp.asarray(DRAWS))
    return kernel, tuner.resume(log_density, kernel, tuning, states)


def test_hamiltonian_kernels_take_the_metric_and_keep_the_step():
    before, (kernel, tuning) = resumed(bl.mcmc.HMC())
    np.testing.assert_allclose(kernel.metric.inverse_mass, COVARIANCE, rtol=1e-3)  # the shrinkage
    np.testing.assert_allclose(kernel.step_size, before.step_size)
    np.testing.assert_allclose(np.exp(tuning.search.center), before.step_size)


def test_proposals_take_the_covariance():
    _, (_, tuning) = resumed(bl.mcmc.MetropolisHastings(bl.mcmc.RandomWalk()))
    np.testing.assert_allclose(tuning.shape @ tuning.shape.T, np.cov(DRAWS.T, ddof=0), rtol=0.02)
    np.testing.assert_allclose(np.exp(tuning.averaging.log_step), 2.38 / np.sqrt(2), rtol=0.01)


@pytest.mark.parametrize("free", [bl.mcmc.Slice(), bl.mcmc.HitAndRunSlice()])
def test_slices_keep_their_widths_over_the_gap(free):
    """The first step after it starts elsewhere, and must not count as a jump."""
    before, (kernel, tuning) = resumed(free)
    np.testing.assert_allclose(kernel.width, before.width)
    states = jax.vmap(lambda x: kernel.init(log_density, x))(jnp.asarray(DRAWS[:8]))
    later, tuning = free.tuner().update(kernel, tuning, states, None, jnp.array(0), 8)
    np.testing.assert_allclose(later.width, before.width)
    assert np.all(np.isfinite(tuning.last))

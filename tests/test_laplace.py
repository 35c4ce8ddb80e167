"""Newton's mode finder against closed forms and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from bayleaf.laplace import covariance_factor, find_mode, find_prior_mode, shifted_cholesky


def smooth_covariance(size):
    x = np.linspace(0, 5, size)
    return np.exp(-0.5 * (x[:, None] - x[None]) ** 2) + 1e-6 * np.eye(size)


def test_a_gaussian_takes_one_step():
    precision = jnp.array([[2.0, 0.6], [0.6, 1.0]])
    mean = jnp.array([1.0, -3.0])
    mode = find_mode(lambda x: -0.5 * (x - mean) @ precision @ (x - mean), jnp.zeros(2))
    np.testing.assert_allclose(mode.position, mean, atol=1e-12)
    assert bool(mode.is_converged)
    assert int(mode.num_steps) == 2  # the second sees that nothing is left to gain
    factor = covariance_factor(mode.cholesky)
    np.testing.assert_allclose(factor @ factor.T, np.linalg.inv(precision), rtol=1e-12)
    assert np.all(np.triu(factor, 1) == 0)
    assert np.all(np.diagonal(factor) > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_overshooting_newton_step_is_halved(dtype):
    """sum log cosh: from 3 a bare Newton step goes to -98 and diverges."""

    def log_density(x):
        return -jnp.sum(jnp.logaddexp(x, -x))

    mode = jax.jit(lambda x: find_mode(log_density, x))(jnp.full(2, 3, dtype))
    assert mode.position.dtype == dtype
    assert bool(mode.is_converged)
    np.testing.assert_allclose(mode.position, 0, atol=1e-3 if dtype == np.float32 else 1e-6)


def test_indefinite_regions_are_climbed_out_of():
    """A Student-t posterior is not log-concave far out; SciPy agrees on the mode."""
    data = np.array([0.3, 0.5, 0.9, 12.0])

    def log_density(x):
        return -2.5 * jnp.sum(jnp.log1p((data - x[0]) ** 2 / 4)) - 0.01 * x[0] ** 2

    mode = find_mode(log_density, jnp.array([30.0]))
    found = scipy.optimize.minimize(lambda x: -log_density(x), np.array([1.0]), tol=1e-12)
    assert bool(mode.is_converged)
    assert float(mode.shift) == 0
    # From 30 the nearest mode is the outlier's.
    gradient = jax.grad(log_density)(mode.position)
    np.testing.assert_allclose(gradient, 0, atol=1e-5)
    other = find_mode(log_density, jnp.array([0.0]))
    np.testing.assert_allclose(other.position, found.x, atol=1e-4)


def test_what_has_no_mode_is_said_to_have_none():
    assert not bool(find_mode(lambda x: jnp.sum(x), jnp.zeros(2)).is_converged)
    assert not bool(find_mode(lambda x: jnp.sum(x) * jnp.nan, jnp.zeros(2)).is_converged)


def test_shifted_cholesky_shifts_only_what_needs_it():
    good, shift = shifted_cholesky(jnp.diag(jnp.array([2.0, 3.0])))
    np.testing.assert_allclose(good, np.diag(np.sqrt([2.0, 3.0])))
    assert float(shift) == 0
    bad, shift = shifted_cholesky(jnp.diag(jnp.array([2.0, -3.0])))
    assert np.all(np.isfinite(bad))
    assert float(shift) > 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("is_factorised", [True, False])
def test_the_gaussian_process_posterior_is_exact(dtype, is_factorised):
    """Gaussian noise: mean and covariance in closed form, with a nearly singular prior."""
    covariance = smooth_covariance(30)
    y, noise, mean = np.sin(np.arange(30)), 0.09, 0.5
    gram = covariance + noise * np.eye(30)
    exact_mean = mean + covariance @ np.linalg.solve(gram, y - mean)
    exact = covariance - covariance @ np.linalg.solve(gram, covariance)

    scale = jnp.asarray(np.linalg.cholesky(covariance), dtype)
    data = jnp.asarray(y, dtype)
    mode = jax.jit(
        lambda: find_prior_mode(
            lambda f: -0.5 * jnp.sum((data - f) ** 2) / noise,
            jnp.full(30, mean, dtype),
            scale,
            is_factorised,
        )
    )()
    tolerance = 2e-3 if dtype == np.float32 else 1e-8
    assert bool(mode.is_converged)
    assert mode.position.dtype == dtype
    assert mode.curvature.shape == ((30,) if is_factorised else (30, 30))
    np.testing.assert_allclose(mode.position, exact_mean, atol=tolerance)
    np.testing.assert_allclose(mode.factor @ mode.factor.T, exact, atol=tolerance)


def test_the_mode_of_a_poisson_process_is_stationary():
    covariance = smooth_covariance(20)
    counts = jnp.asarray(np.random.default_rng(0).poisson(2.0, 20))
    mode = find_prior_mode(
        lambda f: jnp.sum(counts * f - jnp.exp(f)),
        jnp.zeros(20),
        jnp.asarray(np.linalg.cholesky(covariance)),
        is_factorised=True,
    )
    # At the mode f = K g (Rasmussen and Williams, eq. 3.17): no inverse of K needed.
    np.testing.assert_allclose(mode.position, covariance @ mode.slope, atol=1e-6)
    np.testing.assert_allclose(mode.curvature, np.exp(mode.position), rtol=1e-12)

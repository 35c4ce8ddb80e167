from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.linalg import NotPositiveDefiniteError, cholesky, log_determinant, solve_lower

MEAN = np.array([1.0, -2.0, 0.5])
ROOT = np.array([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-1.0, 0.3, 0.7]])
COVARIANCE = ROOT @ ROOT.T

GAUSSIANS = {
    "covariance": (bl.Gaussian(MEAN, COVARIANCE), COVARIANCE),
    "cholesky": (bl.Gaussian.from_cholesky(MEAN, ROOT), COVARIANCE),
    "scale": (bl.Gaussian.from_scale(MEAN, np.array([1.0, 2.0, 0.5])), np.diag([1.0, 4.0, 0.25])),
    "one_scale": (bl.Gaussian.from_scale(MEAN, 2), 4 * np.eye(3)),
}
each = pytest.mark.parametrize(("gaussian", "covariance"), GAUSSIANS.values(), ids=list(GAUSSIANS))


@each
def test_log_prob_is_scipys(gaussian, covariance):
    x = jnp.array([0.3, 0.1, -0.7])
    expected = scipy.stats.multivariate_normal(MEAN, covariance).logpdf(x)
    np.testing.assert_allclose(jax.jit(lambda y: gaussian.log_prob(y))(x), expected, rtol=1e-12)
    np.testing.assert_allclose(gaussian.covariance, covariance, rtol=1e-12)


@each
def test_whiten_inverts_unwhiten(gaussian, covariance):
    z = jnp.array([0.3, 0.1, -0.7])
    np.testing.assert_allclose(gaussian.whiten(gaussian.unwhiten(z)), z, atol=1e-14)
    jacobian = jax.jacfwd(gaussian.unwhiten)(z)
    np.testing.assert_allclose(jacobian @ jacobian.T, covariance, rtol=1e-12)


@each
def test_sample_shape_and_moments(gaussian, covariance):
    num = 20_000
    draws = np.asarray(gaussian.sample(jax.random.key(0), (2, num // 2))).reshape(num, 3)
    z = np.asarray(jax.vmap(gaussian.whiten)(jnp.asarray(draws)))
    # 3 means and 6 second moments of white noise; 5.5 standard errors: false alarm below 1e-6.
    assert np.all(np.abs(z.mean(0)) < 5.5 / np.sqrt(num))
    second = z.T @ z / num - np.eye(3)
    assert np.all(np.abs(second) < 5.5 * np.sqrt((1 + np.eye(3)) / num))
    assert gaussian.sample(jax.random.key(0)).shape == (3,)
    assert covariance.shape == (gaussian.dim, gaussian.dim)


def test_float32_stays_float32():
    gaussian = bl.Gaussian(jnp.zeros(2, jnp.float32), jnp.eye(2, dtype=jnp.float32))
    x = gaussian.sample(jax.random.key(0))
    assert x.dtype == gaussian.log_prob(x).dtype == jnp.float32


def test_it_is_made_inside_compiled_code_too():
    x = jnp.array([0.3, 0.1, -0.7])
    value = jax.jit(lambda covariance: bl.Gaussian(MEAN, covariance).log_prob(x))
    np.testing.assert_allclose(value(COVARIANCE), bl.Gaussian(MEAN, COVARIANCE).log_prob(x))
    assert np.isnan(value(-COVARIANCE))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bl.Gaussian(MEAN, np.eye(2)), r"mean: got shape \(3,\), expected shape \(2,\)"),
        (lambda: bl.Gaussian(MEAN, np.ones(3)), "from_scale"),
        (lambda: bl.Gaussian(MEAN, ROOT), "symmetric"),
        (lambda: bl.Gaussian(MEAN, np.nan * COVARIANCE), "NaN or infinite"),
        (
            lambda: bl.Gaussian.from_scale(MEAN, np.array([1.0, 0.0, 1.0])),
            "scale: got .* expected numbers > 0",
        ),
        (lambda: bl.Gaussian.from_cholesky(MEAN, COVARIANCE), "lower triangle"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(BayleafError, match=says):
        make()


def test_a_covariance_without_inverse_is_refused_and_no_jitter_is_added():
    singular = np.outer(MEAN, MEAN)
    with pytest.raises(NotPositiveDefiniteError, match=r"covariance: .*smallest eigenvalue"):
        bl.Gaussian(MEAN, singular - 1e-3 * np.eye(3))
    nearly = singular + 1e-6 * np.eye(3)
    factor = cholesky(jnp.asarray(nearly))
    np.testing.assert_allclose(factor @ factor.T, nearly, atol=1e-14)


def test_log_determinant_and_solve():
    factor = cholesky(jnp.asarray(COVARIANCE))
    np.testing.assert_allclose(log_determinant(factor), np.linalg.slogdet(COVARIANCE)[1])
    np.testing.assert_allclose(solve_lower(factor, jnp.asarray(MEAN)), np.linalg.solve(ROOT, MEAN))

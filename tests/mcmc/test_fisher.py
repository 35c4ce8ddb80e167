"""The Fisher metric: exact on Gaussians, equivariant, and positive definite whatever comes in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.mcmc.fisher import fisher_dense, fisher_diagonal, fisher_low_rank

DIM = 5
RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(DIM, DIM)) * np.logspace(-2, 2, DIM)[:, None]
COVARIANCE = FACTOR @ FACTOR.T
MEAN = 10.0 * RNG.normal(size=DIM)

dense = jax.jit(fisher_dense, static_argnums=3)
diagonal = jax.jit(fisher_diagonal)
low_rank = jax.jit(fisher_low_rank, static_argnums=3, static_argnames="rank")


def everywhere(num_rows, covariance=COVARIANCE, mean=MEAN):
    """Draws of no particular law, far from stationary, and the Gaussian's scores there."""
    draws = mean + RNG.exponential(size=(num_rows, len(mean))) * np.sqrt(np.diag(covariance))
    return draws, -np.linalg.solve(covariance, (draws - mean).T).T


def used(rows):
    return jnp.ones(len(rows), bool)


def matrix(metric):
    return np.asarray(jax.vmap(metric.velocity, out_axes=1)(jnp.eye(metric.scales.size)))


def assert_positive_definite(metric, dim):
    """Finite, positive, and the momentum's factor fits the velocity."""
    dtype = metric.scales.dtype
    inverse_mass = np.asarray(jax.vmap(metric.velocity)(jnp.eye(dim, dtype=dtype)), np.float64)
    factor = np.asarray(jax.vmap(metric.momentum, out_axes=1)(jnp.eye(dim, dtype=dtype)))
    for x in (inverse_mass, factor, np.asarray(metric.scales)):
        assert np.all(np.isfinite(x))
    assert np.all(np.asarray(metric.scales) > 0)
    scales = np.sqrt(np.diag(inverse_mass))
    assert np.linalg.eigvalsh(inverse_mass / np.outer(scales, scales))[0] > 0
    assert np.linalg.slogdet(factor)[1] > -np.inf


@pytest.mark.parametrize("num_rows", [DIM + 1, DIM + 3])
def test_a_gaussian_is_known_from_any_few_points(num_rows):
    draws, scores = everywhere(num_rows)
    metric = dense(draws, scores, used(draws), 1e-12)
    unit = np.sqrt(np.outer(np.diag(COVARIANCE), np.diag(COVARIANCE)))
    np.testing.assert_allclose(matrix(metric) / unit, COVARIANCE / unit, atol=1e-5)
    factor = np.asarray(metric.factor)
    np.testing.assert_allclose(factor @ factor.T @ matrix(metric), np.eye(DIM), atol=1e-6)


def test_the_dense_metric_solves_its_equation():
    """S C_g S = C_x on points of a density that is not Gaussian."""
    draws = RNG.gamma(2.0, size=(50, DIM)) @ FACTOR.T
    scores = np.tanh(-np.linalg.solve(COVARIANCE, draws.T).T) + 0.1 * RNG.normal(size=draws.shape)
    solution = matrix(dense(draws, scores, used(draws), 1e-9))
    cov_x, cov_g = np.cov(draws.T, bias=True), np.cov(scores.T, bias=True)
    unit = np.sqrt(np.outer(np.diag(cov_x), np.diag(cov_x)))
    np.testing.assert_allclose(solution @ cov_g @ solution / unit, cov_x / unit, atol=1e-6)


def test_the_diagonal_metric_is_the_ratio_of_the_spreads():
    draws, scores = everywhere(30)
    expected = draws.std(axis=0) / scores.std(axis=0)
    got = diagonal(draws, scores, used(draws)).inverse_mass
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_low_rank_is_dense_where_the_rank_suffices():
    draws, scores = everywhere(40)
    full = dense(draws, scores, used(draws), 1e-3)
    cut = low_rank(draws, scores, used(draws), 1e-3, rank=DIM)
    np.testing.assert_allclose(matrix(cut), matrix(full), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(cut.vectors.T @ cut.vectors, np.eye(DIM), atol=1e-12)


def test_low_rank_finds_the_few_directions_that_matter():
    """60 dimensions, 3 oblique directions far from the unit sphere."""
    dim, rank = 60, 3
    vectors = np.linalg.qr(RNG.normal(size=(dim, rank)))[0]
    stretch = np.array([400.0, 50.0, 0.01])
    covariance = np.eye(dim) + vectors @ np.diag(stretch - 1) @ vectors.T
    precision = np.eye(dim) + vectors @ np.diag(1 / stretch - 1) @ vectors.T
    draws = RNG.multivariate_normal(np.zeros(dim), covariance, 200)
    metric = low_rank(draws, -draws @ precision, used(draws), 1e-6, rank=8)
    whitened = np.linalg.eigvals(matrix(metric) @ precision).real
    # The diagonal scaling that comes first blurs the three: 8 directions do not restore all of it,
    # but a condition number of 40,000 is now below 10.
    assert whitened.min() > 1 / 3
    assert whitened.max() / whitened.min() < 10


@pytest.mark.parametrize("estimate", ["dense", "low rank", "diagonal"])
def test_other_units_change_the_metric_with_them(estimate):
    """x -> c x and g -> g / c give M^-1 -> c M^-1 c: a kilometre is a thousand metres."""
    draws, scores = everywhere(20)
    units = np.logspace(-3, 3, DIM)
    make = {
        "dense": lambda x, g: dense(x, g, used(x), 1e-3),
        "low rank": lambda x, g: low_rank(x, g, used(x), 1e-3, rank=DIM),
        "diagonal": lambda x, g: diagonal(x, g, used(x)),
    }[estimate]
    before, after = matrix(make(draws, scores)), matrix(make(draws * units, scores / units))
    np.testing.assert_allclose(after / np.outer(units, units), before, rtol=1e-6, atol=1e-12)


def test_rows_out_of_use_and_rows_of_nan_do_not_count():
    draws, scores = everywhere(20)
    is_used = np.arange(20) < 14
    expected = matrix(dense(draws[:10], scores[:10], used(draws[:10]), 1e-3))
    draws, scores = draws.copy(), scores.copy()
    draws[14:] = 1e30
    draws[10, 2], scores[11, 0], scores[12, 1], draws[13, 0] = np.nan, np.nan, np.inf, -np.inf
    for got in (
        dense(draws, scores, is_used, 1e-3),
        low_rank(draws, scores, is_used, 1e-3, rank=DIM),
    ):
        np.testing.assert_allclose(matrix(got), expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(
        diagonal(draws, scores, is_used).inverse_mass,
        draws[:10].std(axis=0) / scores[:10].std(axis=0),
    )


@pytest.mark.parametrize(("x_size", "g_size"), [(1.0, 1e20), (1e10, 1e20), (1e-15, 1e15)])
def test_huge_scores_do_not_overflow_in_float32(x_size, g_size):
    """Their squares do: 1e40 is no float32 number."""
    draws = jnp.asarray(x_size * RNG.normal(size=(20, DIM)), jnp.float32)
    scores = jnp.asarray(g_size * RNG.normal(size=(20, DIM)), jnp.float32)
    small = matrix(dense(np.asarray(draws, float), np.asarray(scores, float), used(draws), 1e-3))
    for metric in (
        dense(draws, scores, used(draws), 1e-3),
        low_rank(draws, scores, used(draws), 1e-3, rank=DIM),
    ):
        assert_positive_definite(metric, DIM)
        np.testing.assert_allclose(metric.scales, np.sqrt(np.diag(small)), rtol=1e-3)
    spreads = [np.std(np.asarray(x, float), axis=0) for x in (draws, scores)]
    expected = np.sqrt(spreads[0] / spreads[1])
    np.testing.assert_allclose(diagonal(draws, scores, used(draws)).scales, expected, rtol=1e-4)


DEGENERATE = {
    "a constant coordinate": lambda x, g: (np.where(np.arange(DIM) == 2, 3.0, x), g),
    "a coordinate without a score": lambda x, g: (x, np.where(np.arange(DIM) == 2, 0.0, g)),
    "all constant": lambda x, g: (0 * x + 1, 0 * g),
    "two coordinates alike": lambda x, g: (np.stack([x[:, 0], *x.T[:4]], 1), g),
    "fewer rows than dimensions": lambda x, g: (x[:2], g[:2]),
    "one row": lambda x, g: (x[:1], g[:1]),
    "nothing but NaN": lambda x, g: (np.nan * x, g),
    "uphill in one direction": lambda x, g: (x, np.where(np.arange(DIM) == 1, -g, g)),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_degenerate_input_gives_a_positive_definite_metric(case, dtype):
    draws, scores = (jnp.asarray(x, dtype) for x in DEGENERATE[case](*everywhere(12)))
    assert_positive_definite(dense(draws, scores, used(draws), 1e-3), DIM)
    assert_positive_definite(low_rank(draws, scores, used(draws), 1e-3, rank=2), DIM)
    assert_positive_definite(diagonal(draws, scores, used(draws)), DIM)

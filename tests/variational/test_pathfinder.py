"""Pathfinder: the algebra of L-BFGS against dense recursions, Gaussians against closed forms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayleaf as bl
from bayleaf.errors import BayleafError, NonFiniteLogDensityError, SamplingWarning
from bayleaf.variational.lbfgs import (
    History,
    LowRank,
    advance,
    begin,
    inverse_hessian,
    remember,
)
from bayleaf.variational.pathfinder import PathResult, gaussian_at, path_approximation, weigh
from tests.textbook import bfgs
from tests.tools.statistics import assert_mean

DIM = 5
rng = np.random.default_rng(0)
ROOT = rng.normal(size=(DIM, DIM))
COVARIANCE = ROOT @ ROOT.T + np.diag([0.1, 1.0, 5.0, 0.5, 2.0])
PRECISION = np.linalg.inv(COVARIANCE)
MEAN = np.arange(DIM, dtype=float)
LOG_Z = 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]
PAIRS = [(s, PRECISION @ s) for s in rng.normal(size=(4, DIM))]


def gaussian(x, data):
    return -0.5 * (x - data) @ PRECISION @ (x - data)


def gaussian_target(mean=MEAN):
    return bl.Target(gaussian, init=np.zeros(DIM), data=mean)


def history_of(pairs, size):
    none = jnp.zeros((DIM, size))
    history = History(none, none, jnp.full(DIM, 0.3))
    for s, z in pairs:
        history = remember(history, jnp.asarray(s), jnp.asarray(z))
    return history


def dense(matrix: LowRank):
    return np.diag(matrix.diagonal) + matrix.outer @ matrix.inner @ matrix.outer.T


@pytest.mark.parametrize("size", [2, 4, 7])
def test_the_compact_form_is_the_recursion(size):
    """Full, overfull (old pairs fall out) and partly filled histories."""
    history = history_of(PAIRS, size)
    diagonal = bfgs.diagonal_after(np.full(DIM, 0.3), PAIRS)
    np.testing.assert_allclose(history.diagonal, diagonal, rtol=1e-12)
    exact = bfgs.inverse_hessian(diagonal, PAIRS[-size:])
    inverse = inverse_hessian(history)
    np.testing.assert_allclose(dense(inverse), exact, rtol=1e-9, atol=1e-11)
    x = np.arange(1.0, DIM + 1)
    np.testing.assert_allclose(inverse @ jnp.asarray(x), exact @ x, rtol=1e-9)
    wrong = bfgs.inverse_hessian(np.full(DIM, 0.3), PAIRS[-size:])
    assert not np.allclose(dense(inverse), wrong, rtol=1e-3), "the diagonal must matter"


def test_the_first_diagonal_does_not_depend_on_its_scale():
    small, large = (
        remember(
            History(jnp.zeros((DIM, 2)), jnp.zeros((DIM, 2)), jnp.full(DIM, a)),
            *map(jnp.asarray, PAIRS[0]),
        )
        for a in (1e-4, 1e4)
    )
    np.testing.assert_allclose(small.diagonal, large.diagonal, rtol=1e-9)


def test_a_step_that_is_not_concave_is_not_remembered():
    history = history_of(PAIRS, 4)
    s, z = map(jnp.asarray, PAIRS[0])
    for bend in (-z, 0 * z, z * jnp.nan):
        again = remember(history, s, bend)
        jax.tree.map(np.testing.assert_array_equal, again, history)


@pytest.fixture(scope="module")
def ascent():
    """Every iterate on the Rosenbrock valley, as a log density."""

    def log_density(x):
        return -100 * (x[1] - x[0] ** 2) ** 2 - (1 - x[0]) ** 2

    value_and_grad = jax.value_and_grad(log_density)
    step = jax.jit(lambda at: advance(value_and_grad, at))
    path = [begin(value_and_grad, jnp.array([-1.2, 1.0]), 6)]
    while not path[-1].is_stuck and path[-1].promise > 1e-15 and len(path) < 200:
        path.append(step(path[-1]))
    return path


def test_the_ascent_climbs_a_curved_valley(ascent):
    np.testing.assert_allclose(ascent[-1].x, 1.0, atol=1e-6)
    values = [float(at.value) for at in ascent]
    assert np.all(np.diff(values) > -1e-12)
    assert int(ascent[-1].num_gradients) < 80  # SciPy's takes 50 to 60
    # At the end H^-1 is nearly that of the Hessian, here [[802, -400], [-400, 200]].
    exact = np.linalg.inv(np.array([[802.0, -400.0], [-400.0, 200.0]]))
    np.testing.assert_allclose(dense(ascent[-1].inverse), exact, rtol=0.05)


def test_the_gaussian_of_an_iterate(ascent):
    at = ascent[12]
    gaussian = gaussian_at(at)
    covariance = dense(at.inverse)
    columns = np.asarray(jax.vmap(gaussian.unwhiten)(jnp.eye(2))) - np.asarray(gaussian.mean)
    np.testing.assert_allclose(columns.T @ columns, covariance, rtol=1e-8)
    x = np.array([0.3, -0.8])
    exact = stats.multivariate_normal(gaussian.mean, covariance, allow_singular=True)
    np.testing.assert_allclose(gaussian.log_prob(jnp.asarray(x)), exact.logpdf(x), rtol=1e-6)
    np.testing.assert_allclose(gaussian.unwhiten(gaussian.whiten(jnp.asarray(x))), x, rtol=1e-8)


def test_nothing_of_dim_by_dim_is_ever_made():
    def log_density(x):
        return -0.5 * jnp.sum(x**2)

    dim = 4096
    program = jax.make_jaxpr(
        lambda x, k: path_approximation(log_density, x, key=k, history_size=3)
    )(jnp.zeros(dim), jax.random.key(0))
    text = str(program)
    assert f"[{dim},6]" in text
    assert f"{dim},{dim}" not in text


@pytest.fixture(scope="module")
def fitted():
    return bl.variational.pathfinder(gaussian_target(), key=jax.random.key(0))


def test_a_gaussian_is_nearly_recovered(fitted):
    assert_elbo(fitted.elbo)
    assert fitted.pareto_k < 0.7
    assert fitted.findings == []
    np.testing.assert_allclose(fitted.weighted.log_evidence, LOG_Z, atol=0.02)
    np.testing.assert_allclose(np.sum(fitted.path_weights), 1)
    assert np.all(fitted.path_elbos > LOG_Z - 0.5)
    assert fitted.history[0] < fitted.history[-1], "larger is better"
    mean = fitted.draws - MEAN
    np.testing.assert_allclose(mean.std(0), np.sqrt(np.diag(COVARIANCE)), rtol=0.25)


def assert_elbo(elbo):
    """Below log Z, and by less than a tenth of a nat."""
    assert LOG_Z - 0.1 < elbo < LOG_Z + 1e-3


@pytest.mark.parametrize("bug", ["sign", "entropy", "2 pi"])
def test_a_wrong_elbo_is_caught(bug):
    wrong = {"sign": -LOG_Z, "entropy": LOG_Z - 0.5 * DIM, "2 pi": LOG_Z + 0.5 * np.log(2 * np.pi)}
    assert_elbo(LOG_Z - 0.05)
    with pytest.raises(AssertionError):
        assert_elbo(wrong[bug])


def test_draws_are_those_of_the_mixture(fitted):
    draws = fitted.sample(20_000, key=jax.random.key(1))
    guide = fitted.guide
    weights = np.exp(guide.log_weights)
    assert_mean(draws, weights @ np.asarray(guide.gaussians.mean), iid=True)
    weighted = fitted.importance(4000, key=jax.random.key(2)).smoothed()
    resampled = weighted.resample(jax.random.key(3))
    assert resampled.shape == (4000, DIM)


def test_paths_weigh_what_their_modes_hold():
    """Two wells, of mass 0.2 and 0.8: each path knows one, the mixture both."""
    shares, centers = np.array([0.2, 0.8]), np.array([-6.0, 6.0])

    def log_density(x):
        return jax.scipy.special.logsumexp(
            jnp.log(shares) + jax.scipy.stats.norm.logpdf(x[0], centers, 1.0)
        ) + jax.scipy.stats.norm.logpdf(x[1])

    starts = jnp.array([[-6.5, 0.5], [6.5, 0.5]])
    keys = jax.random.split(jax.random.key(0))
    paths = jax.jit(
        jax.vmap(lambda x, k: path_approximation(log_density, x, key=k, num_elbo_draws=20))
    )(starts, keys)
    log_weights = weigh(log_density, paths, key=jax.random.key(1), num_draws=2000)
    # The Gaussians are the wells up to the quality of L-BFGS's estimate.
    np.testing.assert_allclose(np.exp(log_weights), shares, atol=0.03)
    # A path that failed weighs nothing, and does not make the others NaN.
    failed = paths._replace(elbo=paths.elbo.at[0].set(-jnp.inf))
    assert isinstance(failed, PathResult)
    log_weights = weigh(log_density, failed, key=jax.random.key(1), num_draws=2000)
    np.testing.assert_allclose(np.exp(log_weights), [0.0, 1.0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_long_ridge_is_found_whole(dtype):
    """Correlation 0.9999: the ascent must not end when only the estimate says so."""
    precision = np.linalg.inv(np.array([[1, 0.9999], [0.9999, 1]])).astype(dtype)

    def log_density(x):
        return -0.5 * x @ precision @ x

    start = jnp.array([3.0, -2.0], dtype)
    path = jax.jit(lambda x: path_approximation(log_density, x, key=jax.random.key(0)))(start)
    rows = jax.vmap(path.gaussian.unwhiten)(jnp.eye(2, dtype=dtype))
    columns = np.asarray(rows) - np.asarray(path.gaussian.mean)
    assert columns.dtype == dtype
    np.testing.assert_allclose(columns.T @ columns, np.linalg.inv(precision), rtol=0.2)
    assert np.all(np.abs(path.gaussian.mean) < 0.1)


def test_nothing_is_compiled_a_second_time(fitted):
    from tests.variational.test_laplace import compilations

    del fitted
    with compilations() as compiled:
        other = bl.variational.pathfinder(
            gaussian_target(MEAN + 1), init=np.ones(DIM), key=jax.random.key(5)
        )
    assert compiled == []
    np.testing.assert_allclose(other.draws.mean(0), MEAN + 1, atol=0.5)


def test_it_starts_chains(fitted):
    positions = gaussian_target().initial_positions(jax.random.key(0), 500, fitted.draw)
    np.testing.assert_allclose(positions.mean(0), MEAN, atol=0.6)


@pytest.mark.parametrize(
    "log_density", [lambda x: jnp.sum(x), lambda x: 0 * jnp.sum(x), lambda x: jnp.sum(x**2)]
)
def test_what_has_no_gaussian_is_refused(log_density):
    with pytest.raises(BayleafError, match="target: got no Gaussian on any of 2 paths"):
        bl.variational.pathfinder(log_density, init=jnp.ones(2), num_paths=2, max_steps=20)


def test_a_density_without_mode_is_told_and_fitted():
    """A funnel: the density grows without end as the scale vanishes."""

    def log_density(p):
        x, log_scale = p["x"], p["log_scale"]
        prior = jax.scipy.stats.norm.logpdf(log_scale, 0, 3)
        return prior + jnp.sum(jax.scipy.stats.norm.logpdf(x, 0, jnp.exp(log_scale)))

    init = {"x": jnp.ones(9), "log_scale": 0.0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = bl.variational.pathfinder(log_density, init=init, num_paths=2, max_steps=60)
    assert any("k-hat" in str(w.message) for w in caught)
    assert np.isfinite(fit.elbo)


def test_bad_arguments_are_refused_by_name():
    target = gaussian_target()
    for name in ("num_paths", "history_size", "max_steps", "num_elbo_draws", "num_check_draws"):
        with pytest.raises(BayleafError, match=name):
            bl.variational.pathfinder(target, **{name: 0})
    with pytest.raises(BayleafError, match="key"):
        bl.variational.pathfinder(target, key=jax.random.PRNGKey(0))
    with pytest.raises(BayleafError, match="init"):
        bl.variational.pathfinder(lambda x: -jnp.sum(x**2))
    with pytest.raises(NonFiniteLogDensityError):
        bl.variational.pathfinder(lambda x: jnp.nan * jnp.sum(x), init=jnp.zeros(2), num_paths=1)


def test_a_spread_that_is_underestimated_is_warned_of():
    """Forty strongly correlated parameters, and two pairs to know them by."""
    index = np.arange(40)
    precision = np.linalg.inv(0.95 ** np.abs(index[:, None] - index[None, :]))
    with pytest.warns(SamplingWarning, match="pareto_k: k-hat"):
        bl.variational.pathfinder(
            lambda x: -0.5 * x @ precision @ x, init=jnp.zeros(40), num_paths=1, history_size=2
        )

"""Pathfinder: the algebra of L-BFGS against dense recursions, Gaussians against closed forms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayleaf as bl
from bayleaf.errors import BayleafError, NonFiniteLogDensityError, SamplingWarning
from bayleaf.variational import Fit
from bayleaf.variational.contradictions import gap
from bayleaf.variational.lbfgs import (
    History,
    LowRank,
    advance,
    begin,
    inverse_hessian,
    remember,
)
from bayleaf.variational.pathfinder import (
    PathGaussian,
    PathMixture,
    PathResult,
    gaussian_at,
    path_approximation,
    weigh,
)
from tests.oracles import hard, posteriordb
from tests.textbook import bfgs
from tests.tools.compiling import compilations
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
    """One function for all targets of five parameters, so that it is compiled once."""
    mean, precision, linear = data
    return -0.5 * (x - mean) @ precision @ (x - mean) + linear * jnp.sum(x)


def gaussian_target(mean=MEAN, precision=PRECISION, linear=0.0):
    return bl.Target(gaussian, init=np.zeros(DIM), data=(mean, precision, np.array(linear)))


REMEMBER = jax.jit(remember)


def history_of(pairs, size):
    none = jnp.zeros((DIM, size))
    history = History(none, none, jnp.full(DIM, 0.3))
    for s, z in pairs:
        history = REMEMBER(history, jnp.asarray(s), jnp.asarray(z))
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
    inverse = jax.jit(inverse_hessian)(history)
    np.testing.assert_allclose(dense(inverse), exact, rtol=1e-9, atol=1e-11)
    x = np.arange(1.0, DIM + 1)
    np.testing.assert_allclose(inverse @ jnp.asarray(x), exact @ x, rtol=1e-9)
    wrong = bfgs.inverse_hessian(np.full(DIM, 0.3), PAIRS[-size:])
    assert not np.allclose(dense(inverse), wrong, rtol=1e-3), "the diagonal must matter"


def test_the_first_diagonal_does_not_depend_on_its_scale():
    small, large = (
        REMEMBER(
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
        again = REMEMBER(history, s, bend)
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
    gaussian = jax.jit(gaussian_at)(at)
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
    resampled = fitted.weighted.smoothed().resample(jax.random.key(3))
    assert resampled.shape == (1000, DIM)


SHARES, CENTERS = np.array([0.0, 0.2, 0.8, 0.0]), np.array([0.0, -6.0, 6.0, 0.0])


@pytest.fixture(scope="module")
def wells():
    """Paths that found two wells, and two that failed."""
    mean = jnp.stack([jnp.asarray(CENTERS), jnp.zeros(4)], axis=1)
    one = jnp.ones(2)
    gaussians = jax.vmap(lambda m: PathGaussian(m, one, jnp.zeros((2, 2)), jnp.eye(2)))(mean)
    elbo = jnp.array([-jnp.inf, 0.0, 0.0, -jnp.inf])
    none = jnp.zeros(4, jnp.int32)
    return PathResult(gaussians, elbo, elbo[:, None], none, none, mean, elbo > -jnp.inf)


def test_paths_weigh_what_their_modes_hold(wells):
    """Two wells, of mass 0.2 and 0.8, each known to one path; paths that failed weigh nothing."""

    def log_density(x):
        log_shares = jnp.log(SHARES[1:3]) + jax.scipy.stats.norm.logpdf(x[0], CENTERS[1:3], 1.0)
        return jax.scipy.special.logsumexp(log_shares) + jax.scipy.stats.norm.logpdf(x[1])

    noise = jax.random.normal(jax.random.key(0), (4, 2000, 2))
    program = jax.jit(lambda paths: weigh(log_density, paths, noise))
    np.testing.assert_allclose(np.exp(program(wells)), SHARES, atol=1e-6)
    failed = wells._replace(elbo=wells.elbo.at[1].set(-jnp.inf))
    np.testing.assert_allclose(np.exp(program(failed)), [0.0, 0.0, 1.0, 0.0])


def test_a_draw_comes_from_each_path_as_often_as_it_weighs(wells):
    mixture = PathMixture(wells.gaussian, jnp.log(jnp.asarray(SHARES)), lambda x: x)
    draws = np.asarray(
        jax.jit(jax.vmap(mixture.sample))(jax.random.split(jax.random.key(1), 20_000))
    )
    assert_mean(draws[:, 0] > 0, 0.8, iid=True)
    assert_mean(draws[:, 0], SHARES @ CENTERS, iid=True)
    assert np.all(np.abs(draws[:, 0]) > 0.5), "from a path that weighs nothing"
    assert_mean(draws[:, 1] ** 2, 1.0, iid=True)
    # The normal that picks the path must not be one of those that make the draw.
    assert_mean(np.sign(draws[:, 0]) * draws[:, 1], 0.0, iid=True)


def test_a_long_ridge_is_found_whole(fitted):
    """Correlation 0.9999: the ascent must not end when only the estimate says so."""
    del fitted  # its program serves
    covariance = np.eye(DIM)
    covariance[0, 1] = covariance[1, 0] = 0.9999
    fit = bl.variational.pathfinder(gaussian_target(MEAN, np.linalg.inv(covariance)))
    assert fit.findings == []
    np.testing.assert_allclose(np.cov(fit.draws[:, :2].T), covariance[:2, :2], rtol=0.25)


def test_a_long_ridge_in_float32():
    precision = np.linalg.inv(np.array([[1, 0.9999], [0.9999, 1]])).astype(np.float32)

    def log_density(x):
        return -0.5 * x @ precision @ x

    start = jnp.array([3.0, -2.0], jnp.float32)
    path = jax.jit(lambda x: path_approximation(log_density, x, key=jax.random.key(0)))(start)
    rows = np.asarray(jax.vmap(path.gaussian.unwhiten)(jnp.eye(2, dtype=jnp.float32)))
    columns = rows - np.asarray(path.gaussian.mean)
    assert columns.dtype == np.float32
    np.testing.assert_allclose(columns.T @ columns, np.linalg.inv(precision), rtol=0.2)
    assert np.all(np.abs(path.gaussian.mean) < 0.1)


def test_nothing_is_compiled_a_second_time(fitted):
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
    ("precision", "linear"), [(0 * PRECISION, 1.0), (0 * PRECISION, 0.0), (-PRECISION, 0.0)]
)
def test_what_has_no_gaussian_is_refused(precision, linear):
    """A slope, a plain, and a bowl."""
    with pytest.raises(BayleafError, match="target: got no Gaussian on any of 4 paths"):
        bl.variational.pathfinder(gaussian_target(MEAN, precision, linear))


@pytest.mark.slow
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


@pytest.mark.parametrize(("shift", "kinds"), [(0.5, []), (1.5, ["gap"])])
def test_a_guide_beside_the_mass_is_told_before_k_hat_tells(shift, kinds):
    """N(0, 1) for N(shift, 1): KL is shift^2 / 2, and the weights have k = 0."""
    z = np.random.default_rng(0).normal(size=1000)
    fit = Fit(None, None, z, shift * z - shift**2 / 2)
    assert fit.pareto_k < 0.7
    assert [finding.kind for finding in gap(fit)] == kinds
    impossible = np.where(z > 2, -np.inf, fit.log_weights)
    assert gap(Fit(None, None, z, impossible)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "is_sound"),
    [("eight_schools", False), ("collinear", False), ("kidiq", True), ("years", True)],
)
def test_what_is_off_by_a_standard_deviation_is_warned_of(name, is_sound):
    case = (getattr(posteriordb, name, None) or getattr(hard, name))()
    for seed in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SamplingWarning)
            fit = bl.variational.pathfinder(case.target, key=jax.random.key(seed))
        values = case.quantities(jax.tree.map(lambda leaf: leaf[None], fit.draws))
        reference = case.reference
        off = max(abs(values[k].mean() - r["mean"]) / r["sd"] for k, r in reference.items())
        assert (off < 1) == is_sound
        assert (fit.findings == []) == is_sound


@pytest.mark.slow
def test_a_spread_that_is_underestimated_is_warned_of():
    """Forty strongly correlated parameters, and two pairs to know them by."""
    index = np.arange(40)
    precision = np.linalg.inv(0.95 ** np.abs(index[:, None] - index[None, :]))
    with pytest.warns(SamplingWarning) as caught:
        bl.variational.pathfinder(
            lambda x: -0.5 * x @ precision @ x, init=jnp.zeros(40), num_paths=1, history_size=2
        )
    assert any("pareto_k: k-hat" in str(warning.message) for warning in caught)

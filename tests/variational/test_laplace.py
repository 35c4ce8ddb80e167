"""Laplace's approximation against closed forms, with its errors known and their order checked."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import bayleaf as bl
from bayleaf.errors import BayleafError, NonFiniteLogDensityError, SamplingWarning
from bayleaf.variational.laplace import MOST_PARAMETERS, laplace_approximation
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean

POSITIVE = bl.constraints.positive
MEAN = np.array([1.0, -3.0, 0.5])
COVARIANCE = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]])
PRECISION = np.linalg.inv(COVARIANCE)
LOG_Z = 0.5 * np.linalg.slogdet(2 * np.pi * COVARIANCE)[1]


def gaussian(params, data):
    x = jnp.concatenate([params["a"][None], params["b"]]) - data
    return -0.5 * x @ PRECISION @ x


def gaussian_target(mean=MEAN):
    return bl.Target(gaussian, init={"a": 0.0, "b": np.zeros(2)}, data=mean)


def gamma(x, data):
    """Gamma(shape, rate) without its constant: log Z = log Gamma(shape) - shape log(rate)."""
    return (data[0] - 1) * jnp.log(x) - data[1] * x


def gamma_target(shape, rate=3.0):
    return bl.Target(gamma, init=1.0, constrain=POSITIVE, data=np.array([shape, rate]))


@pytest.fixture(scope="module")
def fitted():
    return bl.variational.laplace(gaussian_target(), key=jax.random.key(1))


def test_a_gaussian_is_recovered_exactly(fitted):
    np.testing.assert_allclose(fitted.mode["a"], MEAN[0], atol=1e-10)
    np.testing.assert_allclose(fitted.mode["b"], MEAN[1:], atol=1e-10)
    np.testing.assert_allclose(fitted.gaussian.mean, MEAN, atol=1e-10)
    np.testing.assert_allclose(fitted.gaussian.covariance, COVARIANCE, rtol=1e-10)
    np.testing.assert_allclose(fitted.log_evidence, LOG_Z, rtol=1e-12)
    # Weights that are all the same: every draw says log Z.
    np.testing.assert_allclose(fitted.log_weights, LOG_Z, rtol=1e-10)
    np.testing.assert_allclose(fitted.elbo, LOG_Z, rtol=1e-12)
    assert fitted.findings == []


def test_the_result_is_a_fit_in_the_models_own_space(fitted):
    draws = fitted.sample(20_000, key=jax.random.key(2))
    flat = np.column_stack([draws["a"], draws["b"]])
    assert_mean(flat, MEAN, iid=True)
    assert_mean((flat - MEAN) ** 2, np.diag(COVARIANCE), iid=True)
    assert fitted.summary()["b[1]"].sd == pytest.approx(0.5**0.5, rel=0.2)
    low, high = fitted.interval()
    assert np.all(low["b"] < MEAN[1:])
    assert np.all(high["b"] > MEAN[1:])
    assert "log evidence" in repr(fitted)
    weighted = fitted.importance(100, key=jax.random.key(3))
    assert weighted.log_evidence == pytest.approx(LOG_Z)


def assert_gamma(log_evidence, shape, rate=3.0):
    """Laplace's log Z of a Gamma is Stirling's formula, short of the truth by 1 / (12 shape)."""
    exact = special.gammaln(shape) - shape * np.log(rate)
    # The next term of the series, -1 / (360 shape^3), bounds what is left.
    np.testing.assert_allclose(exact - log_evidence, 1 / (12 * shape), atol=1 / (300 * shape**3))


@pytest.mark.parametrize("shape", [2.0, 9.0, 100.0])
def test_the_gamma_is_fitted_on_its_log_scale(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # heavy tails for small shapes
        fit = bl.variational.laplace(gamma_target(shape), num_check_draws=1000)
    # log p(u) = shape u - rate e^u: without the Jacobian the mode would be (shape - 1) / rate.
    np.testing.assert_allclose(fit.mode, shape / 3, rtol=1e-8)
    np.testing.assert_allclose(fit.gaussian.covariance, 1 / shape, rtol=1e-7)
    assert_gamma(fit.log_evidence, shape)


@pytest.mark.parametrize("wrong", ["no 2 pi", "sign of the determinant", "no Jacobian"])
def test_wrong_evidence_is_caught(wrong):
    shape, log_z = 9.0, special.gammaln(9.0) - 9 * np.log(3.0)
    right = log_z - 1 / (12 * shape) + 1 / (360 * shape**3)
    assert_gamma(right, shape)
    bugs = {
        "no 2 pi": right - 0.5 * np.log(2 * np.pi),
        "sign of the determinant": right + np.log(shape),
        # The expansion in x itself: mode (shape - 1) / rate, an error of 1 / (12 (shape - 1)).
        "no Jacobian": log_z - 1 / (12 * (shape - 1)),
    }
    with pytest.raises(AssertionError):
        assert_gamma(bugs[wrong], shape)


def test_the_core_is_pure_and_traceable():
    def log_density(x, shape):
        return jnp.sum(shape * x - jnp.exp(x))

    def core(start, shape):
        return laplace_approximation(lambda x: log_density(x, shape), start)

    starts, shapes = jnp.array([[0.0, 1.0], [2.0, -1.0]]), jnp.array([3.0, 8.0])
    many = jax.jit(jax.vmap(core))(starts, shapes)
    np.testing.assert_allclose(many.gaussian.mean, np.log([[3, 3], [8, 8]]), atol=1e-6)
    one = jax.jit(core)(starts[1], shapes[1])
    np.testing.assert_allclose(many.log_evidence[1], one.log_evidence, rtol=1e-12)
    assert np.all(many.is_converged)
    assert np.all(many.shift == 0)
    np.testing.assert_allclose(many.pivot, 1.0)


def test_float32():
    fit = bl.variational.laplace(
        lambda x: -0.5 * jnp.sum((x - 2) ** 2 / 9), init=jnp.zeros(3, jnp.float32)
    )
    assert fit.guide.loc.dtype == jnp.float32
    np.testing.assert_allclose(fit.mode, 2.0, rtol=1e-5)
    np.testing.assert_allclose(fit.log_evidence, 1.5 * np.log(2 * np.pi * 9), rtol=1e-6)


def test_nothing_is_compiled_a_second_time(fitted):
    del fitted
    with compilations() as compiled:
        other = bl.variational.laplace(
            gaussian_target(MEAN + 1), init={"a": 3.0, "b": np.ones(2)}, key=jax.random.key(5)
        )
    assert compiled == []
    np.testing.assert_allclose(other.gaussian.mean, MEAN + 1, atol=1e-9)


def test_chains_start_at_draws(fitted):
    positions = gaussian_target().initial_positions(jax.random.key(0), 4000, fitted.draw)
    assert_mean(positions["b"], MEAN[1:], iid=True)


@pytest.mark.slow
def test_chains_that_start_at_another_fit_compile_nothing(fitted):
    target = gaussian_target()
    settings = {"num_draws": 20, "num_warmup": 20, "num_chains": 2, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        bl.sample(target, init=fitted.draw, key=jax.random.key(0), **settings)
        again = bl.variational.laplace(target, key=jax.random.key(3))
        with compilations() as compiled:
            bl.sample(target, init=again.draw, key=jax.random.key(1), **settings)
    assert compiled == []


def polynomial(x, data):
    """A family of what has no maximum; one function, so that it is compiled once."""
    linear, square, fourth = data
    return linear @ x + x @ square @ x - fourth * x[1] ** 4


ZERO = np.zeros((2, 2))
BAD = {
    "linear": ((np.ones(2), ZERO, 0.0), r"no mode.*rises in x\[0\], x\[1\]"),
    "upside down": ((-np.ones(2), np.eye(2), 0.0), r"no mode.*rises in x\[0\], x\[1\]"),
    "flat": ((np.zeros(2), ZERO, 0.0), r"flat direction.*x\[0\], x\[1\]"),
    "half flat": ((np.zeros(2), np.diag([-1.0, 0.0]), 0.0), r"flat direction.*along x\[1\],"),
    "ridge": ((np.zeros(2), -np.ones((2, 2)), 0.0), r"flat direction.*x\[0\], x\[1\]"),
    "saddle": ((np.zeros(2), np.diag([-1.0, 2.0]), 1.0), r"saddle.*along x\[1\],"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_has_no_maximum_is_refused_by_name(name):
    data, message = BAD[name]
    with pytest.raises(BayleafError, match=message):
        bl.variational.laplace(bl.Target(polynomial, init=np.zeros(2), data=data))


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(NonFiniteLogDensityError, match="nan at the point given"):
        bl.variational.laplace(lambda x: jnp.sum(x) * jnp.nan, init=jnp.zeros(2))
    with pytest.raises(BayleafError, match="init"):
        bl.variational.laplace(lambda x: jnp.sum(x))
    with pytest.raises(BayleafError, match="init"):
        bl.variational.laplace(bl.Target(lambda x: jnp.sum(x)))
    with pytest.raises(BayleafError, match="key"):
        bl.variational.laplace(gaussian_target(), key=jax.random.PRNGKey(0))
    with pytest.raises(BayleafError, match="num_check_draws"):
        bl.variational.laplace(gaussian_target(), num_check_draws=0)
    big = jnp.zeros(MOST_PARAMETERS + 1)
    with pytest.raises(BayleafError, match=r"5001 parameters.*pathfinder"):
        bl.variational.laplace(lambda x: -jnp.sum(x**2), init=big)


def odd(x, is_cauchy):
    """Heavy tails, or a flat top."""
    return -jnp.sum(jnp.where(is_cauchy > 0, jnp.log1p(x**2), x**4))


def test_what_is_not_like_a_gaussian_is_warned_of_by_name():
    cauchy, flat = (bl.Target(odd, init=np.full(2, 0.1), data=np.array(b)) for b in (1.0, 0.0))
    with pytest.warns(SamplingWarning, match="pareto_k: k-hat"):
        fit = bl.variational.laplace(cauchy)
    assert fit.pareto_k > 0.7
    # Flat at its top: the curvature says nothing of the width, and no weight is large.
    with pytest.warns(SamplingWarning, match="log_evidence: Laplace's"):
        fit = bl.variational.laplace(flat, init=np.ones(2))
    assert [finding.kind for finding in fit.findings] == ["evidence"]


@pytest.mark.slow
def test_sds_of_a_logistic_regression_are_those_of_nuts():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    columns = data.data[:, :24]
    columns = (columns - columns.mean(0)) / columns.std(0)
    X = jnp.concatenate([jnp.ones((len(columns), 1)), jnp.asarray(columns)], axis=1)
    y = jnp.asarray(data.target, float)

    def log_density(beta):
        logits = X @ beta
        return jnp.sum(y * logits - jax.nn.softplus(logits)) - 0.5 * jnp.sum(beta**2)

    target = bl.Target(log_density, init=jnp.zeros(25))
    fit = bl.variational.laplace(target)
    run = bl.sample(target, init=fit.draw, key=jax.random.key(0), num_draws=4000, progress=False)
    sds = np.sqrt(np.diagonal(fit.gaussian.covariance))
    np.testing.assert_allclose(sds / run.draws.std((0, 1)), 1.0, atol=0.1)

"""Elliptical slice sampling, plain and generalised, against exact Gaussian-process posteriors."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayleaf as bl
from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.mcmc import elliptical_slice, reference
from bayleaf.mcmc.elliptical_slice import MAX_EVALUATIONS, EllipticalSlice
from bayleaf.mcmc.reference import StudentReference, TiltedPrior, laplace_reference
from tests.tools.statistics import assert_cdf, assert_mean, assert_same

SIZE, NOISE, LEVEL = 8, 0.3, 0.4
X = np.linspace(0, 3, SIZE)
K = np.exp(-0.5 * (X[:, None] - X[None]) ** 2) + 1e-6 * np.eye(SIZE)
Y = np.sin(2 * X)
GRAM = K + NOISE**2 * np.eye(SIZE)
MEAN = LEVEL + K @ np.linalg.solve(GRAM, Y - LEVEL)
COVARIANCE = K - K @ np.linalg.solve(GRAM, K)
COVARIANCE = (COVARIANCE + COVARIANCE.T) / 2
SD = np.sqrt(np.diag(COVARIANCE))


def gaussian_process():
    """Gaussian noise: the posterior is known exactly."""
    prior = bl.Gaussian(np.full(SIZE, LEVEL), K)
    return bl.Target.from_gaussian_prior(prior, lambda f: -0.5 * (Y - f) ** 2 / NOISE**2)


def poisson_process():
    counts = jnp.asarray(np.random.default_rng(0).poisson(np.exp(Y)))
    prior = bl.Gaussian(np.full(SIZE, LEVEL), K)
    return bl.Target.from_gaussian_prior(prior, lambda f: counts * f - jnp.exp(f))


def sample(kernel, target, starts, num_draws, seed=0):
    """Draws and infos ``[chain, draw, ...]``."""

    def chain(key, start):
        def body(state, key):
            state, info = kernel.step(target, key, state)
            return state, (state.position, info)

        return jax.lax.scan(body, kernel.init(target, start), jax.random.split(key, num_draws))[1]

    keys = jax.random.split(jax.random.key(seed), jax.tree.leaves(starts)[0].shape[0])
    return jax.jit(jax.vmap(chain))(keys, starts)


@functools.cache
def exact_starts(num_chains):
    return jnp.asarray(np.random.default_rng(5).multivariate_normal(MEAN, COVARIANCE, num_chains))


def assert_invariant(kernel, target=None, num_steps=6):
    """From 8000 exact independent starts the exact law is kept."""
    target = gaussian_process() if target is None else target
    draws, info = sample(kernel, target, exact_starts(8000), num_steps)
    ends = np.asarray(draws)[:, -1]
    z = (ends - MEAN) / SD
    both = {"mean": z, "square": z**2, "neighbours": z[:, 1:] * z[:, :-1]}
    corr = COVARIANCE / np.outer(SD, SD)
    expected = {"mean": 0.0, "neighbours": np.diagonal(corr, 1), "square": 1.0}
    for name, values in both.items():
        assert_mean(values, expected[name], iid=True)
    assert_cdf(z[:, 0], stats.norm.cdf, iid=True)
    return info


REFERENCES = {
    "the prior": lambda: None,
    "laplace": lambda: laplace_reference(gaussian_process()),
    "a poor gaussian": lambda: bl.Gaussian(np.zeros(SIZE), 0.5 * np.eye(SIZE)),
    "a diagonal gaussian": lambda: bl.Gaussian.from_scale(MEAN, 2 * SD),
    "a student": lambda: StudentReference(bl.Gaussian(MEAN, 4 * COVARIANCE), 3.0),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_leaves_the_exact_posterior_invariant(name):
    info = assert_invariant(EllipticalSlice(REFERENCES[name]()))
    assert np.all(info.is_accepted)
    assert not np.any(info.is_nan)
    if name == "laplace":
        # Exact reference: every first angle is accepted.
        assert np.all(info.num_evaluations == 1)


@pytest.mark.slow
def test_a_target_without_prior_part_takes_any_gaussian():
    whole = gaussian_process()
    target = bl.Target(lambda f: whole(f), init=jnp.zeros(SIZE))
    assert_invariant(EllipticalSlice(bl.Gaussian(MEAN, np.diag(SD**2))), target)


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["bracket", "reference", "tilt", "mixture"])
def test_planted_bugs_are_caught(bug, monkeypatch):
    kernel = EllipticalSlice(bl.Gaussian(np.zeros(SIZE), 0.5 * np.eye(SIZE)))
    if bug == "bracket":  # never shrinks towards the current point, but towards the far end

        def shrink(key, evaluate, dtype):
            found = right(key, evaluate, dtype)
            return found._replace(angle=jnp.abs(found.angle), value=evaluate(found.angle)[1])

        right = elliptical_slice.shrink
        monkeypatch.setattr(elliptical_slice, "shrink", shrink)
        kernel = EllipticalSlice()
    elif bug == "reference":  # the reference is drawn from and not divided out
        monkeypatch.setattr(
            reference.GaussianReference, "log_tilt", lambda self, *forms: 0 * forms[0]
        )
    elif bug == "tilt":  # the sign of the slope
        kernel = EllipticalSlice(laplace_reference(gaussian_process()))
        wrong = -kernel.reference.slope
        kernel = eqx.tree_at(lambda k: k.reference.slope, kernel, wrong)
    else:  # Student: divided out, and drawn from as if it were Gaussian
        kernel = EllipticalSlice(REFERENCES["a student"]())
        gaussian = reference.GaussianReference(kernel.reference.gaussian)
        monkeypatch.setattr(
            StudentReference, "ellipse", lambda self, key, x, prior: gaussian.ellipse(key, x, None)
        )
    with pytest.raises(AssertionError, match=r"means are wrong|Kolmogorov"):
        assert_invariant(kernel)


@pytest.mark.slow
def test_long_chains_agree_with_the_exact_posterior():
    """From a far start, by the reference that the library finds itself."""
    target = gaussian_process()
    kernel = EllipticalSlice(laplace_reference(target))
    draws, _ = sample(kernel, target, jnp.full((4, SIZE), 5.0), 3000)
    draws = np.asarray(draws)[:, 100:]
    assert_mean(draws, MEAN)
    assert_mean((draws - MEAN) ** 2, SD**2)


@pytest.mark.slow
def test_two_references_agree_on_poisson_counts():
    target = poisson_process()
    fast, info = sample(
        EllipticalSlice(laplace_reference(target)), target, jnp.zeros((4, SIZE)), 5000
    )
    slow, plain = sample(EllipticalSlice(), target, jnp.zeros((4, SIZE)), 10_000, seed=1)
    assert_same(np.asarray(fast)[:, 100:], np.asarray(slow)[:, 100:])
    assert np.mean(info.num_evaluations) < 0.6 * np.mean(plain.num_evaluations)


def test_the_laplace_reference_is_the_posterior_when_noise_is_gaussian():
    found = laplace_reference(gaussian_process())
    assert isinstance(found, TiltedPrior)
    assert found.curvature.ndim == 1, "a factorised likelihood is recognised"
    np.testing.assert_allclose(found.mean, MEAN, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.sum(found.factor**2, axis=1)), SD, rtol=1e-9)


def test_a_likelihood_that_couples_coordinates_gets_a_full_curvature():
    prior = bl.Gaussian(np.zeros(3), np.eye(3))
    target = bl.Target.from_gaussian_prior(prior, lambda f: -0.5 * (jnp.sum(f) - 1) ** 2)
    found = laplace_reference(target)
    assert found.curvature.shape == (3, 3)
    covariance = np.linalg.inv(np.eye(3) + np.ones((3, 3)))
    np.testing.assert_allclose(found.factor @ found.factor.T, covariance, atol=1e-10)


def test_nan_is_outside_and_flagged():
    """NaN above 0.5: never entered, always told; a start inside it finds its way out."""
    prior = bl.Gaussian(np.zeros(2), np.eye(2))

    def log_likelihood(f):
        return jnp.where(f[0] > 0.5, jnp.nan, 0.0)

    target = bl.Target.from_gaussian_prior(prior, log_likelihood)
    draws, info = sample(EllipticalSlice(), target, jnp.zeros((4, 2)), 4000)
    assert np.all(draws[..., 0] <= 0.5)
    assert np.any(info.is_nan)
    assert_cdf(np.asarray(draws)[:, 100:, 0], stats.truncnorm(-np.inf, 0.5).cdf)
    draws, _ = sample(EllipticalSlice(), target, jnp.full((2, 2), 2.0), 50)
    assert np.all(draws[:, -1, 0] <= 0.5)

    nowhere = bl.Target.from_gaussian_prior(prior, lambda f: jnp.sum(f) * jnp.nan)
    draws, info = sample(EllipticalSlice(), nowhere, jnp.ones((1, 2)), 3)
    assert np.all(info.is_nan)
    assert not np.any(info.is_accepted)
    assert np.all(info.num_evaluations == MAX_EVALUATIONS)
    np.testing.assert_array_equal(draws, 1.0)


def test_zero_density_is_not_nan():
    prior = bl.Gaussian(np.zeros(2), np.eye(2))
    target = bl.Target.from_gaussian_prior(prior, lambda f: jnp.where(f[0] > 0.5, -jnp.inf, 0.0))
    draws, info = sample(EllipticalSlice(), target, jnp.zeros((2, 2)), 500)
    assert np.all(draws[..., 0] <= 0.5)
    assert not np.any(info.is_nan)


@pytest.mark.parametrize("kind", ["prior", "laplace", "gaussian"])
def test_float32(kind):
    prior = bl.Gaussian(jnp.full(SIZE, LEVEL, jnp.float32), jnp.asarray(K, jnp.float32))
    y = jnp.asarray(Y, jnp.float32)
    target = bl.Target.from_gaussian_prior(prior, lambda f: -0.5 * (y - f) ** 2 / NOISE**2)
    given = {
        "prior": lambda: None,
        "laplace": lambda: laplace_reference(target),
        "gaussian": lambda: bl.Gaussian.from_scale(
            jnp.asarray(MEAN, jnp.float32), jnp.asarray(SD, jnp.float32)
        ),
    }[kind]()
    draws, info = sample(EllipticalSlice(given), target, jnp.zeros((4, SIZE), jnp.float32), 2000)
    assert draws.dtype == jnp.float32
    assert info.angle.dtype == jnp.float32
    if kind == "laplace":
        assert np.mean(info.num_evaluations) < 1.01
        assert_mean(np.asarray(draws)[:, 100:], MEAN, mcse=1e-3)


@pytest.mark.slow
def test_pytrees_and_learning_the_reference():
    """Without a prior part warm-up finds a reference: here a skewed posterior on a tree."""

    def log_density(tree):
        a, b = tree["a"], tree["b"]
        return 3 * a - jnp.exp(a) - 0.5 * jnp.sum((b - a) ** 2)  # exp(a) ~ Gamma(3)

    starts = {"a": jnp.linspace(0.0, 2.0, 4), "b": jnp.zeros((4, 2))}
    kernel = EllipticalSlice()
    tuner = kernel.tuner()
    states = jax.vmap(lambda p: kernel.init(log_density, p))(starts)
    kernel, tuning = tuner.init(log_density, kernel, states)
    num_warmup = 400

    @jax.jit
    def warm_up(kernel, tuning, states):
        def body(carry, key_and_step):
            kernel, tuning, states = carry
            keys, step = key_and_step
            states, infos = jax.vmap(lambda k, s: kernel.step(log_density, k, s))(keys, states)
            kernel, tuning = tuner.update(kernel, tuning, states, infos, step, num_warmup)
            return (kernel, tuning, states), None

        keys = jax.random.split(jax.random.key(0), (num_warmup, 4))
        return jax.lax.scan(body, (kernel, tuning, states), (keys, jnp.arange(num_warmup)))[0]

    laplace = kernel.reference.gaussian
    kernel, _, states = warm_up(kernel, tuning, states)
    np.testing.assert_allclose(laplace.mean, np.log(3.0), atol=1e-6)
    learnt = kernel.reference.gaussian
    # E log Gamma(3) = digamma(3) = 0.9228, below the mode log 3 = 1.0986.
    np.testing.assert_allclose(learnt.mean, 0.9228, atol=0.2)
    assert learnt.mean[0] < laplace.mean[0]

    draws, info = sample(kernel, log_density, states.position, 4000, seed=1)
    assert_cdf(np.exp(np.asarray(draws["a"])), stats.gamma(3).cdf)
    assert np.mean(info.num_evaluations) < 3


def test_warm_up_gives_targets_with_a_prior_the_laplace_reference():
    target = gaussian_process()
    kernel = EllipticalSlice()
    states = jax.vmap(lambda p: kernel.init(target, p))(jnp.zeros((4, SIZE)))
    tuned, tuning = jax.jit(lambda s: kernel.tuner().init(target, kernel, s))(states)
    assert tuning is None
    np.testing.assert_allclose(tuned.reference.mean, MEAN, atol=1e-9)
    assert tuned.tuner() is None
    _, info = sample(tuned, target, exact_starts(8000)[:10], 20)
    assert np.all(info.num_evaluations == 1)


def test_named_errors():
    def log_density(x):
        return -0.5 * jnp.sum(x**2)

    kernel = EllipticalSlice()
    state = kernel.init(log_density, jnp.zeros(2))
    with pytest.raises(BayleafError, match=r"reference.*laplace_reference"):
        kernel.step(log_density, jax.random.key(0), state)
    with pytest.raises(BayleafError, match=r"reference.*from_gaussian_prior"):
        EllipticalSlice(laplace_reference(gaussian_process())).step(
            log_density, jax.random.key(0), kernel.init(log_density, jnp.zeros(SIZE))
        )
    with pytest.raises(BayleafError, match="reference"):
        EllipticalSlice(3.0)
    with pytest.raises(BayleafError, match="position"):
        laplace_reference(log_density)
    with pytest.warns(SamplingWarning, match="did not converge"):
        laplace_reference(lambda x: jnp.sum(x), jnp.zeros(2))
    found = laplace_reference(log_density, jnp.ones(2))
    np.testing.assert_allclose(found.covariance, np.eye(2), atol=1e-12)

"""Hyper-parameters: found, held, sampled; and a likelihood of labels by elliptical slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf import gp
from bayleaf.errors import BayleafError
from bayleaf.infinite import Dense, Relu, serial
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean

RNG = np.random.default_rng(2)
X = np.sort(RNG.uniform(0, 4, (20, 1)), axis=0)
Y = np.sin(2 * X[:, 0]) + 0.1 * RNG.standard_normal(20)
PRIOR = gp.GaussianProcess(1.0 * gp.SquaredExponential(1.0), noise_std=0.3)


def test_names_and_values_come_and_go():
    values = gp.parameters(PRIOR)
    assert set(values) == {
        "kernel.kernel.length_scale",
        "kernel.variance",
        "mean_function",
        "noise_std",
    }
    other = gp.with_parameters(PRIOR, {"noise_std": 0.7})
    assert float(other.noise_std) == pytest.approx(0.7)
    assert float(other.kernel.variance) == 1.0
    with pytest.raises(BayleafError, match="an entry for noise"):
        gp.with_parameters(PRIOR, {"noise": 0.7})
    with pytest.raises(BayleafError, match="a posterior"):
        gp.parameters(PRIOR.condition(X, Y))
    assert "noise_std" not in gp.parameters(gp.GaussianProcess(gp.Matern12(1.0)))


def test_fit_finds_the_maximum_holds_what_is_fixed_and_compiles_once():
    found = gp.fit(PRIOR, X, Y, fixed=["mean_function"])
    assert found.is_converged
    assert float(found.process.mean_function) == 0
    values = gp.parameters(found.process)
    for name in set(values) - {"mean_function"}:
        for factor in (0.97, 1.03):
            moved = gp.with_parameters(found.process, {name: factor * values[name]})
            assert float(moved.log_marginal_likelihood(X, Y)) < found.log_density
    with compilations() as names:
        again = gp.fit(PRIOR, X, Y + 0.01 * X[:, 0], fixed=["mean_function"])
    assert names == []
    assert again.log_density != found.log_density


def test_more_starts_never_find_less():
    bad = gp.GaussianProcess(1.0 * gp.SquaredExponential(50.0), noise_std=1.0)
    held = ["mean_function"]
    one = gp.fit(bad, X, Y, fixed=held)
    more = gp.fit(bad, X, Y, fixed=held, num_starts=3, key=jax.random.key(0))
    assert more.log_density >= one.log_density - 1e-6
    with pytest.raises(BayleafError, match="key"):
        gp.fit(bad, X, Y, num_starts=3)
    with pytest.raises(BayleafError, match="fixed"):
        gp.fit(bad, X, Y, fixed=["noise"])


@pytest.mark.slow
def test_the_weights_of_an_infinite_network_have_gradients():
    net = serial(Dense(1, bias_std=0.3), Relu(), Dense(1, bias_std=0.3))
    prior = gp.GaussianProcess(gp.NNGP(net), noise_std=0.3)

    def evidence(values):
        return gp.with_parameters(prior, values).log_marginal_likelihood(X, Y)

    values = gp.parameters(prior)
    slope = jax.grad(evidence)(values)
    for name in values:
        step = {name: values[name] + 1e-5}, {name: values[name] - 1e-5}
        difference = (evidence(values | step[0]) - evidence(values | step[1])) / 2e-5
        np.testing.assert_allclose(slope[name], difference, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_nuts_finds_the_posterior_of_the_length_scale_that_quadrature_finds():
    def log_prior(values):
        scale = jnp.log(values["kernel.length_scale"])
        return -0.5 * scale**2 - scale  # log-normal(0, 1)

    prior = gp.GaussianProcess(gp.SquaredExponential(1.0), noise_std=0.3)
    target = gp.target(prior, X, Y, log_prior=log_prior, fixed=["noise_std", "mean_function"])
    run = bl.sample(target, key=jax.random.key(0), num_draws=1500, progress=False)
    logs = jnp.linspace(-2.0, 2.0, 2001)

    def log_density(u):
        values = {"kernel.length_scale": jnp.exp(u)}
        return gp.with_parameters(prior, values).log_marginal_likelihood(X, Y) - 0.5 * u**2

    weights = jax.nn.softmax(jax.lax.map(log_density, logs))
    draws = np.log(run.draws["kernel.length_scale"])
    expected = {"mean": np.sum(weights * logs), "square": np.sum(weights * logs**2)}
    assert_mean({"mean": draws, "square": draws**2}, expected)


@pytest.mark.slow
def test_elliptical_slices_classify_with_a_network_as_the_prior():
    net = serial(Dense(1, weight_std=2.0, bias_std=1.0), Relu(), Dense(1, weight_std=2.0))
    prior = gp.GaussianProcess(gp.NNGP(net), jitter=1e-6).gaussian(X)
    is_up = jnp.asarray(Y > 0)
    target = bl.Target.from_gaussian_prior(
        prior, lambda f: jax.nn.log_sigmoid(jnp.where(is_up, f, -f))
    )
    draws = sample(target)
    exact = importance(prior, is_up)
    assert_mean({"mean": draws}, {"mean": exact[0]}, mcse={"mean": exact[1]})


def sample(target):
    run = bl.sample(
        target,
        bl.mcmc.EllipticalSlice(),
        key=jax.random.key(0),
        num_draws=1000,
        num_warmup=200,
        progress=False,
    )
    return np.asarray(run.draws)


def importance(prior, is_up, num_draws=200_000):
    """Posterior means by weighted draws of the prior, and their standard errors."""
    f = np.asarray(prior.sample(jax.random.key(1), (num_draws,)))
    log_likelihood = -np.logaddexp(0, np.where(np.asarray(is_up), -f, f)).sum(axis=1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    weights /= weights.sum()
    mean = weights @ f
    return mean, np.sqrt((weights**2) @ (f - mean) ** 2)

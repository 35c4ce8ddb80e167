"""Amortised inference: probabilistic PCA as the exact answer, bounds in order, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

import bayleaf as bl
from bayleaf.errors import BayleafError, NonFiniteLogDensityError
from bayleaf.variational import GaussianEncoder, MeanField, elbo, fit_amortised
from bayleaf.variational.amortised import Autoencoder, Program
from tests.tools.compiling import compilations
from tests.tools.statistics import assert_mean

DIM, LATENT, NUM = 5, 2, 300
QUIET = {"progress": False}


def made_data(seed=0):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(LATENT, DIM)) * np.array([[2.0], [1.0]])
    return rng.normal(size=(NUM, LATENT)) @ loadings + 0.5 * rng.normal(size=(NUM, DIM)) + 1.0


DATA = made_data()


class LinearDecoder(eqx.Module):
    """Means linear in z, and one log standard deviation for all."""

    layer: eqx.nn.Linear
    log_noise: jax.Array

    def __call__(self, z):
        return self.layer(z), self.log_noise


class LinearEncoder(eqx.Module):
    """A mean linear in x; scales that do not depend on it, as in the exact posterior."""

    layer: eqx.nn.Linear
    log_scale: jax.Array

    def __call__(self, x):
        return MeanField.from_parameters(self.layer(x), self.log_scale)


def likelihood(outputs, x):
    means, log_noise = outputs
    return norm.logpdf(x, means, jnp.exp(log_noise)[:, None]).sum(axis=1)


def networks():
    one, two = jax.random.split(jax.random.key(0))
    encoder = LinearEncoder(eqx.nn.Linear(DIM, LATENT, key=one), jnp.full(LATENT, -1.0))
    return encoder, LinearDecoder(eqx.nn.Linear(LATENT, DIM, key=two), jnp.zeros(()))


def closed_form(data):
    """The maximum log-likelihood of probabilistic PCA, and its noise."""
    values = np.linalg.eigvalsh(np.cov(data.T, bias=True))[::-1]
    noise = values[LATENT:].mean()
    logs = np.sum(np.log(values[:LATENT])) + (DIM - LATENT) * np.log(noise)
    return -0.5 * data.shape[0] * (DIM * np.log(2 * np.pi) + logs + DIM), np.sqrt(noise)


@pytest.fixture(scope="module")
def fitted():
    import optax

    settings = {
        "likelihood": likelihood,
        "optimizer": optax.adam(lambda t: 0.03 / jnp.sqrt(1 + t / 100)),
        "num_steps": 1500,
        "batch_size": NUM,
        **QUIET,
    }
    return fit_amortised(*networks(), DATA, key=jax.random.key(0), **settings), settings


def test_a_linear_autoencoder_reaches_the_maximum_likelihood_of_probabilistic_pca(fitted):
    fit, _ = fitted
    exact, noise = closed_form(DATA)
    bounds = fit.elbo(DATA, key=jax.random.key(1), num_draws=100)
    # No bound exceeds the maximum; one nat of all 300 examples is what rest the ascent may leave.
    assert exact - 1.0 < bounds.sum() < exact + 0.1
    np.testing.assert_allclose(jnp.exp(fit.decoder.log_noise), noise, rtol=0.02)
    np.testing.assert_allclose(fit.history[-100:].mean(), exact, atol=5)
    assert fit.history[0] < exact - 100
    # Without the divergence, or with its sign turned round, the sum would be far above.
    z = jax.vmap(lambda x: fit.encoder(x).loc)(DATA)
    wrong = jax.vmap(fit.model.log_likelihood)(jnp.asarray(DATA), z).sum()
    assert wrong > exact + 100


def test_the_space_that_the_decoder_spans_is_the_principal_one(fitted):
    fit, _ = fitted
    principal = np.linalg.svd(DATA - DATA.mean(0), full_matrices=False)[2][:LATENT].T
    spanned = np.linalg.qr(np.asarray(fit.decoder.layer.weight))[0]
    cosines = np.linalg.svd(principal.T @ spanned)[1]
    np.testing.assert_allclose(cosines, 1.0, atol=1e-3)


def test_bounds_are_in_order_and_at_the_exact_posterior_equal(fitted):
    fit, _ = fitted
    single = fit.elbo(DATA, key=jax.random.key(1), num_draws=200)
    several = fit.log_likelihood(DATA, key=jax.random.key(2), num_draws=200)
    assert single.shape == several.shape == (NUM,)
    covariance = np.asarray(fit.decoder.layer.weight @ fit.decoder.layer.weight.T)
    covariance = covariance + np.exp(2 * float(fit.decoder.log_noise)) * np.eye(DIM)
    from scipy import stats

    exact = stats.multivariate_normal(fit.decoder.layer.bias, covariance).logpdf(DATA)
    np.testing.assert_allclose(several, exact, atol=0.02)
    assert np.all(single < exact + 0.02)
    # A decoder whose posterior the guide misses: the bound of several draws lies in between.
    worse = eqx.tree_at(lambda m: m.encoder.log_scale, fit.model, jnp.zeros(LATENT))
    import dataclasses

    worse = dataclasses.replace(fit, model=worse)
    single = worse.elbo(DATA, key=jax.random.key(1), num_draws=200)
    several = worse.log_likelihood(DATA, key=jax.random.key(2), num_draws=200)
    assert single.sum() + 50 < several.sum() < exact.sum() + 10


@eqx.filter_jit
def estimates(program, guide, keys):
    return jax.vmap(lambda key: program.terms(guide, key)[0])(keys)


@pytest.mark.slow
def test_batches_of_both_forms_estimate_the_elbo_of_all_data():
    model = Autoencoder(*networks(), bl.Gaussian.from_scale(np.zeros(2), 1.0), likelihood)
    whole = model.terms
    keys = jax.random.split(jax.random.key(0), NUM)
    exact = jax.vmap(lambda x, k: whole("kl", x, key=k, num_draws=400))(jnp.asarray(DATA), keys)
    total, error = exact.mean(1).sum(), np.sqrt((exact.var(axis=1) / 400).sum())
    for form in ("kl", "joint"):
        program = Program(jnp.asarray(DATA), model.prior, likelihood, None, form, 1, 20, True)
        guide = (model.encoder, model.decoder)
        values = estimates(program, guide, jax.random.split(jax.random.key(1), 4000))
        assert_mean(values, float(total), mcse=float(error), iid=True)
        with pytest.raises(AssertionError, match="means are wrong"):  # the scale N / n forgotten
            assert_mean(values, float(total) * 20 / NUM, iid=True)


def test_a_second_fit_compiles_nothing_and_an_extension_has_the_same_bits(fitted):
    fit, settings = fitted
    with compilations() as compiled:
        fit_amortised(
            *networks(), made_data(1), key=jax.random.key(1), **{**settings, "num_steps": 40}
        )
        short = fit_amortised(
            *networks(), DATA, key=jax.random.key(0), **{**settings, "num_steps": 900}
        )
        longer = short.extend(600, **QUIET)
    assert compiled == []
    np.testing.assert_array_equal(longer.history, fit.history)
    np.testing.assert_array_equal(longer.decoder.layer.weight, fit.decoder.layer.weight)


def test_samples_and_reconstructions(fitted):
    fit, _ = fitted
    means, log_noise = fit.sample(2000, key=jax.random.key(0))
    assert means.shape == (2000, DIM)
    assert log_noise.shape == (2000,)
    assert_mean(means, fit.decoder.layer.bias, iid=True)
    means, _ = fit.reconstruct(DATA, key=jax.random.key(1))
    assert np.mean((means - DATA) ** 2) < 0.5 * np.mean((DATA - DATA.mean(0)) ** 2)


def test_a_gaussian_encoder_splits_the_outputs_of_a_network():
    guide = GaussianEncoder(lambda x: x)(jnp.arange(4.0))
    np.testing.assert_array_equal(guide.loc, [0.0, 1.0])
    np.testing.assert_array_equal(guide.log_scale, [2.0, 3.0])
    assert elbo.kl_divergence(guide, bl.Gaussian.from_scale(np.zeros(2), 1.0)) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": lambda x: x}, "encoder: got a function that returns a"),
        ({"decoder": 3}, "decoder: got 3"),
        ({"likelihood": lambda o, x: (o[0] - x) ** 2}, "likelihood: got for 2 examples"),
        ({"batch_size": NUM + 1}, "batch_size: got 301, expected at most the 300 examples"),
        ({"num_steps": 0}, "num_steps: got 0"),
        ({"objective": "elbo"}, "objective: got 'elbo'"),
        ({"optimizer": 1e-3}, "optimizer"),
        ({"data": {"x": np.zeros((3, 2)), "y": np.zeros(4)}}, "data: got leaves of shapes"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    encoder, decoder = networks()
    settings = {"encoder": encoder, "decoder": decoder, "data": DATA, "likelihood": likelihood}
    settings |= {"key": jax.random.key(0), **QUIET, **changes}
    parts = [settings.pop(name) for name in ("encoder", "decoder", "data")]
    with pytest.raises(BayleafError, match=message):
        fit_amortised(*parts, **settings)


def test_nan_in_the_data_ends_the_fit():
    data = np.where(np.arange(DIM) == 2, np.nan, DATA)
    with pytest.raises(NonFiniteLogDensityError, match="every step from step 0 on"):
        fit_amortised(
            *networks(), data, key=jax.random.key(0), likelihood=likelihood, num_steps=200, **QUIET
        )

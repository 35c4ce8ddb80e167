"""The ELBO: both forms, exact values on Gaussian models, the variance of gradients, wrong forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from scipy import integrate, stats

import bayleaf as bl
from bayleaf.variational import FullRank, LowRank, MeanField, elbo
from bayleaf.variational.arguments import split
from tests.tools.statistics import assert_mean, assert_same

KEYS = jax.random.split(jax.random.key(0), 2)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 3)))
Y = jnp.asarray(RNG.normal(size=8))
COVARIANCE = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])
NOISE = 0.7


def normal_likelihood(w, data):
    x, y = data
    return norm.logpdf(y, x @ w, NOISE)


def logistic_likelihood(w, data):
    x, y = data
    return jax.nn.log_sigmoid(jnp.where(y > 0, 1.0, -1.0) * (x @ w))


def scale_prior(p):
    return norm.logpdf(p["mean"], 0.0, 2.0) + jax.scipy.stats.expon.logpdf(p["scale"])


def scale_likelihood(p, data):
    return norm.logpdf(data, p["mean"], p["scale"])


def linear():
    prior = bl.Gaussian(np.array([0.5, 0.0, -1.0]), COVARIANCE)
    return bl.Target.from_gaussian_prior(prior, normal_likelihood, data=(X, Y), init=np.zeros(3))


def logistic():
    prior = bl.Gaussian.from_scale(np.zeros(3), np.array([1.0, 2.0, 0.5]))
    return bl.Target.from_gaussian_prior(prior, logistic_likelihood, data=(X, Y), init=np.zeros(3))


def scale():
    return bl.Target.from_likelihood(
        scale_prior,
        scale_likelihood,
        Y,
        init={"mean": 0.0, "scale": 1.0},
        constrain={"scale": bl.constraints.positive},
    )


def posterior():
    """Of the linear model, in closed form: its mean, covariance, and the log evidence."""
    x, y = np.asarray(X), np.asarray(Y)
    mean = np.array([0.5, 0.0, -1.0])
    precision = np.linalg.inv(COVARIANCE) + x.T @ x / NOISE**2
    covariance = np.linalg.inv(precision)
    center = covariance @ (np.linalg.solve(COVARIANCE, mean) + x.T @ y / NOISE**2)
    of_data = stats.multivariate_normal(x @ mean, x @ COVARIANCE @ x.T + NOISE**2 * np.eye(y.size))
    return center, covariance, of_data.logpdf(y)


def full_rank(mean, covariance):
    """The guide with these moments."""
    return FullRank.from_cholesky(jnp.asarray(mean), jnp.linalg.cholesky(jnp.asarray(covariance)))


def terms(form, target, guide, key, num_draws, **options):
    options = {"key": key, "num_draws": num_draws, **options}
    if form == "joint":
        return elbo.joint(target, guide, **options)
    prior, log_likelihood = split(target, guide)
    return elbo.kl(log_likelihood, prior, guide, **options)


CENTERS = {"linear": jnp.array([0.1, 0.2, -0.5]), "logistic": jnp.array([0.1, 0.2, -0.5])}
MODELS = {
    "linear": (linear, FullRank(CENTERS["linear"], scale=0.4)),
    "logistic": (logistic, MeanField(CENTERS["logistic"], scale=0.4)),
    "scale": (scale, FullRank({"mean": jnp.array(0.2), "scale": jnp.array(-0.5)}, scale=0.3)),
}


@pytest.fixture(scope="module")
def both():
    """20,000 terms of each form for three models, from independent draws."""

    @eqx.filter_jit
    def estimate(target, guide, keys):
        forms = ("joint", "kl")
        return [terms(form, target, guide, keys[i], 20_000) for i, form in enumerate(forms)]

    return {name: estimate(make(), guide, KEYS) for name, (make, guide) in MODELS.items()}


def disagreement(one, other):
    """Difference of the means in standard errors."""
    error = np.hypot(*(np.std(x, ddof=1) / np.sqrt(x.size) for x in (one, other)))
    return abs(np.mean(one) - np.mean(other)) / error


@pytest.mark.parametrize("name", MODELS)
def test_the_two_forms_agree_in_expectation(both, name):
    joint, kl = map(np.asarray, both[name])
    assert disagreement(joint, kl) < 4
    assert not np.allclose(joint[:10], kl[:10])  # they are two estimators, not one


@pytest.mark.parametrize("name", MODELS)
def test_the_wrong_forms_disagree(both, name):
    """No brackets in log[p(x|z) p(z)], no entropy, KL turned round, its sign, no Jacobian."""
    make, guide = MODELS[name]
    target = make()
    joint = np.asarray(both[name][0])
    prior, log_likelihood = split(target, guide)
    draws = elbo.drawn(guide, KEYS[1], 20_000)
    log_lik, log_prior, log_q = (
        np.asarray(jax.vmap(f)(draws)) for f in (log_likelihood, prior.log_prob, guide.log_prob)
    )
    assert disagreement(joint, log_lik + log_prior - log_q) < 4
    wrong = {
        "no brackets": log_lik * np.exp(log_prior) - log_q,
        "no entropy": log_lik + log_prior,
        "sign of the entropy": log_lik + log_prior + log_q,
        "sign of the divergence": log_lik - log_prior + log_q,
        "minus the ELBO": log_q - log_lik - log_prior,
    }
    gaussian = prior.to_gaussian()
    if gaussian is not None:
        other = full_rank(gaussian.mean, gaussian.covariance)
        turned = elbo.kl_divergence(other, guide.to_gaussian())
        wrong["the divergence turned round"] = log_lik - float(turned)
    else:
        log_density = jax.vmap(lambda u: target.log_prior(target.constrain(u)))(draws)
        wrong["no Jacobian"] = log_lik + np.asarray(log_density) - log_q
    for what, values in wrong.items():
        assert disagreement(joint, values) > 5, what


def test_at_the_posterior_every_term_is_the_log_evidence():
    mean, covariance, log_evidence = posterior()
    guide = full_rank(mean, covariance)
    values = terms("joint", linear(), guide, KEYS[0], 50)
    np.testing.assert_allclose(values, log_evidence, rtol=1e-12)
    # In the other form single terms differ, and only their mean is the log evidence.
    values = terms("kl", linear(), guide, KEYS[0], 4000)
    assert np.std(values) > 0.5
    assert_mean(values, log_evidence, iid=True)


@pytest.mark.parametrize("form", ["joint", "kl"])
def test_the_elbo_falls_short_of_the_evidence_by_the_divergence_from_the_posterior(form):
    mean, covariance, log_evidence = posterior()
    for guide in (MODELS["linear"][1], full_rank(mean + 0.1, 1.5 * covariance)):
        gap = elbo.kl_divergence(guide, bl.Gaussian(mean, covariance))
        assert gap > 0.05
        values = terms(form, linear(), guide, KEYS[0], 4000)
        assert_mean(values, log_evidence - float(gap), iid=True)
        with pytest.raises(AssertionError, match="means are wrong"):
            assert_mean(values, log_evidence, iid=True)


@eqx.filter_jit
def one_a_row(form, target, guide, stick, keys):
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)

    def bound(moving, key):
        guide = eqx.combine(moving, rest)
        return terms(form, target, guide, key, 1, stick_the_landing=stick)[0]

    return jax.vmap(lambda key: ravel_pytree(jax.grad(bound)(moving, key))[0])(keys)


def gradients(form, target, guide, stick, num=2000):
    """Gradients of single draws with respect to the guide, one a row."""
    return np.asarray(one_a_row(form, target, guide, stick, jax.random.split(KEYS[0], num)))


def test_sticking_the_landing_has_no_variance_at_the_posterior_and_the_full_gradient_has():
    mean, covariance, _ = posterior()
    guide = full_rank(mean, covariance)
    stuck = gradients("joint", linear(), guide, True)
    assert np.max(np.abs(stuck)) < 1e-11
    full = gradients("joint", linear(), guide, False)
    assert_mean(full, 0.0, iid=True)
    assert np.max(np.std(full, axis=0)) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "scale"])
def test_gradients_have_the_same_expectation_with_and_without_the_score(name):
    make, guide = MODELS[name]
    forms = ["joint", "kl"]
    stuck, full = (
        [gradients(form, make(), guide, stick) for form in forms] for stick in (True, False)
    )
    assert_same(stuck[0], full[0], iid=True)
    assert_same(stuck[0], stuck[1], iid=True)
    assert_same(full[0], full[1], iid=True)


def test_the_mean_gradient_is_the_exact_one():
    """Of log evidence - KL(q || posterior), which is known in closed form on a Gaussian model."""
    mean, covariance, _ = posterior()
    guide = MODELS["linear"][1]
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)
    exact = jax.grad(
        lambda m: -elbo.kl_divergence(eqx.combine(m, rest), bl.Gaussian(mean, covariance))
    )(moving)
    exact = np.asarray(ravel_pytree(exact)[0])
    estimates = gradients("joint", linear(), guide, True)
    assert_mean(estimates, exact, iid=True)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_mean(estimates, 0.9 * exact, iid=True)


def test_sticking_the_landing_does_not_change_the_value():
    make, guide = MODELS["linear"]
    values = [terms("joint", make(), guide, KEYS[0], 5, stick_the_landing=s) for s in (True, False)]
    np.testing.assert_array_equal(*values)


def test_divergences_of_one_coordinate_are_the_integral():
    q, p = stats.norm(0.3, 0.8), stats.norm(-0.5, 1.7)
    exact = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -12, 12)[0]
    guide = MeanField(jnp.array([0.3]), scale=0.8)
    for prior in (
        bl.Gaussian(-0.5, np.array([[1.7**2]])),
        bl.Gaussian.from_scale(np.array([-0.5]), 1.7),
    ):
        np.testing.assert_allclose(elbo.kl_divergence(guide, prior), exact, rtol=1e-9)


@pytest.mark.parametrize("guide_type", [MeanField, FullRank, LowRank])
def test_divergences_of_several_coordinates_are_those_of_the_covariances(guide_type):
    guide = guide_type(jnp.array([0.3, -0.2, 1.0]), scale=0.8)
    if not isinstance(guide, MeanField):
        name = "lower" if isinstance(guide, FullRank) else "factor"
        new = jnp.asarray(RNG.normal(size=(3, 3)))
        guide = eqx.tree_at(lambda g: getattr(g, name), guide, new)
    m, S = np.asarray(guide.loc), np.asarray(guide.columns() @ guide.columns().T)
    for prior in (
        bl.Gaussian(np.ones(3), COVARIANCE),
        bl.Gaussian.from_scale(0.0, np.arange(1, 4)),
    ):
        m0, K = np.asarray(prior.mean), np.asarray(prior.covariance)
        distance = (m - m0) @ np.linalg.solve(K, m - m0)
        volumes = np.linalg.slogdet(K)[1] - np.linalg.slogdet(S)[1]
        exact = 0.5 * (np.trace(np.linalg.solve(K, S)) + distance - 3 + volumes)
        np.testing.assert_allclose(elbo.kl_divergence(guide, prior), exact, rtol=1e-11)
    itself = guide.to_gaussian()
    assert abs(elbo.kl_divergence(guide, itself)) < 1e-12


def test_a_prior_that_is_not_gaussian_has_no_closed_form():
    class Laplace(eqx.Module):
        def log_prob(self, x):
            return jax.scipy.stats.laplace.logpdf(x).sum()

    assert elbo.kl_divergence(MeanField(jnp.zeros(2)), Laplace()) is None
    assert elbo.kl_divergence(Laplace(), bl.Gaussian.from_scale(jnp.zeros(2), 1.0)) is None


def test_a_guide_may_be_the_prior():
    guide, prior = MODELS["linear"][1], MeanField(jnp.zeros(3), scale=2.0)
    exact = elbo.kl_divergence(guide, bl.Gaussian.from_scale(jnp.zeros(3), 2.0))
    np.testing.assert_allclose(elbo.kl_divergence(guide, prior), exact, rtol=1e-14)


def test_the_bound_of_several_draws_lies_between_the_elbo_and_the_evidence():
    _, _, log_evidence = posterior()
    guide = MODELS["linear"][1]
    values = np.asarray(terms("joint", linear(), guide, KEYS[0], 20_000))
    bounds = np.asarray(jax.vmap(elbo.importance_bound)(jnp.asarray(values).reshape(-1, 100)))
    error = bounds.std() / np.sqrt(bounds.size)
    assert values.mean() + 0.1 < bounds.mean() < log_evidence + 4 * error


def test_single_precision_stays_single():
    guide = MeanField(jnp.zeros(3, jnp.float32))
    data = (X.astype(jnp.float32), Y.astype(jnp.float32))
    prior = bl.Gaussian.from_scale(np.zeros(3, np.float32), np.ones(3, np.float32))
    target = bl.Target.from_gaussian_prior(prior, logistic_likelihood, data=data)
    for form in ("joint", "kl"):
        assert terms(form, target, guide, KEYS[0], 4).dtype == jnp.float32

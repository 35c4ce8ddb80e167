"""Importance sampling: conjugate evidences, exact posteriors, and what goes wrong by name."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import bayleaf as bl
from bayleaf.errors import BayleafError, SamplingWarning
from bayleaf.montecarlo.importance import importance
from tests.tools.compiling import compilations

COUNTS = np.array([3, 5, 4, 0, 7])
SHAPE, RATE = 2.0, 0.5


class Student(eqx.Module):
    """A wide one-dimensional proposal that is no Gaussian."""

    mean: Any
    scale: Any
    freedom: float = eqx.field(static=True, default=5.0)

    def sample(self, key):
        return self.mean + self.scale * jax.random.t(key, self.freedom)

    def log_prob(self, x):
        return jax.scipy.stats.t.logpdf(x, self.freedom, self.mean, self.scale)


class Shifted(eqx.Module):
    """A Gaussian whose log density lacks a constant."""

    gaussian: bl.Gaussian
    constant: Any

    def sample(self, key):
        return self.gaussian.sample(key)

    def log_prob(self, x):
        return self.gaussian.log_prob(x) + self.constant


class Wrapped(eqx.Module):
    """A Gaussian on the tree ``{"rate": ...}``."""

    inner: Any

    def sample(self, key):
        return {"rate": self.inner.sample(key)}

    def log_prob(self, x):
        return self.inner.log_prob(x["rate"])


def log_joint(params, counts):
    """Poisson counts with a Gamma prior: the evidence is known."""
    rate = params["rate"]
    prior = jax.scipy.stats.gamma.logpdf(rate, SHAPE, scale=1 / RATE)
    return prior + jnp.sum(jax.scipy.stats.poisson.logpmf(counts, rate))


def poisson_target(counts=COUNTS):
    return bl.Target(
        log_joint,
        init={"rate": 1.0},
        constrain={"rate": bl.constraints.positive},
        data=jnp.asarray(counts),
    )


def poisson_evidence():
    shape, rate = SHAPE + COUNTS.sum(), RATE + COUNTS.size
    from scipy.special import gammaln

    normalisers = SHAPE * np.log(RATE) - gammaln(SHAPE) + gammaln(shape) - shape * np.log(rate)
    return normalisers - np.sum(gammaln(COUNTS + 1)), stats.gamma(shape, scale=1 / rate)


PROPOSAL = Wrapped(Student(jnp.asarray(1.3), jnp.asarray(0.4)))


def test_a_conjugate_posterior_on_its_constrained_space():
    found = importance(poisson_target(), PROPOSAL, key=jax.random.key(0), num_draws=8000)
    exact, posterior = poisson_evidence()
    assert abs(found.log_evidence - exact) < 5 * found.log_evidence_error < 0.05
    assert found.pareto_k < 0.7
    mean, error = found.expectation(lambda draw: draw["rate"])
    assert abs(mean - posterior.mean()) < 5 * error
    low, high = found.interval(0.9)
    np.testing.assert_allclose(
        [low["rate"], high["rate"]], posterior.ppf([0.05, 0.95]), rtol=5 / found.ess**0.5
    )
    assert np.min(found.draws["rate"]) > 0


def test_the_evidence_of_a_gaussian_model():
    """y ~ N(x, 1), x ~ N(0, 4 I) in two dimensions, bare log density, exact proposal."""
    y = np.array([1.0, -0.5])

    def log_density(x):
        prior = jax.scipy.stats.norm.logpdf(x, 0, 2)
        return jnp.sum(prior + jax.scipy.stats.norm.logpdf(y, x, 1))

    exact = stats.norm.logpdf(y, 0, 5**0.5).sum()
    posterior = bl.Gaussian(0.8 * y, 0.8 * np.eye(2))
    found = importance(log_density, posterior, key=jax.random.key(0), num_draws=500)
    np.testing.assert_allclose(found.log_evidence, exact, atol=1e-12)
    np.testing.assert_allclose(found.log_weights, exact, atol=1e-12)
    np.testing.assert_allclose(found.ess, 500)
    wider = bl.Gaussian(0.8 * y + 0.3, np.eye(2))
    found = importance(log_density, wider, key=jax.random.key(1), num_draws=5000)
    assert abs(found.log_evidence - exact) < 5 * found.log_evidence_error


def test_batches_change_no_draw_and_nothing_compiles_twice():
    target, key = poisson_target(), jax.random.key(0)
    whole = importance(target, PROPOSAL, key=key, num_draws=300)
    parts = importance(target, PROPOSAL, key=key, num_draws=300, batch_size=64)
    np.testing.assert_allclose(parts.log_weights, whole.log_weights, rtol=1e-12)
    other = Wrapped(Student(jnp.asarray(1.2), jnp.asarray(0.5)))
    with compilations() as compiled:
        again = importance(target, PROPOSAL, key=key, num_draws=250, batch_size=64)
        importance(
            poisson_target(np.ones_like(COUNTS)), other, key=jax.random.key(1), num_draws=300
        )
    assert compiled == []
    np.testing.assert_array_equal(again.draws["rate"], parts.draws["rate"][:250])


def test_a_narrow_proposal_is_named():
    narrow = bl.Gaussian(np.zeros(3), 0.03 * np.eye(3))

    def log_density(x):
        return -0.5 * jnp.sum(x**2)

    with pytest.warns(SamplingWarning, match=r"pareto_k: .* k-hat = .*heavier tails"):
        found = importance(log_density, narrow, key=jax.random.key(0), num_draws=4000)
    assert found.pareto_k > 0.7


def test_a_proposal_without_its_constant_is_named():
    """Off by a factor of two: the evidence would be so too, silently."""
    gaussian = bl.Gaussian(np.zeros(2), np.eye(2))
    for factor in (2.0, 0.5):
        wrong = Shifted(gaussian, jnp.log(factor))
        with pytest.warns(SamplingWarning, match=rf"integrates to {factor:.1f}|integrates to"):
            importance(gaussian.log_prob, wrong, key=jax.random.key(0), num_draws=4000)


@pytest.mark.parametrize("dim", [1, 10, 40])
def test_good_proposals_raise_no_warning(dim):
    skewed = np.linalg.cholesky(np.eye(dim) + 0.7)
    gaussian = bl.Gaussian.from_cholesky(np.ones(dim), skewed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(3):
            importance(gaussian.log_prob, gaussian, key=jax.random.key(seed), num_draws=3000)


def test_float32():
    gaussian = bl.Gaussian(jnp.zeros(2, jnp.float32), jnp.eye(2, dtype=jnp.float32))
    found = importance(gaussian.log_prob, gaussian, key=jax.random.key(0), num_draws=100)
    assert found.draws.dtype == np.float32
    assert found.log_weights.dtype == np.float32


def test_numpyro_distributions_are_proposals():
    dist = pytest.importorskip("numpyro.distributions")
    proposal = dist.MultivariateNormal(jnp.zeros(2), 2 * jnp.eye(2))
    target = bl.Gaussian(np.zeros(2), np.eye(2))
    found = importance(target.log_prob, proposal, key=jax.random.key(0), num_draws=4000)
    assert abs(found.log_evidence) < 5 * found.log_evidence_error


class Planted(eqx.Module):
    inner: Any
    what: str = eqx.field(static=True)

    def sample(self, key):
        return jnp.zeros(()) if self.what == "draws" else self.inner.sample(key)

    def log_prob(self, x):
        value = self.inner.log_prob(x)
        bad = {"nan": jnp.nan, "zero": -jnp.inf, "shape": jnp.ones(2)}.get(self.what, 0.0)
        return value + bad


def test_what_is_refused():
    gaussian = bl.Gaussian(np.zeros(2), np.eye(2))
    settings: dict[str, Any] = {"key": jax.random.key(0), "num_draws": 50}
    cases = {
        "proposal.log_prob: got nan at 50 of 50": (gaussian.log_prob, Planted(gaussian, "nan")),
        "proposal.log_prob: got -inf": (gaussian.log_prob, Planted(gaussian, "zero")),
        "proposal.log_prob: .*one number": (gaussian.log_prob, Planted(gaussian, "shape")),
        "target: got nan at": (lambda x: jnp.log(-jnp.abs(x[0])), gaussian),
        "target: got inf at": (lambda x: jnp.inf + x[0], gaussian),
        "target: .*one number": (lambda x: x, gaussian),
        "-inf in all 50 draws": (lambda x: -jnp.inf + 0 * x[0], gaussian),
        "an object with the method sample": (gaussian.log_prob, lambda x: x),
    }
    for message, (target, proposal) in cases.items():
        with pytest.raises(BayleafError, match=message):
            importance(target, proposal, **settings)
    for name in ("num_draws", "batch_size"):
        changed: dict[str, Any] = settings | {name: 0}
        with pytest.raises(BayleafError, match=f"{name}: got 0"):
            importance(gaussian.log_prob, gaussian, **changed)

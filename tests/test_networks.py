from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import bayleaf as bl
from bayleaf.errors import BayleafError
from bayleaf.targets import likelihoods, networks

KEY = jax.random.key(5)
X = np.random.default_rng(0).normal(size=(12, 3))
LABELS = np.arange(12) % 4


def mlp(key=KEY):
    return eqx.nn.MLP(3, 4, 5, 1, key=key)


def classifier(**options):
    options = {"likelihood": likelihoods.categorical, "data": (X, LABELS), **options}
    return bl.Target.from_equinox(mlp(), **options)


def test_the_density_is_prior_and_likelihood():
    target = classifier(prior_scale=0.5)
    weights = eqx.filter(mlp(), eqx.is_inexact_array)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(weights)])
    logits = jax.vmap(mlp())(jnp.asarray(X))
    expected = scipy.stats.norm(0, 0.5).logpdf(flat).sum()
    expected += jax.nn.log_softmax(logits)[np.arange(12), LABELS].sum()
    np.testing.assert_allclose(target(weights), expected)
    assert target.log_likelihood(weights).shape == (12,)


def test_combine_and_predict():
    target = classifier()
    positions = target.initial_positions(KEY, 3)
    draws = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1], 1), positions)
    outputs = networks.predict(target, draws, X, batch_size=4)
    assert outputs.shape == (3, 2, 12, 4)
    one = networks.combine(target, jax.tree.map(lambda leaf: jnp.asarray(leaf[2, 1]), draws))
    assert isinstance(one, eqx.nn.MLP)
    np.testing.assert_allclose(outputs[2, 1], jax.vmap(one)(jnp.asarray(X)))


def test_chains_start_near_the_network_or_at_fresh_ones():
    def linear(key):
        return eqx.nn.Linear(3, 4, key=key)

    options = {"likelihood": likelihoods.categorical, "data": (X, LABELS)}
    near = bl.Target.from_equinox(linear(KEY), **options).initial_positions(KEY, 4).weight
    assert 0 < jnp.max(jnp.abs(near - linear(KEY).weight[None])) < 0.6
    fresh = bl.Target.from_equinox(linear(KEY), init=linear, **options).initial_positions(KEY, 2)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 1), 0)
    np.testing.assert_allclose(fresh.weight[1], linear(key).weight)


def test_any_apply_function_with_learnt_noise():
    data = (X, X @ np.array([1.0, 2.0, 3.0]))
    target = bl.Target.from_network(
        lambda params, x: x @ params["w"],
        {"w": np.ones(3)},
        likelihood=likelihoods.normal_with_learnt_noise(2.0),
        data=data,
        log_prior=lambda params: -jnp.sum(jnp.abs(params["w"])),
    )
    u = {"network": {"w": jnp.ones(3)}, "noise": jnp.log(0.7)}
    expected = scipy.stats.norm(X @ np.ones(3), 0.7).logpdf(data[1]).sum() - 3 + np.log(0.7)
    expected += scipy.stats.halfnorm(0, 2).logpdf(0.7)
    np.testing.assert_allclose(target(u), expected)
    assert target.initial_positions(KEY, 2)["noise"].shape == (2,)
    predicted = networks.predict(target, target.constrain(u), X, num_leading=0)
    np.testing.assert_allclose(jnp.squeeze(predicted), X @ np.ones(3))
    np.testing.assert_allclose(networks.combine(target, target.constrain(u))(X), X @ np.ones(3))


def test_mini_batches():
    target = classifier()
    weights = eqx.filter(mlp(), eqx.is_inexact_array)
    values = jax.jit(jax.vmap(lambda key: target.subsample(key, 3)(weights)))(
        jax.random.split(KEY, 5000)
    )
    error = jnp.std(values) / np.sqrt(5000)
    assert jnp.abs(jnp.mean(values) - target(weights)) < 4.9 * error  # false alarm 1e-6


def test_likelihoods_against_scipy():
    logits = jnp.asarray(X)
    ones = (X > 0).astype(int)
    p = scipy.special.expit(X)
    np.testing.assert_allclose(
        likelihoods.bernoulli(logits, jnp.asarray(ones)),
        scipy.stats.bernoulli.logpmf(ones, p).sum(1),
    )
    np.testing.assert_allclose(
        likelihoods.normal(0.3)(logits, jnp.zeros((12, 3))),
        scipy.stats.norm(0, 0.3).logpdf(X).sum(1),
    )
    assert np.isnan(likelihoods.categorical(logits, jnp.full(12, 3))[0])  # classes 0 .. 2


bad_options = {"likelihood": "categorical", "data": (X, LABELS), "prior_scale": 1.0}
bad_options |= {"log_prior": None, "init": None}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: likelihoods.normal(-1.0), "noise: got -1.0"),
        (lambda: likelihoods.normal(1.0)(jnp.ones((4, 1)), jnp.ones(4)), r"labels: .*\(4,\)"),
        (lambda: classifier(prior_scale=0.0), "prior_scale: got 0.0"),
        (lambda: networks.from_equinox(mlp(), **bad_options), "likelihood: got"),
        (lambda: classifier(data=(X, LABELS[:5])), "data: got"),
        (lambda: networks.combine(bl.Target(jnp.sum, init=1.0), 1.0), "target: got no network"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(BayleafError, match=says):
        make()

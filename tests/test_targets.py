from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import bayleaf as bl
from bayleaf import constraints as c
from bayleaf.errors import BayleafError, NonFiniteLogDensityError
from bayleaf.targets.densities import stratified_indices
from bayleaf.trees import frozen_function

KEY = jax.random.key(7)


def normal_and_gamma(params):
    """mu ~ N(0, I), sigma ~ Gamma(3, 1)."""
    sigma = params["sigma"]
    return -0.5 * jnp.sum(params["mu"] ** 2) + 2 * jnp.log(sigma) - sigma


POINT = {"mu": np.zeros(3), "sigma": 1.0}


def target_of(function=normal_and_gamma, init=POINT, **options):
    return bl.Target(function, init=init, constrain={"sigma": c.positive}, **options)


def first(positions):
    return jax.tree.map(lambda leaf: leaf[0], positions)


# The value, and the map.


def test_the_density_on_the_unconstrained_space_has_the_jacobian():
    u = {"mu": jnp.array([0.1, 0.2, 0.3]), "sigma": jnp.array(0.4)}
    target = target_of()
    x = target.constrain(u)
    np.testing.assert_allclose(x["sigma"], np.exp(0.4))
    np.testing.assert_allclose(target(u), normal_and_gamma(x) + 0.4)
    np.testing.assert_allclose(target.unconstrain(x)["sigma"], 0.4)


def test_plain_numbers_can_be_unconstrained():
    u = target_of().unconstrain({"mu": np.zeros(3), "sigma": 2.0})
    np.testing.assert_allclose(u["sigma"], np.log(2.0))


def test_a_target_can_be_made_of_traced_values():
    """Their checks are left out: a traced value has no truth yet."""

    @jax.jit
    def value(start, upper):
        bounds = c.interval(0.0, upper)
        target = bl.Target(lambda x: jnp.log(x), init=start, constrain=bounds)
        return target(jnp.zeros(()))

    np.testing.assert_allclose(value(0.5, 4.0), np.log(2.0))


def test_a_target_is_a_function_to_jax():
    u = target_of().unconstrain(jax.tree.map(jnp.asarray, POINT))
    target = target_of()
    np.testing.assert_allclose(jax.jit(target)(u), target(u))
    np.testing.assert_allclose(jax.grad(target)(u)["sigma"], 3 - 1)


def test_the_python_body_runs_once():
    calls = []

    def counted(params):
        calls.append(1)
        return normal_and_gamma(params)

    target = target_of(counted)
    positions = target.initial_positions(KEY, 3)
    u = first(positions)
    target(u)
    jax.grad(target)(u)
    jax.jit(jax.value_and_grad(target))(u)

    @jax.jit
    def climb(positions):
        def body(carry, _):
            gradient = jax.vmap(jax.grad(target))(carry)
            return jax.tree.map(lambda x, g: x + 0.1 * g, carry, gradient), jax.vmap(target)(carry)

        return jax.lax.scan(body, positions, None, length=3)

    climb(positions)
    target_of(counted).initial_positions(KEY, 3)
    assert len(calls) == 1


def with_data(params, data):
    return -0.5 * jnp.sum((data - params["mu"]) ** 2) - params["sigma"]


def test_targets_of_one_function_share_a_program():
    traces = []

    @jax.jit
    def value(target, u):
        traces.append(1)
        return target(u)

    u = {"mu": jnp.zeros(3), "sigma": jnp.array(0.0)}
    old = target_of(with_data, data=np.zeros(3))
    new = target_of(with_data, data=np.ones(3), init={"mu": np.ones(3), "sigma": 2.0})
    assert value(new, u) == value(old, u) - 1.5
    assert value(old.with_data(np.ones(3)), u) == value(new, u)
    assert len(traces) == 1


def test_a_module_may_be_the_density():
    class Quadratic(eqx.Module):
        precision: jax.Array
        link: object

        def __call__(self, x):
            return -0.5 * self.link(x) @ self.precision @ self.link(x)

    one = bl.Target(Quadratic(jnp.eye(2), jnp.sin), init=np.ones(2))
    two = bl.Target(Quadratic(2 * jnp.eye(2), jnp.sin), init=np.ones(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    np.testing.assert_allclose(two(jnp.ones(2)), 2 * one(jnp.ones(2)))
    partial = bl.Target(functools.partial(with_data, data=np.zeros(3)), init=POINT)
    assert np.isfinite(partial({"mu": jnp.ones(3), "sigma": jnp.array(1.0)}))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_value_has_the_precision_of_the_position(dtype):
    u = {"mu": jnp.zeros(3, dtype), "sigma": jnp.zeros((), dtype)}
    data = np.zeros(3, np.float64)
    assert target_of(with_data, data=data)(u).dtype == dtype
    assert target_of(lambda params: 1.0)(u).dtype == dtype
    assert target_of(lambda params: 0)(u).dtype == dtype


# Where chains start.


def test_chains_start_around_the_point():
    positions = target_of().initial_positions(KEY, 400)
    jitter = np.concatenate([np.asarray(positions["mu"]).ravel(), positions["sigma"]])
    assert jitter.shape == (1600,)
    # Uniform(-1, 1) by Kolmogorov and Smirnov, false alarm 1e-6.
    assert scipy.stats.kstest(jitter, scipy.stats.uniform(-1, 2).cdf).pvalue > 1e-6


def test_a_chain_does_not_depend_on_the_number_of_chains():
    few, many = (target_of().initial_positions(KEY, num) for num in (2, 5))
    np.testing.assert_array_equal(few["mu"], many["mu"][:2])


def draw(key):
    return {"mu": jax.random.normal(key, (3,)), "sigma": jax.random.gamma(key, 3.0)}


def test_a_function_is_used_as_drawn():
    positions = target_of(init=draw).initial_positions(KEY, 2)
    key = jax.random.fold_in(jax.random.fold_in(KEY, 1), 0)
    np.testing.assert_allclose(positions["mu"][1], draw(key)["mu"])
    np.testing.assert_allclose(positions["sigma"][1], jnp.log(draw(key)["sigma"]))


@pytest.mark.parametrize("own", [POINT, draw], ids=["point", "function"])
def test_init_may_be_given_again(own):
    target = target_of(init=own)
    stacked = {"mu": np.arange(6.0).reshape(2, 3), "sigma": np.array([1.0, 2.0])}
    positions = target.initial_positions(KEY, 2, stacked)
    np.testing.assert_array_equal(positions["mu"], stacked["mu"])
    np.testing.assert_allclose(positions["sigma"], np.log(stacked["sigma"]))
    around = target.initial_positions(KEY, 2, {"mu": np.full(3, 50.0), "sigma": 1.0})
    assert np.all(np.abs(around["mu"] - 50.0) < 1)


def test_without_jitter_a_point_is_taken_as_it_is():
    """The point itself, bit for bit, whether it is the target's own or given again."""
    own = target_of().initial_positions(KEY, 3, jitter=False)
    np.testing.assert_array_equal(own["mu"], np.zeros((3, 3)))
    np.testing.assert_array_equal(own["sigma"], np.full(3, own["sigma"][0]))
    np.testing.assert_allclose(target_of().constrain(first(own))["sigma"], 1.0)
    point = {"mu": np.arange(3.0), "sigma": 2.0}
    given = target_of().initial_positions(KEY, 2, point, jitter=False)
    np.testing.assert_array_equal(given["mu"], [np.arange(3.0)] * 2)

    def drawn(key):
        return {"mu": jax.random.normal(key, (3,)), "sigma": 1.0}

    # One point a chain, and draws of a function, have no jitter either way.
    stacked = {"mu": np.arange(6.0).reshape(2, 3), "sigma": np.ones(2)}
    for init in (stacked, drawn):
        exact, usual = (
            target_of().initial_positions(KEY, 2, init, jitter=jitter) for jitter in (False, True)
        )
        jax.tree.map(np.testing.assert_array_equal, exact, usual)
    # Nothing is tried elsewhere: a point that is not finite is refused.
    with pytest.raises(NonFiniteLogDensityError, match="at the point given"):
        target_of(lambda p: jnp.log(p["mu"].sum())).initial_positions(KEY, 2, jitter=False)


def test_bad_draws_are_drawn_again():
    def half(params):
        return jnp.where(params["mu"][0] > 0.5, normal_and_gamma(params), jnp.nan)

    positions = target_of(half).initial_positions(KEY, 50)
    assert np.all(positions["mu"][:, 0] > 0.5)


def test_discrete_parameters_start_exactly_and_only_without_gradients():
    def mixed(params):
        return -jnp.abs(params["k"] - 3.0) - params["x"] ** 2

    target = bl.Target(mixed, init={"k": 3, "x": 0.0})
    positions = target.initial_positions(KEY, 4, need_gradient=False)
    np.testing.assert_array_equal(positions["k"], [3, 3, 3, 3])
    assert jnp.issubdtype(positions["k"].dtype, jnp.integer)
    assert len(np.unique(positions["x"])) == 4
    with pytest.raises(BayleafError, match=r"parameter k: got int64 .* gradients.*Write 1.0"):
        target.initial_positions(KEY, 4)


# What must be refused, by name.


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda p: p["sigma"] * jnp.nan, "log density nan .*gradient of sigma"),
        (lambda p: jnp.sum(p["mu"]) * 0 - jnp.inf, "log density -inf .*zero density"),
        (lambda p: jnp.inf, "log density inf"),
        (lambda p: jnp.sqrt(0 * p["mu"][0]) + p["sigma"], "gradient of mu, .*without slope"),
        (lambda p: jnp.log(-p["sigma"]), r"started at mu = \[.*sigma = .*nan generated .* log\."),
    ],
    ids=["nan", "minus_infinity", "infinity", "gradient", "log"],
)
def test_a_start_that_is_not_finite_is_named(function, says):
    with pytest.raises(NonFiniteLogDensityError, match=says):
        target_of(function).initial_positions(KEY, 2)


def test_without_gradients_only_the_value_counts():
    target = target_of(lambda p: jnp.sqrt(0 * p["mu"][0]) + p["sigma"])
    assert target.initial_positions(KEY, 2, need_gradient=False)["mu"].shape == (2, 3)


def test_one_bad_chain_is_counted():
    points = {"mu": np.zeros((2, 3)), "sigma": np.array([1.0, 2.0])}
    target = target_of(lambda p: jnp.where(p["sigma"] > 1.5, jnp.nan, 0.0) * p["sigma"])
    with pytest.raises(NonFiniteLogDensityError, match=r"at the point given \(1 of 2 .*Chain 1"):
        target.initial_positions(KEY, 2, points)


def test_names_are_tree_paths():
    layers = {"layers": [{"weight": np.zeros(2)}, {"weight": np.zeros(2)}]}
    target = bl.Target(lambda p: jnp.sum(p["layers"][1]["weight"]) * jnp.nan, init=layers)
    with pytest.raises(NonFiniteLogDensityError, match=r"gradient of layers\[1\]\.weight,"):
        target.initial_positions(KEY, 2)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda p: p["mu"], r"log_density: got .*shape \(3,\).* expected a scalar"),
        (lambda p: p["mu"][:1], r"shape \(1,\)"),
        (lambda p: None, "got a result that is None"),
        (lambda p: {"value": 1.0}, "a dict"),
        (lambda p: 1j * p["sigma"], "complex"),
    ],
)
def test_a_log_density_that_is_no_real_scalar_is_refused(function, says):
    with pytest.raises(BayleafError, match=says):
        target_of(function).initial_positions(KEY, 2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: target_of(init={"mu": np.zeros(3), "sigma": -1.0}), "parameter sigma: .*> 0"),
        (
            lambda: target_of(init={"mu": np.nan * np.ones(1), "sigma": 1.0}),
            "mu: .*finite",
        ),
        (lambda: target_of(init={"mu": np.zeros(3), "sigma": 1}), "parameter sigma: .*Write 1.0"),
        (lambda: target_of(init={"mu": np.zeros(3)}), "entry for sigma"),
        (lambda: target_of(init={"mu": "zero", "sigma": 1.0}), "leaf mu: got zero"),
        (lambda: bl.Target(with_data, init=1j), "parameter x: got complex"),
        (lambda: bl.Target(with_data, init={}), "no parameters"),
        (lambda: bl.Target(with_data, init=np.zeros((0, 2))), "no parameters"),
        (lambda: frozen_function(3.0, "log_density"), "log_density: got 3.0, expected a function"),
        (lambda: bl.Target(with_data).initial_positions(KEY, 2), "init: got None"),
        (lambda: target_of().initial_positions(KEY, 0), "num_chains: got 0"),
        (lambda: target_of().initial_positions(KEY, 2, {"mu": np.zeros(3)}), "mu, sigma"),
        (
            lambda: target_of().initial_positions(KEY, 2, {"mu": np.zeros((3, 3)), "sigma": 1.0}),
            r"parameter mu: got shape \(3, 3\), expected shape \(3,\) .* or \(2, 3\)",
        ),
        (
            lambda: target_of().initial_positions(KEY, 2, {"mu": np.zeros(3), "sigma": -1.0}),
            "parameter sigma: .*> 0",
        ),
        (lambda: target_of().with_data(np.zeros(3)), "made without data"),
        (lambda: target_of().subsample(KEY, 2), "no subsample.*from_likelihood"),
        (lambda: target_of().log_likelihood(POINT), "no log_likelihood"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(BayleafError, match=says):
        make()


# Prior and likelihood apart.

Y = np.random.default_rng(0).normal(1.0, 2.0, 10)


def log_prior(params):
    return -0.5 * params["mu"] ** 2 - params["sigma"]


def log_likelihood(params, y):
    return -0.5 * ((y - params["mu"]) / params["sigma"]) ** 2 - jnp.log(params["sigma"])


def posterior(likelihood=log_likelihood, data=Y):
    init = {"mu": 0.0, "sigma": 1.0}
    constrain = {"sigma": c.positive}
    return bl.Target.from_likelihood(log_prior, likelihood, data, init=init, constrain=constrain)


U = {"mu": jnp.array(0.3), "sigma": jnp.array(0.2)}


def test_a_posterior_is_prior_and_likelihood():
    target = posterior()
    x = target.constrain(U)
    assert target.log_likelihood(x).shape == (10,)
    expected = log_prior(x) + jnp.sum(log_likelihood(x, jnp.asarray(Y))) + U["sigma"]
    np.testing.assert_allclose(target(U), expected)
    np.testing.assert_allclose(target.log_prior(x), log_prior(x))
    np.testing.assert_allclose(target.subsample(KEY, 10)(U), expected)
    batch = target.subsample(KEY, 5)
    parts = batch.log_prior(x) + batch.total_log_likelihood(x) + U["sigma"]
    np.testing.assert_allclose(batch(U), parts)
    np.testing.assert_allclose(batch.total_log_likelihood(x), 2 * batch.log_likelihood(x).sum())


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_mini_batches_are_unbiased(batch_size):
    target = posterior()
    value = jax.jit(jax.vmap(lambda key: target.subsample(key, batch_size)(U)))
    estimates = value(jax.random.split(KEY, 20_000))
    error = jnp.std(estimates) / np.sqrt(20_000)
    assert jnp.abs(jnp.mean(estimates) - target(U)) < 4.9 * error  # false alarm 1e-6
    unscaled = eqx.tree_at(lambda t: t.model.scale, target, jnp.array(0.9))
    assert jnp.abs(jnp.mean(estimates) - unscaled(U)) > 4.9 * error  # a wrong scale is caught


@pytest.mark.parametrize(("total", "size"), [(10, 3), (10, 10), (7, 5)])
def test_every_example_is_as_likely(total, size):
    keys = jax.random.split(KEY, 20_000)
    batches = jax.vmap(lambda key: stratified_indices(key, total, size))(keys)
    counts = np.bincount(np.asarray(batches).ravel(), minlength=total)
    expected = len(keys) * size / total
    assert counts.shape == (total,)
    assert np.all(np.abs(counts - expected) < 5.5 * np.sqrt(expected))  # false alarm < 1e-6
    if total == size:
        np.testing.assert_array_equal(batches[0], np.arange(total))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: posterior(data=(Y, Y[:4])), r"data: got .*\(10,\), \(4,\)"),
        (lambda: posterior(data=1.0), "leading axis"),
        (lambda: posterior(data="abc"), "data, leaf x: got abc"),
        (lambda: posterior(lambda p, y: jnp.sum(y))(U), r"log_likelihood: .*shape \(\).*10 exam"),
        (lambda: posterior().subsample(KEY, 11), "batch_size: got 11, expected .* 1 to 10"),
        (lambda: posterior().with_data((Y,)), "data: got"),
    ],
)
def test_bad_data_are_named(make, says):
    with pytest.raises(BayleafError, match=says):
        make()


def test_a_gaussian_prior_shows_its_parts():
    prior = bl.Gaussian(np.zeros(2), np.array([[1.0, 0.9], [0.9, 1.0]]))
    target = bl.Target.from_gaussian_prior(prior, lambda x: -jnp.sum(x**4))
    x = jnp.array([0.3, -0.2])
    np.testing.assert_allclose(target(x), target.prior.log_prob(x) + target.log_likelihood(x))
    assert target.initial_positions(KEY, 3).shape == (3, 2)
    assert not hasattr(posterior(), "prior")
    with pytest.raises(BayleafError, match="no data"):
        target.subsample(KEY, 1)

"""Every kind of bad input that other libraries pass over in silence, through `bayleaf.sample`."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.errors import BayleafError, NonFiniteLogDensityError, SamplingWarning
from bayleaf.mcmc import (
    NUTS,
    SGLD,
    Conditional,
    Gibbs,
    Langevin,
    MetropolisHastings,
    RandomWalk,
    Slice,
)


def normal(p):
    return -0.5 * jnp.sum(p["a"] ** 2) - 0.5 * jnp.sum(p["b"] ** 2)


INIT = {"a": np.array(0.5), "b": np.ones(2)}
NORMAL = bl.Target(normal, init=INIT)
WALK = MetropolisHastings(RandomWalk(1.0))


def run(target=NORMAL, kernel=WALK, **changes):
    settings = {"key": jax.random.key(0), "num_draws": 200, "num_warmup": 50, "progress": False}
    # Unwrapped: in the tests annotations are checked, which would forestall the library's errors.
    return inspect.unwrap(bl.sample)(target, kernel, **settings | changes)


def findings(*args, **kwargs):
    """A run together with its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SamplingWarning)
        result = run(*args, **kwargs)
    return result, " | ".join(str(w.message) for w in caught if w.category is SamplingWarning)


# Rows of the table of measured bad inputs.


@pytest.mark.parametrize("kernel", [NUTS(), WALK], ids=["nuts", "walk"])
def test_nan_everywhere(kernel):
    target = bl.Target(lambda p: normal(p) + jnp.log(-1.0 - p["a"] ** 2), init=INIT)
    with pytest.raises(NonFiniteLogDensityError, match=r"init: .*nan.*100 draws.*4 of 4 chains"):
        run(target, kernel)


def test_a_nan_gradient_at_the_start_names_the_parameter():
    def density(p):  # the norm has no slope at 0
        return normal(p) - jnp.sqrt(jnp.sum((p["b"] * 0.0) ** 2))

    with pytest.raises(NonFiniteLogDensityError, match=r"not finite in the gradient of b\b"):
        run(bl.Target(density, init=INIT), NUTS())


@pytest.mark.parametrize("kernel", [NUTS(), WALK], ids=["nuts", "walk"])
def test_nan_on_half_of_the_space_is_reported_with_its_share(kernel):
    """sqrt(x) is NaN for x < 0; the rest is a half-normal with sd 0.60."""
    target = bl.Target(lambda x: -0.5 * x**2 + 0.0 * jnp.sqrt(x), init=1.0)
    result, messages = findings(target, kernel, num_warmup=200)
    assert "nan_density" in [finding.kind for finding in result.findings]
    share = 100 * result.stats["is_nan"].mean()
    assert share > 5
    assert f"NaN in {share:.0f} % of the steps" in messages or share < 10
    assert "leave out a region" in messages
    assert result.draws.min() >= 0


@pytest.mark.parametrize("kernel", [NUTS(max_depth=5), WALK], ids=["nuts", "walk"])
def test_an_improper_density_is_reported(kernel):
    target = bl.Target(lambda p: -0.5 * p["a"] ** 2 + 0.0 * jnp.sum(p["b"]), init=INIT)
    result, messages = findings(target, kernel, num_draws=400)
    kinds = {finding.kind for finding in result.findings}
    assert kinds & {"runaway", "rhat"}, kinds
    assert "b[0]" in messages
    assert "improper" in messages or "flat" in messages


@pytest.mark.slow
def test_a_density_flat_everywhere_runs_away():
    target = bl.Target(lambda x: 0.0 * jnp.sum(x), init=np.zeros(2))
    result, messages = findings(target, NUTS())
    assert "runaway" in {finding.kind for finding in result.findings}
    assert "x[0]" in messages
    assert "improper" in messages


def test_a_random_walk_started_at_nan():
    nan = {"a": np.nan, "b": np.ones(2)}
    with pytest.raises(BayleafError, match="init, parameter a: got nan, expected finite numbers"):
        run(init=nan)
    with pytest.raises(NonFiniteLogDensityError, match=r"init: got log density nan.*a = nan"):
        run(init=lambda key: nan)


def test_one_chain_started_at_zero_density_is_refused():
    target = bl.Target(lambda x: jnp.where(x > 0, -x, -jnp.inf), init=1.0)
    with pytest.raises(NonFiniteLogDensityError, match=r"1 of 3 chains.*Chain 1.*inside the sup"):
        run(target, init=np.array([1.0, -1.0, 2.0]), num_chains=3)


def test_a_chain_that_never_moves_is_reported():
    target = bl.Target(lambda x: -0.5 * jnp.sum(x**2), init=np.zeros(3))
    result, messages = findings(target, MetropolisHastings(RandomWalk(1e9)))
    assert "stuck" in {finding.kind for finding in result.findings}
    assert "all chains never moved" in messages


# Arguments of the wrong kind.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 3.0}, r"target: got 3\.0, expected a bl\.Target, or a function"),
        ({"target": normal}, r"init: got None, .*bare function.*Pass init="),
        ({"target": bl.Target(normal)}, r"init: got None, expected a starting point"),
        (
            {"kernel": NUTS},
            r"kernel: got the class NUTS, expected an object\. Write NUTS\(",
        ),
        ({"kernel": "nuts"}, r"kernel: got 'nuts', expected a kernel of bl\.mcmc"),
        ({"key": 0}, r"key: got 0, expected one typed key\. Use jax\.random\.key\(seed\)"),
        ({"key": jax.random.PRNGKey(0)}, r"key: got an array of shape \(2,\) and type uint32, exp"),
        ({"key": jax.random.split(jax.random.key(0))}, r"key: .*expected one typed key"),
        ({"num_draws": 0}, r"num_draws: got 0, expected a whole number, at least 1"),
        ({"num_draws": 1e3}, r"num_draws: got 1000\.0, expected a whole number"),
        ({"num_draws": True}, r"num_draws: got True, expected a whole number"),
        ({"num_warmup": -1}, r"num_warmup: got -1, expected a whole number, at least 0"),
        ({"num_chains": 0}, r"num_chains: got 0, expected a whole number, at least 1"),
        ({"num_chains": "4"}, r"num_chains: got '4', expected a whole number"),
        ({"kernel": NUTS(), "num_warmup": 0}, r"num_warmup: got 0, .*NUTS learns in warm-up"),
        (
            {"kernel": Gibbs({"a": WALK, "b": Slice()}), "num_warmup": 0},
            r"num_warmup: got 0, .*Gibbs learns in warm-up",
        ),
        ({"init": {"a": 0.0}}, r"init: got parameters a, expected the structure.*a, b"),
        ({"init": {"a": 0.0, "b": np.ones(3)}}, r"init, parameter b: got shape \(3,\)"),
        ({"init": {"a": 0.0, "b": "two"}}, r"init, leaf b: got two, expected a number"),
        ({"mesh": 2}, r"mesh: got 2, expected a jax\.sharding\.Mesh"),
        ({"checkpoint": 3}, r"checkpoint: got 3, expected the path of a directory"),
        (
            {"kernel": SGLD(0.1, batch_size=5)},
            r"target: got one that has no subsample.*from_likelihood",
        ),
        ({"kernel": Gibbs({"a": WALK})}, r"blocks: .*\bb\b"),
        ({"kernel": Gibbs({"a": WALK, "b": WALK, "c": WALK})}, r"blocks: .*\bc\b"),
        (
            {"kernel": Gibbs({"a": WALK, "b": Conditional(lambda key, p: jnp.zeros(3))})},
            r"shape",
        ),
        (
            {"kernel": NUTS(), "target": bl.Target(normal, init={"a": 0, "b": np.ones(2)})},
            r"parameter a: got int\d+ numbers, expected floating-point",
        ),
        (
            {"target": bl.Target(lambda p: p["b"], init=INIT)},
            r"log_density: .*shape \(2,\).*expected a scalar",
        ),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(BayleafError, match=message):
        run(**changes)


def test_a_key_is_asked_for():
    with pytest.raises(TypeError, match="key"):
        bl.sample(NORMAL)


@pytest.mark.parametrize("kernel", [MetropolisHastings(Langevin()), MetropolisHastings()])
def test_what_learns_says_so_without_warm_up(kernel):
    with pytest.raises(BayleafError, match="num_warmup: got 0"):
        run(kernel=kernel, num_warmup=0)


def test_errors_of_the_users_own_function_are_not_hidden():
    def density(p):
        raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        run(bl.Target(density, init=INIT))


def test_extending_by_nothing_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        result = run()
    with pytest.raises(BayleafError, match="num_draws: got 0, expected at least 1"):
        result.extend(0)

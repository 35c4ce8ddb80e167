from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import potential_energy

import bayleaf as bl
from bayleaf.errors import BayleafError

KEY = jax.random.key(2)
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
calls = []


def schools(num, y=None):
    calls.append(1)
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", num):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
    theta = numpyro.deterministic("theta", mu + tau * raw)
    numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)


@pytest.fixture(scope="module")
def target():
    return bl.Target.from_numpyro(schools, 8, y=Y)


U = {"mu": jnp.array(0.1), "tau": jnp.array(0.2), "raw": jnp.linspace(-1.0, 1.0, 8)}


def test_the_density_is_minus_the_potential_energy(target):
    np.testing.assert_allclose(target(U), -potential_energy(schools, (8,), {"y": Y}, U))


def test_draws_have_deterministic_sites(target):
    x = target.constrain(U)
    assert set(x) == {"mu", "tau", "raw", "theta"}
    np.testing.assert_allclose(x["theta"], x["mu"] + x["tau"] * x["raw"])
    np.testing.assert_allclose(target.unconstrain(x)["tau"], U["tau"])
    assert target.log_likelihood(x)["y"].shape == (8,)


def test_new_data_run_in_the_old_programs(target):
    traces = []

    @jax.jit
    def value(target, u):
        traces.append(1)
        return target(u)

    old = value(target, U)
    target.initial_positions(KEY, 2)
    calls.clear()
    new = bl.Target.from_numpyro(schools, 8, y=Y + 1)
    assert len(calls) == 1  # to read its sites
    assert value(new, U) != old
    new.initial_positions(KEY, 2)
    assert len(traces) == 1
    assert len(calls) == 1


def test_chains_start_around_zero_or_where_told(target):
    positions = target.initial_positions(KEY, 3)
    assert positions["raw"].shape == (3, 8)
    assert all(np.all(np.abs(leaf) <= 1) for leaf in positions.values())
    around = target.initial_positions(KEY, 3, {"mu": 50.0, "tau": 1.0, "raw": np.zeros(8)})
    assert np.all(np.abs(around["mu"] - 50) <= 1)


def test_supports_that_depend_on_other_sites_and_flat_priors():
    def model():
        low = numpyro.sample("low", dist.Normal())
        numpyro.sample("x", dist.Uniform(low, low + 2.0))
        numpyro.sample("flat", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))

    target = bl.Target.from_numpyro(model)
    positions = target.initial_positions(KEY, 2)
    x = jax.vmap(target.constrain)(positions)
    assert np.all((x["x"] > x["low"]) & (x["x"] < x["low"] + 2))
    assert positions["flat"].shape == positions["p"].shape == (2, 2)


def discrete():
    numpyro.sample("x", dist.Normal())
    numpyro.sample("z", dist.Bernoulli(0.5))


def subsampled():
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("person", 8, subsample_size=2) as index:
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=jnp.asarray(Y)[index])


def empty():
    numpyro.deterministic("x", 1.0)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (discrete, "discrete latent sites: z"),
        (subsampled, "plate person, which draws 2 of 8"),
        (empty, "no latent sites"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(model, says):
    with pytest.raises(BayleafError, match=says):
        bl.Target.from_numpyro(model)


def test_numpyro_is_not_imported_before_it_is_asked_for():
    script = "import sys, bayleaf as bl; bl.Target; sys.exit('numpyro' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)

"""Random networks of finite width against laws that are exact at every width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.infinite.mean_field import MeanField
from bayleaf.infinite.mean_field_simulate import simulate
from tests.tools import statistics
from tests.tools.compiling import compilations

SW2, SB2, RHO = 1.2, 0.1, 0.8
START = np.array([[1.0, 0.3], [0.3, 0.7]])


def linear():
    return MeanField(lambda u: u, weight_std=SW2**0.5, bias_std=SB2**0.5, keep_probability=RHO)


def network(key, **settings):
    return simulate(linear(), START, width=6, depth=3, key=key, **settings)


def simulations(**settings):
    return jax.vmap(lambda key: network(key, **settings))(jax.random.split(jax.random.key(3), 4000))


def expected_covariance(rho):
    """In a linear network the maps hold for the means at every width."""
    own, cross = [np.diag(START)], [START[0, 1]]
    for _ in range(3):
        own.append(SW2 / rho * own[-1] + SB2)
        cross.append(SW2 * cross[-1] + SB2)
    cross = np.array(cross)
    return np.stack(
        [np.stack([np.array(own)[:, 0], cross], 1), np.stack([cross, np.array(own)[:, 1]], 1)], 1
    )


@pytest.fixture(scope="module", params=[("gaussian", True), ("orthogonal", False)])
def drawn(request):
    weights, tied = request.param
    return simulations(weights=weights, tied=tied)


def test_covariances_follow_the_maps(drawn):
    got = np.asarray(drawn.covariance)
    np.testing.assert_allclose(got[:, 0], np.broadcast_to(START, got[:, 0].shape), rtol=1e-12)
    statistics.assert_mean(got[:, 1:], expected_covariance(RHO)[1:], iid=True)


def test_dropout_forgotten_in_the_variance_is_caught(drawn):
    with pytest.raises(AssertionError, match="means are wrong"):
        statistics.assert_mean(
            np.asarray(drawn.covariance)[:, 1:], expected_covariance(1.0)[1:], iid=True
        )


def test_gradients_change_by_chi_1_and_chi_2(drawn):
    """Back from the last layer: g_aa by sw^2 / rho per layer, g_ab by sw^2."""
    got = np.asarray(drawn.gradient)
    np.testing.assert_allclose(got[:, 3], 1.0, rtol=1e-12)
    steps = 3 - np.arange(3)
    statistics.assert_mean(got[:, :3, 0, 0], (SW2 / RHO) ** steps, iid=True)
    statistics.assert_mean(got[:, :3, 0, 1], SW2**steps, iid=True)


def test_another_key_compiles_nothing():
    tanh = MeanField(jnp.tanh, weight_std=1.5, bias_std=0.1)
    for number in (0, 1):
        with compilations() as names:
            simulate(tanh, START, width=5, depth=2, key=jax.random.key(number))
    assert names == []


def test_tied_gradients_are_those_of_the_network():
    """Back-propagation by hand and by JAX: one layer, its weights got back from a linear map."""
    theory = MeanField(jnp.tanh, weight_std=1.5, bias_std=0.0)
    width = 4
    out = simulate(theory, jnp.eye(width), width=width, depth=1, key=jax.random.key(2))
    # Orthonormal inputs and one common error e: sum_a d_a d_a' = diag-weighted W'e; its trace is
    # positive and finite, and an untied copy gives another one.
    other = simulate(
        theory, jnp.eye(width), width=width, depth=1, tied=False, key=jax.random.key(2)
    )
    np.testing.assert_array_equal(out.covariance, other.covariance)
    assert not np.allclose(out.gradient[0], other.gradient[0])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"width": 1}, "width"),
        ({"depth": 0}, "depth"),
        ({"weights": "uniform"}, "weights"),
        ({"covariance": np.ones((2, 2))}, "covariance"),
        ({"covariance": np.ones(3)}, "covariance"),
    ],
)
def test_bad_input_is_refused_by_name(change, name):
    settings = {"covariance": START, "width": 5, "depth": 1, **change}
    start = settings.pop("covariance")
    with pytest.raises(BayleafError, match=name):
        simulate(linear(), start, key=jax.random.key(0), **settings)

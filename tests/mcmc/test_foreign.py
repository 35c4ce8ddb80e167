"""BlackJAX both ways: its kernels in our protocol, ours in its loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.mcmc.foreign import Foreign, from_blackjax
from bayleaf.mcmc.metropolis import Langevin, MetropolisHastings, RandomWalk
from bayleaf.mcmc.slice import Slice
from tests.tools.chains import run_chains
from tests.tools.statistics import assert_mean

blackjax = pytest.importorskip("blackjax")

MEAN, SD = jnp.array([1.0, -2.0]), jnp.array([0.5, 2.0])


def log_density(position):
    return -0.5 * jnp.sum(((position["x"] - MEAN) / SD) ** 2)


def blackjax_cases():
    from blackjax.mcmc.random_walk import normal

    yield blackjax.nuts(log_density, step_size=0.7, inverse_mass_matrix=SD**2)
    yield blackjax.rmh(log_density, proposal_generator=_walk)
    yield blackjax.additive_step_random_walk(log_density, normal(jnp.array([0.8, 3.0])))


def _walk(key, position):
    return {"x": position["x"] + 1.5 * SD * jax.random.normal(key, (2,))}


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 2], ids=["nuts", "rmh", "random_walk"])
def test_blackjax_kernels_run_in_our_protocol(index):
    kernel = from_blackjax(list(blackjax_cases())[index])
    assert kernel.tuner() is None
    starts = {"x": MEAN[None] + jnp.array([[0.1, 0.2], [-0.3, 0.5], [0.0, -1.0], [0.2, 0.0]])}
    draws, info = run_chains(kernel, log_density, starts, key=jax.random.key(0), num_draws=4000)
    assert_mean([draws["x"], (draws["x"] - MEAN[None, None]) ** 2], [MEAN, SD**2])
    assert info.acceptance_rate.shape == (4, 4000)


@pytest.mark.parametrize(
    "kernel",
    [MetropolisHastings(RandomWalk(0.8)), MetropolisHastings(Langevin(1.2, SD)), Slice(2.0)],
    ids=["random walk", "langevin", "slice"],
)
def test_our_kernels_run_in_the_loop_of_blackjax(kernel):
    from blackjax.util import run_inference_algorithm

    algorithm = kernel.bind(log_density)
    _, (states, _) = run_inference_algorithm(
        jax.random.key(1), algorithm, 10_000, initial_position={"x": MEAN}
    )
    draws = np.asarray(states.position["x"])[None]
    assert_mean([draws, (draws - np.asarray(MEAN)) ** 2], [MEAN, SD**2])


def unused(position):
    raise AssertionError("a foreign algorithm has a log density of its own")


def test_a_bound_kernel_of_ours_is_foreign_too():
    """Through the wrapper: the same numbers."""
    kernel = MetropolisHastings(RandomWalk(0.8))
    starts = {"x": jnp.zeros((2, 2))}
    direct, _ = run_chains(kernel, log_density, starts, key=jax.random.key(0), num_draws=20)
    wrapped = Foreign(kernel.bind(log_density))
    through, _ = run_chains(wrapped, unused, starts, key=jax.random.key(0), num_draws=20)
    np.testing.assert_allclose(direct["x"], through["x"], rtol=1e-12)


class Momentum(NamedTuple):
    position: Any
    momentum: Any


def test_an_init_that_needs_a_key_gets_one():
    class Random:
        @staticmethod
        def init(position, key):
            return Momentum(position, jax.random.normal(key))

        @staticmethod
        def step(key, state):
            return state, ()

    state = Foreign(Random, init_key=jax.random.key(3)).init(unused, 1.0)
    assert state.momentum == jax.random.normal(jax.random.key(3))


def test_what_is_no_algorithm_is_refused():
    with pytest.raises(BayleafError, match=r"algorithm: .*'init'.*Call the constructor"):
        Foreign(lambda x: 0.0)

    class Bare:
        init = staticmethod(lambda position: position)
        step = staticmethod(lambda key, state: (state, ()))

    with pytest.raises(BayleafError, match="states with the field 'position'"):
        Foreign(Bare).init(unused, 1.0)

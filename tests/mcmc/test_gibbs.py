"""Gibbs: exact transitions, kernels within blocks, joint blocks, tuning, named errors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.mcmc.foreign import Foreign
from bayleaf.mcmc.gibbs import BlockDensity, Conditional, Gibbs
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.metropolis import MetropolisHastings, RandomWalk
from bayleaf.mcmc.slice import Slice
from tests.textbook.gibbs import gibbs_bivariate_normal
from tests.tools.chains import end_positions, run_chains, warm_up
from tests.tools.geweke import geweke_test
from tests.tools.statistics import assert_mean, assert_same
from tests.tools.transitions import (
    assert_invariant_matrix,
    assert_transitions,
    count_transitions,
    gibbs_matrix,
    metropolis_matrix,
)

JOINT = np.array([[0.10, 0.20, 0.05], [0.30, 0.05, 0.30]])


def log_joint(position):
    return jnp.log(JOINT)[position["a"], position["b"]]


def draw_a(key, position):
    return jax.random.categorical(key, jnp.log(JOINT)[:, position["b"]])


def draw_b(key, position):
    return jax.random.categorical(key, jnp.log(JOINT)[position["a"]])


def draw_b_from_its_margin(key, position):
    """Planted bug: forgets what b is conditioned on."""
    return jax.random.categorical(key, jnp.log(JOINT.sum(axis=0)))


class NextOfThree:
    """An asymmetric proposal on 0..2: one up with probability 0.7, two up with 0.3."""

    def propose(self, key, point):
        up = jnp.where(jax.random.uniform(key) < 0.7, 1, 2)
        return (point.position + up.astype(point.position.dtype)) % 3

    def log_proposal(self, proposed, point):
        return jnp.log(jnp.where((proposed - point.position) % 3 == 1, 0.7, 0.3))


NEXT = np.array([[0.0, 0.7, 0.3], [0.3, 0.0, 0.7], [0.7, 0.3, 0.0]])


def cell_counts(kernel):
    def step(key, cell):
        position = {"a": cell // 3, "b": cell % 3}
        state = kernel.init(log_joint, position)
        position = kernel.step(log_joint, key, state)[0].position
        return 3 * position["a"] + position["b"]

    return count_transitions(step, 6, key=jax.random.key(0), num_steps=20_000)


def test_exact_conditionals_have_the_exact_transition_matrix_in_the_order_given():
    matrix = gibbs_matrix(JOINT, (0, 1))
    assert_invariant_matrix(matrix, JOINT)
    counts = cell_counts(Gibbs({"a": Conditional(draw_a), "b": Conditional(draw_b)}))
    assert_transitions(counts, matrix)
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(counts, gibbs_matrix(JOINT, (1, 0)))


def test_a_wrong_conditional_is_caught():
    counts = cell_counts(
        Gibbs({"a": Conditional(draw_a), "b": Conditional(draw_b_from_its_margin)})
    )
    with pytest.raises(AssertionError, match="transition"):
        assert_transitions(counts, gibbs_matrix(JOINT, (0, 1)))


def test_metropolis_within_gibbs_has_the_exact_transition_matrix():
    """First a exactly, then b by Metropolis-Hastings under the conditional at the new a."""
    second = np.zeros((6, 6))
    for a in range(2):
        block = slice(3 * a, 3 * a + 3)
        second[block, block] = metropolis_matrix(JOINT[a], NEXT)
    matrix = gibbs_matrix(JOINT, (0,)) @ second
    assert_invariant_matrix(matrix, JOINT)
    kernel = Gibbs({"a": Conditional(draw_a), "b": MetropolisHastings(NextOfThree())})
    assert_transitions(cell_counts(kernel), matrix)


class Stale(MetropolisHastings):
    """Planted bug: keeps what it knew before the other blocks moved."""

    def refresh(self, log_density, state):
        return state


@pytest.mark.slow
def test_a_kernel_that_is_not_refreshed_is_caught():
    """Two steps, so that the second meets an outdated density."""
    kernels = [MetropolisHastings(RandomWalk(1.5)), Stale(RandomWalk(1.5))]
    density = lambda p: -0.5 * (p["x"] ** 2 + p["y"] ** 2 - 1.8 * p["x"] * p["y"]) / 0.19  # noqa: E731
    normal = jax.random.multivariate_normal(
        jax.random.key(0), jnp.zeros(2), jnp.array([[1.0, 0.9], [0.9, 1.0]]), (20_000,)
    )
    starts = {"x": normal[:, 0], "y": normal[:, 1]}
    for kernel, is_right in zip(kernels, (True, False), strict=True):
        scan = Gibbs({"x": kernel, "y": kernel})
        ends = end_positions(scan, density, starts, key=jax.random.key(1), num_steps=4)
        x, y = np.asarray(ends["x"]), np.asarray(ends["y"])
        moments = [x, y, x**2, y**2, x * y]
        if is_right:
            assert_mean(moments, [0.0, 0.0, 1.0, 1.0, 0.9], iid=True)
        else:
            with pytest.raises(AssertionError):
                assert_mean(moments, [0.0, 0.0, 1.0, 1.0, 0.9], iid=True)


def test_it_has_the_law_of_the_textbook_loop():
    """Two sweeps from a fixed start: mean, variance and covariance on the way."""
    rng, num_chains, correlation = np.random.default_rng(0), 5000, 0.8
    reference = np.array(
        [gibbs_bivariate_normal(2.0, -1.0, correlation, 2, rng)[-1] for _ in range(num_chains)]
    )
    sd = np.sqrt(1 - correlation**2)
    kernel = Gibbs(
        {
            "x": Conditional(lambda key, p: correlation * p["y"] + sd * jax.random.normal(key)),
            "y": Conditional(lambda key, p: correlation * p["x"] + sd * jax.random.normal(key)),
        }
    )
    starts = {"x": jnp.full(num_chains, 2.0), "y": jnp.full(num_chains, -1.0)}
    ends = end_positions(kernel, lambda p: 0.0, starts, key=jax.random.key(0), num_steps=2)
    ends = np.stack([ends["x"], ends["y"]], axis=-1)
    products = [draws[:, :, None] * draws[:, None, :] for draws in (ends, reference)]
    assert_same([ends, products[0]], [reference, products[1]], iid=True)


def normal_model():
    """mu ~ N(0, 1), log precision t ~ N(0, 1/4), three data N(mu, exp(-t))."""
    return {
        "prior": lambda key: {
            "mu": jax.random.normal(key),
            "t": 0.5 * jax.random.normal(jax.random.fold_in(key, 1)),
        },
        "simulate": lambda key, p: p["mu"] + jnp.exp(-p["t"] / 2) * jax.random.normal(key, (3,)),
        "log_joint": lambda p, y: (
            -0.5 * p["mu"] ** 2
            - 2 * p["t"] ** 2
            + 1.5 * p["t"]
            - 0.5 * jnp.exp(p["t"]) * jnp.sum((y - p["mu"]) ** 2)
        ),
    }


@pytest.mark.slow
def test_geweke():
    kernel = Gibbs({"mu": MetropolisHastings(RandomWalk(0.8)), "t": Slice(1.0)})
    geweke_test(kernel, **normal_model(), key=jax.random.key(3))


PRECISION = jnp.linalg.inv(jnp.array([[1.0, 0.6, 0.3], [0.6, 4.0, 0.5], [0.3, 0.5, 2.0]]))


def three_block_density(position):
    x = jnp.stack([position["a"], position["b"], position["c"]])
    return -0.5 * x @ PRECISION @ x


def test_joint_blocks_and_tuning_of_every_block():
    """("a", "c") moves together; both kernels learn their scales; "b" is drawn exactly."""

    def draw(key, position):
        mean = -(PRECISION[1, 0] * position["a"] + PRECISION[1, 2] * position["c"])
        return (mean + jnp.sqrt(PRECISION[1, 1]) * jax.random.normal(key)) / PRECISION[1, 1]

    kernel = Gibbs({("a", "c"): MetropolisHastings(), "b": Conditional(draw)})
    starts = {name: jnp.zeros(4) for name in "abc"}
    kernel, starts = warm_up(
        kernel, three_block_density, starts, key=jax.random.key(0), num_warmup=800
    )
    assert kernel.kernels[0].proposal.scale.shape == (2, 2)
    draws, info = run_chains(
        kernel, three_block_density, starts, key=jax.random.key(1), num_draws=6000
    )
    assert 0.15 < info["a,c"].acceptance_rate.mean() < 0.35
    assert info["b"] == ()
    squares = {name: values**2 for name, values in draws.items()}
    assert_mean([draws, squares], [{"a": 0.0, "b": 0.0, "c": 0.0}, {"a": 1.0, "b": 4.0, "c": 2.0}])
    assert_mean(draws["a"] * draws["b"], 0.6)


class CounterState(NamedTuple):
    position: Any
    count: Any
    log_density: Any


class Counter(Kernel):
    """Counts its steps in its state: what a momentum would be."""

    def init(self, log_density, position):
        return CounterState(position, jnp.zeros((), int), log_density(position))

    def refresh(self, log_density, state):
        return state._replace(log_density=log_density(state.position))

    def step(self, log_density, key, state):
        position = state.position + 1.0
        return CounterState(position, state.count + 1, log_density(position)), ()


def test_block_states_persist_and_log_densities_are_joint():
    density = lambda p: p["x"] + 10.0 * p["y"]  # noqa: E731
    for last in (Counter(), Conditional(lambda key, p: p["y"] + 1.0)):
        algorithm = Gibbs({"x": Counter(), "y": last}).bind(density)
        state = algorithm.init({"x": jnp.asarray(0.0), "y": jnp.asarray(0.0)})
        for _ in range(3):
            state, _ = algorithm.step(jax.random.key(0), state)
        assert state.blocks["x"].count == 3
        assert state.position == {"x": 3.0, "y": 3.0}
        assert state.log_density == 33.0
        # x moved last when y stood at 2.
        assert state.blocks["x"].log_density == 23.0


def test_a_block_density_passes_minibatches_on():
    class Batched:
        def __call__(self, position):
            return position["x"] + position["y"]

        def subsample(self, key, batch_size):
            return lambda position: batch_size * position["x"] + position["y"]

    position = {"x": 1.0, "y": 2.0}
    density = BlockDensity(Batched(), position, "x")
    assert density(5.0) == 7.0
    assert density.subsample(jax.random.key(0), 3)(5.0) == 17.0
    assert not hasattr(BlockDensity(lambda p: 0.0, position, "x"), "subsample")


MOVE = MetropolisHastings(RandomWalk(1.0))


@pytest.mark.parametrize(
    ("blocks", "match"),
    [
        ({}, "blocks: got {}, expected a dictionary"),
        ({"x": MOVE, ("x", "y"): MOVE}, "blocks: got 'x' twice, expected blocks that do not over"),
        ({"x": lambda key, p: 0.0}, r"blocks\['x'\].*Wrap a function.*Conditional"),
        ({(): MOVE}, r"blocks: got \(\), expected names"),
        ({"x": Foreign(MOVE.bind(lambda x: 0.0))}, r"blocks\['x'\]: got a Foreign algorithm"),
    ],
)
def test_unusable_blocks_are_refused(blocks, match):
    with pytest.raises(BayleafError, match=match):
        Gibbs(blocks)


@pytest.mark.parametrize(
    ("blocks", "position", "match"),
    [
        ({"x": MOVE}, jnp.ones(2), "position: got a bare array, expected a dictionary"),
        ({"x": MOVE, "z": MOVE}, {"x": 0.0, "y": 0.0}, r"unknown name 'z', expected one of \['x'"),
        ({"x": MOVE}, {"x": 0.0, "y": 0.0}, "no block for 'y'"),
    ],
)
def test_positions_that_do_not_fit_are_refused(blocks, position, match):
    with pytest.raises(BayleafError, match=match):
        Gibbs(blocks).bind(lambda p: 0.0).init(position)


def test_conditional_draws_of_another_kind_are_refused():
    kernel = Gibbs({"x": Conditional(lambda key, p: jnp.zeros(2)), "y": MOVE})
    algorithm = kernel.bind(lambda p: -(p["y"] ** 2))
    state = algorithm.init({"x": jnp.asarray(0.0), "y": jnp.asarray(0.0)})
    with pytest.raises(BayleafError, match="Conditional of 'x': got a draw like"):
        algorithm.step(jax.random.key(0), state)

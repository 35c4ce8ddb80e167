"""What every kernel promises, checked for every kernel: add a row to ``CASES`` for a new one.

Rows are made inside the test that needs them, by a function of the dtype. The target is a
correlated Gaussian of three numbers over a nested position.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bayleaf.gaussian import Gaussian
from bayleaf.mcmc.adaptive_rejection import AdaptiveRejection
from bayleaf.mcmc.elliptical_slice import EllipticalSlice
from bayleaf.mcmc.foreign import Foreign
from bayleaf.mcmc.gibbs import Conditional, Gibbs
from bayleaf.mcmc.hmc import HMC
from bayleaf.mcmc.langevin import SGHMC, SGLD
from bayleaf.mcmc.metric import Diagonal
from bayleaf.mcmc.metropolis import Independence, Langevin, MetropolisHastings, RandomWalk
from bayleaf.mcmc.nuts import NUTS
from bayleaf.mcmc.slice import HitAndRunSlice, Slice
from tests.tools.chains import end_positions
from tests.tools.statistics import assert_mean

COVARIANCE = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 2.0]])
PRECISION = np.linalg.inv(COVARIANCE)


def log_density(position):
    x, _ = ravel_pytree(position)
    return -0.5 * x @ (jnp.asarray(PRECISION, x.dtype) @ x)


def make_position(x, dtype):
    """Three numbers as a dictionary with a nested tuple."""
    x = jnp.asarray(x, dtype)
    return {"a": (x[0], {"inner": x[1]}), "b": x[2:]}


class Case(NamedTuple):
    """How to make the kernel fully configured, how to leave all to warm-up, what it promises."""

    make: Callable[[Any], Any]
    free: Callable[[], Any] | None = None
    traces: int = 1  # how often one compiled step may trace the log density
    is_exact: bool = True  # leaves the target exactly invariant
    is_flat: bool = True  # does not look at the names in the position
    asks_density: bool = True  # moves nowhere without asking the log density that it is given


def _metric(dtype):
    return Diagonal(jnp.ones(3, dtype))


def _draw_b(key, position):
    """b given a: the exact conditional of the last number."""
    a = ravel_pytree(position["a"])[0]
    precision = jnp.asarray(PRECISION[2], a.dtype)
    noise = jax.random.normal(key, (1,), a.dtype) / jnp.sqrt(precision[2])
    return noise - (precision[:2] @ a / precision[2])[None]


def _gaussian(dtype):
    return Gaussian(jnp.zeros(3, dtype), jnp.asarray(1.5 * np.eye(3), dtype))


CASES = {
    "random walk": Case(
        lambda dtype: MetropolisHastings(RandomWalk(0.8)), lambda: MetropolisHastings()
    ),
    "independence": Case(
        lambda dtype: MetropolisHastings(
            Independence.from_gaussian(make_position(np.zeros(3), dtype), 2.0 * np.eye(3))
        ),
        is_flat=False,
    ),
    "Langevin": Case(
        lambda dtype: MetropolisHastings(Langevin(0.8, 1.0)),
        lambda: MetropolisHastings(Langevin()),
    ),
    "adaptive rejection": Case(
        lambda dtype: AdaptiveRejection(),
        traces=5,  # search, its knots, their refinement, the look into the tails, the draw
    ),
    "slice": Case(lambda dtype: Slice(2.0), Slice),
    "hit and run": Case(lambda dtype: HitAndRunSlice(2.0, 1.0), HitAndRunSlice),
    "elliptical slice": Case(lambda dtype: EllipticalSlice(_gaussian(dtype)), EllipticalSlice),
    "HMC": Case(lambda dtype: HMC(4, 0.4, _metric(dtype)), HMC, traces=2),
    "NUTS": Case(
        lambda dtype: NUTS(step_size=0.5, metric=_metric(dtype), max_depth=5), NUTS, traces=2
    ),
    "SGLD": Case(lambda dtype: SGLD(0.05), is_exact=False),
    "SGHMC": Case(lambda dtype: SGHMC(0.3), is_exact=False),
    "Gibbs": Case(
        lambda dtype: Gibbs({"a": MetropolisHastings(RandomWalk(1.0)), "b": Conditional(_draw_b)}),
        lambda: Gibbs({"a": MetropolisHastings(), "b": Slice()}),
        traces=3,  # refresh, step, and the joint density after the exact draw
        is_flat=False,
        asks_density=False,
    ),
    "foreign": Case(
        lambda dtype: Foreign(MetropolisHastings(RandomWalk(0.8)).bind(log_density)),
        is_flat=False,
        asks_density=False,
    ),
}
LONG_TO_COMPILE = ("adaptive rejection",)


def named(names):
    """One test for each kernel."""
    slow = [pytest.param(n, marks=pytest.mark.slow) if n in LONG_TO_COMPILE else n for n in names]
    return pytest.mark.parametrize("name", slow)


EVERY = named(CASES)
TUNED = named([name for name, case in CASES.items() if case.free])
START = (0.3, -0.2, 0.5)


def kinds(tree):
    """Structure, shapes, dtypes and weak types: what must not change from step to step."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def one_step(kernel, density=log_density):
    def step(position, key):
        return kernel.step(density, key, kernel.init(density, position))

    return step


def info_field(info, name):
    """A field of the info, from all blocks where there are blocks."""
    parts = info.values() if isinstance(info, dict) else [info]
    return [getattr(part, name) for part in parts if hasattr(part, name)]


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), got, expected)


@EVERY
def test_jit_equals_eager_vmap_equals_loop_and_any_pytree_moves_as_its_flat_vector(name):
    kernel = CASES[name].make(jnp.float64)
    step = one_step(kernel)
    x = np.random.default_rng(0).normal(size=(2, 3))
    positions = [make_position(row, jnp.float64) for row in x]
    keys = jax.random.split(jax.random.key(2), 2)

    compiled = jax.jit(step)
    looped = [compiled(position, key) for position, key in zip(positions, keys, strict=True)]
    assert_close(looped[0], step(positions[0], keys[0]))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *positions)
    batched = jax.jit(jax.vmap(step))(starts, keys)
    assert_close(batched, stacked)

    state, info = batched
    for rate in info_field(info, "acceptance_rate"):
        assert jnp.all((rate >= 0) & (rate <= 1))
    for flag in info_field(info, "is_nan"):
        assert not jnp.any(flag)
    if CASES[name].is_flat:
        flat, _ = jax.jit(jax.vmap(step))(jnp.asarray(x), keys)
        moved = jax.vmap(lambda position: ravel_pytree(position)[0])(state.position)
        np.testing.assert_allclose(moved, flat.position, rtol=1e-9, atol=1e-9)


@EVERY
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_structure_and_dtypes_stay_and_the_log_density_is_traced_once(name, dtype):
    """The same kinds in and out (weak types too): a second step finds the first one compiled."""
    case = CASES[name]
    kernel = case.make(dtype)
    traces = []

    def counted(position):
        traces.append(1)
        return log_density(position)

    position = make_position(START, dtype)
    state = jax.eval_shape(lambda position: kernel.init(counted, position), position)
    traces.clear()
    new, info = jax.eval_shape(
        lambda key, state: kernel.step(counted, key, state), jax.random.key(0), state
    )
    assert len(traces) <= case.traces
    assert kinds(new) == kinds(state)
    assert kinds(new.position) == kinds(position)
    for leaf in jax.tree.leaves((new, info)):
        assert not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype == dtype
    for flag in info_field(info, "is_nan"):
        assert flag.dtype == bool


@named([name for name, case in CASES.items() if case.is_exact])
def test_started_at_stationarity_it_stays_there(name):
    """Means and all second moments after five steps from 10,000 exact draws."""
    x = np.random.default_rng(3).multivariate_normal(np.zeros(3), COVARIANCE, 10_000)
    starts = jax.vmap(lambda x: make_position(x, jnp.float64))(jnp.asarray(x))
    kernel = CASES[name].make(jnp.float64)
    ends = end_positions(kernel, log_density, starts, key=jax.random.key(5), num_steps=5)
    ends = np.asarray(jax.vmap(lambda position: ravel_pytree(position)[0])(ends))
    assert np.mean(np.any(ends != x, axis=1)) > 0.5
    products = ends[:, :, None] * ends[:, None, :]
    assert_mean([ends, products], [np.zeros(3), COVARIANCE], iid=True)


@named([name for name, case in CASES.items() if case.asks_density])
def test_nan_is_rejected_and_flagged_and_zero_density_is_only_rejected(name):
    """Every point but the start is impossible: whatever the kernel tries, it stays."""
    kernel = CASES[name].make(jnp.float64)

    def step(value):
        def density(position):
            x, _ = ravel_pytree(position)
            return jnp.where(jnp.all(x == jnp.asarray(START)), log_density(position), value)

        position = make_position(START, jnp.float64)
        return kernel.step(density, jax.random.key(0), kernel.init(density, position))

    state, info = jax.jit(jax.vmap(step))(jnp.array([jnp.nan, -jnp.inf]))
    for i in range(2):
        end = jax.tree.map(lambda leaf: leaf[i], state.position)  # noqa: B023
        np.testing.assert_array_equal(ravel_pytree(end)[0], START)
    (is_nan,) = info_field(info, "is_nan")
    assert is_nan.tolist() == [True, False]


@TUNED
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_tuners_keep_structure_and_dtype(name, dtype):
    free = CASES[name].free()
    tuner = free.tuner()
    positions = jax.vmap(lambda x: make_position(x, dtype))(jnp.zeros((4, 3)))

    def two_warm_up_steps(positions, step):
        states = jax.vmap(lambda position: free.init(log_density, position))(positions)
        kernel, tuning = tuner.init(log_density, free, states)
        first = kernel, tuning
        for _ in range(2):
            keys = jax.random.split(jax.random.key(0), 4)
            states, infos = jax.vmap(lambda k, s: kernel.step(log_density, k, s))(keys, states)  # noqa: B023
            tuning = tuner.observe(tuning, states, infos, step)
            kernel, tuning = tuner.update(kernel, tuning, states, infos, step, step + 100)
        return first, (kernel, tuning)

    before, after = eqx.filter_eval_shape(two_warm_up_steps, positions, jnp.asarray(0))
    assert eqx.tree_equal(before, after)
    floats = [leaf for leaf in jax.tree.leaves(after[0]) if eqx.is_inexact_array_like(leaf)]
    assert {leaf.dtype for leaf in floats if hasattr(leaf, "dtype")} <= {jnp.dtype(dtype)}

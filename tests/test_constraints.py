from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.flatten_util import ravel_pytree

from bayleaf import constraints as c
from bayleaf.constraints import Constraints
from bayleaf.constraints.base import Constraint
from bayleaf.errors import BayleafError


def every_entry(x):
    return x.ravel()


def all_but_last(x):
    return x[..., :-1].ravel()


def strict_triangle(x):
    rows, columns = np.tril_indices(x.shape[-1], -1)
    return x[..., rows, columns].ravel()


# constraint, shape of one value, its free coordinates
CASES = {
    "real": (c.real, (3,), every_entry),
    "positive": (c.positive, (3,), every_entry),
    "greater_than": (c.greater_than(-2.0), (3,), every_entry),
    "greater_than_vector": (c.greater_than(np.array([1.0, -3.0])), (2,), every_entry),
    "less_than": (c.less_than(5.0), (3,), every_entry),
    "interval": (c.interval(-1.0, 3.0), (3,), every_entry),
    "unit_interval": (c.unit_interval, (3,), every_entry),
    "simplex": (c.simplex, (4,), all_but_last),
    "simplex_batch": (c.simplex, (2, 3), all_but_last),
    "ordered": (c.ordered, (4,), every_entry),
    "positive_ordered": (c.positive_ordered, (4,), every_entry),
    "correlation": (c.correlation, (4, 4), strict_triangle),
    "correlation_cholesky": (c.correlation_cholesky, (4, 4), strict_triangle),
    "correlation_batch": (c.correlation, (2, 3, 3), strict_triangle),
}
each_case = pytest.mark.parametrize(
    ("constraint", "shape", "free"), CASES.values(), ids=list(CASES)
)


def autodiff_log_jacobian(constraint, u, free):
    def flat(v):
        return free(constraint.constrain(v.reshape(u.shape)))

    return jax.jit(lambda v: jnp.linalg.slogdet(jax.jacfwd(flat)(v))[1])(u.ravel())


@pytest.fixture(params=CASES.values(), ids=list(CASES), scope="module")
def round_trip(request):
    constraint, shape, _ = request.param
    there_and_back = jax.jit(lambda u: constraint.unconstrain(constraint.constrain(u)))
    return constraint, constraint.unconstrained_shape(shape), there_and_back


def test_round_trip(round_trip):
    constraint, shape, there_and_back = round_trip

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(hnp.arrays(np.float64, shape, elements=st.floats(-4, 4)))
    def returns(u):
        np.testing.assert_allclose(there_and_back(u), u, atol=1e-7)
        constraint.check(constraint.constrain(jnp.asarray(u)), "x")

    returns()


@each_case
def test_log_jacobian_is_that_of_autodiff(constraint, shape, free):
    u = jax.random.normal(jax.random.key(3), constraint.unconstrained_shape(shape))
    expected = autodiff_log_jacobian(constraint, u, free)
    np.testing.assert_allclose(constraint.log_jacobian(u), expected, rtol=1e-9, atol=1e-12)


def test_a_planted_wrong_jacobian_is_caught():
    class Forgetful(type(c.correlation)):
        def log_jacobian(self, u):
            return c.correlation_cholesky.log_jacobian(u)

    u = jax.random.normal(jax.random.key(3), (6,))
    error = Forgetful().log_jacobian(u) - autodiff_log_jacobian(Forgetful(), u, strict_triangle)
    assert abs(error) > 0.1


@each_case
def test_float32_extremes_stay_finite_and_inside(constraint, shape, free):
    free_shape = constraint.unconstrained_shape(shape)
    signs = jnp.sign(jax.random.normal(jax.random.key(0), (4, *free_shape), jnp.float32))
    signs = jnp.concatenate([signs, jnp.ones((1, *free_shape)), -jnp.ones((1, *free_shape))])
    u = jnp.concatenate([size * signs for size in (20.0, 90.0, 1e3, 1e4)]).astype(jnp.float32)

    def everything(u):
        return (
            constraint.constrain(u),
            jax.grad(lambda v: jnp.sum(constraint.constrain(v)))(u),
            *jax.value_and_grad(constraint.log_jacobian)(u),
        )

    results = jax.jit(jax.vmap(everything))(u)
    for result in results:
        assert result.dtype == jnp.float32
        assert np.all(np.isfinite(result))
    x = np.asarray(results[0])
    if isinstance(constraint, type(c.simplex) | type(c.unit_interval) | type(c.positive)):
        assert np.all(x > 0)
        assert np.all(x > 1e-39)  # not flushed to zero in the next operation
    if isinstance(constraint, type(c.unit_interval)):
        assert np.all(np.log1p(-x) > -np.inf)
    if isinstance(constraint, c.interval | c.greater_than):
        assert np.all(x > np.asarray(constraint.lower, np.float32))
    if isinstance(constraint, c.interval):
        assert np.all(x < 3.0)
    if isinstance(constraint, c.less_than):
        assert np.all(x < 5.0)


@pytest.mark.parametrize("bound", [0.0, 1e6])
def test_next_to_its_bound_a_float32_value_is_still_inside(bound):
    u = jnp.float32(-60.0)
    assert c.greater_than(bound).constrain(u) > jnp.float32(bound)
    assert c.less_than(bound).constrain(u) < jnp.float32(bound)
    assert c.interval(bound, bound + 1).constrain(u) > jnp.float32(bound)
    assert c.interval(bound - 1, bound).constrain(-u) < jnp.float32(bound)


@each_case
def test_jit_vmap_and_dtype(constraint, shape, free):
    u = jax.random.normal(jax.random.key(1), (3, *constraint.unconstrained_shape(shape)))
    rows = jnp.stack([constraint.constrain(row) for row in u])
    np.testing.assert_allclose(jax.jit(jax.vmap(constraint.constrain))(u), rows, rtol=1e-12)
    np.testing.assert_allclose(
        jnp.sum(jax.vmap(constraint.log_jacobian)(u)),
        sum(constraint.log_jacobian(row) for row in u),
        rtol=1e-12,
    )
    single = jax.eval_shape(constraint.constrain, u[0].astype(jnp.float32))
    assert (single.dtype, single.shape) == (jnp.float32, shape)


# An integral over u of density(x(u)) |dx/du| must be the integral of the density over x: 1.
def gamma(x):  # Gamma(3, 1)
    return 2 * jnp.log(x[0]) - x[0] - np.log(2.0)


def beta(x):  # Beta(2, 3)
    return jnp.log(12.0) + jnp.log(x[0]) + 2 * jnp.log1p(-x[0])


def dirichlet(x):  # Dirichlet(2, 3, 1.5)
    normaliser = 5.5 * 4.5 * 3.5 * 2.5 * 1.5 / 2  # Gamma(6.5) / (Gamma(2) Gamma(3) Gamma(1.5))
    return jnp.log(normaliser) + jnp.log(x[0]) + 2 * jnp.log(x[1]) + 0.5 * jnp.log(x[2])


def order_statistics(x):  # of two standard normals
    return jnp.log(2.0) - 0.5 * jnp.sum(x**2) - np.log(2 * np.pi)


def positive_order_statistics(x):  # of two standard exponentials
    return jnp.log(2.0) - jnp.sum(x)


def uniform_correlation(x):  # LKJ(1), d = 3: volume of the elliptope is pi^2/2
    return jnp.log(2 / np.pi**2) + 0.0 * x[0, 0]


def lkj_cholesky(x):  # LKJ(1), d = 3: density of L is det(R)^0 prod_i L_ii^(d-i), i from 1
    return jnp.log(2 / np.pi**2) + jnp.log(x[1, 1])


INTEGRALS = {
    "positive": (c.positive, (1,), gamma, 0.0),
    "greater_than": (c.greater_than(2.0), (1,), lambda x: gamma(x - 2.0), 0.0),
    "less_than": (c.less_than(-1.0), (1,), lambda x: gamma(-1.0 - x), 0.0),
    "unit_interval": (c.unit_interval, (1,), beta, 0.0),
    "interval": (c.interval(1.0, 5.0), (1,), lambda x: beta((x - 1) / 4) - np.log(4.0), 0.0),
    "simplex": (c.simplex, (3,), dirichlet, 0.0),
    "ordered": (c.ordered, (2,), order_statistics, 0.0),
    "positive_ordered": (c.positive_ordered, (2,), positive_order_statistics, 0.0),
    "correlation": (c.correlation, (3, 3), uniform_correlation, 0.0),
    "correlation_cholesky": (c.correlation_cholesky, (3, 3), lkj_cholesky, 0.0),
}


def integral(constraint, shape, log_density):
    """By the trapezoidal rule, which converges exponentially for smooth decaying integrands."""
    (dim,) = constraint.unconstrained_shape(shape)
    half_width, points = {1: (30.0, 4001), 2: (24.0, 801), 3: (10.0, 121)}[dim]
    axis = np.linspace(-half_width, half_width, points)
    grid = jnp.asarray(np.stack(np.meshgrid(*[axis] * dim), -1).reshape(-1, dim))

    def term(u):
        return jnp.exp(log_density(constraint.constrain(u)) + constraint.log_jacobian(u))

    return jnp.sum(jax.jit(jax.vmap(term))(grid)) * (axis[1] - axis[0]) ** dim


@pytest.mark.parametrize(
    ("constraint", "shape", "log_density", "_"), INTEGRALS.values(), ids=list(INTEGRALS)
)
def test_densities_integrate_to_one(constraint, shape, log_density, _):
    np.testing.assert_allclose(integral(constraint, shape, log_density), 1.0, rtol=1e-6)


def test_the_simplex_singles_out_no_entry():
    u = jax.random.normal(jax.random.key(0), (3,))
    x = c.simplex.constrain(u)
    for order in itertools.permutations(range(4)):
        moved = c.simplex.unconstrain(x[jnp.asarray(order)])
        np.testing.assert_allclose(jnp.linalg.norm(moved), jnp.linalg.norm(u), rtol=1e-12)


def test_strong_correlations_keep_their_digits():
    u = jnp.array([6.0, -5.0, 4.0])
    factor = c.correlation_cholesky.constrain(u)
    np.testing.assert_allclose(c.correlation_cholesky.unconstrain(factor), u, rtol=1e-12)


@pytest.mark.parametrize(
    ("constraint", "x", "says"),
    [
        (c.positive, [1.0, -1.0], "> 0"),
        (c.greater_than(2.0), [1.0], "> 2"),
        (c.less_than(2.0), [3.0], "< 2"),
        (c.interval(0.0, 1.0), [1.0], "< 1"),
        (c.unit_interval, [0.0], "between 0 and 1"),
        (c.simplex, [0.5, 0.6], "sum to 1"),
        (c.simplex, [1.5, -0.5], "positive"),
        (c.ordered, [1.0, 1.0], "increasing"),
        (c.positive_ordered, [-1.0, 1.0], "positive, increasing"),
        (c.correlation, [[1.0, 2.0], [2.0, 1.0]], "positive definite"),
        (c.correlation, [[2.0, 0.0], [0.0, 1.0]], "ones on its diagonal"),
        (c.correlation, [[1.0, 0.3], [0.0, 1.0]], "symmetric"),
        (c.correlation_cholesky, [[1.0, 0.3], [0.0, 1.0]], "lower triangular"),
        (c.correlation_cholesky, [[1.0, 0.0], [0.3, 1.0]], "length 1"),
        (c.real, [np.nan], "finite"),
    ],
)
def test_check_names_the_argument_and_the_violation(constraint, x, says):
    with pytest.raises(BayleafError, match="theta: got") as caught:
        constraint.check(np.array(x), "theta")
    assert says in str(caught.value)


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(BayleafError, match="last axis"):
        c.simplex.unconstrained_shape(())
    with pytest.raises(BayleafError, match="square matrix"):
        c.correlation.unconstrained_shape((2, 3))
    with pytest.raises(BayleafError, match=r"d\(d-1\)/2"):
        c.correlation.constrain(jnp.zeros(4))
    with pytest.raises(BayleafError, match="lower < upper"):
        c.interval(1.0, 1.0)


U = {
    "a": jnp.ones(2),
    "b": jnp.zeros(()),
    "deep": {"c": [jnp.ones(1), jnp.ones(2)], "d": jnp.ones(1)},
}


def test_a_prefix_of_constraints():
    tree = Constraints({"b": c.positive, "deep": {"c": [None, c.simplex]}})
    x = tree.constrain(U)
    assert x["a"] is U["a"]
    assert x["b"] == 1.0
    np.testing.assert_allclose(jnp.sum(x["deep"]["c"][1]), 1.0)
    back = ravel_pytree(tree.unconstrain(x))[0]
    np.testing.assert_allclose(back, ravel_pytree(U)[0], atol=1e-12)
    expected = c.positive.log_jacobian(U["b"]) + c.simplex.log_jacobian(U["deep"]["c"][1])
    np.testing.assert_allclose(tree.log_jacobian(U), expected)


def test_one_constraint_for_everything_and_for_a_subtree():
    everything = Constraints(c.positive)
    np.testing.assert_allclose(everything.log_jacobian(U), sum(map(jnp.sum, jax.tree.leaves(U))))
    subtree = Constraints({"deep": c.positive})
    np.testing.assert_allclose(subtree.log_jacobian(U), 4.0)


@pytest.mark.parametrize(
    ("prefix", "says"),
    [
        ({"bb": c.positive}, "entry for bb, expected constraints for a, b, deep"),
        ({"deep": {"z": c.positive}}, r"entry for deep\.z"),
        ({"deep": {"c": [None, None, c.positive]}}, r"deep\.c\[2\]"),
        ("positive", "constrain: got 'positive'"),
    ],
)
def test_a_wrong_prefix_is_named(prefix, says):
    with pytest.raises(BayleafError, match=says):
        Constraints(prefix).constrain(U)


def test_every_constraint_of_the_module_is_tested():
    named = {
        type(x) if isinstance(x, Constraint) else x for x in (getattr(c, n) for n in c.__all__)
    }
    named -= {Constraint, Constraints}
    assert named == {type(constraint) for constraint, _, _ in CASES.values()}

"""Guides: densities against SciPy, draws, pytrees, steps in their own units, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf.errors import BayleafError
from bayleaf.variational import FullRank, LowRank, MeanField
from bayleaf.variational.guides import moved
from tests.tools.statistics import assert_mean

POSITION = {"a": jnp.arange(3.0), "b": jnp.full((1, 2), -1.0)}
DIM = 5


def perturbed(guide, size=0.5):
    """The guide with other parameters in every place."""
    rng = np.random.default_rng(0)

    def shake(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        return leaf + jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(shake, guide)


GUIDES = {
    "mean field": lambda x: MeanField(x, scale=0.7),
    "full rank": lambda x: FullRank(x, scale=0.7),
    "low rank": lambda x: LowRank(x, 2, scale=0.7),
}
EACH = pytest.mark.parametrize("make", GUIDES.values(), ids=GUIDES.keys())


def flat(tree):
    return np.concatenate([np.ravel(tree["a"]), np.ravel(tree["b"])])


@EACH
def test_a_guide_starts_where_it_is_told(make):
    guide = make(POSITION)
    np.testing.assert_array_equal(guide.loc, flat(POSITION))
    least = 0.7 if not isinstance(guide, LowRank) else 0.7 * (1 - 1e-12)
    assert np.all(np.sqrt(guide.variance()) >= least)
    assert np.all(np.sqrt(guide.variance()) < 0.8)


def test_scales_may_differ_between_parameters():
    guide = MeanField(POSITION, scale={"a": jnp.array(2.0), "b": jnp.array(3.0)})
    np.testing.assert_allclose(jnp.exp(guide.log_scale), [2, 2, 2, 3, 3], rtol=1e-14)


@EACH
def test_the_density_is_that_of_the_gaussian_with_its_moments(make):
    guide = perturbed(make(POSITION))
    columns = np.asarray(guide.columns())
    expected = stats.multivariate_normal(guide.loc, columns @ columns.T)
    for seed in range(3):
        x = guide.sample(jax.random.key(seed))
        assert jax.tree.structure(x) == jax.tree.structure(POSITION)
        np.testing.assert_allclose(guide.log_prob(x), expected.logpdf(flat(x)), rtol=1e-12)
    np.testing.assert_allclose(guide.variance(), np.diagonal(columns @ columns.T), rtol=1e-13)
    gaussian = guide.to_gaussian()
    np.testing.assert_allclose(gaussian.covariance, columns @ columns.T, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(gaussian.mean, guide.loc)


@EACH
def test_draws_have_the_moments_that_the_density_says(make):
    guide = perturbed(make(POSITION))
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = np.asarray(jax.vmap(guide.flat_sample)(keys))
    centred = draws - np.asarray(guide.loc)
    products = centred[:, :, None] * centred[:, None, :]
    covariance = np.asarray(guide.to_gaussian().covariance)
    assert_mean(draws, guide.loc, iid=True)
    assert_mean(products, covariance, iid=True)
    wrong = np.diag(np.diagonal(covariance)) * (1.2 if isinstance(guide, MeanField) else 1)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_mean(products, wrong, iid=True)


def test_the_diagonal_of_full_rank_is_positive_wherever_its_parameters_are():
    guide = perturbed(FullRank(jnp.zeros(4)), size=5.0)
    assert np.all(np.diagonal(guide.columns()) > 0)
    assert np.all(np.triu(guide.columns(), 1) == 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_low_rank_distances_do_not_cancel(dtype):
    """U outweighs s by 1e4: Woodbury's difference loses all digits of float32."""
    rng = np.random.default_rng(0)
    factor = jnp.asarray(1e2 * rng.normal(size=(30, 3)), dtype)
    guide = LowRank(jnp.zeros(30, dtype), 3, scale=1e-2)
    guide = eqx.tree_at(lambda g: g.factor, guide, factor)
    z = factor @ jnp.ones(3, dtype) + 1e-2 * jnp.asarray(rng.normal(size=30), dtype)

    s, u, x = (np.asarray(a, np.float64) for a in (jnp.exp(guide.log_scale), factor, z))
    exact = x @ np.linalg.solve(np.diag(s**2) + u @ u.T, x)
    tolerance = 1e-2 if dtype == jnp.float32 else 1e-8
    np.testing.assert_allclose(guide.squared_distance(z), exact, rtol=tolerance)
    log_det = np.linalg.slogdet(np.diag(s**2) + u @ u.T)[1]
    np.testing.assert_allclose(guide.log_determinant(), log_det, rtol=tolerance)
    if dtype == jnp.float32:  # what the comment in the code warns of
        v, w = guide._relative(), z / jnp.exp(guide.log_scale)
        inner = jnp.eye(3, dtype=dtype) + v.T @ v
        naive = w @ w - w @ v @ jnp.linalg.solve(inner, v.T @ w)
        assert abs(naive - exact) > 0.1 * exact


@EACH
def test_a_step_of_zero_stays_and_a_step_has_the_units_of_the_guide(make):
    guide = perturbed(make(POSITION))
    parameters = eqx.filter(guide, eqx.is_inexact_array)
    nowhere = jax.tree.map(jnp.zeros_like, parameters)
    still = moved(guide, nowhere)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15),
        _arrays(still),
        jax.tree.map(jnp.asarray, _effective(guide)),
    )
    # The same step of a guide a thousand times as wide goes a thousand times as far.
    step = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.1), parameters)
    wide = _scaled(guide, 1000.0)
    here, there = moved(guide, step), moved(wide, step)
    np.testing.assert_allclose(1000 * (here.loc - guide.loc), there.loc - wide.loc, rtol=1e-10)
    narrow, broad = here.to_gaussian().covariance, there.to_gaussian().covariance
    np.testing.assert_allclose(1e6 * narrow, broad, rtol=1e-10)


def test_full_rank_steps_are_those_of_any_other_coordinates():
    """For x' = A x with A lower triangular, the moved image is the image of the moved guide."""
    guide = perturbed(FullRank(jnp.zeros(3), scale=0.5))
    a = jnp.tril(jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))) + 3 * jnp.eye(3)

    def image(guide):
        columns = a @ guide.columns()
        parts = (a @ guide.loc, jnp.log(jnp.diagonal(columns)), jnp.tril(columns, -1))
        return eqx.tree_at(lambda g: (g.loc, g.log_scale, g.lower), guide, parts)

    step = jax.tree.map(lambda leaf: 0.2 * jnp.ones_like(leaf), _arrays(guide))
    first, second = moved(image(guide), step), image(moved(guide, step))
    np.testing.assert_allclose(first.loc, second.loc, rtol=1e-12)
    np.testing.assert_allclose(first.columns(), second.columns(), rtol=1e-12, atol=1e-14)


def test_guides_of_equal_shapes_share_a_compiled_program():
    count = []

    @eqx.filter_jit
    def program(guide):
        count.append(1)
        return guide.log_prob(guide.sample(jax.random.key(0)))

    for make in GUIDES.values():
        program(make(POSITION))
        program(make(jax.tree.map(lambda leaf: leaf + 1, POSITION)))
    program(MeanField.from_parameters(jnp.zeros(3), jnp.zeros(3)))
    program(MeanField.from_parameters(jnp.ones(3), jnp.ones(3)))
    program(MeanField(jnp.ones(3)))
    assert len(count) == 4


@EACH
def test_single_precision_stays_single(make):
    guide = make(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), POSITION))
    draw = guide.sample(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(draw)} == {jnp.dtype("float32")}
    assert guide.log_prob(draw).dtype == jnp.float32


def test_bad_input_is_refused_by_name():
    with pytest.raises(BayleafError, match="position, parameter n: got int"):
        MeanField({"n": jnp.arange(3)})
    with pytest.raises(BayleafError, match="position: got no parameters"):
        FullRank({})
    for scale in (0.0, -1.0, jnp.nan):
        with pytest.raises(BayleafError, match="scale"):
            MeanField(jnp.zeros(2), scale=scale)
    for scale in ([1.0, 2.0, 3.0], np.ones(3), {"a": 1.0}):
        with pytest.raises(BayleafError, match=r"scale: .* a tree like the position"):
            MeanField(jnp.zeros(2), scale=scale)
    for rank in (0, -1, True):
        with pytest.raises(BayleafError, match="rank"):
            LowRank(jnp.zeros(2), rank)
    assert LowRank(jnp.zeros(2), 10).factor.shape == (2, 2)


def _arrays(guide):
    return eqx.filter(guide, eqx.is_inexact_array)


def _effective(guide):
    """The parameters without what stands above the diagonal and means nothing."""
    if isinstance(guide, FullRank):
        guide = eqx.tree_at(lambda g: g.lower, guide, jnp.tril(guide.lower, -1))
    return _arrays(guide)


def _scaled(guide, factor):
    guide = eqx.tree_at(
        lambda g: (g.loc, g.log_scale),
        guide,
        (factor * guide.loc, guide.log_scale + jnp.log(factor)),
    )
    for name in ("factor", "lower"):
        if hasattr(guide, name):
            leaf = getattr(guide, name)
            guide = eqx.tree_at(lambda g, name=name: getattr(g, name), guide, factor * leaf)
    return guide

"""Resampling: unbiased counts in every scheme, exact where they can be, safe in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.montecarlo import resampling
from bayleaf.montecarlo.sums import running_sum, total
from tests.tools.statistics import assert_counts, assert_mean

SCHEMES = ["systematic", "stratified", "multinomial", "residual", "killing"]
WEIGHTS = np.array([0.3, 0.0, 0.05, 0.42, 0.2, 0.03, 0.0])
SIZE = WEIGHTS.size


def scheme_of(name):
    return getattr(resampling, name)


def counts_of(scheme, weights, num_repeats=20_000, num_draws=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), num_repeats)

    def once(key):
        return jnp.bincount(scheme(key, weights, num_draws), length=weights.size)

    return np.asarray(jax.jit(jax.vmap(once))(keys))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SCHEMES)
def test_expected_counts_are_the_weights(name, dtype):
    """For weights of any scale; possible draws only, and as many as asked for."""
    counts = counts_of(scheme_of(name), jnp.asarray(17.0 * WEIGHTS, dtype))
    assert_mean(counts[:, WEIGHTS > 0], SIZE * WEIGHTS[WEIGHTS > 0], iid=True)
    assert np.all(counts[:, WEIGHTS == 0] == 0)
    assert np.all(counts.sum(axis=1) == SIZE)


@pytest.mark.parametrize("name", SCHEMES[:4])
@pytest.mark.parametrize("num_draws", [3, 20])
def test_any_number_of_draws(name, num_draws):
    counts = counts_of(scheme_of(name), jnp.asarray(WEIGHTS), num_draws=num_draws)
    assert_mean(counts[:, WEIGHTS > 0], num_draws * WEIGHTS[WEIGHTS > 0], iid=True)
    assert np.all(counts.sum(axis=1) == num_draws)


def test_systematic_over_all_its_uniforms(monkeypatch):
    """The integral over u is the weight exactly; each count is within one of its expectation."""
    num_points = 4096
    grid = (jnp.arange(num_points, dtype=jnp.uint64) << jnp.uint64(36)) + jnp.uint64(7)

    def counts(u):
        monkeypatch.setattr(resampling, "_uniform", lambda *_: u)
        drawn = resampling.systematic(jax.random.key(0), jnp.asarray(WEIGHTS))
        return jnp.bincount(drawn, length=SIZE)

    found = np.asarray(jax.vmap(counts)(grid))
    # u takes 2^48 values and the grid 4096 of them: each end is met to one point of the grid.
    np.testing.assert_allclose(found.mean(axis=0), SIZE * WEIGHTS, atol=2 / num_points, rtol=0)
    assert np.max(np.abs(found - SIZE * WEIGHTS)) < 1


def test_multinomial_is_multinomial():
    counts = counts_of(resampling.multinomial, jnp.asarray(WEIGHTS), num_draws=1)
    assert_counts(counts.sum(axis=0), WEIGHTS)
    counts = counts_of(resampling.multinomial, jnp.asarray(WEIGHTS))
    square = (counts - SIZE * WEIGHTS) ** 2
    keep = WEIGHTS > 0
    assert_mean(square[:, keep], (SIZE * WEIGHTS * (1 - WEIGHTS))[keep], iid=True)


@pytest.mark.slow
def test_the_noise_has_its_known_order():
    """Variance of the resampled mean of a function of the draws (Douc et al. 2005)."""
    rng = np.random.default_rng(0)
    weights, values = jnp.asarray(rng.exponential(size=60)), rng.standard_normal(60)
    variance = {
        name: np.var(counts_of(scheme_of(name), weights, 2000) @ values) for name in SCHEMES
    }
    assert variance["stratified"] < variance["residual"] < variance["multinomial"]
    assert variance["systematic"] < variance["residual"]
    assert variance["killing"] < variance["multinomial"]


@pytest.mark.parametrize("name", SCHEMES)
def test_equal_weights_and_single_draws(name):
    scheme = jax.jit(scheme_of(name))
    one = scheme(jax.random.key(0), jnp.ones(1))
    np.testing.assert_array_equal(one, [0])
    if name != "multinomial":
        kept = scheme(jax.random.key(1), jnp.full(1000, 0.1, jnp.float32))
        np.testing.assert_array_equal(kept, np.arange(1000))


@pytest.mark.parametrize("name", ["systematic", "stratified", "residual"])
def test_float32_agrees_with_float64_at_100_000(name):
    """The numbers of copies below any point differ from N F by less than the scheme's own noise.

    A plain float32 cumulative sum is a hundredth of a particle off at each of 10^5 places.
    """
    size = 100_000
    weights = np.random.default_rng(1).exponential(size=size) ** 3
    exact = size * np.cumsum(weights) / weights.sum()
    keys = jax.random.split(jax.random.key(2), 8)
    scheme = jax.jit(scheme_of(name))
    drawn = [np.asarray(scheme(key, jnp.asarray(weights, jnp.float32))) for key in keys]
    copies = np.array([np.cumsum(np.bincount(d, minlength=size)) for d in drawn])
    assert np.all(copies[:, -1] == size)
    if name != "residual":  # its rest is multinomial
        assert np.max(np.abs(copies - exact)) < 1.05


def test_fixed_point_is_finer_than_float32():
    """Shares of 10^5 particles, added up, against float64; a float32 sum cannot do it."""
    size = 100_000
    weights = np.random.default_rng(1).exponential(size=size)
    exact = size * np.cumsum(weights) / weights.sum()
    shares, shift = resampling.fixed_point(jnp.asarray(weights, jnp.float32), size)
    ends = np.asarray(running_sum(shares), np.float64) / 2.0 ** int(shift)
    assert np.max(np.abs(ends - exact)) < 0.02
    w = jnp.asarray(weights, jnp.float32)
    plain = np.asarray(jnp.cumsum(w / jnp.sum(w)), np.float64) * size
    steps = np.diff(plain) - np.diff(exact)
    assert np.std(steps) > 10 * np.std(np.diff(ends) - np.diff(exact))


@pytest.mark.parametrize("name", SCHEMES)
def test_one_giant_and_dust(name):
    """All but one weight vanish: only the giant has copies, wherever it stands."""
    scheme = jax.jit(scheme_of(name))
    for place in (0, 5, 9):
        weights = np.full(10, 1e-30, np.float32)
        weights[place] = 1.0
        drawn = scheme(jax.random.key(0), weights)
        np.testing.assert_array_equal(drawn, place)


@pytest.mark.parametrize("bug", ["no offset", "short range"])
def test_planted_bugs_are_caught(bug, monkeypatch):
    name = "systematic"
    if bug == "no offset":
        monkeypatch.setattr(
            resampling, "_uniform", lambda key, shape, shift, kind: jnp.zeros(shape, kind)
        )
    else:
        name = "multinomial"
        monkeypatch.setattr(resampling, "_scaled", lambda bits, bound: bits % (bound - bound // 8))
    with pytest.raises(AssertionError, match="means are wrong"):
        test_expected_counts_are_the_weights(name, "float32")


def test_sums():
    rng = np.random.default_rng(0)
    both = jax.jit(lambda whole, real: (running_sum(whole), total(whole), total(real)))
    for size in (1, 8, 9, 65, 100_001):
        whole, real = rng.integers(0, 1000, size), rng.exponential(size=(size, 3))
        running, summed, columns = both(whole, real)
        np.testing.assert_array_equal(running, np.cumsum(whole))
        assert summed == whole.sum()
        np.testing.assert_allclose(columns, real.sum(axis=0), rtol=1e-12)


def test_a_float32_sum_of_many_does_not_drift():
    """One number a million times: one accumulator, rounded each time the same way, drifts."""
    x = np.full(1_000_000, 0.1, np.float32)
    exact = np.sum(x, dtype=np.float64)
    assert abs(float(jax.jit(total)(x)) / exact - 1) < 1e-6
    assert abs(float(jax.jit(running_sum)(x)[-1]) / exact - 1) < 1e-6
    assert abs(np.cumsum(x)[-1] / exact - 1) > 1e-4


def test_what_is_refused():
    key = jax.random.key(0)
    with pytest.raises(BayleafError, match="num_draws: got 3, expected 2"):
        resampling.killing(key, jnp.ones(2), 3)
    with pytest.raises(BayleafError, match="num_draws: got 0"):
        resampling.systematic(key, jnp.ones(2), 0)
    with pytest.raises(BayleafError, match="weights: got none"):
        resampling.systematic(key, jnp.ones(0))

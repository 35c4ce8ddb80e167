"""Priors on partitions against formulas of their own, sums over all partitions, and brute force."""

from math import lgamma, log

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from bayleaf.errors import BayleafError
from bayleaf.partitions import (
    DirichletProcess,
    FiniteDirichlet,
    PitmanYor,
    SizePower,
    SizeWeights,
    Symmetric,
    UniformLabels,
    UniformPartition,
)
from tests.partitions.partition_laws import PRIORS, log_power, partitions, sizes_of

EVERY = pytest.mark.parametrize("name", PRIORS)


def padded(sizes, length=7):
    return jnp.array([*sizes, *[0] * (length - len(sizes))])


@EVERY
def test_log_g_is_the_formula(name):
    prior, log_g = PRIORS[name]
    every = sorted({tuple(sorted(sizes_of(z))) for z in partitions(6)})
    got = jax.vmap(prior.log_weight)(jnp.stack([padded(sizes) for sizes in every]))
    expected = np.array([log_g(sizes) for sizes in every])
    is_possible = np.isfinite(expected)
    constant = (got - expected)[is_possible][0]  # g is known up to one
    np.testing.assert_allclose(got[is_possible] - constant, expected[is_possible], atol=1e-12)
    assert np.all(got[~is_possible] == -np.inf)


@pytest.mark.parametrize(
    ("prior", "log_sum"),
    [
        (DirichletProcess(0.7), log_power(0.7, 6)),
        (PitmanYor(0.3, 0.5), log_power(1.5, 5)),
        (FiniteDirichlet(3, 0.5), log_power(1.5, 6)),
        (UniformLabels(4), 6 * log(4)),
        (UniformPartition(), log(203)),
    ],
)
def test_the_weights_of_all_partitions_add_up_to_what_is_known(prior, log_sum):
    sizes = jnp.stack([padded(sizes_of(z)) for z in partitions(6)])
    total = special.logsumexp(jax.vmap(prior.log_weight)(sizes))
    assert total == pytest.approx(log_sum, abs=1e-12)


def gaps(prior, sizes, size):
    """log g after joining each place by `log_joined`, and by g itself."""
    places = jnp.eye(len(sizes), dtype=sizes.dtype)
    whole = jax.vmap(prior.log_weight)(sizes[None] + size * places)
    return np.asarray(prior.log_joined(sizes, jnp.asarray(size))), np.asarray(whole)


@EVERY
@pytest.mark.parametrize("size", [1, 3])
def test_joined_weights_are_those_of_the_partitions_that_result(name, size):
    for sizes in ([2, 1], [1, 4], []):
        got, expected = gaps(PRIORS[name][0], padded(sizes, 4), size)
        is_possible = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(got), is_possible)
        gap = (got - expected)[is_possible]
        np.testing.assert_allclose(gap, gap[0], atol=1e-12)


def test_the_weights_of_the_chinese_restaurant_are_wrong_for_more_than_one_site():
    class Restaurant(DirichletProcess):
        def log_joined(self, sizes, size):
            del size
            return jnp.log(jnp.where(sizes > 0, sizes, self.concentration))

    for size, is_right in ((1, True), (3, False)):
        got, expected = gaps(Restaurant(0.7), padded([2, 1], 4), size)
        gap = got - expected
        assert np.allclose(gap, gap[0], atol=1e-12) == is_right


def test_a_cluster_of_forbidden_size_closes_all_other_places():
    pairs = SizeWeights(lambda m: jnp.where(m % 2 == 0, 0.0, -jnp.inf))
    got, expected = gaps(pairs, padded([2, 1], 4), 1)
    np.testing.assert_array_equal(got, [-np.inf, 0, -np.inf, -np.inf])
    np.testing.assert_array_equal(expected, got)


@EVERY
def test_steps_add_up_to_log_w_without_loss_in_float32(name):
    prior, log_g = PRIORS[name]
    if name == "any function":
        return
    single = jax.tree.map(lambda x: x.astype(jnp.float32), prior)
    steps = np.asarray(single.log_size_steps(1000), np.float64)
    got = np.cumsum(steps)
    if name.startswith("Dirichlet"):
        # log Gamma(1000) = 5905.2: in float32 the last digit is worth 0.0005
        assert got[-1] == pytest.approx(lgamma(1000), abs=1e-4)
        naive = np.asarray(single.log_size(jnp.arange(1, 1001)), np.float64)
        assert abs(np.diff(naive) - np.diff(special.gammaln(np.arange(1, 1001)))).max() > 1e-4
    expected = [log_g([m]) - log_g([1]) for m in range(1, 1001)]
    np.testing.assert_allclose(got - got[0], expected, atol=5e-4, rtol=1e-6)


def test_gradients_in_the_parameters():
    def log_weight(alpha, d):
        return PitmanYor(d, alpha).log_weight(padded([3, 1, 2]))

    by_alpha, by_d = jax.jit(jax.grad(log_weight, (0, 1)))(0.5, 0.3)
    step = 1e-6
    assert by_alpha == pytest.approx(
        float(log_weight(0.5 + step, 0.3) - log_weight(0.5 - step, 0.3)) / (2 * step), rel=1e-6
    )
    assert by_d == pytest.approx(
        float(log_weight(0.5, 0.3 + step) - log_weight(0.5, 0.3 - step)) / (2 * step), rel=1e-6
    )
    assert np.isfinite(jax.grad(log_weight)(0.5, 0.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DirichletProcess(0.0), "concentration: got 0.0, expected a positive"),
        (lambda: DirichletProcess(np.nan), "concentration: got nan"),
        (lambda: DirichletProcess(np.ones(2)), "concentration: .*one real number"),
        (lambda: PitmanYor(1.0, 1.0), r"discount: got 1.0, expected a number in \[0, 1\)"),
        (lambda: PitmanYor(-0.1, 1.0), "discount"),
        (lambda: PitmanYor(0.3, -0.3), "concentration: .*above -discount"),
        (lambda: FiniteDirichlet(0), "num_labels: got 0"),
        (lambda: FiniteDirichlet(3, -1.0), "concentration"),
        (lambda: UniformLabels(True), "num_labels"),
        (lambda: SizePower(np.inf), "power: got inf"),
        (lambda: SizeWeights(3.0), "log_weight: got 3.0, expected a function"),
        (
            lambda: SizeWeights(lambda m: jnp.where(m == 5, jnp.nan, 0.0)).check(8),
            "log_weight: got nan for the size 5",
        ),
        (lambda: SizeWeights(lambda m: jnp.sum(m)).check(8), "one number for each size"),
        (
            lambda: Symmetric(lambda s: jnp.log(2.0 - jnp.max(s))).check(8),
            r"log_weight: got nan for the sizes \[8\]",
        ),
        (lambda: Symmetric(lambda s: s * 1.0).check(8), "one number"),
        (lambda: Symmetric(lambda s: 1.0 * s[0]).check(8), "does not depend on the order"),
    ],
)
def test_bad_input_is_refused_by_name(make, words):
    with pytest.raises(BayleafError, match=words):
        make()

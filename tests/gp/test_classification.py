"""Classes by least squares: targets, probabilities, and the published accuracy on digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayleaf import gp
from bayleaf.errors import BayleafError
from tests.tools.statistics import assert_counts


def test_targets_add_up_to_zero():
    targets = gp.class_targets(np.array([0, 2, 1]), 3)
    np.testing.assert_allclose(targets.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(targets[1], [-1 / 3, -1 / 3, 2 / 3])
    for bad in (np.array([0, 3]), np.array([0.0, 1.0]), np.array([-1])):
        with pytest.raises(BayleafError, match="labels"):
            gp.class_targets(bad, 3)


@pytest.mark.slow
def test_probabilities_are_those_of_being_the_largest():
    mean, variance = jnp.array([[0.3, -0.2, 0.1], [4.0, 0.0, -3.0]]), jnp.array([0.25, 1.0])
    got = gp.class_probabilities(mean, variance)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-12)
    noise = jax.random.normal(jax.random.key(0), (100_000, 2, 3))
    draws = np.asarray(mean) + np.sqrt(variance)[:, None] * np.asarray(noise)
    counts = np.stack([(draws.argmax(axis=2) == c).sum(axis=0) for c in range(3)], axis=1)
    assert_counts(counts, np.asarray(got))
    two = gp.class_probabilities(jnp.array([[0.3, -0.3]]), jnp.array([0.5]))
    np.testing.assert_allclose(two[0, 0], stats.norm.cdf(0.6), rtol=1e-10)
    assert np.all(np.isfinite(gp.class_probabilities(mean, jnp.zeros(2))))


@pytest.mark.slow
@pytest.mark.parametrize(("num", "expected"), [(100, 0.754), (1000, 0.934), (2500, 0.959)])
def test_digits_are_told_apart_as_well_as_published(num, expected):
    accuracy = accuracy_on_digits(num)
    assert abs(accuracy - expected) <= 0.005, accuracy


def accuracy_on_digits(num):
    from bayleaf.tour.chapters.mnist import accuracy, digits

    return accuracy(num, *digits())

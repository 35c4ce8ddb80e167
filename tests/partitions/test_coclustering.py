"""Summaries of draws of partitions, against brute force over pairs of sites."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from bayleaf.errors import BayleafError
from bayleaf.partitions import coclustering, num_clusters, point_estimate
from bayleaf.partitions.coclustering import distance
from tests.partitions.partition_laws import partitions

RNG = np.random.default_rng(2)
DRAWS = RNG.integers(0, 3, size=(2, 15, 6))


def test_the_matrix_and_chosen_pairs_are_shares_of_draws():
    flat = DRAWS.reshape(-1, 6)
    expected = (flat[:, :, None] == flat[:, None, :]).mean(axis=0)
    np.testing.assert_allclose(coclustering(DRAWS), expected, rtol=1e-12)
    pairs = np.array([[0, 5], [2, 1], [3, 3]])
    np.testing.assert_allclose(coclustering(DRAWS, pairs), expected[pairs[:, 0], pairs[:, 1]])


def test_numbers_of_clusters_keep_the_leading_axes():
    expected = [[len(set(z)) for z in chain] for chain in DRAWS.tolist()]
    np.testing.assert_array_equal(num_clusters(DRAWS), expected)
    assert num_clusters(DRAWS[0, 0]) == expected[0][0]


def binder(a, b):
    pairs = list(itertools.combinations(range(len(a)), 2))
    return sum((a[i] == a[j]) != (b[i] == b[j]) for i, j in pairs) / len(pairs)


def variation_of_information(a, b):
    total = 0.0
    for k, m in itertools.product(set(a), set(b)):
        p, q = np.mean(np.equal(a, k)), np.mean(np.equal(b, m))
        r = np.mean(np.equal(a, k) & np.equal(b, m))
        if r > 0:
            total -= r * (np.log(r / p) + np.log(r / q))
    return total


LOSSES = {"binder": binder, "variation_of_information": variation_of_information}


@pytest.mark.parametrize("loss", LOSSES)
def test_distances_are_those_of_the_definition(loss):
    for a, b in itertools.product(partitions(4), repeat=2):
        expected = LOSSES[loss](a, b)
        assert distance(a, b, loss=loss) == pytest.approx(expected, abs=1e-12)
        mutual = metrics.mutual_info_score(a, b)
        if loss != "binder":
            own = metrics.mutual_info_score(a, a) + metrics.mutual_info_score(b, b)
            assert expected == pytest.approx(own - 2 * mutual, abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_estimate_is_the_draw_of_least_expected_loss(loss):
    flat = DRAWS.reshape(-1, 6).tolist()
    expected = {tuple(a): np.mean([LOSSES[loss](a, b) for b in flat]) for a in flat}
    found = point_estimate(DRAWS, loss=loss)
    assert found.expected_loss == pytest.approx(min(expected.values()))
    assert expected[tuple(found.labels.tolist())] == pytest.approx(min(expected.values()))
    assert expected[tuple(flat[-1])] > found.expected_loss  # the last draw is not


def test_few_draws_of_many_and_large_names_of_clusters():
    rare = np.concatenate([np.tile([7, 7, -3, -3], (900, 1)), [[0, 1, 2, 3]]])
    found = point_estimate(rare, max_draws=100)
    assert found.labels.tolist() == [1, 1, 0, 0]
    assert found.expected_loss == pytest.approx(np.log(2) / 100)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: coclustering(np.zeros((3, 4))), "draws: got float64"),
        (lambda: coclustering(np.zeros((0, 4), int)), r"draws: .*shape \(0, 4\)"),
        (lambda: coclustering(DRAWS, [0, 1]), "pairs: got"),
        (lambda: coclustering(DRAWS, [[0, 6]]), "pairs: got sites from 0 to 6"),
        (lambda: coclustering(np.zeros((1, 9000), int)), "pairs: got all pairs of 9000 sites"),
        (lambda: point_estimate(DRAWS, loss="rand"), "loss: got rand"),
    ],
)
def test_bad_input_is_refused_by_name(make, words):
    with pytest.raises(BayleafError, match=words):
        make()

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.run.names import flat_draws, listing, scalar_names, select_scalars
from bayleaf.trees import leaf_names


class Pair(NamedTuple):
    low: np.ndarray
    high: np.ndarray


def test_names_read_as_python_would_write_the_path():
    tree = {
        "beta": np.zeros(3),
        "layers": [eqx.nn.Linear(2, 1, key=jax.random.key(0)), Pair(np.zeros(()), np.zeros(1))],
    }
    assert scalar_names(tree) == [
        "beta[0]",
        "beta[1]",
        "beta[2]",
        "layers[0].weight[0,0]",
        "layers[0].weight[0,1]",
        "layers[0].bias[0]",
        "layers[1].low",
        "layers[1].high[0]",
    ]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (np.zeros(2), ["x[0]", "x[1]"]),
        (np.zeros(()), ["x"]),
        ((np.zeros(()), {1: np.zeros(1)}), ["x[0]", "x[1][1][0]"]),
        ({}, []),
    ],
)
def test_names_of_trees_without_a_name_at_the_root(tree, expected):
    assert scalar_names(tree) == expected


def test_names_never_collide():
    assert leaf_names({"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)}) == ["a.b", "a.b (2)"]


def test_flat_draws_follow_the_names():
    draws = {"b": np.arange(12.0).reshape(2, 3, 2), "a": np.arange(6).reshape(2, 3)}
    flat = flat_draws(draws)
    assert scalar_names(draws, 2) == ["a", "b[0]", "b[1]"]
    assert flat.shape == (2, 3, 3)
    np.testing.assert_array_equal(flat[1, 2], [5, 10, 11])


def test_selection_by_scalar_leaf_and_branch():
    tree = {"layers": [{"w": np.zeros(2)}, {"w": np.zeros(1)}], "layers_scale": np.zeros(())}
    assert select_scalars(tree, None) == [0, 1, 2, 3]
    assert select_scalars(tree, ["layers_scale", "layers[0]"]) == [3, 0, 1]
    assert select_scalars(tree, "layers") == [0, 1, 2]
    assert select_scalars(tree, ["layers[0].w[1]"]) == [1]
    with pytest.raises(BayleafError, match=r"got 'layer_scale', expected .* such as layers_scale"):
        select_scalars(tree, ["layer_scale"])


def test_listing_stays_short():
    assert listing(["a", "b"]) == "a, b"
    assert listing(list("abcdef")) == "a, b, c and 3 more"

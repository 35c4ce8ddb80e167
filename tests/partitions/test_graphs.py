"""Graphs: lattices of any dimension, lists of edges, regions of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.partitions import Graph


def as_set(graph):
    return sorted(tuple(sorted(map(int, pair))) for pair in graph.edges)


def assert_coloured(graph):
    ends = np.asarray(graph.colours)[np.asarray(graph.edges)]
    assert np.all(ends[:, 0] != ends[:, 1])


def test_a_free_lattice_joins_each_site_to_the_next():
    graph = Graph.lattice((2, 3))
    assert as_set(graph) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    assert (graph.num_sites, graph.num_edges, graph.shape) == (6, 7, (2, 3))
    assert_coloured(graph)


@pytest.mark.parametrize("shape", [(7,), (4, 4), (3, 5), (3, 4, 5), (2, 3, 2, 3)])
@pytest.mark.parametrize("periodic", [False, True])
def test_degrees_and_colours_of_lattices(shape, periodic):
    graph = Graph.lattice(shape, periodic=periodic)
    degree = np.bincount(np.asarray(graph.edges).ravel(), minlength=graph.num_sites)
    if periodic:
        np.testing.assert_array_equal(degree, 2 * len(shape))
    else:
        place = np.indices(shape).reshape(len(shape), -1)
        ends = sum((p > 0) + 0 + (p < n - 1) for p, n in zip(place, shape, strict=True))
        np.testing.assert_array_equal(degree, ends)
    assert_coloured(graph)
    if not periodic or all(n % 2 == 0 for n in shape):
        assert np.max(graph.colours) == 1


def test_a_ring_of_two_has_two_edges_and_one_of_one_has_none():
    assert as_set(Graph.lattice((2,), periodic=True)) == [(0, 1), (0, 1)]
    assert Graph.lattice((1, 1), periodic=True).num_edges == 0
    assert Graph.lattice((1, 3), periodic=True).num_edges == 3


def test_any_graph_is_coloured():
    edges = [(i, j) for i in range(7) for j in range(i)]
    graph = Graph.from_edges(9, edges)  # a complete graph, and two sites alone
    assert_coloured(graph)
    assert len(set(np.asarray(graph.colours)[:7].tolist())) == 7
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 200, (600, 2))
    assert_coloured(Graph.from_edges(200, pairs[pairs[:, 0] != pairs[:, 1]]))


def test_regions_are_neighbours_along_their_boundary():
    regions = np.array([[0, 0, 1], [0, 2, 1], [3, -1, 1]])
    graph = Graph.region_adjacency(regions)
    lengths = dict(zip(as_set(graph), graph.lengths.tolist(), strict=True))
    assert lengths == {(0, 1): 1.0, (0, 2): 2.0, (0, 3): 1.0, (1, 2): 1.0}
    volume = np.stack([regions, regions])
    assert as_set(Graph.region_adjacency(volume)) == as_set(graph)
    assert Graph.region_adjacency(np.zeros((3, 3), int)).num_edges == 0


def test_a_graph_is_a_pytree():
    graph = Graph.lattice((3, 3))
    assert jax.jit(lambda g: jnp.sum(g.edges))(graph) == np.sum(graph.edges)
    same = Graph.lattice((3, 3))
    assert jax.tree.structure(graph) == jax.tree.structure(same)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph.from_edges(3, [[0, 3]]), r"edges\[0\].*from 0 to 2"),
        (lambda: Graph.from_edges(3, [[0, 1], [-1, 2]]), r"edges\[1\]"),
        (lambda: Graph.from_edges(3, [[0, 1], [2, 2]]), r"edges\[1\].*itself"),
        (lambda: Graph.from_edges(3, [0, 1]), "edges.*shape"),
        (lambda: Graph.from_edges(3, [[0, 1, 2]]), "edges.*shape"),
        (lambda: Graph.from_edges(3, [[0.0, 1.0]]), "edges.*integers"),
        (lambda: Graph.from_edges(0, []), "num_sites"),
        (lambda: Graph.from_edges(2, [[0, 1]], lengths=[1.0, 2.0]), "lengths"),
        (lambda: Graph.from_edges(2, [[0, 1]], lengths=[np.nan]), "lengths"),
        (lambda: Graph.lattice(()), "shape"),
        (lambda: Graph.lattice((4, 0)), "shape"),
        (lambda: Graph.lattice((2**16, 2**16)), "shape"),
        (lambda: Graph.region_adjacency(np.zeros((2, 2))), "regions.*integers"),
        (lambda: Graph.region_adjacency(np.array([[0, 2]])), "regions.*region 1"),
        (lambda: Graph.region_adjacency(np.array([[-2, 0]])), "regions"),
        (lambda: Graph.region_adjacency(np.array([[-1, -1]])), "regions"),
    ],
)
def test_bad_input_is_refused_by_name(make, message):
    with pytest.raises(BayleafError, match=message):
        make()

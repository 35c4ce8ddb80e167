"""Connected components: both engines against SciPy, on every kind of graph."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components as scipy_components

from bayleaf.errors import BayleafError
from bayleaf.partitions import Graph, components, connected_components
from bayleaf.partitions.machine import calls
from tests.partitions.models import ENGINES


def reference(graph, is_open):
    """The smallest site of each component, by SciPy."""
    u, v = np.asarray(graph.edges)[np.asarray(is_open)].T
    matrix = coo_matrix((np.ones(len(u)), (u, v)), shape=(graph.num_sites,) * 2)
    names = scipy_components(matrix, directed=False)[1]
    first = np.full(names.max() + 1, graph.num_sites)
    np.minimum.at(first, names, np.arange(graph.num_sites))
    return first[names]


def path(num_sites, seed):
    """A path through all sites in random order: the longest way that there is."""
    order = np.random.default_rng(seed).permutation(num_sites)
    return Graph.from_edges(num_sites, np.stack([order[:-1], order[1:]], axis=1))


GRAPHS = {
    "lattice": lambda: Graph.lattice((12, 17), periodic=True),
    "three dimensions": lambda: Graph.lattice((5, 6, 7)),
    "path": lambda: path(300, 0),
    "sparse": lambda: Graph.from_edges(
        200, np.random.default_rng(1).permutation(200).reshape(-1, 2)
    ),
    "star": lambda: Graph.from_edges(50, [(i, 49) for i in range(49)]),
    "no edges": lambda: Graph.from_edges(5, []),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", GRAPHS)
def test_components_are_those_of_scipy(name, engine):
    graph = GRAPHS[name]()
    rng = np.random.default_rng(2)
    is_open = jnp.asarray(
        [rng.random(graph.num_edges) < share for share in (0.0, 0.3, 0.5, 0.9, 1.0)]
    )
    find = functools.partial(connected_components, engine=engine)
    found = jax.jit(jax.vmap(find, (None, 0)))(graph, is_open)
    np.testing.assert_array_equal(found, [reference(graph, row) for row in is_open])
    np.testing.assert_array_equal(find(graph, is_open[1]), found[1])
    counts = jax.vmap(components.num_components)(found)
    np.testing.assert_array_equal(counts, [len(np.unique(row)) for row in found])


def test_the_default_engine_is_one_of_the_two_and_nested_batches_are_right():
    graph = GRAPHS["lattice"]()
    is_open = jnp.asarray(np.random.default_rng(3).random((2, 3, graph.num_edges)) < 0.5)
    found = jax.vmap(jax.vmap(lambda o: connected_components(graph, o)))(is_open)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(found[i, j], reference(graph, is_open[i, j]))


def test_bad_input_is_refused_by_name(monkeypatch):
    graph = Graph.lattice((2, 2))
    with pytest.raises(BayleafError, match="is_open"):
        connected_components(graph, jnp.ones(3, bool))
    with pytest.raises(BayleafError, match="engine"):
        connected_components(graph, jnp.ones(4, bool), engine="scipy")
    monkeypatch.setattr(calls, "is_available", lambda: False)
    np.testing.assert_array_equal(connected_components(graph, jnp.ones(4, bool)), 0)
    with pytest.raises(BayleafError, match=r"engine.*installed"):
        connected_components(graph, jnp.ones(4, bool), engine="numba")

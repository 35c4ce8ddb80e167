"""Small models for the exact tests: every kind of coupling, field and graph."""

from __future__ import annotations

import numpy as np
import pytest

from bayleaf.partitions import Graph, Potts
from bayleaf.partitions.machine import calls
from tests.partitions.enumeration import Model

has_numba = pytest.mark.skipif(not calls.is_available(), reason="numba is not installed")
ENGINES = (pytest.param("numba", marks=has_numba), "jax")
"""Both, for ``pytest.mark.parametrize``."""

RNG = np.random.default_rng(7)
RING = ((0, 2), (1, 3), (0, 1), (2, 3))  # in the order of Graph.lattice


def model(num_states, edges, couplings, field=0.0, num_sites=4):
    couplings = tuple(np.broadcast_to(couplings, len(edges)).tolist())
    field = np.broadcast_to(field, (num_sites, num_states))
    return Model(num_sites, num_states, edges, couplings, field)


MODELS = {
    "ring": model(2, RING, 0.9),
    "ring in a field": model(2, RING, 0.9, RNG.normal(size=(4, 2))),
    "path of three states": model(3, ((0, 1), (1, 2)), 0.9, RNG.normal(size=(3, 3)), num_sites=3),
    "couplings of its own for each edge": model(2, (*RING, (0, 3)), (0.2, 1.5, 0.7, 2.0, 0.4)),
    "frustrated": model(2, ((0, 1), (1, 2), (0, 2), (2, 3)), (-1.0, 0.8, -0.6, 0.5)),
    "frustrated in a field": model(
        3, ((0, 1), (1, 2), (0, 2)), (-1.0, 0.8, -1.3), RNG.normal(size=(3, 3)), num_sites=3
    ),
    "all repel": model(2, RING, -0.8),
    "two parts and a site alone": model(2, ((0, 1), (0, 1)), (0.6, 0.5), RNG.normal(size=(4, 2))),
    "a forbidden state": model(
        3, ((0, 1), (1, 2)), (0.6, 0.5), np.where(np.eye(3) > 0, -np.inf, 0.3), num_sites=3
    ),
    "torus": model(2, (*RING, *RING), 0.4),
}
"""By name; ``torus`` is the periodic lattice of 2 x 2, whose edges are double."""

LATTICES = {
    "ring": Graph.lattice((2, 2)),
    "ring in a field": Graph.lattice((2, 2)),
    "path of three states": Graph.lattice((3,)),
    "torus": Graph.lattice((2, 2), periodic=True),
}


def potts(name):
    """The model as the library has it; lattices with one coupling as such."""
    m = MODELS[name]
    field = m.field if np.any(m.field) else None
    if name in LATTICES:
        return Potts(LATTICES[name], m.num_states, m.couplings[0], field=field)
    graph = Graph.from_edges(m.num_sites, np.array(m.edges))
    return Potts(graph, m.num_states, np.array(m.couplings), field=field)

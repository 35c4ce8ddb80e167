"""Labels on graphs: lattices and other graphs, Potts models, connected components, sweeps."""

from bayleaf.partitions.components import connected_components
from bayleaf.partitions.graphs import Graph
from bayleaf.partitions.potts import Potts
from bayleaf.partitions.sweep import bond_probability, sweep

__all__ = [
    "Graph",
    "Potts",
    "bond_probability",
    "connected_components",
    "sweep",
]

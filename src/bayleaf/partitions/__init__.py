"""Labels on graphs: Potts models, and partitions into clusters whose number is not known."""

from bayleaf.partitions.coclustering import coclustering, num_clusters, point_estimate
from bayleaf.partitions.components import connected_components
from bayleaf.partitions.graphs import Graph
from bayleaf.partitions.likelihoods import (
    Collapsed,
    CollapsedLikelihood,
    DirichletMultinomial,
    NormalInverseWishart,
    NormalMean,
)
from bayleaf.partitions.model import PartitionModel, first_come_labels
from bayleaf.partitions.potts import Potts
from bayleaf.partitions.priors import (
    DirichletProcess,
    FiniteDirichlet,
    PartitionPrior,
    PitmanYor,
    ProductPrior,
    SizePower,
    SizeWeights,
    Symmetric,
    UniformLabels,
    UniformPartition,
)
from bayleaf.partitions.sweep import bond_probability, sweep

__all__ = [
    "Collapsed",
    "CollapsedLikelihood",
    "DirichletMultinomial",
    "DirichletProcess",
    "FiniteDirichlet",
    "Graph",
    "NormalInverseWishart",
    "NormalMean",
    "PartitionModel",
    "PartitionPrior",
    "PitmanYor",
    "Potts",
    "ProductPrior",
    "SizePower",
    "SizeWeights",
    "Symmetric",
    "UniformLabels",
    "UniformPartition",
    "bond_probability",
    "coclustering",
    "connected_components",
    "first_come_labels",
    "num_clusters",
    "point_estimate",
    "sweep",
]

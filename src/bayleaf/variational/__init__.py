"""Variational inference and its relatives: the best approximation of a simple form."""

from bayleaf.variational import elbo
from bayleaf.variational.amortised import AmortisedFit, GaussianEncoder, fit_amortised
from bayleaf.variational.fitting import fit
from bayleaf.variational.guides import FullRank, LowRank, MeanField
from bayleaf.variational.laplace import LaplaceFit, laplace
from bayleaf.variational.pathfinder import PathfinderFit, pathfinder
from bayleaf.variational.results import Fit

__all__ = [
    "AmortisedFit",
    "Fit",
    "FullRank",
    "GaussianEncoder",
    "LaplaceFit",
    "LowRank",
    "MeanField",
    "PathfinderFit",
    "elbo",
    "fit",
    "fit_amortised",
    "laplace",
    "pathfinder",
]

"""Variational inference and its relatives: the best approximation of a simple form."""

from bayleaf.variational import elbo
from bayleaf.variational.fitting import fit
from bayleaf.variational.guides import FullRank, LowRank, MeanField
from bayleaf.variational.results import Fit

__all__ = ["Fit", "FullRank", "LowRank", "MeanField", "elbo", "fit"]

"""Draws without chains: rejection, adaptive rejection, importance, sequential Monte Carlo."""

from bayleaf.montecarlo import resampling
from bayleaf.montecarlo.particle_filter import log_likelihood
from bayleaf.montecarlo.sequential import ParticleFilter, sequential
from bayleaf.montecarlo.state_space import GuidedProposal, StateSpaceModel
from bayleaf.montecarlo.weighted import WeightedDraws

__all__ = [
    "GuidedProposal",
    "ParticleFilter",
    "StateSpaceModel",
    "WeightedDraws",
    "log_likelihood",
    "resampling",
    "sequential",
]

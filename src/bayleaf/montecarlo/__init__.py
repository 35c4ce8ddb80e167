"""Draws without chains: rejection, adaptive rejection, importance, sequential Monte Carlo."""

from bayleaf.logconcave.hull import SecantHull, TangentHull
from bayleaf.montecarlo import resampling
from bayleaf.montecarlo.adaptive_rejection import adaptive_rejection
from bayleaf.montecarlo.adaptive_rejection_metropolis import adaptive_rejection_metropolis
from bayleaf.montecarlo.bound import LogBound, find_log_bound
from bayleaf.montecarlo.importance import importance
from bayleaf.montecarlo.independent import ChainDraws, IndependentDraws
from bayleaf.montecarlo.particle_filter import log_likelihood
from bayleaf.montecarlo.particle_metropolis import ParticleMarginalMetropolis
from bayleaf.montecarlo.population import TemperedDraws
from bayleaf.montecarlo.rejection import rejection
from bayleaf.montecarlo.sequential import ParticleFilter, sequential
from bayleaf.montecarlo.state_space import GuidedProposal, StateSpaceModel
from bayleaf.montecarlo.tempered import tempered
from bayleaf.montecarlo.weighted import WeightedDraws

__all__ = [
    "ChainDraws",
    "GuidedProposal",
    "IndependentDraws",
    "LogBound",
    "ParticleFilter",
    "ParticleMarginalMetropolis",
    "SecantHull",
    "StateSpaceModel",
    "TangentHull",
    "TemperedDraws",
    "WeightedDraws",
    "adaptive_rejection",
    "adaptive_rejection_metropolis",
    "find_log_bound",
    "importance",
    "log_likelihood",
    "rejection",
    "resampling",
    "sequential",
    "tempered",
]

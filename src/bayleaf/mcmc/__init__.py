"""Markov chain Monte Carlo: kernels with ``init`` and ``step``, one idea per file.

Each kernel runs through `bayleaf.sample`, inside `Gibbs`, or bare by ``kernel.bind(log_density)``.
"""

from bayleaf.mcmc.adaptive_rejection import AdaptiveRejection
from bayleaf.mcmc.bond_race import Raced
from bayleaf.mcmc.elliptical_slice import EllipticalSlice
from bayleaf.mcmc.foreign import Foreign, from_blackjax
from bayleaf.mcmc.generalised_swendsen_wang import (
    Contrast,
    Decoupled,
    GeneralisedSwendsenWang,
)
from bayleaf.mcmc.gibbs import Conditional, Gibbs
from bayleaf.mcmc.hmc import HMC
from bayleaf.mcmc.kernel import Algorithm, Kernel, Tuner
from bayleaf.mcmc.langevin import SGHMC, SGLD
from bayleaf.mcmc.learned_bonds import LearnedBonds
from bayleaf.mcmc.metropolis import Independence, Langevin, MetropolisHastings, RandomWalk
from bayleaf.mcmc.minibatch import ControlVariate
from bayleaf.mcmc.nuts import NUTS
from bayleaf.mcmc.reference import StudentReference, TiltedPrior, laplace_reference
from bayleaf.mcmc.single_site import SingleSiteGibbs, SingleSiteMetropolis
from bayleaf.mcmc.slice import HitAndRunSlice, Slice
from bayleaf.mcmc.swendsen_wang import SwendsenWang
from bayleaf.mcmc.tempered_partitions import TemperedSwendsenWang

__all__ = [
    "HMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "AdaptiveRejection",
    "Algorithm",
    "Conditional",
    "Contrast",
    "ControlVariate",
    "Decoupled",
    "EllipticalSlice",
    "Foreign",
    "GeneralisedSwendsenWang",
    "Gibbs",
    "HitAndRunSlice",
    "Independence",
    "Kernel",
    "Langevin",
    "LearnedBonds",
    "MetropolisHastings",
    "Raced",
    "RandomWalk",
    "SingleSiteGibbs",
    "SingleSiteMetropolis",
    "Slice",
    "StudentReference",
    "SwendsenWang",
    "TemperedSwendsenWang",
    "TiltedPrior",
    "Tuner",
    "from_blackjax",
    "laplace_reference",
]

"""Markov chain Monte Carlo: kernels with ``init`` and ``step``, one idea per file.

Each kernel runs through `bayleaf.sample`, inside `Gibbs`, or bare by ``kernel.bind(log_density)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayleaf.mcmc.elliptical_slice import EllipticalSlice
    from bayleaf.mcmc.foreign import Foreign, from_blackjax
    from bayleaf.mcmc.gibbs import Conditional, Gibbs
    from bayleaf.mcmc.hmc import HMC
    from bayleaf.mcmc.kernel import Algorithm, Kernel, Tuner
    from bayleaf.mcmc.langevin import SGHMC, SGLD
    from bayleaf.mcmc.metropolis import Independence, Langevin, MetropolisHastings, RandomWalk
    from bayleaf.mcmc.nuts import NUTS
    from bayleaf.mcmc.reference import StudentReference, laplace_reference
    from bayleaf.mcmc.slice import HitAndRunSlice, Slice

__all__ = [
    "HMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "Algorithm",
    "Conditional",
    "EllipticalSlice",
    "Foreign",
    "Gibbs",
    "HitAndRunSlice",
    "Independence",
    "Kernel",
    "Langevin",
    "MetropolisHastings",
    "RandomWalk",
    "Slice",
    "StudentReference",
    "Tuner",
    "from_blackjax",
    "laplace_reference",
]

_HOMES = {
    "HMC": "hmc",
    "NUTS": "nuts",
    "SGHMC": "langevin",
    "SGLD": "langevin",
    "Algorithm": "kernel",
    "Conditional": "gibbs",
    "EllipticalSlice": "elliptical_slice",
    "Foreign": "foreign",
    "Gibbs": "gibbs",
    "HitAndRunSlice": "slice",
    "Independence": "metropolis",
    "Kernel": "kernel",
    "Langevin": "metropolis",
    "MetropolisHastings": "metropolis",
    "RandomWalk": "metropolis",
    "Slice": "slice",
    "StudentReference": "reference",
    "Tuner": "kernel",
    "from_blackjax": "foreign",
    "laplace_reference": "reference",
}


def __getattr__(name: str) -> Any:
    """Import a kernel on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

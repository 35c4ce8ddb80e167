"""Bayesian inference in JAX: one target, one runner, every sampler a small file.

Usual import: ``import bayleaf as bl``. The names below are the curated face of the library; each is
imported when it is first used, so that ``bayleaf --help`` starts without JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayleaf import (
        constraints,
        errors,
        gp,
        infinite,
        mcmc,
        montecarlo,
        partitions,
        variational,
    )
    from bayleaf.gaussian import Gaussian
    from bayleaf.run.results import Run
    from bayleaf.run.runner import sample
    from bayleaf.segmentation import Segmentation, segment
    from bayleaf.targets import Target, likelihoods, networks

__version__ = "0.3.0"

__all__ = [
    "Gaussian",
    "Run",
    "Segmentation",
    "Target",
    "__version__",
    "constraints",
    "errors",
    "gp",
    "infinite",
    "likelihoods",
    "mcmc",
    "montecarlo",
    "networks",
    "partitions",
    "sample",
    "segment",
    "variational",
]

# Where each lazy name lives: a module (value None) or an attribute of a module.
_HOMES: dict[str, tuple[str, str | None]] = {
    "Gaussian": ("bayleaf.gaussian", "Gaussian"),
    "Run": ("bayleaf.run.results", "Run"),
    "Segmentation": ("bayleaf.segmentation", "Segmentation"),
    "Target": ("bayleaf.targets", "Target"),
    "constraints": ("bayleaf.constraints", None),
    "errors": ("bayleaf.errors", None),
    "gp": ("bayleaf.gp", None),
    "infinite": ("bayleaf.infinite", None),
    "likelihoods": ("bayleaf.targets.likelihoods", None),
    "mcmc": ("bayleaf.mcmc", None),
    "montecarlo": ("bayleaf.montecarlo", None),
    "networks": ("bayleaf.targets.networks", None),
    "partitions": ("bayleaf.partitions", None),
    "sample": ("bayleaf.run.runner", "sample"),
    "segment": ("bayleaf.segmentation", "segment"),
    "sklearn": ("bayleaf.sklearn", None),
    "variational": ("bayleaf.variational", None),
}


def __getattr__(name: str) -> Any:
    """Import a name of the public face on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, attribute = _HOMES[name]
    module = importlib.import_module(home)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

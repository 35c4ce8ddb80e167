r"""Partition models of weaker data: the likelihood and the couplings to a power.

$$p_\lambda(\Pi) \;\propto\; g(|A_1|, \dots, |A_k|)\, \Big( \prod_j p(y_{A_j})\,
  e^{\sum_e \beta_e 1[z_i = z_j]} \Big)^\lambda$$

is the posterior at $\lambda = 1$ and nears the prior g as $\lambda$ falls. g is not tempered: it is
the marginal likelihoods and the couplings that make deep valleys.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from bayleaf.partitions.likelihoods import CollapsedLikelihood, Total
from bayleaf.types import Count, Scalar


class Powered(CollapsedLikelihood):
    """A collapsed likelihood to a power; see `tempered_model`."""

    statistics: Float[Array, "site stat"]
    likelihood: CollapsedLikelihood
    power: Scalar

    def __init__(self, likelihood: CollapsedLikelihood, power: Scalar) -> None:
        self.statistics = likelihood.statistics
        self.likelihood = likelihood
        self.power = power

    def log_marginal(self, size: Count, total: Total) -> Scalar:
        """The power times log p(y_A)."""
        return self.power * self.likelihood.log_marginal(size, total)


def tempered_model(model: Any, power: Scalar) -> Any:
    """A `bayleaf.partitions.PartitionModel` with its likelihood and couplings to a power."""
    power = power.astype(model.coupling.dtype)
    likelihood = None if model.likelihood is None else Powered(model.likelihood, power)
    return type(model)(
        model.graph,
        model.prior,
        likelihood,
        coupling=power * model.coupling,
        max_clusters=model.max_clusters,
    )

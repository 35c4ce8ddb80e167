"""What samplers without chains give back: draws on the host, and how they were come by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bayleaf.run.names import listing
from bayleaf.run.results import Run
from bayleaf.run.summary import Summary
from bayleaf.trees import leaf_names


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Draws:
    """Draws with one leading axis.

    Attributes:
        draws: pytree of NumPy arrays with the leading axis draw.
        acceptance_rate: accepted draws per proposal.
        num_proposals: how many points were proposed.
        num_evaluations: how often the log density was evaluated while drawing.
    """

    draws: Any
    acceptance_rate: float
    num_proposals: int
    num_evaluations: int

    @property
    def num_draws(self) -> int:
        """How many draws there are."""
        return jax.tree.leaves(self.draws)[0].shape[0]

    def __repr__(self) -> str:
        names = listing(leaf_names(self.draws), 6)
        return (
            f"{type(self).__name__}({self.num_draws} draws of {names}; "
            f"{self.acceptance_rate:.3g} of the proposals accepted)"
        )

    def to_run(self) -> Run:
        """The draws as a `Run` of one chain, which has all that can be done with draws."""
        return Run(draws=jax.tree.map(lambda leaf: np.asarray(leaf)[None], self.draws))

    def summary(self, var_names: Sequence[str] | None = None) -> Summary:
        """Mean, sd, 90 % interval and Monte Carlo error of each scalar; see `Run.summary`."""
        return self.to_run().summary(var_names)

    def interval(self, prob: float = 0.9) -> tuple[Any, Any]:
        """Equal-tailed intervals of this probability; see `Run.interval`."""
        return self.to_run().interval(prob)

    def highest_density_interval(self, prob: float = 0.9) -> tuple[Any, Any]:
        """The shortest intervals of this probability; see `Run.highest_density_interval`."""
        return self.to_run().highest_density_interval(prob)

    def to_arviz(
        self,
        *,
        log_likelihood: Mapping[str, Any] | None = None,
        observed_data: Mapping[str, Any] | None = None,
    ) -> Any:
        """The draws as ArviZ wants them, as one chain; see `Run.to_arviz`."""
        return self.to_run().to_arviz(log_likelihood=log_likelihood, observed_data=observed_data)

    def plot(self, var_names: Sequence[str] | None = None) -> Any:
        """A figure of each scalar; see `Run.plot`."""
        return self.to_run().plot(var_names)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class IndependentDraws(Draws):
    """Independent draws, exactly from the target.

    Attributes:
        log_normalizer: estimate of the log of the integral of ``exp(log_density)``; None where
            the sampler does not learn it.
        log_normalizer_error: its standard error.
        log_bound: the bound M of rejection sampling, as log M; None where there is none.
        is_bound_estimated: whether the bound was found by optimisation. Then the draws are exact
            only if it holds, and all that is known is that no proposal has violated it.
    """

    log_normalizer: float | None = None
    log_normalizer_error: float | None = None
    log_bound: float | None = None
    is_bound_estimated: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ChainDraws(Draws):
    """Draws of a Markov chain that starts close to stationarity: not independent.

    Attributes:
        metropolis_rate: share of the chain's steps that were accepted; 1 when the hull encloses
            the density, and then the draws are independent.
    """

    metropolis_rate: float = 1.0

"""What a variational approximation gives back, however it was found.

A `Fit` is a guide on the unconstrained space of a target, with fresh draws of it that say how good
it is: the ELBO with its standard error, and k-hat of the weights target / guide. `fit`, Laplace's
approximation and Pathfinder all return one. Draws, intervals and plots are in the model's own
space.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from bayleaf.errors import bad_argument
from bayleaf.montecarlo.weighted import LARGEST_K, WeightedDraws
from bayleaf.run.diagnostics import Finding
from bayleaf.run.host import to_host
from bayleaf.run.names import listing
from bayleaf.run.results import Run
from bayleaf.run.summary import Summary
from bayleaf.trees import leaf_names
from bayleaf.types import Key, Position

BATCH = 100
"""Draws that are evaluated side by side: it bounds the memory that a large model takes."""


class Approximation(eqx.Module):
    """A guide with the target that it approximates: where draws come from."""

    target: Any
    guide: Any

    def draw(self, key: Key) -> Position:
        """One draw in the model's own space; as ``init=`` of `bayleaf.sample` it starts chains."""
        return self.target.constrain(self.guide.sample(key))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fit:
    """A guide and what is known about it.

    Attributes:
        target: what it approximates.
        guide: q, on the unconstrained space of the target.
        draws: fresh draws of the guide in the model's own space, a pytree with the leading axis
            draw, on the host.
        log_weights: ``log p(z) - log q(z)`` of these draws; their mean is the ELBO.
        history: the ELBO as it was estimated at each step, from the draws of that step; larger is
            better. Empty where nothing was optimised.
        findings: what makes the fit unreliable; empty when nothing was seen.
        seconds: wall-clock time.
        state: pytree of all that is needed to go on.
        continuation: takes more steps; `fit` puts it here.
    """

    target: Any
    guide: Any
    draws: Any
    log_weights: Float[np.ndarray, "draw"]
    history: Float[np.ndarray, "step"] = dataclasses.field(default_factory=lambda: np.zeros(0))
    findings: Sequence[Finding] = ()
    seconds: float = 0.0
    state: Any = None
    continuation: Callable[..., Fit] | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the optimiser."""
        return self.history.size

    @property
    def elbo(self) -> float:
        """The evidence lower bound, from fresh draws; -inf if one of them is impossible."""
        return float(np.mean(self.log_weights, dtype=np.float64))

    @property
    def elbo_error(self) -> float:
        """Standard error of `elbo`."""
        with np.errstate(invalid="ignore"):
            spread = np.std(self.log_weights, ddof=1, dtype=np.float64)
        return float(spread / np.sqrt(self.log_weights.size))

    @cached_property
    def weighted(self) -> WeightedDraws:
        """The draws with their weights: estimates that are right even where the guide is not."""
        return WeightedDraws(self.draws, self.log_weights)

    @property
    def pareto_k(self) -> float:
        """k-hat of the weights target / guide; above 0.7 do not rely on the guide."""
        return pareto_k(self.draws, self.log_weights)

    @property
    def draw(self) -> Callable[[Key], Position]:
        """A function of a key: one draw in the model's own space. Serves as ``init=``."""
        return Approximation(self.target, self.guide).draw

    def sample(self, num_draws: int = 1000, *, key: Key) -> Any:
        """Independent draws of the guide in the model's own space, on a leading axis."""
        if num_draws < 1:
            raise bad_argument("num_draws", num_draws, "at least 1")
        return _sample(Approximation(self.target, self.guide), key, num_draws)

    def importance(self, num_draws: int = 1000, *, key: Key) -> WeightedDraws:
        """Fresh draws of the guide, weighted by target / guide."""
        if num_draws < 1:
            raise bad_argument("num_draws", num_draws, "at least 1")
        draws, log_weights = evaluate(self.target, self.guide, key=key, num_draws=num_draws)
        return WeightedDraws(draws, log_weights)

    def summary(self, var_names: Sequence[str] | None = None) -> Summary:
        """Mean, sd and 90 % interval of each scalar under the guide; see `Run.summary`."""
        return self._as_run().summary(var_names)

    def interval(self, prob: float = 0.9) -> tuple[Any, Any]:
        """Equal-tailed credible intervals under the guide: lower and upper ends."""
        return self._as_run().interval(prob)

    def to_arviz(self, **groups: Any) -> Any:
        """The draws as one chain of ArviZ, with their log weights; see `Run.to_arviz`."""
        return self._as_run().to_arviz(**groups)

    def extend(self, num_steps: int, *, progress: bool = True) -> Fit:
        """The fit after ``num_steps`` more steps, as if they had been asked for at once."""
        if num_steps < 1:
            raise bad_argument("num_steps", num_steps, "at least 1")
        if self.continuation is None:
            raise bad_argument(
                "extend", "a fit that was not made by steps", "one of bl.variational.fit"
            )
        return self.continuation(num_steps, progress=progress)

    def plot(self, var_names: Sequence[str] | None = None) -> Any:
        """A figure: the ELBO over the steps, and each scalar's marginal under the guide."""
        from bayleaf.variational.plots import plot_fit

        return plot_fit(self, var_names)

    def __repr__(self) -> str:
        return (
            f"Fit({type(self.guide).__name__} of {listing(leaf_names(self.draws), 6)}; "
            f"ELBO {self.elbo:.4g} +- {self.elbo_error:.2g}, pareto_k {self.pareto_k:.2f}, "
            f"{self.num_steps} steps)"
        )

    def _as_run(self) -> Run:
        """The draws as a run of one chain."""
        draws = jax.tree.map(lambda leaf: leaf[None], self.draws)
        return Run(draws=draws, stats={"log_weight": self.log_weights[None]}, seconds=self.seconds)


def assess(target: Any, guide: Any, *, key: Key, num_draws: int = 1000, **known: Any) -> Fit:
    """A `Fit` of a guide that was found somehow, from fresh draws of it.

    Args:
        target: what it approximates.
        guide: on the target's unconstrained space.
        key: of the draws.
        num_draws: how many.
        known: the other attributes of the fit; k-hat is added to its ``findings``.
    """
    draws, log_weights = evaluate(target, guide, key=key, num_draws=num_draws)
    findings = [*known.pop("findings", ()), *_weight_findings(draws, log_weights)]
    return Fit(target, guide, draws, log_weights, findings=findings, **known)


def evaluate(
    target: Any, guide: Any, *, key: Key, num_draws: int
) -> tuple[Any, Float[np.ndarray, "draw"]]:
    """Draws of the guide in the model's own space, and ``log p - log q``; both on the host.

    Where p is NaN its logarithm counts as -inf.
    """
    draws, log_weights = to_host(_evaluate(Approximation(target, guide), key, num_draws))
    return draws, np.where(np.isnan(log_weights), -np.inf, log_weights)


def pareto_k(draws: Any, log_weights: Float[np.ndarray, "draw"]) -> float:
    """K-hat: inf when no draw is possible under the target, -inf when no weight stands out.

    So it is when the largest weight is less than 1.2 times the mean, or differs from it by rounding
    errors: the tail of such weights has a shape, which may look heavy, and no consequence.
    """
    largest = np.max(log_weights)
    if largest == -np.inf:
        return float("inf")
    rounding = 16 * np.finfo(log_weights.dtype).eps * abs(largest)
    log_mean = largest + np.log(np.mean(np.exp(log_weights - largest)))
    if largest - log_mean < max(np.log(1.2), rounding):
        return -float("inf")
    return WeightedDraws(draws, log_weights).pareto_k


def _weight_findings(draws: Any, log_weights: Float[np.ndarray, "draw"]) -> list[Finding]:
    """What the weights of fresh draws say against the guide."""
    findings = []
    impossible = int(np.sum(log_weights == -np.inf))
    if impossible:
        findings.append(
            Finding(
                "impossible",
                f"elbo: the log density is NaN or -inf at {impossible} of {log_weights.size} fresh "
                "draws of the guide, so the ELBO is -inf. Constrain the parameters to where the "
                "density is positive: constrain=.",
            )
        )
    k = pareto_k(draws, log_weights)
    if k > LARGEST_K:
        ess = 0.0 if k == np.inf else WeightedDraws(draws, log_weights).ess
        findings.append(
            Finding(
                "pareto_k",
                f"pareto_k: k-hat = {k:.2f}, above {LARGEST_K}: the guide has lighter tails than "
                f"the target or misses a part of it ({log_weights.size} draws, weighted by target "
                f"/ guide, count for {ess:.0f}). Use a richer guide, take more steps, or sample: "
                "bl.sample(target, init=fit.draw).",
            )
        )
    return findings


@eqx.filter_jit
def _evaluate(approximation: Approximation, key: Key, num_draws: int) -> Any:
    target, guide = approximation.target, approximation.guide

    # The draws are made before the loop: in one body with the target, XLA would make each of them
    # again wherever the target reads it, which took ten times as long.
    z = jax.vmap(guide.sample)(jax.random.split(key, num_draws))
    log_q = jax.vmap(guide.log_prob)(z)
    log_p = jax.lax.map(target, z, batch_size=min(BATCH, num_draws))
    return jax.vmap(target.constrain)(z), log_p - log_q.astype(log_p.dtype)


@eqx.filter_jit
def _sample(approximation: Approximation, key: Key, num_draws: int) -> Any:
    return jax.vmap(approximation.draw)(jax.random.split(key, num_draws))

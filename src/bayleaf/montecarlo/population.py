"""What a tempered run gives back: equally weighted draws, the evidence, and the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bayleaf.montecarlo.genealogy import evidence_error
from bayleaf.montecarlo.weighted import WeightedDraws
from bayleaf.run.diagnostics import Finding
from bayleaf.run.names import flat_draws, scalar_names, select_scalars
from bayleaf.run.summary import Summary

STILL = 0.02
"""Share of the steps that must move a chain: below it a kernel stands still."""

FEW = 50
"""Effective particles below which a mean of weights has no error to be believed."""

SLOW = 0.5
"""Chains whose steps are worth less than two independent draws do not forget where they started."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TemperedDraws(WeightedDraws):
    """Draws of the target by tempering, in the order of the chains that made them.

    The standard errors of `summary` and `expectation` are those between the chains, whose steps
    depend on each other.

    Attributes:
        temperatures: t at the end of each stage; the last one is 1.
        stages: per stage, by name: ``log_increment`` of the evidence, ``ess`` of the particles that
            the stage began with, ``moves`` (share of steps that moved), ``autocorrelation`` (steps
            worth one draw), and what the kernel recorded: ``acceptance_rate``, ``step_size``,
            ``num_gradients``.
        num_chains: chains of the last stage; each made ``num_draws / num_chains`` draws in a row.
        findings: what makes the run unreliable; empty when nothing was seen.
        kernel: the name of the kernel.
        seconds: wall-clock time.
    """

    temperatures: Any = ()
    stages: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_chains: int = 0
    findings: Sequence[Finding] = ()  # type: ignore[assignment]
    kernel: str = ""
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        draws: Any,
        stages: Any,
        *,
        num_chains: int,
        kernel: str,
        findings: Sequence[Finding],
        seconds: float,
    ) -> TemperedDraws:
        """From the last particles and all stages (`bayleaf.montecarlo.stages.Stage`, stacked)."""
        size = jax.tree.leaves(draws)[0].shape[0]
        stats = {
            "log_increment": stages.log_increment,
            "ess": stages.ess,
            "moves": stages.moves,
            "autocorrelation": stages.autocorrelation,
            **stages.stats,
        }
        return cls(
            draws,
            np.zeros(size),
            log_evidence=np.sum(np.asarray(stages.log_increment, np.float64)),
            log_evidence_error=evidence_error(stages.log_shares, stages.parents),
            temperatures=stages.temperature,
            stages=stats,
            num_chains=num_chains,
            findings=(*findings, *diagnosed(kernel, stages.temperature, stats, size, num_chains)),
            kernel=kernel,
            seconds=seconds,
        )

    def __repr__(self) -> str:
        return (
            f"TemperedDraws({self.num_draws} draws after {len(self.temperatures)} temperatures; "
            f"log evidence {self.log_evidence:.4g} +- {self.log_evidence_error:.2g})"
        )

    def expectation(self, function: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Mean of ``function(draw)`` and its standard error between chains."""
        values = jax.tree.map(np.asarray, jax.vmap(function)(self.draws))
        mean = jax.tree.map(lambda v: np.mean(v, axis=0, dtype=np.float64), values)
        return mean, jax.tree.map(self._error, values)

    def summary(self, var_names: Sequence[str] | None = None) -> Summary:
        """Mean, sd, 90 % interval, Monte Carlo error and ESS of each scalar.

        Args:
            var_names: parameters (``"beta"``) or single scalars (``"beta[2]"``); None takes all.
        """
        tree = jax.tree.map(lambda leaf: leaf[None], self.draws)
        chosen = select_scalars(tree, var_names, 2)
        names, x = scalar_names(tree, 2), flat_draws(tree)[0][:, chosen]
        low, high = np.quantile(x, [0.05, 0.95], axis=0)
        tails = [self._effective((x <= end).astype(float)) for end in (low, high)]
        return Summary(
            names=tuple(names[i] for i in chosen),
            mean=x.mean(0),
            sd=x.std(0),
            q5=low,
            q95=high,
            mcse=self._error(x),
            ess_bulk=self._effective(x),
            ess_tail=np.minimum(*tails),
            rhat=np.full(len(chosen), np.nan),
            num_chains=self.num_chains,
            num_draws=self.num_draws // self.num_chains,
        )

    def _error(self, x: Any) -> Any:
        """Standard error of the mean, from the means of the chains."""
        x = np.asarray(x, np.float64)
        chains = x.reshape(self.num_chains, -1, *x.shape[1:]).mean(1)
        return chains.std(0, ddof=1) / np.sqrt(self.num_chains)

    def _effective(self, x: Float[np.ndarray, "draw scalar"]) -> Any:
        error = self._error(x)
        known = error > 0  # a constant has no error
        return np.where(known, np.square(x.std(0) / np.where(known, error, 1)), self.num_draws)

    @classmethod
    def load(cls, path: str | Path) -> WeightedDraws:
        """Draws, weights and evidence from the file that `save` wrote; stages are not saved."""
        return WeightedDraws.load(path)

    def plot_temperatures(self) -> Any:
        """A Matplotlib figure: temperature, evidence and health of the stages."""
        from bayleaf.run.plots import _pyplot

        plt = _pyplot()
        number = np.arange(1, len(self.temperatures) + 1)
        figure, rows = plt.subplots(3, 1, figsize=(6, 6), sharex=True, layout="constrained")
        rows[0].plot(number, self.temperatures, "o-", color="#0072B2", ms=4)
        rows[0].set(yscale="log", ylabel="temperature")
        rows[1].plot(number, np.cumsum(self.stages["log_increment"]), "o-", color="#0072B2", ms=4)
        rows[1].set(ylabel="log evidence so far")
        shares = {
            "ESS before the stage / particles": self.stages["ess"] / self.num_draws,
            "acceptance": self.stages.get("acceptance_rate"),
        }
        for (label, values), colour in zip(shares.items(), ("#009E73", "#E69F00"), strict=True):
            if values is not None:
                rows[2].plot(number, values, "o-", color=colour, ms=4, label=label)
        rows[2].set(ylim=(0, 1.02), xlabel="stage", ylabel="share")
        rows[2].xaxis.get_major_locator().set_params(integer=True)
        rows[2].legend(frameon=False)
        return figure


def diagnosed(
    kernel: str, temperatures: Any, stats: Mapping[str, Any], size: int, num_chains: int
) -> list[Finding]:
    """What the stages tell against the run."""
    found = []
    still = stats["moves"] < STILL
    if still.any():
        found.append(
            Finding(
                "still",
                f"kernel: {kernel} moved in only {stats['moves'][still].min():.2g} of its steps at "
                f"{_where(temperatures, still)}. The particles are few draws many times; neither "
                "they nor the evidence can be relied on. Leave its step size to be learnt, or use "
                "another kernel.",
            )
        )
    few = int(np.argmin(stats["ess"]))
    if stats["ess"][few] < min(FEW, size / 8):
        found.append(
            Finding(
                "few",
                f"prior: of {size} particles {stats['ess'][few]:.1f} were effective on the way to "
                f"temperature {temperatures[few]:.3g}, for the target is zero at the others. The "
                "evidence is known poorly. Take more num_particles, or a prior= that stays where "
                "the target is positive.",
            )
        )
    slow = (stats["autocorrelation"] > SLOW * size / num_chains) & ~still
    if slow.any() and size > 4 * num_chains:
        found.append(
            Finding(
                "slow",
                f"kernel: the {size // num_chains} steps of {kernel} are worth less than "
                f"{1 / SLOW:.0f} independent draws at {_where(temperatures, slow)}. Take more "
                "num_steps or num_warmup, or another kernel.",
            )
        )
    nan = sum(np.asarray(v) for n, v in stats.items() if n.rpartition(".")[2] == "is_nan")
    if np.any(nan):
        found.append(
            Finding(
                "nan_density",
                f"target: the log density or its gradient was NaN in up to {np.max(nan):.2g} of "
                "the steps of a stage. Such proposals are rejected, so the draws leave out a "
                "region that may have mass; return -inf only where the density is truly zero.",
            )
        )
    return found


def _where(temperatures: Any, flags: Any) -> str:
    chosen = np.asarray(temperatures)[flags]
    text = f"temperature {chosen[0]:.3g}"
    return text if len(chosen) == 1 else f"{text} and {len(chosen) - 1} more"

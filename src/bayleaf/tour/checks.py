"""How a chapter checks itself: estimates against known numbers, with their Monte Carlo errors.

A correct sampler fails a chapter's statistical comparisons, all of them together, with probability
`FALSE_ALARM`. An estimate may differ from its reference by so many standard errors that this
holds: Student's t, since the standard error is an estimate itself (with ess / 5 degrees of freedom,
those of an autocorrelation time summed over a window of five), shared out over the comparisons
(Bonferroni). Standard errors are sd / sqrt(effective sample size); that of a reference which comes
from draws is added in quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsFloat

import numpy as np
from arviz_stats.base import array_stats
from jaxtyping import Bool, Float
from scipy import stats

FALSE_ALARM = 1e-6
SMALLEST_ESS = 50
"""With fewer effective draws no standard error is to be believed, and a comparison fails."""

Draws = Float[np.ndarray, "chain draw"]
Flags = Bool[np.ndarray, "chain draw"]


class Comparison(NamedTuple):
    """A number, what it should be, and how far it may be off."""

    quantity: str
    value: float
    reference: float
    tolerance: float = 0.0
    relation: Literal["=", "≥", "≤"] = "="

    @property
    def ok(self) -> bool:
        """Whether the relation holds within the tolerance; never when a number is NaN."""
        excess = self.value - self.reference
        if self.relation == "=":
            return bool(abs(excess) <= self.tolerance)
        return bool((excess if self.relation == "≥" else -excess) >= -self.tolerance)


class Estimate(NamedTuple):
    """A number from draws, its reference, and the standard error of their difference."""

    quantity: str
    value: float
    reference: float
    error: float
    ess: float


def mean(
    quantity: str, draws: Draws, reference: SupportsFloat, reference_error: float = 0.0
) -> Estimate:
    """The mean of the draws, against an exact one or one with a standard error."""
    ess = effective_sample_size(draws)
    error = np.hypot(np.std(draws) / np.sqrt(ess), reference_error)
    return Estimate(quantity, float(np.mean(draws)), float(reference), float(error), ess)


def sd(
    quantity: str,
    draws: Draws,
    center: SupportsFloat,
    reference: SupportsFloat,
    reference_ess: float = np.inf,
) -> Estimate:
    """The standard deviation about the known mean ``center``.

    Its square is the mean of squares, whose error follows from their own effective sample size.
    """
    squares = np.square(np.asarray(draws, np.float64) - float(center))
    ess = effective_sample_size(squares)
    value = float(np.sqrt(np.mean(squares)))
    error = np.std(squares) / (2 * value) * np.sqrt(1 / ess + 1 / reference_ess)
    return Estimate(quantity, value, float(reference), float(error), ess)


def share(
    quantity: str, is_inside: Flags, probability: float, reference_ess: float = np.inf
) -> Estimate:
    """The share of draws for which something holds, against its probability.

    To check a quantile q of probability p, pass ``draws <= q``: no density is needed for the error.
    """
    variance = probability * (1 - probability)
    return mean(
        quantity, np.asarray(is_inside, float), probability, (variance / reference_ess) ** 0.5
    )


def against_summary(quantity: str, draws: Draws, summary: Mapping[str, Any]) -> list[Estimate]:
    """Mean, sd and five quantiles against a summary of published reference draws."""
    ess = summary["ess_bulk"]
    return [
        mean(f"mean of {quantity}", draws, summary["mean"], summary["mcse_mean"]),
        sd(f"sd of {quantity}", draws, summary["mean"], summary["sd"], ess),
        *(
            share(f"share of {quantity} below {value:.4g}", draws <= value, float(p), ess)
            for p, value in summary["q"].items()
        ),
    ]


def judge(estimates: Sequence[Estimate], false_alarm: float = FALSE_ALARM) -> list[Comparison]:
    """The estimates with the tolerances that keep the false-alarm rate of all of them together."""
    comparisons = []
    for quantity, value, reference, error, ess in estimates:
        width = stats.t.isf(false_alarm / 2 / len(estimates), ess / 5)
        tolerance = width * error if ess >= SMALLEST_ESS else np.nan
        comparisons.append(Comparison(quantity, value, reference, float(tolerance)))
    return comparisons


def statement(what: str, comparisons: Sequence[Comparison]) -> str:
    """``what``, and with which tolerance and false-alarm rate the numbers were compared."""
    close = [c for c in comparisons if c.relation == "="]
    first = close[0]
    used = max(abs(c.value - c.reference) / c.tolerance for c in close)
    return (
        f"{what}. {len(close)} numbers must agree within their Monte Carlo errors (the first, "
        f"{first.quantity}, within {first.tolerance:.2g}), with a false-alarm rate of "
        f"{FALSE_ALARM:.0e} for all together; the worst uses {used:.0%} of what is allowed"
    )


def effective_sample_size(draws: Draws) -> float:
    """That of the mean, over all chains; a constant has as many as there are draws."""
    draws = np.asarray(draws, np.float64)
    if np.ptp(draws) == 0:
        return float(draws.size)
    ess: Any = array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean")
    return float(ess)

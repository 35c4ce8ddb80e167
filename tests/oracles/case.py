"""A posterior with reference moments, and what a run must satisfy to agree with them.

The references are summaries of about 10,000 nearly independent draws (or exact, with a standard
error of zero), in the format of the JSON files beside this one: for every quantity its mean, sd,
the standard error of the mean, five quantiles and the bulk effective sample size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from arviz_stats.base import array_stats

import bayleaf as bl

HERE = Path(__file__).parent
Params = Mapping[str, Any]


def read(name: str) -> dict[str, Any]:
    """The JSON of one posterior, posteriordb's or a synthetic one."""
    (path,) = HERE.glob(f"*/{name}.json")
    return json.loads(path.read_text())


class Case(NamedTuple):
    """One posterior: a density on the constrained space, a naive start, and the reference."""

    name: str
    log_density: Callable[[Params], Any]
    init: dict[str, Any]
    constrain: dict[str, Any]
    reference: dict[str, dict[str, Any]]
    derive: Callable[[Params], Params] = lambda draws: draws
    """From draws of the parameters to draws of the quantities that the reference names."""

    @property
    def target(self) -> bl.Target:
        return bl.Target(self.log_density, init=self.init, constrain=self.constrain)

    def quantities(self, draws: Params) -> dict[str, np.ndarray]:
        """Each scalar of the reference with its draws, shape [chain, draw]."""
        return dict(scalars(self.derive({k: np.asarray(v) for k, v in draws.items()})))


def scalars(draws: Params) -> Iterator[tuple[str, np.ndarray]]:
    """Split arrays into scalars named as posteriordb does: ``beta[1]``, ``theta[2,1]``."""
    for name, array in draws.items():
        for index in np.ndindex(array.shape[2:]):
            label = name + (f"[{','.join(str(i + 1) for i in index)}]" if index else "")
            yield label, array[(slice(None), slice(None), *index)]


def disagreements(
    case: Case, draws: Params, *, rhat_max: float = 1.01, ess_min: float = 400
) -> list[str]:
    """Everything in which draws disagree with the reference, as sentences; empty when all is well.

    A z-score is a difference divided by the standard errors of run and reference together. Means
    may be off by 4.5: with a correct sampler one of 40 means is with probability 3e-4. Sds and
    quantiles, of which there are six times as many and whose standard errors are less certain, may
    be off by 6.
    """
    found = []
    values = case.quantities(draws)
    assert set(case.reference) <= set(values), "a reference quantity has no draws"
    for name, expected in case.reference.items():
        x = values[name]
        rhat, ess = _rhat(x), _ess(x)
        if not rhat < rhat_max:
            found.append(f"{name}: R-hat {rhat:.4f}")
        if not ess > ess_min:
            found.append(f"{name}: bulk ESS {ess:.0f}")
        for what, z in z_scores(x, expected).items():
            if not abs(z) < (4.5 if what == "mean" else 6.0):
                found.append(f"{name}: {what} is off by {z:.1f} standard errors")
    return found


def z_scores(x: np.ndarray, expected: Mapping[str, Any]) -> dict[str, float]:
    """Differences in mean, sd and quantiles from the reference, in standard errors."""
    ess = expected["ess_bulk"]  # inf for an exact reference
    error = np.hypot(_mcse(x), expected["mcse_mean"])
    scores = {
        "mean": (x.mean() - expected["mean"]) / error,
        "sd": (x.std() - expected["sd"]) / _sd_error(x, ess),
    }
    for probability, quantile in expected["q"].items():
        p = float(probability)
        below = (x <= quantile).astype(float)
        # Compared as probabilities: their standard error needs no density at the quantile.
        error = np.hypot(_mcse(below), np.sqrt(p * (1 - p) / ess))
        with np.errstate(divide="ignore", invalid="ignore"):  # all draws on one side
            scores[f"quantile {p}"] = (below.mean() - p) / error
    return {what: float(z) for what, z in scores.items()}


def moments(x: np.ndarray) -> dict[str, Any]:
    """The reference entry that draws [chain, draw] would make."""
    return {
        "mean": float(x.mean()),
        "sd": float(x.std()),
        "mcse_mean": _mcse(x),
        "q": {str(p): float(np.quantile(x, p)) for p in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "ess_bulk": _ess(x),
    }


def exact(distribution: Any) -> dict[str, Any]:
    """The reference entry of a scipy distribution."""
    return {
        "mean": float(distribution.mean()),
        "sd": float(distribution.std()),
        "mcse_mean": 0.0,
        "q": {str(p): float(distribution.ppf(p)) for p in (0.05, 0.25, 0.5, 0.75, 0.95)},
        "ess_bulk": float("inf"),
    }


def _sd_error(x: np.ndarray, reference_ess: float) -> float:
    """The standard error of the difference of two sds, the other from independent draws.

    By the delta method from the squares, with their own effective sample size: it is a fraction of
    that of the draws, whose chains NUTS makes antithetic. (ArviZ's ``mcse(method="sd")`` takes the
    latter before version 1.)
    """
    squares = (x - x.mean()) ** 2
    ess = float(array_stats.ess(squares, chain_axis=0, draw_axis=1, method="mean"))
    return float(squares.std() / (2 * x.std()) * np.sqrt(1 / ess + 1 / reference_ess))


def _mcse(x: np.ndarray) -> float:
    return float(array_stats.mcse(x, chain_axis=0, draw_axis=1, method="mean"))


def _ess(x: np.ndarray) -> float:
    return float(array_stats.ess(x, chain_axis=0, draw_axis=1, method="bulk"))


def _rhat(x: np.ndarray) -> float:
    return float(array_stats.rhat(x, chain_axis=0, draw_axis=1))

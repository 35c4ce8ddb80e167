"""Rejection sampling: how closely are two genes linked?

Of 197 animals, 125, 18, 20 and 34 show four combinations of two traits. By theory these have the
probabilities (2 + t)/4, (1 - t)/4, (1 - t)/4 and t/4, where t, between 0 and 1, tells how closely
the genes are linked. With a uniform prior the posterior density of t is a polynomial,

    p(t) ~ (2 + t)^125 (1 - t)^38 t^34.

Proposals are uniform, and the bound is the largest value of the polynomial, found by optimisation.
The share of accepted proposals is an estimate of the integral that normalises the density.

The exact answer: the polynomial's integral, its mean and its quantiles by adaptive quadrature.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate

import bayleaf as bl
from bayleaf.montecarlo.bound import MARGIN
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

COUNTS = np.array([125, 18, 20, 34])
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def log_density(t):
    """The log of the polynomial."""
    return (
        COUNTS[0] * jnp.log(2 + t)
        + (COUNTS[1] + COUNTS[2]) * jnp.log1p(-t)
        + COUNTS[3] * jnp.log(t)
    )


class Uniform:
    """Proposals on (0, 1)."""

    def sample(self, key):
        """One proposal."""
        return jax.random.uniform(key)

    def log_prob(self, t):
        """Zero everywhere."""
        return jnp.zeros_like(t)


def exact() -> dict[str, Any]:
    """Log integral, mean, sd and quantiles."""
    top = (15 + np.sqrt(15**2 + 4 * 197 * 68)) / (2 * 197)  # the mode: 197 t^2 - 15 t - 68 = 0
    log_top = float(COUNTS @ np.log([2 + top, 1 - top, 1 - top, top]))

    def density(t: float) -> float:
        return float(np.exp(COUNTS @ np.log([2 + t, 1 - t, 1 - t, t]) - log_top))

    def integral(function, end: float = 1.0) -> float:
        options = {"points": [top] if end > top else None, "epsabs": 1e-13, "epsrel": 1e-11}
        return integrate.quad(lambda t: function(t) * density(t), 0, end, limit=200, **options)[0]

    total = integral(lambda t: 1.0)
    mean = integral(lambda t: t) / total
    spread = np.sqrt(integral(lambda t: (t - mean) ** 2) / total)
    from scipy.optimize import brentq

    quantiles = [
        brentq(lambda q, p=p: integral(lambda t: 1.0, q) / total - p, 0.3, 0.9) for p in QUANTILES
    ]
    return {
        "log_top": log_top,
        "log_total": np.log(total) + log_top,
        "mean": mean,
        "sd": float(spread),
        "quantiles": np.array(quantiles),
    }


def run(quick: bool) -> Result:
    """Draw, and compare with quadrature."""
    found = bl.montecarlo.rejection(
        log_density, Uniform(), key=jax.random.key(0), num_draws=5000 if quick else 50_000
    )
    answer, draws = exact(), found.draws[None]
    comparisons = checks.judge(
        [
            checks.mean("linkage: mean", draws, answer["mean"]),
            checks.sd("linkage: sd", draws, answer["mean"], answer["sd"]),
            *(
                checks.share(f"probability that the linkage is below {q:.4f}", draws <= q, p)
                for p, q in zip(QUANTILES, answer["quantiles"], strict=True)
            ),
            checks.Estimate(
                "log of the normalising integral",
                found.log_normalizer or np.nan,
                answer["log_total"],
                found.log_normalizer_error or np.nan,
                float(found.num_draws),
            ),
        ]
    )
    comparisons.append(
        checks.Comparison(
            "log of the bound", found.log_bound or np.nan, answer["log_top"] + MARGIN, 1e-3
        )
    )
    return Result(
        checks.statement("The linkage, against quadrature", comparisons),
        comparisons,
        [picture_of_rejection(found, answer), picture_of_posterior(found, answer)],
    )


def curve(t: np.ndarray, answer) -> np.ndarray:
    """The density relative to its highest value."""
    terms = np.stack([2 + t, 1 - t, 1 - t, t])
    return np.exp(COUNTS @ np.log(terms) - answer["log_top"])


def picture_of_rejection(found, answer) -> Picture:
    """Points under the bound; those under the curve are kept."""
    rng = np.random.default_rng(0)
    t, height = rng.uniform(size=(2, 1200))
    is_kept = height <= curve(t, answer)
    figure, axes = figures.canvas()
    axes.plot(t[~is_kept], height[~is_kept], ".", color=figures.PALE, ms=3, label="rejected")
    axes.plot(t[is_kept], height[is_kept], ".", color=figures.BLUE, ms=3, label="accepted")
    grid = np.linspace(1e-4, 1 - 1e-4, 500)
    axes.plot(grid, curve(grid, answer), color=figures.INK, lw=1.5, label="density")
    axes.axhline(1.0, color=figures.ORANGE, lw=1.5, label="bound")
    axes.set(
        xlabel="linkage of the two genes",
        ylabel="height under the bound",
        title="Points under the curve are draws",
        ylim=(0, 1.45),
    )
    axes.legend(loc="upper left", ncols=2)
    return Picture(
        figure,
        "Points are thrown evenly at the rectangle below the bound. Those below the curve are "
        f"kept, here {found.acceptance_rate:.0%} of them, and where they stand from left to right "
        "has exactly the distribution whose density the curve is. The share that is kept is the "
        "area under the curve.",
        "Scattered points under a horizontal line; those below a bell-shaped curve are coloured.",
    )


def picture_of_posterior(found, answer) -> Picture:
    """The draws, and the normalised polynomial."""
    figure, axes = figures.canvas()
    figures.density(axes, found.draws, "accepted draws")
    grid = np.linspace(0.4, 0.82, 400)
    exact_density = curve(grid, answer) * np.exp(answer["log_top"] - answer["log_total"])
    axes.plot(grid, exact_density, color=figures.INK, label="exact")
    axes.set(xlabel="linkage of the two genes", ylabel="density", title="The posterior")
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "The histogram of the accepted draws, and the polynomial divided by its exact integral. "
        "They agree everywhere, and no chain was needed: every draw is independent of the others.",
        "A histogram of draws between 0.45 and 0.8, topped by a smooth curve.",
    )


CHAPTER = Chapter(
    id="rejection",
    system="Rejection sampling",
    question="How closely are two genes linked, and what does a density's constant cost?",
    data="197 animals in four classes (Rao 1973)",
    run=run,
)

"""Slice sampling: how closely do weight and waist go together?

Twenty men were weighed and measured. Both numbers are normal with unknown means, sds and
correlation rho, which must lie between -1 and 1. The posterior of rho is skewed and ends at a wall,
the priors of the sds are improper, and slice sampling needs neither a gradient nor a transform: a
log density of minus infinity outside the walls is all that it is told.

The exact answer, by quadrature over one variable (Box & Tiao, Bayesian Inference in Statistical
Analysis, 1973, section 8.5; r is the correlation in the sample, the prior 1 / (s1 s2)):

    p(rho | data) ~ (1 - rho^2)^((n - 1) / 2) * integral_0^inf (cosh t - rho r)^-(n - 1) dt.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_linnerud

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

_, measured = map(np.asarray, load_linnerud(return_X_y=True))
weight, waist = measured[:, :2].T
KG_PER_POUND, CM_PER_INCH = 0.45359, 2.54
weight, waist = weight * KG_PER_POUND, waist * CM_PER_INCH
r = np.corrcoef(weight, waist)[0, 1]


def log_density(p):
    """A bivariate normal; minus infinity where a parameter is outside its range."""
    inside = (jnp.abs(p["rho"]) < 1) & (p["sd_weight"] > 0) & (p["sd_waist"] > 0)
    rho = jnp.where(inside, p["rho"], 0.0)
    s1, s2 = (jnp.where(inside, p[name], 1.0) for name in ("sd_weight", "sd_waist"))
    a, b = (weight - p["mean_weight"]) / s1, (waist - p["mean_waist"]) / s2
    squares = jnp.sum(a**2 - 2 * rho * a * b + b**2) / (1 - rho**2)
    log_scale = jnp.log(s1) + jnp.log(s2) + 0.5 * jnp.log1p(-(rho**2))
    log_prior = -jnp.log(s1) - jnp.log(s2)
    return jnp.where(inside, log_prior - weight.size * log_scale - 0.5 * squares, -jnp.inf)


def exact(num_points: int = 4001) -> tuple[np.ndarray, np.ndarray]:
    """A grid of correlations, and the posterior density there."""
    n = weight.size
    rho = np.linspace(-1, 1, num_points)[1:-1]
    t = np.linspace(0, 6, 3001)[:, None]
    log_terms = -(n - 1) * np.log(np.cosh(t) - rho * r)
    top = log_terms.max(axis=0)
    inner = np.trapezoid(np.exp(log_terms - top), t, axis=0)
    log_p = 0.5 * (n - 1) * np.log1p(-(rho**2)) + top + np.log(inner)
    p = np.exp(log_p - log_p.max())
    return rho, p / np.trapezoid(p, rho)


def run(quick: bool) -> Result:
    """Sample, and compare with the quadrature."""
    start = {"mean_weight": 80.0, "mean_waist": 90.0, "sd_weight": 10.0, "sd_waist": 8.0}
    draws = bl.sample(
        log_density,
        bl.mcmc.Slice(),
        init={**start, "rho": 0.5},
        key=jax.random.key(0),
        num_draws=1000 if quick else 5000,
        progress=False,
    ).draws
    rho, p = exact()
    center = np.trapezoid(rho * p, rho)
    spread = np.sqrt(np.trapezoid((rho - center) ** 2 * p, rho))
    below = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(rho))])
    estimates = [
        checks.mean("correlation: mean", draws["rho"], center),
        checks.sd("correlation: sd", draws["rho"], center, spread),
    ]
    for probability in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99):
        at = np.interp(probability, below, rho)
        quantity = f"share of correlations below {at:.3f}"
        estimates.append(checks.share(quantity, draws["rho"] <= at, probability))
    # The posterior of a mean is symmetric about the sample mean, whatever the rest.
    estimates.append(checks.mean("mean weight in kg", draws["mean_weight"], weight.mean()))
    estimates.append(checks.mean("mean waist in cm", draws["mean_waist"], waist.mean()))
    comparisons = checks.judge(estimates)
    return Result(
        checks.statement(
            "The skewed posterior of the correlation, against quadrature", comparisons
        ),
        comparisons,
        [picture_of_men(draws), picture_of_correlation(draws, rho, p)],
    )


def picture_of_men(draws) -> Picture:
    """The data, with the ellipses of some draws."""
    figure, axes = figures.canvas()
    turn = np.linspace(0, 2 * np.pi, 100)
    some = {name: figures.thinned(value, 40) for name, value in draws.items()}
    for i in range(40):
        d = {name: value[i] for name, value in some.items()}
        along, across = np.cos(turn), d["rho"] * np.cos(turn)
        across = across + np.sqrt(1 - d["rho"] ** 2) * np.sin(turn)
        radius = np.sqrt(-2 * np.log(0.1))  # holds 90 % of a bivariate normal
        axes.plot(
            d["mean_weight"] + radius * d["sd_weight"] * along,
            d["mean_waist"] + radius * d["sd_waist"] * across,
            color=figures.BLUE,
            alpha=0.15,
            lw=1,
        )
    axes.plot(weight, waist, "o", color=figures.INK, ms=5)
    axes.set(
        xlabel="weight (kg)", ylabel="waist (cm)", title="Twenty men, and what may hold of all"
    )
    return Picture(
        figure,
        "Dots: the twenty men. Each thin ellipse is one draw from the posterior, and says where 90 "
        "% of all such men would be if that draw were the truth. Their spread is what twenty men "
        "leave open.",
        "Waist against weight of twenty men, with forty overlapping tilted ellipses.",
    )


def picture_of_correlation(draws, rho, p) -> Picture:
    """The posterior of the correlation, drawn and exact."""
    figure, axes = figures.canvas()
    figures.density(axes, draws["rho"], "slice sampler", range=(0.3, 1.0))
    axes.plot(rho, p, color=figures.INK, lw=1.5, label="exact")
    axes.axvline(r, color=figures.ORANGE, ls="--", lw=1.5, label="correlation in the sample")
    axes.set(
        xlim=(0.3, 1.0),
        xlabel="correlation of weight and waist",
        ylabel="probability density",
        title="Skewed, and ending at a wall",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "The posterior of the correlation. Blue: the draws. Black: the exact curve, by numerical "
        "integration. It leans against the wall at 1, with a long tail to the left; a symmetric "
        "bell around the estimate would get both sides wrong. The draws follow the curve "
        "everywhere, though the sampler was told of the wall only by a density of zero behind it.",
        "Histogram of correlation draws under an exact, left-skewed density curve that peaks near "
        "0.87.",
    )


CHAPTER = Chapter(
    id="slice",
    system="Slice sampling",
    question="Twenty men were weighed and measured: how closely do weight and waist go together?",
    data="weight and waist of 20 men (Linnerud's data, from scikit-learn)",
    run=run,
)

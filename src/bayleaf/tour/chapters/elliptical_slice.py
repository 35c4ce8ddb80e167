"""Elliptical slice sampling: the flow of the Nile, with a Gaussian process for its level.

The level f of the river changes smoothly: a Gaussian process. Each year's flow is the level plus
Gaussian noise. Elliptical slice sampling moves on ellipses through the present level,

    f(angle) = m + (f - m) cos(angle) + nu sin(angle),   nu ~ N(0, S).

Plain, N(m, S) is the prior, whose ellipses mostly miss what the data allow. By default warm-up
finds the Gaussian at the mode of the posterior and takes that as the reference instead.

The exact answer: with Gaussian noise of known size the posterior of the level is Gaussian,

    mean = m + K (K + s^2 I)^-1 (y - m),   covariance = K - K (K + s^2 I)^-1 K.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.data import load
from bayleaf.tour.entry import Chapter, Picture, Result

DATA = load("nile")["data"]
flow = np.array(DATA["flow"], float)
years = DATA["first_year"] + np.arange(flow.size)
MEAN, SPREAD, LENGTH, NOISE = 900.0, 200.0, 12.0, 130.0

distance = (years[:, None] - years[None, :]) / LENGTH
# The last term keeps the matrix positive definite in floating point; it is part of the model.
covariance = SPREAD**2 * (np.exp(-0.5 * distance**2) + 1e-6 * np.eye(flow.size))


def log_likelihood(level):
    """Independent noise around the level."""
    return -0.5 * jnp.sum(((flow - level) / NOISE) ** 2)


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the level in each year."""
    gain = np.linalg.solve(covariance + NOISE**2 * np.eye(flow.size), covariance).T
    center = MEAN + gain @ (flow - MEAN)
    return center, np.sqrt(np.diagonal(covariance - gain @ covariance))


def run(quick: bool) -> Result:
    """Sample with the learnt reference and with the prior's ellipses; compare both."""
    prior = bl.Gaussian(np.full(flow.size, MEAN), covariance)
    target = bl.Target.from_gaussian_prior(prior, log_likelihood)
    kernels = {
        "learnt reference": bl.mcmc.EllipticalSlice(),
        "plain": bl.mcmc.EllipticalSlice(reference=prior),
    }
    runs = {
        name: bl.sample(
            target,
            kernel,
            key=jax.random.key(0),
            num_draws=2000 if quick else 8000,
            num_warmup=500,
            progress=False,
        )
        for name, kernel in kernels.items()
    }
    center, spread = exact()
    estimates = []
    for name, result in runs.items():
        for i in range(5, flow.size, 20):
            mine = result.draws[..., i]
            estimates.append(checks.mean(f"{name}: mean level in {years[i]}", mine, center[i]))
            estimates.append(checks.sd(f"{name}: sd of it", mine, center[i], spread[i]))
    comparisons = checks.judge(estimates)
    return Result(
        checks.statement("The level in five years, against the exact process", comparisons),
        comparisons,
        [picture_of_river(runs["learnt reference"].draws, center, spread), picture_of_traces(runs)],
    )


def picture_of_river(draws, center, spread) -> Picture:
    """The flow, and the level behind it."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=(0, 1))
    figure, axes = figures.canvas()
    axes.plot(years, flow, "o", color=figures.GREY, ms=3.5, label="flow measured")
    axes.fill_between(years, low, high, color=figures.SKY, alpha=0.5, lw=0, label="90 % band")
    axes.plot(years, draws.mean((0, 1)), color=figures.BLUE, lw=2, label="level, mean of draws")
    for sign in (-1, 0, 1):
        label = "exact" if sign == 0 else None
        curve = center + sign * 1.645 * spread
        axes.plot(years, curve, color=figures.INK, ls=(0, (2, 3)), lw=1.2, label=label)
    axes.set(
        xlabel="year",
        ylabel="flow in a year ($10^8$ m³)",
        title="The Nile at Aswan",
        ylim=(400, 1500),
    )
    axes.legend(loc="upper right", ncols=2)
    return Picture(
        figure,
        "Dots: how much water passed Aswan each year. Blue: the level behind the noise, with the "
        "band that holds it with probability 90 %, from the draws. Dotted: the same mean and band "
        "from the exact formulas; they cover the drawn ones. The river fell around 1900.",
        "A hundred yearly flows with a smooth curve and band that drop around 1900; dotted exact "
        "curves coincide with them.",
    )


def picture_of_traces(runs) -> Picture:
    """What both kernels do in their first draws."""
    year = 1905
    figure, grid = figures.grid(2, 1)
    colors = {"learnt reference": figures.BLUE, "plain": figures.ORANGE}
    for axes, (name, result) in zip(grid, runs.items(), strict=True):
        level = result.draws[..., year - DATA["first_year"]]
        ess = checks.effective_sample_size(level)
        cost = result.stats["num_evaluations"].mean()
        axes.plot(level[0, :400], color=colors[name], lw=0.9)
        axes.set_title(f"{name}: {cost:.1f} evaluations a draw, ESS {ess / level.size:.0%}")
        axes.label_outer()
    grid[0].sharey(grid[1])
    grid[1].set_xlabel("draw")
    figure.supylabel(f"level in {year} ($10^8$ m³)", fontsize=10)
    return Picture(
        figure,
        f"The level in {year}, draw after draw, in one chain. Below, the prior's ellipses miss "
        "what the data allow: the bracket shrinks until the step is tiny, and the chain wanders. "
        "Above, with the reference learnt in warm-up, each draw is a new one. Both have the right "
        "posterior, but the effective sample size (ESS, the share of draws that count as "
        "independent) differs: any remark of the sampler below is about the plain one.",
        "Two traces of 400 draws: the upper one like noise, the lower one wandering slowly.",
    )


CHAPTER = Chapter(
    id="elliptical-slice",
    system="Elliptical slice sampling, plain and generalised",
    question="How did the level of the Nile change in a hundred years, behind the noise?",
    data="annual flow of the Nile at Aswan, 1871 to 1970 (Cobb 1978)",
    run=run,
)

"""A Gaussian process through the flow of the Nile, noisy and noiseless.

The flow of each year is a wandering level plus noise: y = f + e, and f
~ GP(mean, v exp(-|t - t'| / l)). The variance v, the scale l and the noise are chosen by marginal
likelihood. The same data are then taken as noiseless: the process goes through every one of them
and is uncertain only in between.

The exponential kernel makes f a Markov process (Ornstein-Uhlenbeck), so that the Kalman filter,
which goes through the years one by one and factorises nothing, computes the same numbers:

    f_t | f_(t-1) ~ N(m + a (f_(t-1) - m), v (1 - a^2)),   a = exp(-1 / l).

For noiseless data the middle between two years depends on these two alone, in closed form:
mean m + (f_1 + f_2 - 2 m) / (h + 1 / h), variance v (1 - h^2) / (1 + h^2), with h = sqrt(a).
"""

from __future__ import annotations

import math

import jax
import numpy as np

import bayleaf as bl
from bayleaf.tour import data, figures
from bayleaf.tour.checks import Comparison
from bayleaf.tour.entry import Chapter, Picture, Result

NILE = data.load("nile")["data"]
flow = np.array(NILE["flow"], float)
years = NILE["first_year"] + np.arange(flow.size)
CENTRE, SCALE = flow.mean(), flow.std()
x = (years - years[0])[:, None].astype(float)
y = (flow - CENTRE) / SCALE


def kalman(length: float, variance: float, noise_std: float, mean: float):
    """Log likelihood, and the mean and the sd of f in the last year, by the Kalman filter."""
    a = math.exp(-1 / length)
    m, p, total = mean, variance, 0.0
    for i, value in enumerate(y):
        if i:
            m, p = mean + a * (m - mean), a**2 * p + variance * (1 - a**2)
        s = p + noise_std**2
        total += -0.5 * ((value - m) ** 2 / s + math.log(2 * math.pi * s))
        m, p = m + p / s * (value - m), p * (1 - p / s)
    return total, m, math.sqrt(p)


def run(quick: bool) -> Result:
    """Fit, condition, and compare with the filter and the closed form."""
    del quick
    prior = bl.gp.GaussianProcess(1.0 * bl.gp.Matern12(20.0), noise_std=0.7)
    noisy = bl.gp.fit(prior, x, y).process
    length, variance, noise_std, mean = (
        float(v)
        for v in (
            noisy.kernel.kernel.length_scale,
            noisy.kernel.variance,
            noisy.noise_std,
            noisy.mean_function,
        )
    )
    evidence, last_mean, last_sd = kalman(length, variance, noise_std, mean)
    posterior = noisy.condition(x, y)
    last = posterior.predict(x[-1:])

    rough = bl.gp.GaussianProcess(1.0 * bl.gp.Matern12(5.0), mean=0.0)
    through = rough.condition(x, y)
    between = through.predict(x[:1] + 0.5)
    h = math.exp(-0.5 / 5.0)
    middle = (y[0] + y[1]) / (h + 1 / h)
    spread = math.sqrt((1 - h**2) / (1 + h**2))
    comparisons = [
        Comparison(
            "log marginal likelihood, against the Kalman filter",
            float(noisy.log_marginal_likelihood(x, y)),
            evidence,
            1e-3,
        ),
        Comparison("flow in the last year: mean", float(last.mean[0]), last_mean, 1e-4),
        Comparison("flow in the last year: sd", float(last.std[0]), last_sd, 1e-4),
        Comparison("noiseless, half a year on: mean", float(between.mean[0]), middle, 1e-4),
        Comparison("noiseless, half a year on: sd", float(between.std[0]), spread, 1e-4),
        Comparison(
            "noiseless: largest gap to the data",
            float(np.max(np.abs(through.mean(x) - y))),
            0.0,
            1e-4,
        ),
    ]
    return Result(
        "The marginal likelihood and the last year by a Kalman filter, and the noiseless process "
        "between two years in closed form; to four digits, in units of the flow's own spread",
        comparisons,
        [picture_of_noisy(posterior), picture_of_noiseless(through)],
    )


def in_units(values) -> np.ndarray:
    """From standardised to 10^8 cubic metres."""
    return CENTRE + SCALE * np.asarray(values)


def picture_of_noisy(posterior) -> Picture:
    """The level with its band, and three draws of it."""
    across = np.linspace(0, x[-1, 0] + 15, 400)[:, None]
    level, all_of = posterior.predict(across), posterior.predict(across, noisy=True)
    draws = posterior.sample(across[::2], key=jax.random.key(1), num_draws=3)
    figure, axes = figures.canvas()
    when = years[0] + across[:, 0]
    for prediction, color, label in (
        (all_of, figures.PALE, "95 % of the flows"),
        (level, figures.SKY, "95 % of the level"),
    ):
        half = 1.96 * prediction.std
        low, high = in_units(prediction.mean - half), in_units(prediction.mean + half)
        axes.fill_between(when, low, high, color=color, alpha=0.7, lw=0, label=label)
    for draw in draws:
        axes.plot(when[::2], in_units(draw), color=figures.BLUE, lw=0.6, alpha=0.6)
    axes.plot(when, in_units(level.mean), color=figures.BLUE, lw=2, label="level")
    axes.plot(years, flow, ".", color=figures.INK, ms=4)
    axes.set(xlabel="year", ylabel="flow (10⁸ m³ a year)", title="Noisy: a level, and the future")
    axes.legend(loc="upper right", ncols=1)
    return Picture(
        figure,
        "Dots: the flow of the Nile at Aswan. The level in blue, three draws of it thin, with the "
        "band that holds it with probability 95 %; nearly all dots lie in the grey band of the "
        "flows. Past the last datum both widen towards what is known without data.",
        "A wandering line through scattered dots with two bands that widen at the right end.",
    )


def picture_of_noiseless(through) -> Picture:
    """The process between the data of sixteen years."""
    across = np.linspace(0, 15, 301)[:, None]
    prediction = through.predict(across)
    figure, axes = figures.canvas()
    when = years[0] + across[:, 0]
    half = 1.96 * prediction.std
    low, high = in_units(prediction.mean - half), in_units(prediction.mean + half)
    axes.fill_between(when, low, high, color=figures.SKY, alpha=0.6, lw=0, label="95 %")
    axes.plot(when, in_units(prediction.mean), color=figures.BLUE, lw=1.8, label="mean")
    axes.plot(years[:16], flow[:16], "o", color=figures.INK, ms=4)
    axes.set(xlabel="year", ylabel="flow (10⁸ m³ a year)", title="Noiseless: through every datum")
    axes.legend(loc="lower left")
    return Picture(
        figure,
        "The same data taken as exact, the first sixteen years. The process goes through every "
        "dot, where its band has no width, and is least certain half-way between two.",
        "A line through all dots with a band that is pinched to nothing at each of them.",
    )


CHAPTER = Chapter(
    id="gaussian-process",
    system="Gaussian process, noisy and noiseless",
    question="What was the level of the Nile behind its yearly flows, and what if each were exact?",
    data="yearly flow of the Nile, 1871 to 1970",
    run=run,
)

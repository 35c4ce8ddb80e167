"""A particle filter on the flow of the Nile, against the exact Kalman filter.

The level of the river wanders, and each year's flow is the level with noise:

    x_t = x_t-1 + N(0, 1469.1),   y_t = x_t + N(0, 15099),   x_0 ~ N(1000, 500^2),

with the variances that Durbin & Koopman (2012, section 2.2.5) estimate. Flows of 1890 to 1899 are
withheld, so that the filter has to bridge ten years without data.

For this model everything that a particle filter estimates is known exactly: the likelihood, and the
mean of the level in each year. The estimate of the likelihood (not of its logarithm) must have the
exact one as its mean over many runs, however few particles there are; with few it only scatters.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bayleaf as bl
from bayleaf.montecarlo.particle_filter import Scheme, run_filter
from bayleaf.tour import checks, data, figures
from bayleaf.tour.entry import Chapter, Picture, Result

NILE = data.load("nile")["data"]
flow = np.array(NILE["flow"], float)
years = NILE["first_year"] + np.arange(flow.size)
WITHHELD = (years >= 1890) & (years < 1900)
seen = np.where(WITHHELD, np.nan, flow)
LEVEL_VARIANCE, NOISE_VARIANCE = 1469.1, 15099.0
START = (1000.0, 500.0)
CHECKED = (1871, 1889, 1899, 1913, 1970)
FEW, MANY = 100, 1000


def initial(key):
    """The level of the first year."""
    return START[0] + START[1] * jax.random.normal(key)


def transition(key, level, t):
    """The level a year later."""
    return level + LEVEL_VARIANCE**0.5 * jax.random.normal(key)


def log_likelihood(level, y, t):
    """Log density of a flow."""
    return jax.scipy.stats.norm.logpdf(y, level, NOISE_VARIANCE**0.5)


MODEL = bl.montecarlo.StateSpaceModel(initial, transition, log_likelihood)


def kalman():
    """Exact log-likelihood, and mean and sd of the level in each year given the flows so far."""
    mean, variance, value, levels = START[0], START[1] ** 2, 0.0, []
    for t, y in enumerate(seen):
        variance += LEVEL_VARIANCE if t else 0.0
        if not np.isnan(y):
            total, gap = variance + NOISE_VARIANCE, y - mean
            value -= 0.5 * (np.log(2 * np.pi * total) + gap**2 / total)
            mean, variance = mean + variance / total * gap, variance * NOISE_VARIANCE / total
        levels.append((mean, variance**0.5))
    return value, *np.array(levels).T


@eqx.filter_jit
def many_filters(key, num_runs: int, num_particles: int):
    """Independent runs: the increments of the log-likelihood, and the filtered means."""
    scheme = Scheme(num_particles=num_particles)

    def once(key):
        _, records = run_filter(MODEL, jnp.asarray(seen, jnp.float32), key, scheme)
        return records.increment, records.mean

    return jax.vmap(once)(jax.random.split(key, num_runs))


def run(quick: bool) -> Result:
    """Compare many runs with the exact answer, and show one."""
    exact, means, sds = kalman()
    num_runs = 300 if quick else 1000
    ratios = {}
    for number in (FEW, MANY):
        increments, filtered = many_filters(jax.random.key(number), num_runs, number)
        values = np.sum(np.asarray(increments, np.float64), axis=1)
        ratios[number] = np.exp(values - exact)
    estimates = [
        checks.mean(f"likelihood by {number} particles, relative to the exact", ratio[None], 1.0)
        for number, ratio in ratios.items()
    ]
    for year in CHECKED:
        t = year - years[0]
        draws = np.asarray(filtered, np.float64)[None, :, t]
        estimates.append(checks.mean(f"mean level in {year}", draws, means[t]))
    comparisons = checks.judge(estimates)
    one = bl.montecarlo.sequential(
        MODEL, seen, key=jax.random.key(0), num_particles=2000, keep_history=True
    )
    what = (
        f"Likelihood and filtered levels of the Nile, averaged over {num_runs} filters of up to "
        f"{MANY} particles, against the exact Kalman filter"
    )
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_levels(one, means, sds), picture_of_likelihoods(ratios)],
    )


def picture_of_levels(one, means, sds) -> Picture:
    """Flows, the particles' band, and the exact one."""
    ends = np.array([one.at(t).interval(0.9) for t in range(years.size)])
    figure, axes = figures.canvas()
    axes.axvspan(1889.5, 1899.5, color=figures.PALE, alpha=0.5, lw=0)
    axes.text(1894.5, 462, "withheld", ha="center", fontsize=8, color=figures.GREY)
    axes.plot(years[~WITHHELD], flow[~WITHHELD], ".", color=figures.GREY, ms=4, label="flow")
    axes.plot(years[WITHHELD], flow[WITHHELD], "o", color=figures.GREY, ms=3, mfc="white", mew=0.8)
    axes.fill_between(
        years, ends[:, 0], ends[:, 1], color=figures.SKY, alpha=0.4, lw=0, label="particles, 90 %"
    )
    axes.plot(years, one.mean, color=figures.BLUE, lw=1.8, label="particles, mean")
    for side in (-1, 0, 1):
        axes.plot(
            years,
            means + side * 1.645 * sds,
            color=figures.INK,
            ls=(0, (3, 2)),
            lw=1,
            label="exact mean and 90 %" if side == 0 else None,
        )
    axes.set(xlabel="year", ylabel="flow (10⁸ m³ a year)", title="The level of the Nile")
    axes.set_ylim(430, 1620)
    axes.legend(loc="upper right", ncols=2)
    return Picture(
        figure,
        "What is known of the level of the river in each year from the flows up to that year. "
        "Blue: one filter of 2000 particles. Dashed: the exact Kalman filter, which the particles "
        "follow. "
        "The grey years were withheld (open dots): without data the band widens, and the first "
        "flows after them bring it back.",
        "Yearly flows with a blue band through them that coincides with dashed lines; the band is "
        "wider in a grey span of ten years.",
    )


def picture_of_likelihoods(ratios) -> Picture:
    """How the likelihood estimates scatter about the exact value."""
    figure, axes = figures.canvas()
    bins = np.geomspace(0.02, 20, 70)
    looks = ((FEW, figures.ORANGE, 0.45), (MANY, figures.BLUE, 0.5))
    for number, color, alpha in looks:
        axes.hist(ratios[number], bins=bins, color=color, alpha=alpha, label=f"{number} particles")
        axes.axvline(np.mean(ratios[number]), color=color, lw=1.6)
    axes.axvline(1.0, color=figures.INK, ls=(0, (2, 2)), lw=1.4, label="exact")
    axes.set_xscale("log")
    axes.set(
        xlabel="estimate of the likelihood / exact likelihood",
        ylabel="number of runs",
        title="Unbiased, with few particles and with many",
    )
    axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.legend(loc="upper right")
    return Picture(
        figure,
        "Estimates of the likelihood by many independent filters. With 100 particles they scatter "
        "over more than a factor of ten, with 1000 over much less. The means of both (solid lines) "
        "stand at the exact value (dotted): that is what makes Metropolis-Hastings with estimated "
        "likelihoods exact.",
        "Two histograms over a logarithmic axis, one wide and one narrow, with lines for their "
        "means close to a dotted line at 1.",
    )


CHAPTER = Chapter(
    id="particle-filter",
    system="Particle filter",
    question="How high does the Nile stand, with ten years of records missing?",
    data="yearly flow of the Nile at Aswan, 1871 to 1970 (Cobb 1978)",
    run=run,
)

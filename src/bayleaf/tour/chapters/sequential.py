"""Sequential updating: yesterday's posterior is today's prior.

Patients come to a clinic in six groups. After each group the posterior of a regression line is
summarised by a Gaussian, which is the prior for the next group; the earlier patients are not looked
at again. For a Gaussian model this loses nothing,

    P_new = P + X'X / s^2,   P_new m_new = P m + X'y / s^2,

so that the last posterior must be that of all patients at once. Here each of the six posteriors is
sampled by NUTS and its Gaussian fitted to the draws. It is one target with new data each time
(`Target.with_data`), so only the first run compiles.

The exact answer is the formula above for all patients at once. The error of the sequence, in which
six sampling errors add up, is found by going through it a thousand times with independent draws.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.datasets import load_diabetes

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

measured, y = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
body_mass = measured[:, 2]
X = np.stack([np.ones_like(body_mass), body_mass - 25.0], axis=1)
NOISE = 62.0
NUM_GROUPS = 6
PRIOR = (np.array([150.0, 0.0]), np.diag([100.0, 20.0]) ** 2)
LABELS = ("progress at a body mass index of 25", "progress per unit of body mass index")


def log_density(beta, data):
    """The prior that is handed in, times the likelihood of one group."""
    offset = data["factor"] @ (beta - data["mean"])
    residuals = (data["y"] - data["X"] @ beta) / NOISE
    return -0.5 * (jnp.sum(offset**2) + jnp.sum(residuals**2))


def problem(mean, covariance, group):
    """The data of one day: yesterday's Gaussian, and today's patients."""
    # |factor (b - mean)|^2 = (b - mean)' covariance^-1 (b - mean)
    factor = np.linalg.inv(np.linalg.cholesky(covariance))
    return {"mean": mean, "factor": factor, "X": X[group], "y": y[group]}


def conjugate(mean, covariance, rows):
    """The exact posterior of some patients, from a Gaussian prior."""
    prior = np.linalg.inv(covariance)
    posterior = np.linalg.inv(prior + X[rows].T @ X[rows] / NOISE**2)
    return posterior @ (prior @ mean + X[rows].T @ y[rows] / NOISE**2), posterior


def groups() -> list[np.ndarray]:
    """Patients in the order in which they are recorded, in groups of equal size."""
    size = y.size // NUM_GROUPS
    return [np.arange(i * size, (i + 1) * size) for i in range(NUM_GROUPS)]


def in_sequence(num_draws: int):
    """Mean, covariance and effective sample size after each group."""
    mean, covariance = PRIOR
    target = bl.Target(
        log_density, init=jnp.array(mean), data=problem(mean, covariance, groups()[0])
    )
    days = []
    for day, group in enumerate(groups()):
        today = target.with_data(problem(mean, covariance, group))
        draws = bl.sample(
            today, key=jax.random.key(day), init=mean, num_draws=num_draws, progress=False
        ).draws
        pooled = draws.reshape(-1, 2)
        mean, covariance = pooled.mean(axis=0), np.cov(pooled.T)
        parts = [*np.moveaxis(draws, -1, 0), *np.moveaxis((draws - mean) ** 2, -1, 0)]
        ess = min(checks.effective_sample_size(part) for part in parts)
        days.append((mean, covariance, min(ess, pooled.shape[0])))
    return days


def spread_of_sequences(ess: float, num_repeats: int = 1000) -> np.ndarray:
    """Standard errors of the last means and sds, when each day has ``ess`` independent draws."""
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(num_repeats):
        mean, covariance = PRIOR
        for group in groups():
            mean, covariance = conjugate(mean, covariance, group)
            mean = rng.multivariate_normal(mean, covariance / ess)
            covariance = stats.wishart.rvs(
                int(ess) - 1, covariance / (int(ess) - 1), random_state=rng
            )
        ends.append([mean, np.sqrt(np.diagonal(covariance))])
    return np.std(ends, axis=0)


def run(quick: bool) -> Result:
    """Go through the groups, and compare the end with all patients at once."""
    days = in_sequence(500 if quick else 2000)
    mean, covariance, _ = days[-1]
    exact_mean, exact_covariance = conjugate(*PRIOR, np.concatenate(groups()))
    ess = min(ess for _, _, ess in days)
    mean_error, sd_error = spread_of_sequences(ess)
    sds, exact_sds = np.sqrt(np.diagonal(covariance)), np.sqrt(np.diagonal(exact_covariance))
    estimates = []
    for i in (1, 0):
        estimates += [
            checks.Estimate(f"{LABELS[i]}: mean", mean[i], exact_mean[i], mean_error[i], ess),
            checks.Estimate(f"{LABELS[i]}: sd", sds[i], exact_sds[i], sd_error[i], ess),
        ]
    comparisons = checks.judge(estimates)
    what = "The posterior after six groups in sequence, against the exact one of all patients"
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_days(days, exact_mean, exact_covariance), picture_of_line(days)],
    )


def picture_of_days(days, exact_mean, exact_covariance) -> Picture:
    """The ellipses of all days, and the exact one."""
    turn = np.linspace(0, 2 * np.pi, 200)
    circle = np.sqrt(-2 * np.log(0.1)) * np.stack([np.cos(turn), np.sin(turn)])  # holds 90 %
    figure, axes = figures.canvas()
    for day, (mean, covariance, _) in enumerate(days):
        x, slope = mean[:, None] + np.linalg.cholesky(covariance) @ circle
        shade = 0.25 + 0.75 * (day + 1) / len(days)
        axes.plot(x, slope, color=figures.BLUE, alpha=shade, lw=1.6)
        corner = np.argmax(slope)
        axes.annotate(
            str(day + 1), (x[corner], slope[corner]), ha="center", va="bottom", fontsize=9
        )
    x, slope = exact_mean[:, None] + np.linalg.cholesky(exact_covariance) @ circle
    axes.plot(
        x, slope, color=figures.INK, ls=(0, (2, 2)), lw=2, label="all patients at once, exact"
    )
    axes.plot([], [], color=figures.BLUE, label="after group 1, 2, ... 6")
    axes.set(
        xlabel="progress at a body mass index of 25 (points)",
        ylabel="slope (points per unit)",
        title="What is known, group after group",
    )
    axes.legend(loc="lower left")
    return Picture(
        figure,
        "Each ellipse holds the two parameters of the line with probability 90 %. They shrink and "
        "move as groups of patients come in; the numbers say after which group. The last one lies "
        "on the dotted ellipse, which is exact for all patients at once: nothing was lost on the "
        "way.",
        "Six shrinking ellipses, the last of which coincides with a dotted one.",
    )


def picture_of_line(days) -> Picture:
    """The patients, and the line after the first and the last group."""
    across = np.linspace(body_mass.min(), body_mass.max(), 50)
    terms = np.stack([np.ones(50), across - 25.0])
    figure, axes = figures.canvas()
    axes.plot(body_mass, y, ".", color=figures.GREY, ms=3, alpha=0.6)
    looks = (
        (days[0], figures.ORANGE, "--", "after group 1"),
        (days[-1], figures.BLUE, "-", "after 6"),
    )
    for (mean, covariance, _), color, style, label in looks:
        middle = mean @ terms
        half = 1.645 * np.sqrt(np.sum(terms * (covariance @ terms), axis=0))
        axes.plot(across, middle, style, color=color, lw=2, label=label)
        axes.fill_between(across, middle - half, middle + half, color=color, alpha=0.25, lw=0)
    axes.set(
        xlabel="body mass index (kg/m²)",
        ylabel="progress of diabetes in a year (points)",
        title="The line, early and late",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "Dots: the patients. The expected progress for a given body mass index, with 90 % bands, "
        "after the first group (dashed) and after all six. The band gets narrower by about the "
        "root of six.",
        "Scatter plot with two rising lines; the band of the later one is much narrower.",
    )


CHAPTER = Chapter(
    id="sequential",
    system="Sequential updating by NUTS",
    question="Patients come in groups. Is it enough to keep the posterior of the earlier ones?",
    data="progress of diabetes and body mass index of 438 patients (from scikit-learn)",
    run=run,
)

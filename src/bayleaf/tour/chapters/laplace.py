"""Laplace's approximation: how good is the Gaussian at the mode, and where does it fall short?

Two species of iris are told apart by the width of their petals, in a logistic regression with two
parameters. With two, the posterior can be computed on a grid: mass, means, standard deviations and
the evidence are then known to many digits.

A Gaussian has no skewness. The posterior has, since nearly separated species are almost as
well explained by an ever steeper curve. Laplace's means are off by a part of a standard deviation,
and weighting its draws by target / Gaussian puts that right. Pathfinder fits its Gaussians without
any Hessian, from what L-BFGS saw on the way.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_iris

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

_iris: Any = load_iris()
IS_EITHER = _iris.target > 0  # versicolor and virginica
WIDTH = _iris.data[IS_EITHER, 3]
IS_VIRGINICA = (_iris.target[IS_EITHER] == 2).astype(float)
MIDDLE = 1.65  # cm, so that the intercept is about a typical flower
PRIOR_SCALES = np.array([5.0, 10.0])
NAMES = ("intercept", "slope")
LABELS = ("log-odds at a width of 1.65 cm", "rise of the log-odds per cm")


def log_density(beta):
    """Two normal priors and Bernoulli terms, with all constants: its integral is the evidence."""
    logits = beta[0] + beta[1] * (WIDTH - MIDDLE)
    prior = jax.scipy.stats.norm.logpdf(beta, 0, PRIOR_SCALES).sum()
    return prior + jnp.sum(IS_VIRGINICA * logits - jax.nn.softplus(logits))


class Exact(NamedTuple):
    """The posterior on a grid; ``density`` has the intercept on its first axis."""

    axes: tuple[np.ndarray, np.ndarray]
    density: np.ndarray
    log_evidence: float
    mean: np.ndarray
    sd: np.ndarray

    def marginal(self, index: int) -> np.ndarray:
        """Density of one parameter on its axis."""
        other = self.axes[1 - index]
        return self.density.sum(axis=1 - index) * (other[1] - other[0])


def on_a_grid(size: int = 301) -> Exact:
    """Sums over a grid that reaches far into all tails; with smooth tails they are exact."""
    axes = np.linspace(-4.5, 4.5, size), np.linspace(1.0, 36.0, size)
    logits = axes[0][:, None, None] + axes[1][None, :, None] * (WIDTH - MIDDLE)
    scores = (IS_VIRGINICA * logits - np.logaddexp(0, logits)).sum(axis=2)
    for axis, scale, shape in zip(axes, PRIOR_SCALES, ((-1, 1), (1, -1)), strict=True):
        scores += (-0.5 * (axis / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))).reshape(shape)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    top = scores.max()
    mass = np.exp(scores - top) * cell
    share = mass / mass.sum()
    sums = [share.sum(axis=1), share.sum(axis=0)]
    mean = np.array([axis @ p for axis, p in zip(axes, sums, strict=True)])
    sd = np.array(
        [((axis - m) ** 2 @ p) ** 0.5 for axis, m, p in zip(axes, mean, sums, strict=True)]
    )
    return Exact(axes, share / cell, float(top + np.log(mass.sum())), mean, sd)


def weighted_estimates(who: str, fit: Any, exact: Exact) -> list[checks.Estimate]:
    """Evidence and means of the draws weighted by target / Gaussian, with their errors."""
    weighted = fit.weighted
    means, errors = weighted.expectation(lambda beta: beta)
    found = [
        checks.Estimate(
            f"{LABELS[i]}: mean, {who}", means[i], exact.mean[i], errors[i], weighted.ess
        )
        for i in (1, 0)
    ]
    evidence = (weighted.log_evidence, exact.log_evidence, weighted.log_evidence_error)
    return [*found, checks.Estimate(f"log evidence, {who}", *evidence, weighted.ess)]


def run(quick: bool) -> Result:
    """Both approximations against the grid."""
    exact = on_a_grid()
    num_draws = 4000 if quick else 20_000
    target = bl.Target(log_density, init=np.zeros(2))
    with warnings.catch_warnings():
        # A k-hat above 0.7 would show below, as a comparison that fails.
        warnings.simplefilter("ignore", bl.errors.SamplingWarning)
        laplace = bl.variational.laplace(target, num_check_draws=num_draws)
        pathfinder = bl.variational.pathfinder(
            target, key=jax.random.key(2), num_paths=2, num_check_draws=num_draws
        )
    estimates = [
        *weighted_estimates("weighted draws of Laplace", laplace, exact),
        *weighted_estimates("weighted draws of Pathfinder", pathfinder, exact),
    ]
    judged = checks.judge(estimates)
    what = "Means and evidence of the weighted draws, against sums over a grid"
    sds = np.sqrt(np.diagonal(laplace.gaussian.covariance))
    gap = abs(laplace.log_evidence - exact.log_evidence)
    bounds = [
        checks.Comparison(f"sd of the {name} by Laplace, over the exact one", s / e, 1.0, 0.1)
        for name, s, e in zip(NAMES, sds, exact.sd, strict=True)
    ]
    bounds.append(checks.Comparison("Laplace's error of the log evidence", gap, 0.1, relation="≤"))
    pictures = [picture_of_contours(exact, laplace), picture_of_slope(exact, laplace, pathfinder)]
    return Result(checks.statement(what, judged), [*judged, *bounds], pictures)


def picture_of_contours(exact: Exact, laplace: Any) -> Picture:
    """Highest-density regions, exact and Gaussian."""
    figure, axes = figures.canvas()
    ordered = np.sort(exact.density.ravel())[::-1]
    cell = np.prod([axis[1] - axis[0] for axis in exact.axes])
    held = np.cumsum(ordered) * cell
    levels = [ordered[np.searchsorted(held, share)] for share in (0.95, 0.5)]
    axes.contourf(
        *exact.axes, exact.density.T, [*levels, ordered[0]], colors=[figures.SKY, figures.BLUE]
    )
    turn = np.linspace(0, 2 * np.pi, 200)
    factor, mode = np.asarray(laplace.gaussian.factor), np.asarray(laplace.mode)
    for share in (0.95, 0.5):
        radius = np.sqrt(-2 * np.log(1 - share))
        x, y = mode[:, None] + factor @ (radius * np.stack([np.cos(turn), np.sin(turn)]))
        axes.plot(x, y, "--", color=figures.ORANGE, lw=2)
    axes.plot(*mode, "o", color=figures.ORANGE, label="mode")
    axes.plot(*exact.mean, "x", color=figures.INK, ms=9, mew=2, label="mean, exact")
    axes.plot([], [], "--", color=figures.ORANGE, lw=2, label="Laplace, 50 % and 95 %")
    axes.fill_between([], [], color=figures.BLUE, label="exact, 50 % and 95 %")
    axes.set(xlabel=LABELS[0], ylabel=LABELS[1], xlim=(-1.7, 1.7), ylim=(5, 25))
    axes.set_title("The posterior and the Gaussian at its mode")
    axes.legend(loc="upper left", fontsize=8)
    return Picture(
        figure,
        "Shaded: where the two parameters are with probability 50 % and 95 %, from a grid. Dashed: "
        "the same regions of the Gaussian at the mode. Place and slant agree; but the posterior "
        "reaches further up than down, which no Gaussian can, and so its mean (cross) lies above "
        "the mode (dot).",
        "Filled contours with a longer upper tail, and two dashed ellipses centred below.",
    )


def picture_of_slope(exact: Exact, laplace: Any, pathfinder: Any) -> Picture:
    """The marginal of the slope: exact, both Gaussians, and the weighted draws."""
    figure, axes = figures.canvas()
    across = exact.axes[1]
    weighted = laplace.weighted
    axes.hist(
        weighted.draws[:, 1],
        bins=60,
        range=(4, 26),
        weights=weighted.weights * 60 / 22,
        color=figures.PALE,
        label="Laplace's draws, weighted",
    )
    axes.plot(across, exact.marginal(1), color=figures.BLUE, lw=2, label="exact")
    scale = float(np.sqrt(laplace.gaussian.covariance[1, 1]))
    normal = np.exp(-0.5 * ((across - laplace.mode[1]) / scale) ** 2) / scale / np.sqrt(2 * np.pi)
    axes.plot(across, normal, "--", color=figures.ORANGE, lw=2, label="Laplace")
    heights, edges = np.histogram(pathfinder.draws[:, 1], bins=40, range=(4, 26), density=True)
    axes.plot((edges[1:] + edges[:-1]) / 2, heights, ":", color=figures.GREEN, lw=2)
    axes.plot([], [], ":", color=figures.GREEN, lw=2, label="Pathfinder")
    axes.set(xlabel=LABELS[1], ylabel="density", xlim=(4, 26), title="The slope alone")
    axes.set_ylim(0, 1.45 * exact.marginal(1).max())
    axes.legend(loc="upper right", fontsize=8)
    return Picture(
        figure,
        "How the log-odds rise with the width. The Gaussians (dashed, dotted) sit too far left and "
        "are symmetric; the draws of the dashed one, each weighted by posterior / Gaussian, lie "
        "under the exact curve.",
        "A skewed curve over a histogram that fills it; two symmetric curves lean to the left.",
    )


CHAPTER = Chapter(
    id="laplace",
    system="Laplace's approximation and Pathfinder",
    question="From which width of its petals on is an iris a virginica, and how sure can one be?",
    data="petal widths of 100 irises of two species (from scikit-learn)",
    run=run,
)

"""Importance sampling: the evidence for an effect, and how a bad proposal gives itself away.

Does the progress of diabetes depend on the body mass index? Two regressions of 442 patients, with
and without the slope, have the prior

    s^2 ~ Inverse-Gamma(3, 2 * 60^2),   b | s^2 ~ N(b_0, s^2 V),

for which the posterior and the evidence are known in closed form (O'Hagan & Forster, Kendall's
Advanced Theory of Statistics 2B (2004), chapter 11). The ratio of the evidences is the Bayes factor
in favour of the slope.

The proposal is a Student distribution with 7 degrees of freedom at the mode of the posterior, with
the shape of the curvature there. A second one has a third of its width and Gaussian tails: too
narrow. Its estimates look stable and are wrong; Pareto k-hat above 0.7 tells.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats
from sklearn.datasets import load_diabetes

import bayleaf as bl
from bayleaf.laplace import covariance_factor, find_mode
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

measured, y = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
X = np.stack([np.ones_like(y), measured[:, 2] - 25.0], axis=1)
CENTER, WIDTHS = np.array([150.0, 0.0]), np.array([2.0, 0.3])  # b_0, and the root of V
SHAPE, SCALE = 3.0, 2.0 * 60.0**2
FREEDOM = 7.0


def log_density(params, data):
    """Prior and likelihood; ``variance`` is s^2."""
    b, variance = params["b"], params["variance"]
    sd = jnp.sqrt(variance)
    widths, center = data["widths"], data["center"]
    prior = jax.scipy.stats.norm.logpdf(b, center, sd * widths)
    prior_variance = (
        SHAPE * jnp.log(SCALE)
        - special.gammaln(SHAPE)
        - (SHAPE + 1) * jnp.log(variance)
        - SCALE / variance
    )
    likelihood = jax.scipy.stats.norm.logpdf(data["y"], data["X"] @ b, sd)
    return jnp.sum(prior) + prior_variance + jnp.sum(likelihood)


class Student(eqx.Module):
    """A multivariate Student distribution on ``{"b": ..., "variance": ...}`` (unconstrained).

    With infinite ``freedom`` it is Gaussian.
    """

    center: Any
    factor: Any
    freedom: float = eqx.field(static=True)

    def sample(self, key):
        """One draw."""
        key_normal, key_scale = jax.random.split(key)
        z = jax.random.normal(key_normal, self.center.shape)
        if np.isfinite(self.freedom):
            half = self.freedom / 2
            z = z / jnp.sqrt(jax.random.gamma(key_scale, half) / half)
        flat = self.center + self.factor @ z
        return {"b": flat[:-1], "variance": flat[-1]}

    def log_prob(self, x):
        """Its normalised log density."""
        flat = jnp.append(x["b"], x["variance"])
        z = jax.scipy.linalg.solve_triangular(self.factor, flat - self.center, lower=True)
        dim, square = z.size, jnp.sum(z**2)
        volume = jnp.sum(jnp.log(jnp.diagonal(self.factor)))
        if not np.isfinite(self.freedom):
            return -0.5 * (square + dim * np.log(2 * np.pi)) - volume
        half = self.freedom / 2
        constant = special.gammaln(half + dim / 2) - special.gammaln(half)
        constant -= dim / 2 * np.log(np.pi * self.freedom)
        return constant - volume - (half + dim / 2) * jnp.log1p(square / self.freedom)


def target_of(columns):
    """The posterior with some columns of X."""
    return bl.Target(
        log_density,
        init={"b": jnp.asarray(CENTER[columns]), "variance": 3600.0},
        constrain={"variance": bl.constraints.positive},
        data={"X": X[:, columns], "y": y, "center": CENTER[columns], "widths": WIDTHS[columns]},
    )


def laplace_proposal(target, columns):
    """The Student distribution at the mode."""

    def flat_density(flat):
        return target({"b": flat[:-1], "variance": flat[-1]})

    mean = np.linalg.lstsq(X[:, columns], y, rcond=None)[0]
    residuals = np.var(y - X[:, columns] @ mean)
    mode = jax.jit(lambda start: find_mode(flat_density, start))(
        jnp.append(mean, np.log(residuals))
    )
    return Student(mode.position, covariance_factor(mode.cholesky), FREEDOM)


def exact(columns):
    """Log evidence, and the posterior's parameters: mean, V, shape and scale."""
    design, inverse = X[:, columns], np.diag(WIDTHS[columns] ** -2.0)
    precision = inverse + design.T @ design
    mean = np.linalg.solve(precision, inverse @ CENTER[columns] + design.T @ y)
    shape = SHAPE + y.size / 2
    gap = mean - CENTER[columns]
    scale = SCALE + 0.5 * (np.sum((y - design @ mean) ** 2) + gap @ inverse @ gap)
    # As squares, not as y'y + b_0'Pb_0 - m'Pm, which would cancel.
    log_evidence = (
        0.5 * (np.linalg.slogdet(inverse)[1] - np.linalg.slogdet(precision)[1])
        - y.size / 2 * np.log(2 * np.pi)
        + SHAPE * np.log(SCALE)
        - shape * np.log(scale)
        + special.gammaln(shape)
        - special.gammaln(SHAPE)
    )
    return log_evidence, mean, np.linalg.inv(precision), shape, scale


def run(quick: bool) -> Result:
    """Evidence and posterior by a good proposal; the same by a bad one."""
    num_draws = 8000 if quick else 40_000
    both, level = np.array([0, 1]), np.array([0])
    found, evidences = {}, []
    for name, columns in (("with slope", both), ("without", level)):
        target = target_of(columns)
        proposal = laplace_proposal(target, columns)
        draws = bl.montecarlo.importance(
            target, proposal, key=jax.random.key(len(columns)), num_draws=num_draws
        )
        evidences.append(exact(columns)[0])
        found[name] = draws
        if name == "with slope":
            narrow = Student(proposal.center, proposal.factor / 3, np.inf)
            with warnings.catch_warnings(record=True):  # it warns: that is what is shown
                warnings.simplefilter("always")
                bad = bl.montecarlo.importance(
                    target, narrow, key=jax.random.key(5), num_draws=num_draws
                )
    good, without = found["with slope"], found["without"]
    estimates = [
        checks.Estimate(
            "log Bayes factor for the slope",
            good.log_evidence - without.log_evidence,
            evidences[0] - evidences[1],
            np.hypot(good.log_evidence_error, without.log_evidence_error),
            min(good.ess, without.ess),
        ),
        checks.Estimate(
            "log evidence with slope",
            good.log_evidence,
            evidences[0],
            good.log_evidence_error,
            good.ess,
        ),
        *posterior_estimates(good, exact(both)),
    ]
    comparisons = [
        *checks.judge(estimates),
        checks.Comparison("k-hat of the good proposal", good.pareto_k, 0.7, relation="≤"),
        checks.Comparison("k-hat of the narrow proposal", bad.pareto_k, 0.7, relation="≥"),
    ]
    what = (
        f"Evidences and posterior moments of two regressions by {num_draws} weighted draws, "
        "against closed forms"
    )
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_slope(good, bad, exact(both)), picture_of_weights(good, bad)],
    )


def posterior_estimates(draws, known) -> list[checks.Estimate]:
    """Mean and second moment of the slope, mean of s^2."""
    _, mean, spread, shape, scale = known
    variance = scale / (shape - 1)
    squared, error = draws.expectation(lambda d: (d["b"][1] - mean[1]) ** 2)
    slope, slope_error = draws.expectation(lambda d: d["b"][1])
    noise, noise_error = draws.expectation(lambda d: d["variance"])
    return [
        checks.Estimate("mean of the slope", slope, mean[1], slope_error, draws.ess),
        checks.Estimate(
            "variance of the slope", squared, variance * spread[1, 1], error, draws.ess
        ),
        checks.Estimate("mean of the noise's variance", noise, variance, noise_error, draws.ess),
    ]


def picture_of_slope(good, bad, known) -> Picture:
    """The posterior of the slope by both proposals."""
    _, mean, spread, shape, scale = known
    law: Any = stats.t(2 * shape, mean[1], np.sqrt(scale / shape * spread[1, 1]))
    low, high = law.ppf([1e-4, 1 - 1e-4])
    across = np.linspace(low, high, 300)
    bins = np.linspace(across[0], across[-1], 60)
    figure, axes = figures.canvas()
    looks = (
        (good, figures.SKY, f"good proposal, k-hat {good.pareto_k:.2f}", "stepfilled"),
        (bad, figures.ORANGE, f"narrow proposal, k-hat {bad.pareto_k:.2f}", "step"),
    )
    highest = 0.0
    for draws, color, label, kind in looks:
        heights, _, _ = axes.hist(
            draws.draws["b"][:, 1],
            bins=bins,
            weights=draws.weights / (bins[1] - bins[0]),
            histtype=kind,
            color=color,
            lw=1.5,
            label=label,
        )
        highest = max(highest, np.max(heights))
    axes.plot(across, law.pdf(across), color=figures.INK, ls=(0, (2, 2)), lw=1.6, label="exact")
    axes.set(
        xlabel="progress per unit of body mass index (points)",
        ylabel="probability density",
        title="The slope, by two proposals",
    )
    axes.set_ylim(0, 1.45 * highest)  # room for the legend
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "The posterior of the slope from weighted draws. Those of a wide enough proposal (filled) "
        "follow the exact density (dotted). Those of a proposal with a third of the width (line) "
        "miss the flanks, where a handful of draws with huge weights make spikes; k-hat above 0.7 "
        "says so without any knowledge of the truth.",
        "A filled histogram that follows a dotted bell curve, and an outlined one with spikes.",
    )


def picture_of_weights(good, bad) -> Picture:
    """The largest weights of both."""
    figure, axes = figures.canvas()
    looks = ((good, figures.BLUE, "-", "good proposal"), (bad, figures.ORANGE, "--", "narrow"))
    for draws, color, style, label in looks:
        largest = np.sort(draws.weights)[::-1] * draws.num_draws
        rank = np.arange(1, largest.size + 1)
        label = f"{label}: ESS {draws.ess / draws.num_draws:.1%} of the draws"
        axes.loglog(rank, largest, style, color=color, lw=1.8, label=label)
    axes.axhline(1.0, color=figures.INK, ls=(0, (2, 2)), lw=1)
    axes.set(
        xlabel="rank of the weight",
        ylabel="weight / mean weight",
        title="How much the largest weights carry",
    )
    axes.set_ylim(1e-3, 1e5)
    axes.legend(loc="upper right")
    return Picture(
        figure,
        "The weights in decreasing order, relative to their mean. A good proposal has weights near "
        "one (dotted), and its largest is a few times the mean. The narrow one has a straight tail "
        "on these axes, a power law: its slope is k-hat, and one draw counts for hundreds or "
        "thousands of others.",
        "Two falling curves on logarithmic axes; the dashed one starts far higher and falls in a "
        "straight line.",
    )


CHAPTER = Chapter(
    id="importance",
    system="Importance sampling",
    question="How strong is the evidence that body mass matters for the progress of diabetes?",
    data="progress of diabetes and body mass index of 442 patients (from scikit-learn)",
    run=run,
)

"""Evidence by tempered sequential Monte Carlo: how bent is the curve through the patients?

Progress of diabetes is regressed on the body mass index x (standardised) by polynomials of degree 0
to 5, with known noise s and independent Gaussian priors. The evidence of such a model is known,

    p(y) = N(y; X m, X S X' + s^2 I),

which makes it a test of the sampler that estimates it without using the formula: particles go from
the prior to the posterior in stages of rising temperature, and the evidence is the product of their
mean weights. A polynomial of lower degree is the same program with the higher columns of X zero:
their coefficients keep their prior and change nothing.

Checked are the six log evidences, each against the formula and in units of the standard error that
its own run states, and the posterior mean of the line.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from scipy import stats
from sklearn.datasets import load_diabetes

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

measured, progress = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
body_mass = (measured[:, 2] - measured[:, 2].mean()) / measured[:, 2].std()
NOISE, HIGHEST = 62.0, 5
MEAN = np.array([150.0, 0.0, 0.0, 0.0, 0.0, 0.0])
SCALE = np.array([50.0, 40.0, 20.0, 10.0, 5.0, 2.5])
DEGREES = range(HIGHEST + 1)


def design(degree: int, x: np.ndarray = body_mass) -> np.ndarray:
    """Powers of x as columns; those above the degree are zero."""
    columns = x[:, None] ** np.arange(HIGHEST + 1)
    return np.where(np.arange(HIGHEST + 1) <= degree, columns, 0.0)


def log_likelihood(beta, data):
    """One number a patient."""
    X, y = data
    return norm.logpdf(y, X @ beta, NOISE)


def exact(degree: int) -> tuple[float, np.ndarray]:
    """Log evidence and posterior mean."""
    X = design(degree)
    covariance: Any = (X * SCALE**2) @ X.T + NOISE**2 * np.eye(progress.size)
    evidence = stats.multivariate_normal.logpdf(progress, X @ MEAN, covariance)
    precision = np.diag(SCALE**-2.0) + X.T @ X / NOISE**2
    mean = np.linalg.solve(precision, MEAN / SCALE**2 + X.T @ progress / NOISE**2)
    return float(evidence), mean


def run(quick: bool) -> Result:
    """The evidence of six polynomials, against the formula."""
    prior = bl.Gaussian.from_scale(jnp.asarray(MEAN), jnp.asarray(SCALE))
    data = (jnp.asarray(design(0)), jnp.asarray(progress))
    target = bl.Target.from_gaussian_prior(prior, log_likelihood, data=data)
    runs = []
    for degree in DEGREES:
        model = target.with_data((jnp.asarray(design(degree)), data[1]))
        runs.append(
            bl.montecarlo.tempered(
                model,
                key=jax.random.key(degree),
                num_particles=1024 if quick else 2048,
                progress=False,
            )
        )
    references = [exact(degree) for degree in DEGREES]
    # The error is estimated from the spread of the chains: as many degrees of freedom, at least.
    ess = 5.0 * runs[0].num_chains
    estimates = [
        checks.Estimate(
            f"log evidence, degree {degree}",
            result.log_evidence,
            references[degree][0],
            result.log_evidence_error,
            ess,
        )
        for degree, result in zip(DEGREES, runs, strict=True)
    ]
    mean, error = runs[1].expectation(lambda beta: beta)
    for i, name in enumerate(("intercept", "slope")):
        reference = references[1][1][i]
        estimates.append(checks.Estimate(f"{name} of the line", mean[i], reference, error[i], ess))
    comparisons = checks.judge(estimates)
    what = "The log evidences of six polynomials, against the exact ones"
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_evidence(runs, references), picture_of_path(runs[2])],
    )


def picture_of_evidence(runs, references) -> Picture:
    """Log evidence by degree, estimated and exact."""
    figure, axes = figures.canvas()
    values = np.array([result.log_evidence for result in runs])
    errors = np.array([result.log_evidence_error for result in runs])
    truth = np.array([evidence for evidence, _ in references])
    looks = {"color": figures.BLUE, "ms": 5, "capsize": 4, "label": "tempered, 3 standard errors"}
    shown = list(DEGREES)[1:]
    axes.plot(shown, truth[1:], "_", color=figures.ORANGE, ms=22, mew=2, label="exact")
    axes.errorbar(shown, values[1:], 3 * errors[1:], fmt="o", **looks)
    axes.set(
        xlabel="degree of the polynomial",
        ylabel="log evidence",
        title="A straight line is enough",
    )
    axes.set_xticks(shown)
    axes.legend(loc="upper right")
    return Picture(
        figure,
        "The log evidence of polynomials of degree 1 to 5 as tempering estimates it (points, with "
        "three standard errors of its own stating) and as the formula gives it (dashes). Bends "
        "beyond the line gain less in fit than they cost in prior probability. The constant, "
        "degree 0, lies more than a hundred below and is not shown.",
        "Log evidence against degree: estimates lie on the exact values, highest at degree 1.",
    )


def picture_of_path(result) -> Picture:
    """The temperatures of one run, and the acceptance of its moves."""
    figure, axes = figures.canvas()
    stage = np.arange(1, len(result.temperatures) + 1)
    axes.plot(stage, result.temperatures, "o-", color=figures.BLUE)
    axes.set(yscale="log", xlabel="stage", ylabel="temperature", title="From prior to posterior")
    for x, t, rate in zip(
        stage, result.temperatures, result.stages["acceptance_rate"], strict=True
    ):
        axes.annotate(
            f"{rate:.2f}",
            (x, t),
            xytext=(6, -6),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=figures.GREY,
        )
    axes.margins(0.12)
    return Picture(
        figure,
        "The temperatures of the run of degree 2. The run found them itself: each is as far from "
        "the last as the particles can bear, so that half of them remain effective. They end at "
        "exactly 1. Small numbers: the acceptance rate of the moves of each stage, whose step size "
        "and metric are learnt anew each time; it was aimed at 0.8.",
        "Temperatures rise stage by stage to one on a logarithmic scale.",
    )


CHAPTER = Chapter(
    id="tempered",
    system="Evidence by tempered sequential Monte Carlo",
    question="How bent is the curve through the patients, and how sure is that?",
    data="progress of diabetes and body mass index of 442 patients (from scikit-learn)",
    run=run,
)

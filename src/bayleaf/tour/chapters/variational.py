"""Variational inference: one bound, in two forms, on a model whose evidence is known.

How fast diabetes progresses in a year is regressed on body mass index, blood pressure and a blood
value of 442 patients, with a Gaussian prior and known noise. Posterior and evidence are then known
in closed form, and so is the ELBO of every Gaussian guide q:

    L(q) = log p(y) - KL( q || posterior ).

The two forms of the talk,

    E_q[ log p(y | w) ] - KL( q || prior )   and   E_q[ log p(y, w) - log q(w) ],

are estimated at three guides on the way from the prior to the posterior and must both agree with
that number within their Monte Carlo errors. Then a guide is fitted by each form; the ELBO must
reach the log evidence. Last, the gradient's noise at the posterior: with sticking the landing it
must vanish, without it must not.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from scipy import stats
from sklearn.datasets import load_diabetes

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.checks import Comparison
from bayleaf.tour.entry import Chapter, Picture, Result
from bayleaf.variational import FullRank, elbo

measured, progress = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
columns = measured[:, [2, 3, 8]]
X = np.column_stack([np.ones(progress.size), (columns - columns.mean(0)) / columns.std(0)])
NOISE = 54.0
PRIOR_MEAN, PRIOR_SD = np.array([150.0, 0.0, 0.0, 0.0]), np.array([50.0, 20.0, 20.0, 20.0])
FORMS = {"joint": "E[log p(y, w) − log q(w)]", "kl": "E[log p(y | w)] − KL(q ‖ prior)"}


def log_likelihood(w, data):
    """One number a patient."""
    x, y = data
    return norm.logpdf(y, x @ w, NOISE)


def exact() -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of the posterior, and the log evidence."""
    precision = np.diag(PRIOR_SD**-2) + X.T @ X / NOISE**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (PRIOR_MEAN / PRIOR_SD**2 + X.T @ progress / NOISE**2)
    spread: Any = X @ np.diag(PRIOR_SD**2) @ X.T + NOISE**2 * np.eye(progress.size)
    return (
        mean,
        covariance,
        float(stats.multivariate_normal(X @ PRIOR_MEAN, spread).logpdf(progress)),
    )


def guide_at(share: float) -> FullRank:
    """The guide at this share of the way from the prior to the posterior."""
    mean, covariance, _ = exact()
    center = (1 - share) * PRIOR_MEAN + share * mean
    factor = np.linalg.cholesky((1 - share) * np.diag(PRIOR_SD**2) + share * covariance)
    return FullRank.from_cholesky(jnp.asarray(center), jnp.asarray(factor))


def terms(form, target, guide, key, num_draws, stick_the_landing=True):
    """Terms of one form, whose mean is the ELBO."""
    options = {"key": key, "num_draws": num_draws, "stick_the_landing": stick_the_landing}
    if form == "joint":
        return elbo.joint(target, guide, **options)
    return elbo.kl(target.total_log_likelihood, target.prior, guide, **options)


@eqx.filter_jit
def both_forms(target, guide, key, num_draws):
    """Terms of both forms from independent draws."""
    return {
        form: terms(form, target, guide, jax.random.fold_in(key, i), num_draws)
        for i, form in enumerate(FORMS)
    }


@eqx.filter_jit
def gradient_noise(target, guide, key):
    """Noise of the gradient of single draws, with and without sticking the landing.

    It is the standard deviation, the largest over all parameters.
    """
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)

    def one(key):
        def bound(moving, stick):
            return terms("joint", target, eqx.combine(moving, rest), key, 1, stick)[0]

        return [ravel_pytree(jax.grad(bound)(moving, stick))[0] for stick in (True, False)]

    gradients = jax.vmap(one)(jax.random.split(key, 1000))
    return [jnp.max(jnp.std(gradient, axis=0)) for gradient in gradients]


def run(quick: bool) -> Result:
    """Both forms at guides on the way, both fits, and the noise of the gradient."""
    prior = bl.Gaussian.from_scale(jnp.asarray(PRIOR_MEAN), jnp.asarray(PRIOR_SD))
    data = (jnp.asarray(X), jnp.asarray(progress))
    target = bl.Target.from_gaussian_prior(prior, log_likelihood, data=data)
    mean, covariance, log_evidence = exact()
    posterior = bl.Gaussian(jnp.asarray(mean), jnp.asarray(covariance))

    shares = np.linspace(0, 1, 11)
    drawn = {
        share: both_forms(target, guide_at(share), jax.random.key(i), 4000)
        for i, share in enumerate(shares)
    }
    estimates = []
    for share in (shares[2], shares[5], shares[8]):
        gap: Any = elbo.kl_divergence(guide_at(share), posterior)
        known = log_evidence - float(gap)
        for form, formula in FORMS.items():
            values = np.asarray(drawn[share][form], np.float64).reshape(4, -1)
            label = f"{formula}, {share:.0%} of the way from prior to posterior"
            estimates.append(checks.mean(label, values, known))

    steps = 600 if quick else 1000
    fits = {
        form: bl.variational.fit(
            target,
            FullRank,
            key=jax.random.key(0),
            objective=form,
            num_steps=steps,
            progress=False,
        )
        for form in FORMS
    }
    stuck, full = map(float, gradient_noise(target, guide_at(1.0), jax.random.key(1)))
    # Sums of 442 terms round at about 1e-3 in single precision; the exact divergence leaves noise
    # in the gradient, and what of it is left in the average costs up to a hundredth of a nat.
    fitted = [
        Comparison(f"ELBO of the guide fitted by {formula}", fits[form].elbo, log_evidence, 0.02)
        for form, formula in FORMS.items()
    ]
    landing = Comparison(
        "gradient's noise at the posterior, with sticking the landing / without",
        stuck / full,
        0.01,
        relation="≤",
    )
    close = checks.judge(estimates)
    return Result(
        checks.statement("Both forms of the ELBO against the closed form", close)
        + ". The fitted guides must reach the exact log evidence",
        [*fitted, landing, *close],
        [picture_of_fits(fits, log_evidence), picture_of_noise(drawn)],
    )


def picture_of_fits(fits, log_evidence: float) -> Picture:
    """The ELBO at each step, by both forms."""
    figure, axes = figures.canvas()
    looks = {"joint": (figures.BLUE, "-"), "kl": (figures.ORANGE, "-")}
    for form in ("kl", "joint"):
        color, style = looks[form]
        history = fits[form].history
        axes.plot(
            1 + np.arange(history.size), history, style, color=color, lw=0.9, label=FORMS[form]
        )
    axes.axhline(log_evidence, color=figures.INK, ls=(0, (4, 3)), lw=1.2, label="log evidence")
    axes.set(
        xlabel="step",
        ylabel="ELBO (nats)",
        title="Climbing to the evidence",
        ylim=(log_evidence - 5, log_evidence + 3),
        xscale="log",
    )
    axes.legend(loc="lower right")
    return Picture(
        figure,
        "The ELBO as each step estimates it from ten draws. Both forms climb to the exact log "
        "evidence (dashed). As the guide becomes the posterior, the noise of the joint form dies "
        "out, for log p(y, w) − log q(w) is then the same number at every draw; the form with the "
        "exact divergence keeps its noise, and single estimates of it lie above the evidence.",
        "Two noisy curves that rise to a dashed line; one of them becomes smooth.",
    )


def picture_of_noise(drawn) -> Picture:
    """How noisy a single term of each form is, on the way from prior to posterior."""
    figure, axes = figures.canvas()
    shares = list(drawn)
    for form, color, marker in (("joint", figures.BLUE, "o"), ("kl", figures.ORANGE, "s")):
        noise = [float(np.std(drawn[share][form])) for share in shares]
        axes.plot(shares, noise, marker=marker, ms=4, color=color, label=FORMS[form])
    axes.set(
        xlabel="share of the way from prior (0) to posterior (1)",
        ylabel="sd of one term (nats)",
        title="Same mean, other noise",
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.legend(loc="lower left")
    return Picture(
        figure,
        "How much single terms of the two forms scatter, for guides on the way from the prior to "
        "the posterior. Their means are the same number at each guide. At the posterior, where a "
        "fit ends, terms of the joint form do not scatter at all.",
        "Two falling curves on a logarithmic scale; one of them ends at zero.",
    )


CHAPTER = Chapter(
    id="variational",
    system="Variational inference, both forms of the ELBO",
    question="Does the bound reach the evidence, and do its two forms agree on the way?",
    data="progress of diabetes of 442 patients, three measurements (from scikit-learn)",
    run=run,
)

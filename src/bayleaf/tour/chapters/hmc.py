"""Hamiltonian Monte Carlo, and why its signs matter: the progress of diabetes in 442 patients.

A linear regression on ten measurements with noise of known size. With potential U = -log p(q) and
kinetic energy K = p^2 / 2, follow Hamilton's equations from (q, p) to (q*, p*) and accept with

    min(1, exp(U + K - U* - K*)).

The talk that bayleaf follows prints the opposite sign. `textbook` is the algorithm in its fewest
lines, in which the sign can be chosen: with the printed one it accepts just what it should refuse,
and the check below must see that.

The exact answer: the posterior of a linear regression with Gaussian prior and noise is Gaussian.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

import bayleaf as bl
from bayleaf.tour import checks, figures
from bayleaf.tour.entry import Chapter, Picture, Result

X, y = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))
X, y = (X - X.mean(axis=0)) / X.std(axis=0), y - y.mean()
NOISE, PRIOR_SCALE = 54.0, 50.0
NAMES = ("age", "sex", "body mass", "blood pressure", "total cholesterol", "LDL", "HDL")
NAMES += ("cholesterol / HDL", "triglycerides", "blood sugar")


def log_density(beta):
    """The log posterior of the ten coefficients, in points of progress per sd of a measurement."""
    log_prior = -0.5 * jnp.sum((beta / PRIOR_SCALE) ** 2)
    return log_prior - 0.5 * jnp.sum(((y - X @ beta) / NOISE) ** 2)


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the posterior."""
    precision = X.T @ X / NOISE**2 + np.eye(X.shape[1]) / PRIOR_SCALE**2
    covariance = np.linalg.inv(precision)
    return covariance @ X.T @ y / NOISE**2, covariance


def textbook(log_density, start, key, num_draws, sign, step=1.0, num_steps=8):
    """HMC in a few lines; ``sign`` is +1 for the right acceptance rule, -1 for the printed one."""
    gradient = jax.grad(log_density)

    def leapfrog(carry, _):
        q, p = carry
        p = p + 0.5 * step * gradient(q)
        q = q + step * p
        return (q, p + 0.5 * step * gradient(q)), None

    def transition(q, key):
        key_p, key_u = jax.random.split(key)
        p = jax.random.normal(key_p, q.shape)
        (q_new, p_new), _ = jax.lax.scan(leapfrog, (q, p), length=num_steps)
        old, new = 0.5 * p @ p - log_density(q), 0.5 * p_new @ p_new - log_density(q_new)
        is_accepted = jnp.log(jax.random.uniform(key_u)) < sign * (old - new)
        q = jnp.where(is_accepted, q_new, q)
        return q, q

    return jax.lax.scan(transition, start, jax.random.split(key, num_draws))[1]


def by_textbook(sign, num_draws):
    """Four chains of it, in coordinates in which the posterior is a standard normal."""
    center, covariance = exact()
    factor = np.linalg.cholesky(covariance)
    keys = jax.random.split(jax.random.key(0), 4)
    standard = lambda z: log_density(center + factor @ z)  # noqa: E731
    chain = jax.jit(lambda key: textbook(standard, jnp.zeros(center.size), key, num_draws, sign))
    return center + np.asarray(jax.vmap(chain)(keys)) @ factor.T


def run(quick: bool) -> Result:
    """Sample, and compare with the exact Gaussian; the printed signs must not pass."""
    num_draws = 1000 if quick else 5000
    draws = bl.sample(
        log_density,
        bl.mcmc.HMC(),
        init=jnp.zeros(X.shape[1]),
        key=jax.random.key(0),
        num_draws=num_draws,
        progress=False,
    ).draws
    printed, right = by_textbook(-1, num_draws), by_textbook(+1, num_draws)
    comparisons = checks.judge([*estimates("", draws), *estimates("textbook: ", right)])
    wrong = checks.judge(estimates("printed signs: ", printed))
    excess = max(abs(c.value - c.reference) / c.tolerance for c in wrong)
    seen = "error with the printed signs, in units of what is allowed"
    comparisons.append(checks.Comparison(seen, excess, 1.0, relation="≥"))
    what = "Ten coefficients, against the exact Gaussian; the printed signs must fail by it"
    return Result(
        checks.statement(what, comparisons),
        comparisons,
        [picture_of_coefficients(draws), picture_of_signs(draws, printed)],
    )


def estimates(label, draws):
    """Mean and sd of each coefficient against the exact ones."""
    center, covariance = exact()
    found = []
    for i in np.argsort(-np.abs(center)):
        mine, spread = draws[..., i], np.sqrt(covariance[i, i])
        found.append(checks.mean(f"{label}{NAMES[i]}: mean", mine, center[i]))
        found.append(checks.sd(f"{label}{NAMES[i]}: sd", mine, center[i], spread))
    return found


def picture_of_coefficients(draws) -> Picture:
    """Every coefficient, drawn and exact."""
    center, covariance = exact()
    figure, axes = figures.canvas()
    for row, i in enumerate(np.argsort(center)):
        half = 1.645 * np.sqrt(covariance[i, i])
        low, high = np.quantile(draws[..., i], [0.05, 0.95])
        axes.plot([low, high], [row, row], color=figures.SKY, lw=7, solid_capstyle="butt")
        axes.plot(draws[..., i].mean(), row, "o", color=figures.BLUE, ms=6)
        ends = [center[i] - half, center[i], center[i] + half]
        axes.plot(ends, [row] * 3, "|", color=figures.INK, ms=11, mew=1.4)
    axes.plot([], [], "o-", color=figures.BLUE, label="HMC")
    axes.plot([], [], "|", color=figures.INK, ms=11, mew=1.4, label="exact")
    axes.axvline(0, color=figures.GREY, lw=1, ls=":")
    axes.set_yticks(range(len(NAMES)), [NAMES[i] for i in np.argsort(center)])
    axes.set(xlabel="points of progress per sd of the measurement", title="What goes with progress")
    axes.legend(loc="lower right")
    return Picture(
        figure,
        "How much faster diabetes progressed in a year where a measurement was higher by one "
        "standard deviation, all else equal: mean and 90 % interval. Blue: draws. Black: exact. "
        "Long bars belong to measurements of blood fats, which say nearly the same and so cannot "
        "be told apart.",
        "Ten horizontal intervals; each drawn one ends at the exact marks.",
    )


def picture_of_signs(draws, printed) -> Picture:
    """One coefficient with the right signs and with the printed ones."""
    center, covariance = exact()
    i = NAMES.index("body mass")
    spread = np.sqrt(covariance[i, i])
    figure, axes = figures.canvas()
    across = np.linspace(center[i] - 6 * spread, center[i] + 6 * spread, 300)
    span = (across[0], across[-1])
    figures.density(axes, draws[..., i], "right signs", range=span)
    style = {"histtype": "step", "lw": 2, "range": span}
    figures.density(axes, printed[..., i], "signs as printed", figures.ORANGE, **style)
    exact_density = np.exp(-0.5 * ((across - center[i]) / spread) ** 2)
    exact_density /= spread * np.sqrt(2 * np.pi)
    axes.plot(across, exact_density, color=figures.INK, lw=1.5, label="exact")
    axes.set(
        xlabel="effect of body mass (points per sd)",
        ylabel="probability density",
        title="The sign in the acceptance rule",
    )
    axes.legend(loc="upper left")
    return Picture(
        figure,
        "The posterior of one coefficient. Filled: HMC with the right acceptance rule, which "
        "follows the exact black curve. Orange outline: the same moves accepted by the rule as the "
        "talk prints it. It welcomes moves to improbable places, and the result is too wide.",
        "A filled histogram under a bell curve, and a much wider outlined histogram.",
    )


CHAPTER = Chapter(
    id="hmc",
    system="Hamiltonian Monte Carlo (HMC)",
    question="Which measurements go with a fast progress of diabetes?",
    data="442 patients with diabetes (Efron et al. 2004, from scikit-learn)",
    run=run,
)

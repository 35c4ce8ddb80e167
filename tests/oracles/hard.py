"""Harder posteriors of the same kind: bad scaling, near-perfect correlation, odd constraints.

The regressions have exact marginals. The others have references in ``synthetic/``, made by NumPyro
from its own statement of each model (``make_references.py``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jax.scipy.stats import cauchy, gamma, norm
from scipy import stats

from bayleaf import constraints
from tests.oracles.case import Case, exact, read
from tests.oracles.posteriordb import eight_schools


def flat_regression(name: str, X: np.ndarray, y: np.ndarray) -> Case:
    """y ~ N(X beta, sigma), flat on beta and on sigma > 0: every marginal is known.

    With nu = n - d - 1 and s^2 = RSS / nu, beta_j is Student-t with nu degrees of freedom,
    location the least-squares estimate and scale s sqrt((X'X)^-1_jj); RSS / sigma^2 is
    chi-squared with nu degrees of freedom.
    """
    n, d = X.shape
    q, r = np.linalg.qr(X)
    estimate = np.linalg.solve(r, q.T @ y)
    rss = float(((y - X @ estimate) ** 2).sum())
    nu = n - d - 1
    scale = np.sqrt(rss / nu) * np.linalg.norm(np.linalg.inv(r), axis=1)
    reference = {f"beta[{j + 1}]": exact(stats.t(nu, estimate[j], scale[j])) for j in range(d)} | {
        "sigma": exact(_inverse_chi(nu, np.sqrt(rss)))
    }
    X_, y_ = jnp.asarray(X), jnp.asarray(y)

    def log_density(p):
        return norm.logpdf(y_, X_ @ p["beta"], p["sigma"]).sum()

    return Case(
        name,
        log_density,
        init={"beta": jnp.zeros(d), "sigma": jnp.array(1.0)},
        constrain={"sigma": constraints.positive},
        reference=reference,
    )


def _inverse_chi(nu: int, root_rss: float) -> stats.rv_continuous:
    """The law of root_rss / sqrt(chi^2_nu): a generalised gamma with power -2."""
    return stats.gengamma(nu / 2, -2, scale=root_rss / np.sqrt(2))


def trend_design(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """A trend of 0.02 a year on raw calendar years."""
    rng = np.random.default_rng(1)
    year = np.arange(first, last + 1.0)
    y = 9.3 + 0.02 * (year - year.mean()) + rng.standard_normal(len(year))
    return np.stack([np.ones_like(year), year], 1), y


def income_design() -> tuple[np.ndarray, np.ndarray]:
    """Dollars on inches."""
    rng = np.random.default_rng(2)
    height = rng.normal(66.6, 3.8, 800).round()
    income = -85_000 + 1_600 * height + 19_000 * rng.standard_normal(800)
    return np.stack([np.ones(800), height], 1), income


def collinear_design() -> tuple[np.ndarray, np.ndarray]:
    """24 columns that share one factor, in unequal units."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((200, 1)) + 0.1 * rng.standard_normal((200, 24))
    X *= np.logspace(-1, 1, 24)
    return X, X @ rng.standard_normal(24) + rng.standard_normal(200)


DESIGNS = {
    "years": lambda: trend_design(1962, 2014),
    "late_years": lambda: trend_design(1995, 2024),
    "incomes": income_design,
    "collinear": collinear_design,
}


def years() -> Case:
    """A trend on raw calendar years: intercept and slope correlate at -0.99997."""
    return flat_regression("years", *DESIGNS["years"]())


def late_years() -> Case:
    """The same on 30 recent years: correlation -0.99999."""
    return flat_regression("late_years", *DESIGNS["late_years"]())


def incomes() -> Case:
    """Residuals of 2e4 and an intercept of -8e4, started from 1 and 0."""
    return flat_regression("incomes", *DESIGNS["incomes"]())


def collinear() -> Case:
    """24 columns whose pairwise correlation is 0.99."""
    return flat_regression("collinear", *DESIGNS["collinear"]())


def arma11() -> Case:
    """ARMA(1, 1) with both coefficients in (-1, 1)."""
    case = read("arma11")
    y = jnp.array(case["data"]["y"])

    def log_density(p):
        def residual(previous, lagged_and_now):
            lagged, now = lagged_and_now
            error = now - (p["mu"] + p["phi"] * lagged + p["theta"] * previous)
            return error, error

        first = y[0] - p["mu"] * (1 + p["phi"])
        _, later = jax.lax.scan(residual, first, (y[:-1], y[1:]))
        prior = norm.logpdf(p["mu"], 0, 10) + norm.logpdf(p["phi"], 0, 2)
        prior += norm.logpdf(p["theta"], 0, 2) + cauchy.logpdf(p["sigma"], 0, 2.5)
        return prior + norm.logpdf(jnp.append(first, later), 0, p["sigma"]).sum()

    return Case(
        "arma11",
        log_density,
        init={k: jnp.array(0.0) for k in ("mu", "phi", "theta")} | {"sigma": jnp.array(1.0)},
        constrain={
            "phi": constraints.interval(-1, 1),
            "theta": constraints.interval(-1, 1),
            "sigma": constraints.positive,
        },
        reference=case["reference"],
    )


def garch11() -> Case:
    """GARCH(1, 1): alpha1 + beta1 < 1, so that the two and what is left form a simplex."""
    case = read("garch11")
    y, sigma1 = jnp.array(case["data"]["y"]), case["data"]["sigma1"]

    def log_density(p):
        alpha1, beta1, _ = p["weights"]

        def variance(previous, y_lagged):
            now = p["alpha0"] + alpha1 * (y_lagged - p["mu"]) ** 2 + beta1 * previous
            return now, now

        first = jnp.asarray(sigma1**2, y.dtype)
        _, later = jax.lax.scan(variance, first, y[:-1])
        return norm.logpdf(y, p["mu"], jnp.sqrt(jnp.append(first, later))).sum()

    return Case(
        "garch11",
        log_density,
        init={"mu": jnp.array(0.0), "alpha0": jnp.array(1.0), "weights": jnp.full(3, 1 / 3)},
        constrain={"alpha0": constraints.positive, "weights": constraints.simplex},
        reference=case["reference"],
        derive=lambda draws: {
            "mu": draws["mu"],
            "alpha0": draws["alpha0"],
            "alpha1": draws["weights"][..., 0],
            "beta1": draws["weights"][..., 1],
        },
    )


def hidden_markov() -> Case:
    """A two-state hidden Markov model, states summed out: simplex rows and ordered levels."""
    case = read("hidden_markov")
    y = jnp.array(case["data"]["y"])

    def log_density(p):
        levels = norm.logpdf(y[:, None], p["level"][None, :])
        transition = jnp.log(jnp.stack([p["stay"], p["leave"]]))

        def forward(alpha, level):
            return logsumexp(alpha[:, None] + transition, axis=0) + level, None

        alpha, _ = jax.lax.scan(forward, levels[0], levels[1:])
        prior = norm.logpdf(p["level"][0], 3, 1) + norm.logpdf(p["level"][1], 10, 1)
        return prior + logsumexp(alpha)

    return Case(
        "hidden_markov",
        log_density,
        init={
            "stay": jnp.full(2, 0.5),
            "leave": jnp.full(2, 0.5),
            "level": jnp.array([0.0, 1.0]),
        },
        constrain={
            "stay": constraints.simplex,
            "leave": constraints.simplex,
            "level": constraints.ordered,
        },
        reference=case["reference"],
    )


def gp_counts() -> Case:
    """Poisson counts with a latent Gaussian process, not centred."""
    case = read("gp_counts")
    x, k = jnp.array(case["data"]["x"]), jnp.array(case["data"]["k"], float)
    squared_distance = (x[:, None] - x[None, :]) ** 2

    def latent(p):
        kernel = p["alpha"] ** 2 * jnp.exp(-squared_distance / (2 * p["rho"] ** 2))
        return jnp.linalg.cholesky(kernel + 1e-10 * jnp.eye(len(x))) @ p["f_tilde"]

    def log_density(p):
        prior = gamma.logpdf(p["rho"], 25, scale=1 / 4) + norm.logpdf(p["alpha"], 0, 2)
        f = latent(p)
        return prior + norm.logpdf(p["f_tilde"]).sum() + (k * f - jnp.exp(f)).sum()

    return Case(
        "gp_counts",
        log_density,
        init={"rho": jnp.array(1.0), "alpha": jnp.array(1.0), "f_tilde": jnp.zeros(len(x))},
        constrain={"rho": constraints.positive, "alpha": constraints.positive},
        reference=case["reference"],
    )


def centred_schools() -> Case:
    """Eight schools, centred: a funnel in (theta, tau). A sampler should warn, not lie."""
    case = read("eight_schools-eight_schools_noncentered")
    y, s = jnp.array(case["data"]["y"], float), jnp.array(case["data"]["sigma"], float)

    def log_density(p):
        prior = norm.logpdf(p["mu"], 0, 5) + cauchy.logpdf(p["tau"], 0, 5)
        prior += norm.logpdf(p["theta"], p["mu"], p["tau"]).sum()
        return prior + norm.logpdf(y, p["theta"], s).sum()

    return eight_schools()._replace(
        name="centred_schools",
        log_density=log_density,
        init={"theta": jnp.zeros(8), "mu": jnp.array(0.0), "tau": jnp.array(1.0)},
        derive=lambda draws: draws,
    )


EXACT = (years, late_years, incomes, collinear)
SYNTHETIC = (arma11, garch11, hidden_markov, gp_counts)

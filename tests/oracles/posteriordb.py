"""The six posteriors of posteriordb in ``samplers/``, written as a user would write them.

Every density is over the constrained parameters, up to a constant: a half-normal is the normal on
a positive parameter. Starts are naive (zeros and ones), not tuned.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jax.scipy.stats import beta, cauchy, gamma, multivariate_normal, norm

from bayleaf import constraints
from tests.oracles.case import Case, read


def eight_schools() -> Case:
    case = read("eight_schools-eight_schools_noncentered")
    y, s = jnp.array(case["data"]["y"], float), jnp.array(case["data"]["sigma"], float)

    def theta(p):
        return p["mu"][..., None] + p["tau"][..., None] * p["theta_trans"]

    def log_density(p):
        prior = norm.logpdf(p["theta_trans"]).sum() + norm.logpdf(p["mu"], 0, 5)
        return prior + cauchy.logpdf(p["tau"], 0, 5) + norm.logpdf(y, theta(p), s).sum()

    return Case(
        case["name"],
        log_density,
        init={"theta_trans": jnp.zeros(8), "mu": jnp.array(0.0), "tau": jnp.array(1.0)},
        constrain={"tau": constraints.positive},
        reference=case["reference"],
        derive=lambda draws: {"theta": theta(draws), "mu": draws["mu"], "tau": draws["tau"]},
    )


def kidiq() -> Case:
    case = read("kidiq-kidscore_interaction")
    score, high_school, iq = (
        jnp.array(case["data"][name], float) for name in ("kid_score", "mom_hs", "mom_iq")
    )
    X = jnp.stack([jnp.ones_like(iq), high_school, iq, high_school * iq], axis=1)

    def log_density(p):
        prior = cauchy.logpdf(p["sigma"], 0, 2.5)
        return prior + norm.logpdf(score, X @ p["beta"], p["sigma"]).sum()

    return Case(
        case["name"],
        log_density,
        init={"beta": jnp.zeros(4), "sigma": jnp.array(1.0)},
        constrain={"sigma": constraints.positive},
        reference=case["reference"],
    )


def ark() -> Case:
    case = read("arK-arK")
    y, order = jnp.array(case["data"]["y"], float), case["data"]["K"]
    # Row t holds y[t-1], ..., y[t-K].
    lagged = jnp.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1)

    def log_density(p):
        prior = norm.logpdf(p["alpha"], 0, 10) + norm.logpdf(p["beta"], 0, 10).sum()
        location = p["alpha"] + lagged @ p["beta"]
        likelihood = norm.logpdf(y[order:], location, p["sigma"]).sum()
        return prior + cauchy.logpdf(p["sigma"], 0, 2.5) + likelihood

    return Case(
        case["name"],
        log_density,
        init={"alpha": jnp.array(0.0), "beta": jnp.zeros(order), "sigma": jnp.array(1.0)},
        constrain={"sigma": constraints.positive},
        reference=case["reference"],
    )


def gp_regression() -> Case:
    case = read("gp_pois_regr-gp_regr")
    x, y = jnp.array(case["data"]["x"], float), jnp.array(case["data"]["y"], float)
    squared_distance = (x[:, None] - x[None, :]) ** 2

    def log_density(p):
        prior = gamma.logpdf(p["rho"], 25, scale=1 / 4)
        prior += norm.logpdf(p["alpha"], 0, 2) + norm.logpdf(p["sigma"], 0, 1)
        kernel = p["alpha"] ** 2 * jnp.exp(-squared_distance / (2 * p["rho"] ** 2))
        # The reference model adds sigma, not its square, to the diagonal.
        covariance = kernel + p["sigma"] * jnp.eye(len(x))
        return prior + multivariate_normal.logpdf(y, jnp.zeros(len(x)), covariance)

    return Case(
        case["name"],
        log_density,
        init={"rho": jnp.array(1.0), "alpha": jnp.array(1.0), "sigma": jnp.array(1.0)},
        constrain=dict.fromkeys(("rho", "alpha", "sigma"), constraints.positive),
        reference=case["reference"],
    )


def gaussian_mixture() -> Case:
    case = read("low_dim_gauss_mix-low_dim_gauss_mix")
    y = jnp.array(case["data"]["y"], float)[:, None]

    def log_density(p):
        prior = norm.logpdf(p["mu"], 0, 2).sum() + norm.logpdf(p["sigma"], 0, 2).sum()
        weights = jnp.stack([p["theta"], 1 - p["theta"]])
        each = jnp.log(weights)[None, :] + norm.logpdf(y, p["mu"][None, :], p["sigma"][None, :])
        return prior + beta.logpdf(p["theta"], 5, 5) + logsumexp(each, axis=1).sum()

    return Case(
        case["name"],
        log_density,
        init={"mu": jnp.array([-1.0, 1.0]), "sigma": jnp.ones(2), "theta": jnp.array(0.5)},
        constrain={
            "mu": constraints.ordered,
            "sigma": constraints.positive,
            "theta": constraints.interval(0, 1),
        },
        reference=case["reference"],
    )


def linear_regression() -> Case:
    case = read("sblrc-blr")
    X, y = jnp.array(case["data"]["X"], float), jnp.array(case["data"]["y"], float)

    def log_density(p):
        prior = norm.logpdf(p["beta"], 0, 10).sum() + norm.logpdf(p["sigma"], 0, 10)
        return prior + norm.logpdf(y, X @ p["beta"], p["sigma"]).sum()

    return Case(
        case["name"],
        log_density,
        init={"beta": jnp.zeros(X.shape[1]), "sigma": jnp.array(1.0)},
        constrain={"sigma": constraints.positive},
        reference=case["reference"],
    )


POSTERIORDB = (eight_schools, kidiq, ark, gp_regression, gaussian_mixture, linear_regression)

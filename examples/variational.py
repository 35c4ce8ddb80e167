"""Variational inference: the guide closest to a posterior, and whether it is close enough.

Counts of disasters in British coal mines, in each five years from 1851 on (from Jarrett 1979): a
rate that falls from one level to another, more or less suddenly.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm, poisson

import bayleaf as bl

counts = jnp.array([14, 17, 12, 21, 17, 18, 14, 12, 6, 4, 5, 8, 3, 2, 3, 4, 10, 6, 7, 5, 0, 2])
years = 1853.5 + 5 * jnp.arange(counts.size)


def log_prior(p):
    levels = norm.logpdf(jnp.log(p["before"]), 2.0, 1.0) - jnp.log(p["before"])
    levels += norm.logpdf(jnp.log(p["after"]), 1.0, 1.0) - jnp.log(p["after"])
    return levels + norm.logpdf(p["year"], 1900.0, 20.0)


def log_likelihood(p, data):
    when, number = data
    share = jax.nn.sigmoid((when - p["year"]) / 5.0)
    return poisson.logpmf(number, p["before"] * (1 - share) + p["after"] * share)


target = bl.Target.from_likelihood(
    log_prior,
    log_likelihood,
    (years, counts),
    init={"before": 10.0, "after": 5.0, "year": 1890.0},
    constrain={"before": bl.constraints.positive, "after": bl.constraints.positive},
)

if __name__ == "__main__":
    fit = bl.variational.fit(target, bl.variational.FullRank, key=jax.random.key(0))
    print(fit)
    print(fit.summary())
    weighted = fit.importance(key=jax.random.key(1))
    gap = weighted.log_evidence - fit.elbo
    print(f"log evidence {weighted.log_evidence:.2f}; the ELBO lies {gap:.3f} below")
    run = bl.sample(target, init=fit.draw, key=jax.random.key(2), progress=False)
    print("by NUTS, started from the fit:")
    print(run.summary())

"""Gibbs sampling: when did accidents in British coal mines become rare?

Counts a year are Poisson with one rate before the year of change and another after it. Both rates
have closed-form conditionals, and so has the year, which is discrete.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

import bayleaf as bl

# Disasters a year, 1851 to 1961 (Jarrett 1979).
digits = (
    "454014340633402633545314415534252234213221111300101100310322"
    "011101010002100011023311211112420014000100000100101"
)
counts = jnp.array([int(digit) for digit in digits])
years = jnp.arange(counts.size)


def log_density(p):
    """Exponential priors on the rates, a uniform one on the year."""
    rate = jnp.where(years < p["change"], p["early"], p["late"])
    log_likelihood = jnp.sum(counts * jnp.log(rate) - rate - gammaln(counts + 1.0))
    return log_likelihood - p["early"] - p["late"]


def draw_rate(is_mine):
    def draw(key, p):
        mine = is_mine(p["change"])
        shape, rate = 1 + jnp.sum(counts * mine), 1 + jnp.sum(mine)
        return jax.random.gamma(key, shape.astype(p["early"].dtype)) / rate

    return bl.mcmc.Conditional(draw)


def draw_change(key, p):
    of_year = jax.vmap(lambda year: log_density({**p, "change": year}))
    return jax.random.categorical(key, of_year(years)).astype(p["change"].dtype)


kernel = bl.mcmc.Gibbs(
    {
        "early": draw_rate(lambda change: years < change),
        "late": draw_rate(lambda change: years >= change),
        "change": bl.mcmc.Conditional(draw_change),
    }
)

if __name__ == "__main__":
    start = {"early": 2.0, "late": 1.0, "change": 50}
    run = bl.sample(log_density, kernel, init=start, key=jax.random.key(0), num_warmup=100)
    print(run.summary())
    print(
        "the middle of the posterior of the first new year:",
        1851 + int(jnp.median(run.draws["change"])),
    )

"""Laplace and Pathfinder: how fast do disasters become rarer? A Poisson regression on counts.

The Gaussian at the mode, its draws weighted by posterior / Gaussian, and Pathfinder's mixture. Its
draws then start the chains of NUTS.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl

# Disasters in British coal mines in each five years from 1851 on (from Jarrett 1979).
counts = jnp.array([14, 17, 12, 21, 17, 18, 14, 12, 6, 4, 5, 8, 3, 2, 3, 4, 10, 6, 7, 5, 0, 2])
decades = (jnp.arange(counts.size) - 10.5) / 2


def log_density(params):
    log_rate = params["level"] + params["trend"] * decades
    prior = jax.scipy.stats.norm.logpdf(params["level"], 2, 2)
    prior += jax.scipy.stats.norm.logpdf(params["trend"], 0, 1)
    return prior + jnp.sum(jax.scipy.stats.poisson.logpmf(counts, jnp.exp(log_rate)))


target = bl.Target(log_density, init={"level": 0.0, "trend": 0.0})

if __name__ == "__main__":
    laplace = bl.variational.laplace(target)
    print(laplace, laplace.summary(), sep="\n")
    weighted = laplace.importance(4000, key=jax.random.key(0))
    print(f"log evidence {laplace.log_evidence:.3f}, weighted {weighted.log_evidence:.3f}")

    pathfinder = bl.variational.pathfinder(target, key=jax.random.key(1))
    print(pathfinder)

    run = bl.sample(target, init=pathfinder.draw, key=jax.random.key(2))
    print(run.summary())

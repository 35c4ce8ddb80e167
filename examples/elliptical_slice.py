"""Elliptical slice sampling: the changing rate of counts, with a Gaussian-process prior.

The log rate is a smooth unknown function. Warm-up finds the Gaussian at the mode of the posterior
and the kernel uses it as the reference of its ellipses.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl

# Disasters in British coal mines in each five years from 1851 on (from Jarrett 1979).
counts = jnp.array([14, 17, 12, 21, 17, 18, 14, 12, 6, 4, 5, 8, 3, 2, 3, 4, 10, 6, 7, 5, 0, 2])
times = jnp.arange(counts.size, dtype=float)

distances = times[:, None] - times[None, :]
covariance = jnp.exp(-0.5 * (distances / 4) ** 2) + 1e-4 * jnp.eye(counts.size)
prior = bl.Gaussian(jnp.full(counts.size, 2.0), covariance)


def log_likelihood(log_rate):
    return jnp.sum(counts * log_rate - jnp.exp(log_rate))


target = bl.Target.from_gaussian_prior(prior, log_likelihood)

if __name__ == "__main__":
    run = bl.sample(target, bl.mcmc.EllipticalSlice(), key=jax.random.key(0))
    low, high = run.interval(0.9)
    mean, low, high = jnp.exp(run.draws).mean((0, 1)), jnp.exp(low), jnp.exp(high)
    for i in range(counts.size):
        bar = "#" * int(counts[i])
        print(f"{1851 + 5 * i}  {mean[i]:5.1f}  ({low[i]:4.1f} to {high[i]:4.1f})  {bar}")

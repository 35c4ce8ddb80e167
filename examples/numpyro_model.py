"""A NumPyro model, sampled by bayleaf: how children's test scores vary with their mothers'."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import bayleaf as bl

mothers = jnp.array([121.1, 89.4, 115.4, 99.4, 92.7, 107.9, 138.9, 125.1, 81.6, 95.1])
children = jnp.array([65.0, 98.0, 85.0, 83.0, 115.0, 98.0, 69.0, 106.0, 102.0, 95.0])


def model(mothers, children):
    intercept = numpyro.sample("intercept", dist.Normal(90.0, 20.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(30.0))
    mean = intercept + slope * (mothers - 100)
    numpyro.sample("children", dist.Normal(mean, sigma), obs=children)


if __name__ == "__main__":
    target = bl.Target.from_numpyro(model, mothers, children)
    run = bl.sample(target, key=jax.random.key(0))
    print(run.summary())

"""A mean and a scale from twelve measurements: the whole path, from log density to interval."""

import jax
import jax.numpy as jnp

import bayleaf as bl

y = jnp.array([4.9, 6.1, 5.4, 7.2, 5.8, 6.6, 5.1, 6.3, 5.9, 4.7, 6.8, 5.6])


def log_density(p):
    z = (y - p["mean"]) / p["scale"]
    log_likelihood = -0.5 * jnp.sum(z**2) - y.size * jnp.log(p["scale"])
    return log_likelihood - 0.5 * (p["mean"] / 10) ** 2 - p["scale"]


target = bl.Target(
    log_density,
    init={"mean": 0.0, "scale": 1.0},
    constrain={"scale": bl.constraints.positive},
)

if __name__ == "__main__":
    run = bl.sample(target, key=jax.random.key(0))
    print(run.summary())
    low, high = run.interval(0.9)
    print(f"with probability 0.9 the mean lies between {low['mean']:.2f} and {high['mean']:.2f}")

"""Slice sampling needs no gradient: a density with a kink and an edge.

The median of a Laplace distribution whose data were rounded, under a prior that ends at zero. The
log density is flat in places and steep in others; there is nothing to tune.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl

waiting = jnp.array([1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 6.0, 9.0])


def log_density(p):
    inside = (p["median"] > 0) & (p["spread"] > 0)
    spread = jnp.where(inside, p["spread"], 1.0)
    value = -jnp.sum(jnp.abs(waiting - p["median"])) / spread - waiting.size * jnp.log(spread)
    return jnp.where(inside, value - spread / 5, -jnp.inf)


if __name__ == "__main__":
    run = bl.sample(
        log_density,
        bl.mcmc.Slice(),
        init={"median": 3.0, "spread": 2.0},
        key=jax.random.key(0),
    )
    print(run.summary())
    low, high = run.interval(0.9)
    print(f"the median lies between {low['median']:.1f} and {high['median']:.1f} with 90 %")

"""Metropolis-Hastings with a proposal of one's own: a walk on the whole numbers.

How many fish are in a pond? Of 20 that were marked, 7 were among the 35 caught later; the prior of
the number N is 1/N. The answer can be summed exactly, and is.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

import bayleaf as bl

MARKED, CAUGHT, FOUND = 20, 35, 7


def log_density(n):
    """Hypergeometric likelihood, up to what does not depend on n, and the prior."""
    others = n - MARKED

    def log_choose(a, b):
        return gammaln(a + 1.0) - gammaln(b + 1.0) - gammaln(a - b + 1.0)

    log_p = log_choose(others, CAUGHT - FOUND) - log_choose(n, CAUGHT) - jnp.log(n)
    return jnp.where(others >= CAUGHT - FOUND, log_p, -jnp.inf)


class Jump:
    """Up or down by 1 to 40: symmetric, so its density cancels."""

    def propose(self, key, point):
        key_size, key_sign = jax.random.split(key)
        size = jax.random.randint(key_size, (), 1, 41)
        return point.position + size * jax.random.rademacher(key_sign, (), jnp.int32)

    def log_proposal(self, proposed, point):
        return 0.0


if __name__ == "__main__":
    kernel = bl.mcmc.MetropolisHastings(Jump())
    run = bl.sample(
        log_density, kernel, init=jnp.array(100), key=jax.random.key(0), num_draws=20_000
    )
    numbers = jnp.arange(MARKED + CAUGHT - FOUND, 20_000)
    exact = jnp.exp(jax.vmap(log_density)(numbers) - log_density(100))
    print(f"mean number of fish: {run.draws.mean():.1f} sampled")
    print(f"                     {jnp.sum(numbers * exact) / jnp.sum(exact):.1f} summed exactly")

"""Rejection sampling: a wind direction, with the constant that its density lacks.

The von Mises density on the circle is known up to a Bessel function. Uniform proposals and the
bound at its mode draw from it exactly, and the share of accepted ones tells the constant.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl

CONCENTRATION, MEAN = 2.0, 0.8


class Circle:
    """Uniform directions, in radians."""

    def sample(self, key):
        return jax.random.uniform(key, minval=-jnp.pi, maxval=jnp.pi)

    def log_prob(self, x):
        return jnp.full_like(x, -jnp.log(2 * jnp.pi))


def log_density(x):
    return CONCENTRATION * jnp.cos(x - MEAN)


if __name__ == "__main__":
    log_bound = CONCENTRATION + jnp.log(2 * jnp.pi)  # log p - log q at the mode
    key = jax.random.key(0)
    found = bl.montecarlo.rejection(log_density, Circle(), log_bound, key=key, num_draws=10_000)
    print(found.summary())
    exact = jnp.log(2 * jnp.pi * jax.scipy.special.i0(CONCENTRATION))
    print(f"accepted: {found.acceptance_rate:.3f}")
    print(f"log constant: {found.log_normalizer:.3f} +- {found.log_normalizer_error:.3f}")
    print(f"       exact: {exact:.3f}")
    searched = bl.montecarlo.find_log_bound(log_density, Circle(), key=key)
    print(f"the bound {log_bound:.3f} by optimisation: {searched.log_bound:.3f}")

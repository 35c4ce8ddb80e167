"""Yesterday's posterior is today's prior: the bias of a coin, learnt in two sittings.

The second sitting sees only its own throws and a summary of the first. The exact answer is a Beta
distribution.
"""

import jax
import jax.numpy as jnp

import bayleaf as bl


def binomial(heads, tails):
    """A uniform prior and some throws."""
    return lambda p: heads * jnp.log(p) + tails * jnp.log1p(-p)


def fitted_beta(draws):
    """The Beta distribution with the mean and variance of the draws."""
    mean, variance = draws.mean(), draws.var()
    total = mean * (1 - mean) / variance - 1
    return mean * total, (1 - mean) * total


def posterior(log_density, key):
    target = bl.Target(log_density, init=0.5, constrain=bl.constraints.unit_interval)
    return bl.sample(target, key=key, num_draws=2000)


if __name__ == "__main__":
    first = posterior(binomial(7, 3), jax.random.key(0))
    a, b = fitted_beta(first.draws)
    second = posterior(binomial(a - 1 + 12, b - 1 + 18), jax.random.key(1))
    print(f"after both sittings: mean {second.draws.mean():.3f}, sd {second.draws.std():.3f}")
    print(f"exact, Beta(20, 22): mean {20 / 42:.3f}, sd {(20 * 22 / 42**2 / 43) ** 0.5:.3f}")

"""Evidence of two models by tempered sequential Monte Carlo: did the rate of disasters change?

Disasters in British coal mines, by five years. One model has one rate for all times, the other one
rate up to 1890 and one from then on. Tempering gives the evidence of both.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import gamma, poisson

import bayleaf as bl

# Disasters in each five years from 1851 on (from Jarrett 1979).
counts = jnp.array([14, 17, 12, 21, 17, 18, 14, 12, 6, 4, 5, 8, 3, 2, 3, 4, 10, 6, 7, 5, 0, 2])
years = 1851 + 5 * jnp.arange(counts.size)


class Rates:
    """Independent Gamma(2, 0.2) rates: a prior needs sample and log_prob, no more."""

    def __init__(self, size):
        self.size = size

    def sample(self, key):
        return jax.random.gamma(key, 2.0, (self.size,)) / 0.2

    def log_prob(self, rate):
        return gamma.logpdf(rate, 2.0, scale=1 / 0.2).sum()


def evidence(size, rate_of_each_year):
    prior = Rates(size)

    def log_density(rate):
        return prior.log_prob(rate) + poisson.logpmf(counts, rate_of_each_year(rate)).sum()

    target = bl.Target(log_density, init=jnp.ones(size), constrain=bl.constraints.positive)
    return bl.montecarlo.tempered(target, prior, key=jax.random.key(0), progress=False)


if __name__ == "__main__":
    one = evidence(1, lambda rate: jnp.full(counts.size, rate[0]))
    two = evidence(2, lambda rate: jnp.where(years < 1891, rate[0], rate[1]))
    gain = two.log_evidence - one.log_evidence
    error = (one.log_evidence_error**2 + two.log_evidence_error**2) ** 0.5
    print("one rate: ", one)
    print("two rates:", two)
    print(f"log Bayes factor for a change: {gain:.2f} +- {error:.2f}")

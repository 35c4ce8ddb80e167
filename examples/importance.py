"""Importance sampling: the posterior of a rate and the evidence of the model, without a chain.

The proposal is a Gaussian for the logarithm of the rate; the draws that come back are rates.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import bayleaf as bl

counts = jnp.array([3, 5, 4, 0, 7])


def log_density(params, counts):
    rate = params["rate"]
    prior = jax.scipy.stats.gamma.logpdf(rate, 2.0, scale=2.0)
    return prior + jnp.sum(jax.scipy.stats.poisson.logpmf(counts, rate))


target = bl.Target(
    log_density, init={"rate": 1.0}, constrain={"rate": bl.constraints.positive}, data=counts
)


class LogNormal(eqx.Module):
    """A Gaussian on the unconstrained space."""

    mean: float
    sd: float

    def sample(self, key):
        return {"rate": self.mean + self.sd * jax.random.normal(key)}

    def log_prob(self, u):
        return jax.scipy.stats.norm.logpdf(u["rate"], self.mean, self.sd)


if __name__ == "__main__":
    draws = bl.montecarlo.importance(target, LogNormal(1.3, 0.35), key=jax.random.key(0))
    print(draws.summary())
    print(f"log evidence {draws.log_evidence:.3f} +- {draws.log_evidence_error:.3f}")
    print(f"ESS {draws.ess:.0f} of {draws.num_draws}, k-hat {draws.pareto_k:.2f}")

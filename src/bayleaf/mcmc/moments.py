r"""Running mean and covariance of all chains during warm-up.

Step $t$ of warm-up (1-based) brings one draw a chain. The gain $\gamma_t = 2 / (t + 1)$,

$$\mu_t = \mu_{t-1} + \gamma_t (\bar x_t - \mu_{t-1}), \qquad
  C_t = (1 - \gamma_t) C_{t-1}
      + \gamma_t (1 - \gamma_t) \tfrac1K \sum_k (x_{tk} - \mu_{t-1}) (x_{tk} - \mu_{t-1})^\top
      + \gamma_t^2 S_t,$$

with $S_t$ the covariance over the $K$ chains of step $t$, weighs draw $t$ in proportion to $t$: the
transient from the starting points is forgotten without a window to choose.

This is the adaptive Metropolis estimate of Haario et al. (2001), pooled over chains.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.types import Count

PSEUDO_DRAWS = 5.0  # how many draws the assumption "no correlation" is worth


class Moments(NamedTuple):
    """Weighted mean and covariance of the draws so far."""

    mean: Float[Array, "dim"]
    covariance: Float[Array, "dim dim"]
    num_steps: Count


def moments_init(dim: int, dtype: Any) -> Moments:
    """Nothing seen yet."""
    return Moments(jnp.zeros(dim, dtype), jnp.zeros((dim, dim), dtype), jnp.zeros((), jnp.int32))


def moments_update(moments: Moments, draws: Float[Array, "chain dim"]) -> Moments:
    """Add one draw of every chain."""
    num_steps = moments.num_steps + 1
    gain = 2 / (num_steps + 1).astype(draws.dtype)
    center = draws.mean(axis=0)
    within = (draws - center[None]).T @ (draws - center[None]) / draws.shape[0]
    shift = center - moments.mean
    return Moments(
        mean=moments.mean + gain * shift,
        covariance=(1 - gain) * (moments.covariance + gain * jnp.outer(shift, shift))
        + gain * within,
        num_steps=num_steps,
    )


def covariance_factor(moments: Moments, num_chains: int) -> Float[Array, "dim dim"]:
    """Lower Cholesky factor of the covariance, shrunk a little towards its diagonal.

    NaN when there is no positive definite estimate yet (a number that has never moved).
    """
    covariance = moments.covariance
    weight = PSEUDO_DRAWS / (moments.num_steps * num_chains + PSEUDO_DRAWS)
    weight = weight.astype(covariance.dtype)
    # Fewer draws than dimensions give a singular estimate: steps would stay in a subspace.
    shrunk = (1 - weight) * covariance + weight * jnp.diag(jnp.diagonal(covariance))
    return jnp.linalg.cholesky(shrunk)

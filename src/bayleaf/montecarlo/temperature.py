r"""How far the temperature may rise: until the weights have lost a set share of their worth.

Between two temperatures the particles $x_n$ get the weights $w_n = r(x_n)^\delta$, with $r$ the
ratio of the two ends of the path. Of $N$ equally weighted particles there remain effectively

$$\mathrm{ESS}(\delta) = \Big(\sum_n w_n\Big)^2 \Big/ \sum_n w_n^2,$$

which falls from $N$ as $\delta$ grows. `next_temperature` solves $\mathrm{ESS} = \rho N$. For
equally weighted particles this is the conditional effective sample size of Zhou et al., too.

Source: Jasra, Stephens, Doucet & Tsagaris, Inference for Levy-driven stochastic volatility models
via adaptive sequential Monte Carlo (2011), section 4.3; Zhou, Johansen & Aston, Toward automatic
model comparison (2016), equation 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.types import Scalar

NUM_HALVINGS = 50
"""Bisections of the logarithm of the rise: it starts some hundreds wide and ends at rounding."""


def log_ess(log_weights: Float[Array, "particle"]) -> Scalar:
    """The logarithm of the effective sample size of weights that need not be normalised."""
    total = jax.nn.logsumexp(log_weights)
    return 2 * total - jax.nn.logsumexp(2 * log_weights)


def next_temperature(
    temperature: Scalar, log_ratio: Float[Array, "particle"], ess_share: Scalar
) -> Scalar:
    """The next temperature: exactly 1 when the particles can bear it.

    Args:
        temperature: the present one, below 1.
        log_ratio: ``log r`` at equally weighted particles; -inf where the end has no mass.
        ess_share: rho, the share of the particles that must remain effective. Particles at -inf
            are lost by the smallest rise: the share is that of the others.
    """
    is_alive = log_ratio > -jnp.inf
    # The best weight is 1 at any rise: without this, log w overflows for ratios like 1e38.
    relative = jnp.where(is_alive, log_ratio - jnp.max(log_ratio), -jnp.inf)
    dtype = relative.dtype
    least = jnp.log(ess_share.astype(dtype)) + jnp.log(jnp.sum(is_alive).astype(dtype))

    def is_bearable(rise: Scalar) -> Array:
        # 0 times -inf would be NaN where the rise has underflowed.
        return log_ess(jnp.where(is_alive, rise * relative, -jnp.inf)) >= least

    def halve(_: Any, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = ends
        middle = 0.5 * (low + high)
        fits = is_bearable(jnp.exp(middle))
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    whole = 1 - temperature
    ends = (jnp.asarray(jnp.log(jnp.finfo(dtype).tiny), dtype), jnp.log(whole))
    low, _ = jax.lax.fori_loop(0, NUM_HALVINGS, halve, ends)
    partial = jnp.minimum(temperature + jnp.exp(low), 1)
    return jnp.where(is_bearable(whole), jnp.ones_like(temperature), partial)

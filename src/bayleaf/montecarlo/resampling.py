r"""Resampling: how many copies of each weighted draw to keep.

Given weights $W_1, \dots, W_n$ that sum to one, each scheme returns the numbers (ancestors) of
$N$ draws such that draw $i$ is expected to occur $N W_i$ times. They differ in the noise of the
counts. With $F_i = W_1 + \dots + W_i$ and uniform $u$:

- `systematic`: one $u$; draw $i$ gets as many copies as there are points $(k + u) / N$ in
  $(F_{i-1}, F_i]$: never more than one away from $N W_i$. The default, and the fastest.
- `stratified`: a point of its own, $(k + u_k) / N$, in each stratum.
- `residual`: $\lfloor N W_i \rfloor$ copies for certain, the rest by `multinomial`.
- `multinomial`: independent draws. The noisiest; here to compare with and for proofs.
- `killing`: draw $i$ survives in its place with probability $W_i / \max W$; those that do not are
  replaced by independent draws. Few are moved when the weights are nearly equal. ($N = n$.)

All take weights that need not sum to one, and none sorts or searches in a loop.

Sources: Douc, Cappe & Moulines, Comparison of resampling schemes for particle filtering (2005);
Del Moral, Feynman-Kac formulae (2004), section 2.5.3 (killing); Gerber, Chopin & Whiteley, Annals
of Statistics 47 (2019).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.types import Key

Weights = Float[Array, "particle"]
Ancestors = Int[Array, "draw"]


def systematic(key: Key, weights: Weights, num_draws: int | None = None) -> Ancestors:
    """Ancestors by one uniform; see the module."""
    num_draws = weights.shape[0] if num_draws is None else num_draws
    u = jax.random.uniform(key, dtype=weights.dtype)
    cdf = jnp.cumsum(weights)
    ends = jnp.ceil(num_draws * (cdf / cdf[-1]) - u).astype(jnp.int32).at[-1].set(num_draws)
    counts = jnp.zeros(num_draws, jnp.int32).at[ends].add(1, mode="drop")
    return jnp.cumsum(counts)

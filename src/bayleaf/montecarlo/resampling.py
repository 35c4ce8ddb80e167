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

All take weights that need not sum to one. They count in fixed point: $N W_i$ in units of
$2^{-k}$, with $k$ as large as 32-bit integers allow (64 bits for float64 weights). Sums of integers
are exact, so that counts add up to $N$ whatever $N$; in float32 a cumulative weight near one
resolves no better than $6 \cdot 10^{-8}$, a hundredth of a particle of $10^5$. The price is that
$N W_i$ is rounded to $2^{-k}$ ($6 \cdot 10^{-5}$ for $N = 10^5$ in float32). No scheme but those
with independent draws searches, and none sorts.

Sources: Douc, Cappe & Moulines, Comparison of resampling schemes for particle filtering (2005);
Del Moral, Feynman-Kac formulae (2004), section 2.5.3 (killing); Gerber, Chopin & Whiteley, Annals
of Statistics 47 (2019).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt

from bayleaf.errors import bad_argument
from bayleaf.montecarlo.sums import running_sum, total
from bayleaf.types import Key

Weights = Float[Array, "particle"]
Ancestors = Int[Array, "draw"]
Whole = UInt[Array, "particle"]


def systematic(key: Key, weights: Weights, num_draws: int | None = None) -> Ancestors:
    """Ancestors, in ascending order, by one uniform number."""
    num_draws = _number(weights, num_draws)
    shares, shift = fixed_point(weights, num_draws)
    ends = running_sum(shares)
    u = _uniform(key, (), shift, ends.dtype)
    return _invert((ends + u) >> shift, ends, num_draws)


def stratified(key: Key, weights: Weights, num_draws: int | None = None) -> Ancestors:
    """Ancestors, in ascending order, by one uniform number in each stratum."""
    num_draws = _number(weights, num_draws)
    shares, shift = fixed_point(weights, num_draws)
    ends = running_sum(shares)
    u = _uniform(key, (num_draws,), shift, ends.dtype)
    stratum = ends >> shift  # all points before this stratum lie below the end
    inside = ends & _mask(shift, ends.dtype)
    is_below = u[jnp.minimum(stratum, num_draws - 1).astype(jnp.int32)] < inside
    return _invert(stratum + is_below.astype(ends.dtype), ends, num_draws)


def multinomial(key: Key, weights: Weights, num_draws: int | None = None) -> Ancestors:
    """Independent ancestors."""
    num_draws = _number(weights, num_draws)
    return _independent(key, running_sum(fixed_point(weights, num_draws)[0]), num_draws)


def residual(key: Key, weights: Weights, num_draws: int | None = None) -> Ancestors:
    """The whole part of each expected number for certain; independent ancestors for the rest."""
    num_draws = _number(weights, num_draws)
    shares, shift = fixed_point(weights, num_draws)
    whole = running_sum(shares >> shift)
    rest = _independent(key, running_sum(shares & _mask(shift, shares.dtype)), num_draws)
    certain = _invert(whole, whole, num_draws)
    slot = jax.lax.iota(whole.dtype, num_draws)
    return jnp.where(slot < whole[-1], certain, rest)


def killing(key: Key, weights: Weights, num_draws: int | None = None) -> Ancestors:
    """Draws stay where they are or are replaced by independent ancestors."""
    num_draws = _number(weights, num_draws)
    if num_draws != weights.shape[0]:
        raise bad_argument(
            "num_draws",
            num_draws,
            f"{weights.shape[0]}, the number of weights: killing keeps each draw in its place",
            "Try another scheme of bayleaf.montecarlo.resampling.",
        )
    key_stay, key_rest = jax.random.split(key)
    u = jax.random.uniform(key_stay, weights.shape, weights.dtype)
    rest = _independent(key_rest, running_sum(fixed_point(weights, num_draws)[0]), num_draws)
    stays = u * jnp.max(weights) < weights
    return jnp.where(stays, jax.lax.iota(jnp.int32, num_draws), rest)


def fixed_point(weights: Weights, num_draws: int) -> tuple[Whole, Any]:
    """``num_draws * W`` in units of ``2^-shift``, and the shift.

    Their sum is ``num_draws << shift`` up to rounding, at most half of the range of the integers.
    """
    is_double = weights.dtype == jnp.float64
    kind = jnp.uint64 if is_double else jnp.uint32
    shift = (63 if is_double else 31) - max(num_draws - 1, 1).bit_length()
    # No finer than the weights themselves: a share of 1 that came out as 1 - eps must be whole.
    shift = min(shift, 48 if is_double else 20)
    scale = num_draws * 2.0**shift
    share = weights / total(weights)
    return jnp.round(share * jnp.asarray(scale, share.dtype)).astype(kind), kind(shift)


def _number(weights: Weights, num_draws: int | None) -> int:
    if weights.shape[0] == 0:
        raise bad_argument("weights", "none", "at least one")
    number = weights.shape[0] if num_draws is None else num_draws
    if not 1 <= number < 2**24:
        raise bad_argument("num_draws", number, "from 1 to 2^24 - 1")
    return number


def _mask(shift: Any, kind: Any) -> Any:
    return (jnp.asarray(1, kind) << shift) - jnp.asarray(1, kind)


def _uniform(key: Key, shape: tuple[int, ...], shift: Any, kind: Any) -> UInt[Array, "..."]:
    """Uniform on ``0, ..., 2^shift - 1``."""
    return jax.random.bits(key, shape, kind) & _mask(shift, kind)


def _scaled(bits: UInt[Array, "..."], bound: Any) -> UInt[Array, "..."]:
    """``bits * bound / 2^width`` rounded down: uniform below ``bound``, by halves of words.

    The remainder ``bits % bound`` (that of ``jax.random.randint``) would favour the start of
    the range, by 2 to 1 when the bound is near the largest word.
    """
    half = jnp.asarray(bits.dtype.itemsize * 4, bits.dtype)
    low_half = _mask(half, bits.dtype)
    a, b = bits >> half, bits & low_half
    c, d = bound >> half, bound & low_half
    middle = a * d + ((b * d) >> half)
    return a * c + (middle >> half) + (((middle & low_half) + b * c) >> half)


def _independent(key: Key, ends: Whole, num_draws: int) -> Ancestors:
    """Ancestors of independent points, uniform below the last end."""
    points = _scaled(jax.random.bits(key, (num_draws,), ends.dtype), ends[-1])
    found = jnp.searchsorted(ends, points, side="right")
    return jnp.minimum(found, _last(ends)).astype(jnp.int32)


def _invert(copies: Whole, ends: Whole, num_draws: int) -> Ancestors:
    """Ancestor of each slot, where slots below ``copies[i]`` belong to draws up to i.

    The ancestor of slot j is the number of draws whose slots all lie before it. Rounding of the
    shares may leave the last slot to nobody; it goes to the last draw of positive weight.
    """
    kind = jnp.int32
    counts = jnp.zeros(num_draws, kind).at[copies.astype(kind)].add(1, mode="drop")
    return jnp.minimum(running_sum(counts), _last(ends))


def _last(ends: Whole) -> Any:
    """The last draw of positive weight."""
    return jnp.minimum(total((ends < ends[-1]).astype(jnp.int32)), ends.shape[0] - 1)

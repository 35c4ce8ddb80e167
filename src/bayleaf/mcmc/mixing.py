r"""How well sweeps of partitions mix, told from short blocks of them, and what they cost.

Watched are the log density, the number of edges within clusters, the entropy of the sizes, and for
some pairs of sites whether they are together. The mean squares of the jumps over l sweeps,
$V_l = E (x_{t+l} - x_t)^2$, tell the autocorrelation $\rho_l = 1 - V_l / (2 V)$, V being the
variance, and that the autocorrelation time

$$\tau = 1 + 2 \sum_{l \le L} \rho_l + 2\, \frac{\rho_L\, r}{1 - r}, \qquad r = \rho_L^{1 / L}.$$

At the first $\rho_l$ within a standard error of zero the sum ends, and the last term is left out.
Blocks of a few sweeps tell all this, which many short turns of several samplers can give.

The cost of a sweep is counted, not clocked, so that what is learnt from it is the same in each run:
$40 + n / 6 + c\, (1 + k / 4)$ for n sites, c components and k clusters, in proportion to the times
of the machine code for some hundred sites within a third.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.types import Count, Flag, Scalar

NUM_PAIRS = 64

NUM_OWN = 3
"""Statistics before the pairs: the log density, the edges within clusters, the entropy."""

NUM_LAGS = 4

RARE = 0.02
"""A pair that is together, or apart, less often is not in doubt, and tells nothing."""

LARGEST_CORRELATION = 1 - 1e-4
"""Of a statistic that has not moved: its time is long, not infinite."""


class Watch(NamedTuple):
    """What is looked at, and the last values, the newest first."""

    pairs: Int[Array, "pair 2"]
    origin: Float[Array, "stat"]  # taken off, lest squares of large numbers be subtracted
    recent: Float[Array, "lag chain stat"]


class Moments(NamedTuple):
    """Sums over sweeps and chains, and over jumps by their length."""

    num: Scalar
    total: Float[Array, "stat"]
    squares: Float[Array, "stat"]
    num_jumps: Float[Array, "lag"]
    jumps: Float[Array, "lag stat"]
    cost: Scalar


def watch(states: Any) -> Watch:
    """A watch that has seen nothing; its pairs follow from the number of sites."""
    num_chains, num_sites = states.position.shape
    most = jnp.array([[num_sites], [num_sites - 1]])
    first, gap = jax.random.randint(jax.random.key(num_sites), (2, NUM_PAIRS), 0, most)
    pairs = jnp.stack([first, (first + 1 + gap) % num_sites], axis=1).astype(jnp.int32)
    origin = jnp.zeros(NUM_OWN + NUM_PAIRS, states.log_density.dtype)
    return Watch(pairs, origin, jnp.zeros((NUM_LAGS, num_chains, origin.size), origin.dtype))


def no_moments(seen: Watch) -> Moments:
    """The sums over nothing."""
    zero = jnp.zeros((NUM_LAGS, seen.origin.size), seen.origin.dtype)
    return Moments(zero[0, 0], zero[0], zero[0], zero[:, 0], zero, zero[0, 0])


def values_of(seen: Watch, states: Any, infos: Any) -> Float[Array, "chain stat"]:
    """The statistics of the chains as they are now."""
    dtype = seen.origin.dtype
    own = [states.log_density, infos.num_like, infos.size_entropy]
    labels = states.position
    together = labels[:, seen.pairs[:, 0]] == labels[:, seen.pairs[:, 1]]
    columns = [jnp.stack([part.astype(dtype) for part in own], axis=1), together.astype(dtype)]
    return jnp.concatenate(columns, axis=1)


def noted(seen: Watch, values: Float[Array, "chain stat"], is_first: Flag) -> Watch:
    """The watch with these values as the newest; the first ones also become the origin."""
    recent = jnp.concatenate([values[None], seen.recent[:-1]])
    return seen._replace(origin=jnp.where(is_first, values[0], seen.origin), recent=recent)


def of_sweep(seen: Watch, values: Float[Array, "chain stat"], cost: Scalar, age: Count) -> Moments:
    """The sums over one sweep, the sweep ``age`` (from 0) of a block.

    Jumps from before the block are left out: another sampler has made a part of them.
    """
    rest = values - seen.origin[None]
    num = jnp.asarray(values.shape[0], values.dtype)
    is_within = jnp.arange(NUM_LAGS) <= age
    squares = jnp.sum((values[None] - seen.recent) ** 2, axis=1)
    return Moments(
        num,
        jnp.sum(rest, axis=0),
        jnp.sum(rest**2, axis=0),
        num * is_within,
        jnp.where(is_within[:, None], squares, 0),
        num * cost,
    )


def sweep_cost(states: Any, infos: Any) -> Scalar:
    """Of the last sweep, mean of the chains."""
    visits = infos.num_components * (1 + 0.25 * infos.num_clusters)
    return 40 + states.position.shape[-1] / 6 + jnp.mean(visits.astype(states.log_density.dtype))


def variances(sums: Moments) -> Float[Array, "stat"]:
    """Of a constant, and of a pair that is nearly always the same, exactly zero."""
    num = jnp.maximum(sums.num, 1)
    size = jnp.maximum(sums.squares / num - (sums.total / num) ** 2, 0)
    # What rounding leaves of the variance of a constant is no variance.
    least = jnp.finfo(size.dtype).eps * (1 + sums.squares / num)
    is_pair = jnp.arange(size.size) >= NUM_OWN
    return jnp.where(size > jnp.where(is_pair, RARE * (1 - RARE), least), size, 0)


def correlations(sums: Moments) -> Float[Array, "lag stat"]:
    """The autocorrelations; a statistic that has not varied counts as independent: zero."""
    size = variances(sums)
    moved = sums.jumps / jnp.maximum(sums.num_jumps, 1)[:, None]
    return jnp.where(size > 0, 1 - moved / (2 * jnp.where(size > 0, size, 1))[None], 0)


def autocorrelation_times(
    rho: Float[Array, "lag stat"], num_jumps: Float[Array, "lag"]
) -> Float[Array, "stat"]:
    """tau, at least 1."""
    zero = 1 / jnp.sqrt(jnp.maximum(num_jumps, 1))
    is_used = jnp.cumprod(rho > zero[:, None], axis=0)
    last = jnp.clip(rho[-1], zero[-1], LARGEST_CORRELATION)
    ratio = last ** (1 / rho.shape[0])
    tail = is_used[-1] * last * ratio / (1 - ratio)
    return 1 + 2 * (jnp.sum(is_used * rho, axis=0) + tail)


def longest_time(sums: Moments) -> Scalar:
    """Tau of the slowest of the three statistics and the worst tenth of the pairs that vary."""
    times = autocorrelation_times(correlations(sums), sums.num_jumps)
    varies = variances(sums)[NUM_OWN:] > 0
    pairs = jnp.nanquantile(jnp.where(varies, times[NUM_OWN:], jnp.nan), 0.9)
    return jnp.maximum(jnp.max(times[:NUM_OWN]), jnp.where(jnp.any(varies), pairs, 1))


def jump_rate(sums: Moments, overall: Moments) -> Scalar:
    r"""Effective draws per cost by the jumps of single sweeps alone, for a few sweeps.

    With $J = E (x_{t+1} - x_t)^2 / (2 V)$, V that of longer observation, an autoregression has
    $\tau = 2 / J - 1$. Taken is the mean of it over the three statistics and the pairs together,
    for a few sweeps know no single pair.
    """
    size = variances(overall)
    moved = sums.jumps[0] / jnp.maximum(sums.num_jumps[0], 1)
    pairs = jnp.sum(moved[NUM_OWN:] * (size[NUM_OWN:] > 0)), jnp.sum(size[NUM_OWN:])
    jump = jnp.append(moved[:NUM_OWN], pairs[0])
    most = jnp.append(2 * size[:NUM_OWN], 2 * pairs[1])
    is_free = most > 0
    ratio = jnp.where(is_free, jump / jnp.where(is_free, most, 1), 1)
    slowness = jnp.mean(2 / jnp.clip(ratio, 1e-6, 1.9) - 1)
    cost = sums.cost / jnp.maximum(sums.num, 1)
    return 1 / jnp.maximum(slowness * cost, 1e-30)


def least_effective(sums: Moments) -> Scalar:
    """Effective draws per cost, of the statistic that has fewest; zero if nothing is known."""
    cost = sums.cost / jnp.maximum(sums.num, 1)
    return jnp.where(sums.num_jumps[-1] > 0, 1 / jnp.maximum(longest_time(sums) * cost, 1e-30), 0)

r"""Splits and merges of whole clusters: the moves that one component after the other cannot make.

Given the bonds, two components are chosen at random. If they are in one cluster it is to be split:
two sides begin with one of them each, and the other components of the cluster are dealt out in
random order, with probabilities

$$p(C \to s) \;\propto\; m_s\, \frac{p(y_{A_s \cup C})}{p(y_{A_s})}
  \prod_{e:\, C - A_s} e^{\beta_e} (1 - q_e)$$

from what is on side s so far. If they are in two clusters these are to be merged. The split of
probability Q (the product over all that were dealt) is taken with probability
$\min\{1, \pi(\text{split}) / (\pi(\text{merged})\, Q)\}$, the merger with
$\min\{1, \pi(\text{merged})\, Q / \pi(\text{split})\}$, where Q is that of dealing the two clusters
as they are, in a random order.

Source: Dahl (2005), "Sequentially-allocated merge-split sampler for conjugate and nonconjugate
Dirichlet process mixture models", here with components in place of sites; Jain & Neal (2004), JCGS
13, for the idea.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayleaf.partitions.model import PartitionModel
from bayleaf.types import Count, Flag, Key, Scalar


class Pieces(NamedTuple):
    """The components: at each root its size and sum of statistics; the edges between them."""

    is_root: Bool[Array, "site"]
    sizes: Int[Array, "site"]
    totals: Float[Array, "site stat"]
    ends: Int[Array, "edge 2"]
    residual: Float[Array, "edge"]


class Sides(NamedTuple):
    """Two sides in the making; ``side`` is 0, 1, or 2 for roots that are on neither."""

    side: Int[Array, "site"]
    sizes: Int[Array, "2"]
    totals: Float[Array, "2 stat"]
    values: Float[Array, "2"]
    cut: Scalar
    log_dealt: Scalar


def split_or_merge(
    model: PartitionModel, key: Key, pieces: Pieces, chosen: Int[Array, "site"], clusters: Any
) -> tuple[Int[Array, "site"], Any, Flag]:
    """Propose to split a cluster or to merge two: labels at the roots, clusters, whether done."""
    key_pair, key_deal, key_accept = jax.random.split(key, 3)
    noise = jnp.where(pieces.is_root, jax.random.uniform(key_pair, chosen.shape), 2.0)
    pair = jnp.argsort(noise)[:2] if chosen.size > 1 else jnp.zeros(2, int)
    first, second = pair[0], pair[1]
    old, other = chosen[first], chosen[second]
    is_split = old == other
    sides = allocate(model, key_deal, pieces, chosen, first, second)

    free = jnp.argmin(clusters.sizes > 0)
    new = jnp.where(is_split, free, other)
    merged_total = sides.totals[0] + sides.totals[1]
    merged_size = jnp.sum(sides.sizes, dtype=sides.sizes.dtype)
    merged = model.log_marginals(merged_size[None], merged_total[None])[0]
    apart = clusters.sizes.at[old].set(sides.sizes[0]).at[new].set(sides.sizes[1])
    whole = clusters.sizes.at[new].set(0).at[old].set(merged_size)
    gain = model.prior.log_weight(apart) - model.prior.log_weight(whole)
    gain = gain + jnp.sum(sides.values) - merged - sides.cut - sides.log_dealt
    height = jnp.log1p(-jax.random.uniform(key_accept, dtype=gain.dtype))
    is_able = (jnp.sum(pieces.is_root) > 1) & (~is_split | (clusters.sizes[free] == 0))
    is_done = is_able & (height < jnp.where(is_split, gain, -gain))  # NaN is not

    on_second = sides.side == 1
    label = jnp.where(is_split, new, old).astype(chosen.dtype)
    moved = jnp.where(is_done & on_second, label, chosen)
    split = type(clusters)(
        apart,
        clusters.totals.at[old].set(sides.totals[0]).at[new].set(sides.totals[1]),
        clusters.log_marginals.at[old].set(sides.values[0]).at[new].set(sides.values[1]),
    )
    joined = type(clusters)(
        whole,
        clusters.totals.at[new].set(0).at[old].set(merged_total),
        clusters.log_marginals.at[new].set(0).at[old].set(merged),
    )
    after = jax.tree.map(
        lambda s, j, c: jnp.where(is_done, jnp.where(is_split, s, j), c), split, joined, clusters
    )
    return moved, after, is_done


def allocate(
    model: PartitionModel,
    key: Key,
    pieces: Pieces,
    chosen: Int[Array, "site"],
    first: Count,
    second: Count,
) -> Sides:
    """Deal the components of one cluster, or of two, to two sides."""
    num_sites = chosen.shape[0]
    key_order, key_side = jax.random.split(key)
    is_in = (chosen == chosen[first]) | (chosen == chosen[second])
    sites = jnp.arange(num_sites)
    is_dealt = pieces.is_root & is_in & (sites != first) & (sites != second)
    place = jnp.where(is_dealt, jax.random.uniform(key_order, chosen.shape), 2.0)
    order = jnp.argsort(place)
    pair = jnp.stack([first, second])
    side = jnp.full(num_sites, 2).at[pair].set(jnp.arange(2))
    totals = pieces.totals[pair]
    values = model.log_marginals(pieces.sizes[pair], totals)
    pull = pulls(pieces, second, side)
    zero = jnp.zeros((), values.dtype)
    start = Sides(side, pieces.sizes[pair], totals, values, pull[0], zero)

    def deal(i: Count, sides: Sides) -> Sides:
        c = order[i]
        size, total = pieces.sizes[c], pieces.totals[c]
        pull = pulls(pieces, c, sides.side)
        joined = model.log_marginals(sides.sizes + size, sides.totals + total[None])
        weights = joined - sides.values + pull + jnp.log(sides.sizes.astype(pull.dtype))
        log_p = jax.nn.log_softmax(weights)
        drawn = jax.random.categorical(jax.random.fold_in(key_side, c), weights)
        as_it_is = jnp.where(chosen[c] == chosen[first], 0, 1)
        s = jnp.where(chosen[first] == chosen[second], drawn, as_it_is)
        return Sides(
            sides.side.at[c].set(s),
            sides.sizes.at[s].add(size),
            sides.totals.at[s].add(total),
            sides.values.at[s].set(joined[s]),
            sides.cut + pull[1 - s],
            sides.log_dealt + log_p[s],
        )

    return jax.lax.fori_loop(0, jnp.sum(is_dealt), deal, start)


def pulls(pieces: Pieces, c: Count, side: Int[Array, "site"]) -> Float[Array, "2"]:
    """The residual couplings of component c with either side."""
    is_first, is_second = pieces.ends[:, 0] == c, pieces.ends[:, 1] == c
    other = side[jnp.where(is_first, pieces.ends[:, 1], pieces.ends[:, 0])]
    strength = jnp.where(is_first ^ is_second, pieces.residual, 0)
    return jnp.zeros(2, strength.dtype).at[other].add(strength, mode="drop")

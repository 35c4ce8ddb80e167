r"""One sweep of the generalised Swendsen-Wang algorithm for partition models.

Bonds are drawn between neighbours in the same cluster, with any probability $q_e$ in [0, 1) that
does not depend on the labels, and break the clusters into *components* C. These leave their
clusters and choose again, one after the other; with C taken out, cluster j has $m_j$ sites and the
weights are

$$\text{join } j: \quad g(\dots, m_j + |C|, \dots)\,
    \frac{p(y_{A_j \cup C})}{p(y_{A_j})} \prod_{e:\, C - A_j} e^{\beta_e} (1 - q_e), \qquad
  \text{a new one}: \quad g(\dots, m_k, |C|)\, p(y_C).$$

The product runs over the edges between C and the cluster: what the bonds have not accounted for of
their couplings. It is 1 with the bonds of Swendsen and Wang, $q_e = 1 - e^{-\beta_e}$; with
$q_e = 0$ components are sites and the sweep is collapsed Gibbs sampling. Because components see the
latest clusters of all others, this is Gibbs sampling of the joint law of partition and bonds, and
exact for any $q_e$. (To let all choose at once from the same counts is not.)

Clusters are kept in a table of fixed length, whose free rows are exactly zero and of which one is
offered as the new cluster.

Sources: Xu, Caron & Doucet (2016), arXiv:1602.03048, for $q_e = 1 - e^{-\beta_e}$; Higdon (1998),
JASA 93, section 3, for the rest; Neal (2000), JCGS 9, algorithm 3, which is $q_e = \beta_e = 0$.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.partitions.components import by_platform, hook_and_jump, num_components
from bayleaf.partitions.machine.collapsed_calls import PartitionSwept, has_machine_code
from bayleaf.partitions.machine.collapsed_calls import sweep as compiled_sweep
from bayleaf.partitions.model import PartitionModel, first_come_labels
from bayleaf.partitions.split_merge import Pieces, split_or_merge
from bayleaf.types import Count, Flag, Key


class Clusters(NamedTuple):
    """The clusters of a partition, one a row; free rows are zero throughout."""

    sizes: Int[Array, "cluster"]
    totals: Float[Array, "cluster stat"]
    log_marginals: Float[Array, "cluster"]


class Component(NamedTuple):
    """What a component brings: its number of sites, the sum of their statistics."""

    size: Count
    total: Float[Array, "stat"]


def sweep(
    model: PartitionModel,
    key: Key,
    labels: Int[Array, "site"],
    probability: Float[Array, "..."],
    *,
    num_proposals: int = 0,
    engine: str | None = None,
) -> PartitionSwept:
    """Draw bonds, and a cluster for each component.

    Args:
        model: the model.
        key: of the draws; those of the two engines differ.
        labels: the present partition.
        probability: q, one number or one for each edge.
        num_proposals: how many splits or merges of clusters are proposed after it
            (`bayleaf.partitions.split_merge`).
        engine: ``"numba"``, ``"jax"``, or None: numba on CPUs where it is installed, for product
            priors and the likelihoods of this library.

    Raises:
        BayleafError: the engine is numba, and it is not installed or does not know the prior or the
            likelihood.
    """
    is_known = has_machine_code(model.prior, model.likelihood)
    if engine == "numba" and not is_known:
        kinds = f"{type(model.prior).__name__} with {type(model.likelihood).__name__}"
        raise bad_argument(
            "engine", f"numba for {kinds}", "a product prior and a likelihood of this library"
        )
    chosen = engine if is_known else "jax"
    compiled = functools.partial(compiled_sweep, num_proposals=num_proposals)
    traced = functools.partial(traced_sweep, num_proposals=num_proposals)
    return by_platform(chosen, compiled, traced, model, key, labels, jnp.asarray(probability))


def traced_sweep(
    model: PartitionModel,
    key: Key,
    labels: Int[Array, "site"],
    probability: Float[Array, "..."],
    *,
    num_proposals: int,
) -> PartitionSwept:
    """The sweep in JAX."""
    edges = model.graph.edges
    key_bonds, key_labels, key_split = jax.random.split(key, 3)
    is_like = labels[edges[:, 0]] == labels[edges[:, 1]]
    is_open = is_like & jax.random.bernoulli(key_bonds, probability, is_like.shape)
    root = hook_and_jump(edges, is_open, model.graph.num_sites)
    residual = jnp.broadcast_to(model.coupling + jnp.log1p(-probability), edges.shape[:1])
    sizes, totals = model.add_up(root, root.shape[0])
    is_root = root == jnp.arange(root.shape[0], dtype=root.dtype)
    pieces = Pieces(is_root, sizes, totals, root[edges], residual)
    chosen, clusters, is_nan = visit_all(model, key_labels, pieces, labels)

    def propose(i: Count, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        chosen, clusters, num_done = carry
        key = jax.random.fold_in(key_split, i)
        chosen, clusters, is_done = split_or_merge(model, key, pieces, chosen, clusters)
        return chosen, clusters, num_done + is_done

    num_done = jnp.zeros((), jnp.int32)
    if num_proposals:
        carry = chosen, clusters, num_done
        chosen, clusters, num_done = jax.lax.fori_loop(0, num_proposals, propose, carry)
    new = first_come_labels(chosen[root], model.max_clusters)
    share = clusters.sizes / labels.shape[0]
    entropy = jnp.sum(jax.scipy.special.entr(share)).astype(model.coupling.dtype)
    counts = num_components(root), jnp.sum(clusters.sizes > 0, dtype=jnp.int32)
    num_like, density = model.num_like(new), model(new)
    return PartitionSwept(new, *counts, num_like, is_nan, num_done, density, entropy)


def visit_all(
    model: PartitionModel,
    key: Key,
    pieces: Pieces,
    labels: Int[Array, "site"],
) -> tuple[Int[Array, "site"], Clusters, Flag]:
    """Each component chooses in turn: labels at the roots, their clusters, whether one was NaN."""
    order = jnp.nonzero(pieces.is_root, size=labels.shape[0], fill_value=0)[0]

    def visit(number: Count, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        chosen, clusters, is_nan = carry
        c = order[number]
        component = Component(pieces.sizes[c], pieces.totals[c])
        clusters = taken_out(model, clusters, component, chosen[c])
        pull = pulls(model, c, pieces.ends, chosen, pieces.residual)
        weights, joined = log_weights(model, clusters, component, pull)
        is_bad = jnp.isnan(weights)
        noise = jax.random.gumbel(jax.random.fold_in(key, c), weights.shape, weights.dtype)
        j = jnp.argmax(jnp.where(is_bad, -jnp.inf, weights) + noise).astype(chosen.dtype)
        clusters = Clusters(
            clusters.sizes.at[j].add(component.size),
            clusters.totals.at[j].add(component.total),
            clusters.log_marginals.at[j].set(joined[j]),
        )
        return chosen.at[c].set(j), clusters, is_nan | jnp.any(is_bad)

    start = labels, table(model, labels), jnp.zeros((), bool)
    return jax.lax.fori_loop(0, jnp.sum(pieces.is_root), visit, start)


def table(model: PartitionModel, labels: Int[Array, "site"]) -> Clusters:
    """The clusters that labels name."""
    sizes, totals = model.add_up(labels)
    values = model.log_marginals(sizes, totals)
    return Clusters(sizes, totals, jnp.where(sizes > 0, values, 0))


def taken_out(
    model: PartitionModel, clusters: Clusters, component: Component, old: Count
) -> Clusters:
    """The clusters without a component, which was in the cluster ``old``."""
    size = clusters.sizes[old] - component.size
    # Exactly zero where nothing is left: what rounding leaves behind must not welcome the next one.
    total = jnp.where(size > 0, clusters.totals[old] - component.total, 0)
    value = jnp.where(size > 0, model.log_marginals(size[None], total[None])[0], 0)
    return Clusters(
        clusters.sizes.at[old].set(size),
        clusters.totals.at[old].set(total),
        clusters.log_marginals.at[old].set(value),
    )


def pulls(
    model: PartitionModel,
    c: Count,
    ends: Int[Array, "edge 2"],
    chosen: Int[Array, "site"],
    residual: Float[Array, "edge"],
) -> Float[Array, "cluster"]:
    """The residual couplings between component c and each cluster."""
    is_first, is_second = ends[:, 0] == c, ends[:, 1] == c
    other = chosen[jnp.where(is_first, ends[:, 1], ends[:, 0])]
    strength = jnp.where(is_first ^ is_second, residual, 0)
    return jnp.zeros(model.max_clusters, residual.dtype).at[other].add(strength)


def log_weights(
    model: PartitionModel, clusters: Clusters, component: Component, pull: Float[Array, "cluster"]
) -> tuple[Float[Array, "cluster"], Float[Array, "cluster"]]:
    """The log weight of each cluster, and of the first free row as a new one, for a component.

    Also the log marginal likelihood that each of them would have with it. Other free rows have
    weight zero.
    """
    is_there = clusters.sizes > 0
    rows = jnp.arange(is_there.shape[0])
    is_offered = is_there | (rows == jnp.argmin(is_there))
    joined = model.log_marginals(
        clusters.sizes + component.size, clusters.totals + component.total[None]
    )
    prior = model.prior.log_joined(clusters.sizes, component.size).astype(joined.dtype)
    weights = prior + joined - clusters.log_marginals + pull
    return jnp.where(is_offered, weights, -jnp.inf), joined


def log_weights_at(
    model: PartitionModel,
    labels: Int[Array, "site"],
    members: Bool[Array, "site"],
    probability: Float[Array, "..."],
) -> Float[Array, "cluster"]:
    """`log_weights` of the component ``members``, whose sites have one label, at a partition."""
    c = jnp.argmax(members)
    root = jnp.where(members, c, jnp.arange(labels.shape[0]))
    residual = model.coupling + jnp.log1p(-probability)
    residual = jnp.broadcast_to(residual, model.graph.edges.shape[:1])
    sizes, totals = model.add_up(root, labels.shape[0])
    component = Component(sizes[c], totals[c])
    clusters = taken_out(model, table(model, labels), component, labels[c])
    pull = pulls(model, c, root[model.graph.edges], labels, residual)
    return log_weights(model, clusters, component, pull)[0]

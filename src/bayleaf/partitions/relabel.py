r"""New labels for the clusters of a partition, in JAX.

Given the bonds, all sites of a cluster C have one label, and its log weight for the state s is

$$w_C(s) = \sum_{i \in C} h_i(s) + \sum_{(i, j):\, i \in C,\, j \notin C} \rho_{ij}\, 1[z_j = s],$$

where $\rho$ is what is left of the coupling of an edge that is not bonded: with the bond
probability $q_e$ it is $\beta_e + \log(1 - q_e)$, hence 0 for the bonds of Swendsen and Wang and
$\beta_e$ where couplings are negative and no bonds are drawn. Without such residuals clusters are
independent, and one categorical draw for each is exact.

With residuals they are drawn in turn, in random order. Two clusters that no residual edge connects
may be drawn at the same time, so a cluster need only wait for its neighbours that come before it:
all can be done in about as many rounds as the longest such queue is long, which grows like the
logarithm of their number. The result is that of one cluster after the other.

Sources: Swendsen & Wang (1987), Physical Review Letters 58; Higdon (1998), JASA 93, section 3, for
bonds that leave a residual.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.types import Flag, Key


def relabel(
    key: Key,
    root: Int[Array, "site"],
    labels: Int[Array, "site"],
    num_states: int,
    *,
    field: Float[Array, "site state"] | None,
    edges: Int[Array, "edge 2"],
    residual: Float[Array, "..."] | None,
) -> Int[Array, "site"]:
    """Draw the label of each cluster from its conditional.

    Args:
        key: of the draws.
        root: one site of each site's cluster, the same for all of the cluster.
        labels: the present labels, which are equal within clusters.
        num_states: q.
        field: h, or None for zero.
        edges: pairs of sites.
        residual: rho, one number or one for each edge; None for zero.
    """
    if field is None and residual is None:
        free = jax.random.randint(key, root.shape, 0, num_states, labels.dtype)
        return free[root]
    dtype = jnp.result_type(*(part for part in (field, residual) if part is not None))
    key_noise, key_order = jax.random.split(key)
    shape = (root.shape[0], num_states)
    # The largest of log weight + Gumbel noise is a categorical draw; each cluster needs it once.
    noise = jax.random.gumbel(key_noise, shape, dtype)
    if field is not None:
        noise += jax.ops.segment_sum(field, root, num_segments=root.shape[0])
    if residual is None:
        return jnp.argmax(noise, axis=1).astype(labels.dtype)[root]
    residual = jnp.broadcast_to(residual, edges.shape[:1])
    order = jax.random.permutation(key_order, root.shape[0])
    return in_turn(noise, order, root[edges], residual, labels, root)[root]


def in_turn(
    scores: Float[Array, "site state"],
    order: Int[Array, "site"],
    ends: Int[Array, "edge 2"],
    residual: Float[Array, "edge"],
    labels: Int[Array, "site"],
    root: Int[Array, "site"],
) -> Int[Array, "site"]:
    """Labels, at the roots, of clusters that are drawn one after the other in the given order."""
    first, second = ends[:, 0], ends[:, 1]
    pull = jnp.where(first != second, residual, 0)
    later = jnp.where(order[first] > order[second], first, second)
    nowhere = root.shape[0]

    def is_going(carry: tuple[Any, Any]) -> Flag:
        return jnp.any(carry[1])

    def one_round(carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, is_waiting = carry
        is_queue = (pull != 0) & is_waiting[first] & is_waiting[second]
        is_behind = (
            jnp.zeros_like(is_waiting)
            .at[jnp.where(is_queue, later, nowhere)]
            .set(True, mode="drop")
        )
        is_next = is_waiting & ~is_behind
        total = scores.at[first, state[second]].add(pull).at[second, state[first]].add(pull)
        drawn = jnp.argmax(total, axis=1).astype(state.dtype)
        return jnp.where(is_next, drawn, state), is_waiting & ~is_next

    is_root = root == jnp.arange(nowhere, dtype=root.dtype)
    return jax.lax.while_loop(is_going, one_round, (labels, is_root))[0]

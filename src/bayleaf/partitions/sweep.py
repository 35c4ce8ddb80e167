r"""One sweep of a Potts model: bonds, clusters, new labels.

$$r_e \sim \mathrm{Bernoulli}\big(q_e\, 1[z_i = z_j]\big), \qquad
  q_e = \max(0,\, 1 - e^{-\beta_e}),$$

and each connected component of the bonds gets a new label (`bayleaf.partitions.relabel`). Any
$q_e \in [0, 1]$ that does not depend on the labels leaves the model invariant: what a bond does not
account for remains as a residual coupling $\beta_e + \log(1 - q_e)$ between clusters. With the
$q_e$ above it is 0, or $\beta_e$ where that is negative; with $q_e = 0$ the sweep is Gibbs sampling
of one site after the other.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.partitions.components import by_platform, hook_and_jump, num_components
from bayleaf.partitions.machine import calls
from bayleaf.partitions.machine.calls import Swept
from bayleaf.partitions.potts import Potts
from bayleaf.partitions.relabel import relabel
from bayleaf.types import Key


def bond_probability(coupling: Float[Array, "..."]) -> Float[Array, "..."]:
    """That of Swendsen and Wang for a like edge, max(0, 1 - exp(-coupling))."""
    return -jnp.expm1(-jnp.maximum(coupling, 0))


def sweep(
    potts: Potts,
    key: Key,
    labels: Int[Array, "site"],
    *,
    probability: Float[Array, "..."] | None = None,
    residual: Float[Array, "..."] | None = None,
    engine: str | None = None,
) -> Swept:
    """Draw bonds and new labels.

    Args:
        potts: the model.
        key: of the draws; those of the two engines differ.
        labels: the present labels.
        probability: q_e, one number or one for each edge, in [0, 1); may depend on data and not on
            labels. None takes `bond_probability`.
        residual: beta_e + log(1 - q_e), where the caller knows it better than by this formula,
            which loses it when 1 - q_e is below the spacing of the numbers near 1.
        engine: as for `bayleaf.partitions.connected_components`.
    """
    bonds = bond_probability(potts.coupling) if probability is None else probability
    bonds, _ = jnp.broadcast_arrays(bonds.astype(potts.coupling.dtype), potts.coupling)
    coupling = jnp.broadcast_to(potts.coupling, bonds.shape)
    if residual is not None:
        residual = jnp.broadcast_to(residual.astype(bonds.dtype), bonds.shape)
    elif probability is not None:
        residual = coupling + jnp.log1p(-bonds)
    elif not potts.is_attractive:
        residual = jnp.minimum(coupling, 0)
    return by_platform(engine, _compiled, _traced, potts, key, labels, coupling, bonds, residual)


def _compiled(potts: Potts, key: Key, labels: Any, *numbers: Any) -> Swept:
    coupling, probability, residual = numbers
    common: dict[str, Any] = {
        "num_states": potts.num_states,
        "field": potts.field,
        "coupling": coupling,
        "probability": probability,
    }
    graph = potts.graph
    if graph.shape is not None and coupling.ndim == 0 and residual is None:
        shape, is_periodic = graph.shape, graph.is_periodic
        return calls.sweep_lattice(key, labels, shape=shape, is_periodic=is_periodic, **common)
    return calls.sweep_graph(key, labels, edges=graph.edges, residual=residual, **common)


def _traced(potts: Potts, key: Key, labels: Any, *numbers: Any) -> Swept:
    _, probability, residual = numbers
    edges = potts.graph.edges
    key_bonds, key_labels = jax.random.split(key)
    is_like = labels[edges[:, 0]] == labels[edges[:, 1]]
    is_open = is_like & jax.random.bernoulli(key_bonds, probability, is_like.shape)
    root = hook_and_jump(edges, is_open, potts.graph.num_sites)
    new = relabel(
        key_labels,
        root,
        labels,
        potts.num_states,
        field=potts.field,
        edges=edges,
        residual=residual,
    )
    return Swept(new, num_components(root), potts.num_like(new), potts(new))

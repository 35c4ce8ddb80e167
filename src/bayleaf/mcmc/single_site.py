r"""Gibbs and Metropolis sampling of the labels of a Potts model, one site after the other.

The site i sees its neighbours and its field,

$$\ell_i(s) = h_i(s) + \sum_{j \sim i} \beta_{ij}\, 1[z_j = s].$$

Gibbs draws its label with probability proportional to $\exp \ell_i(s)$; Metropolis proposes one of
the other q - 1 labels and takes it with probability $\min\{1, \exp(\ell_i(s^*) - \ell_i(z_i))\}$.
Sites of one colour (`bayleaf.partitions.Graph.colours`) have no edge between them and are done at
the same time, the colours one after the other: a systematic scan, which leaves the model invariant.

Good for strong fields and weak couplings, and to compare `SwendsenWang` with. Near a critical point
an L x L lattice needs about $L^{2.2}$ sweeps for one independent draw.

Metropolis accepts every move of a site that has no neighbours, no field and two states, which then
alternates: its averages are right, and it never forgets. Gibbs has no such case.

Source: Geman & Geman (1984), section XI; Metropolis et al. (1953).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.swendsen_wang import LabelState, label_state
from bayleaf.partitions.potts import Potts, as_potts
from bayleaf.types import Count, Key, LogDensity, Position, Scalar


class SingleSiteInfo(NamedTuple):
    """What the sweep made; for ``num_like`` and ``magnetisation`` see `SwendsenWangInfo`.

    ``acceptance_rate`` is the share of sites that took their proposal; 1 for Gibbs.
    """

    acceptance_rate: Scalar
    num_like: Count
    magnetisation: Scalar


class SingleSiteGibbs(Kernel):
    """Sweeps of a `bayleaf.partitions.Potts`, each site drawn from its conditional."""

    def init(self, log_density: LogDensity, position: Position) -> LabelState:
        """The state at these labels."""
        return label_state(as_potts(log_density), position)

    def step(
        self, log_density: LogDensity, key: Key, state: LabelState
    ) -> tuple[LabelState, SingleSiteInfo]:
        """One sweep."""
        potts = as_potts(log_density)
        dtype = potts.coupling.dtype
        # The largest of log weight + Gumbel noise is a categorical draw; each site needs it once.
        noise = jax.random.gumbel(key, (potts.graph.num_sites, potts.num_states), dtype)
        scores = noise if potts.field is None else noise + potts.field
        first, second, coupling = directed_edges(potts)

        def one_colour(colour: Count, labels: Int[Array, "site"]) -> Int[Array, "site"]:
            total = scores.at[first, labels[second]].add(coupling)
            drawn = jnp.argmax(total, axis=1).astype(labels.dtype)
            return jnp.where(potts.graph.colours == colour, drawn, labels)

        labels = jax.lax.fori_loop(0, num_colours(potts), one_colour, state.position)
        return finished(potts, labels, jnp.ones((), dtype))


class SingleSiteMetropolis(Kernel):
    """Sweeps of a `bayleaf.partitions.Potts`, each site proposed one of its other labels."""

    def init(self, log_density: LogDensity, position: Position) -> LabelState:
        """The state at these labels."""
        return label_state(as_potts(log_density), position)

    def step(
        self, log_density: LogDensity, key: Key, state: LabelState
    ) -> tuple[LabelState, SingleSiteInfo]:
        """One sweep."""
        potts = as_potts(log_density)
        dtype, q, old = potts.coupling.dtype, potts.num_states, state.position
        key_propose, key_accept = jax.random.split(key)
        shift = jax.random.randint(key_propose, old.shape, 1, max(q, 2), old.dtype)
        proposed = (old + shift) % q
        height = jnp.log(jax.random.uniform(key_accept, old.shape, dtype))
        first, second, coupling = directed_edges(potts)
        gain = potts.field_at(proposed) - potts.field_at(old)

        def one_colour(colour: Count, labels: Int[Array, "site"]) -> Int[Array, "site"]:
            near = labels[second]
            more = (near == proposed[first]).astype(dtype) - (near == old[first]).astype(dtype)
            ratio = gain.at[first].add(coupling * more)
            is_taken = (potts.graph.colours == colour) & (height < ratio)
            return jnp.where(is_taken, proposed, labels)

        labels = jax.lax.fori_loop(0, num_colours(potts), one_colour, old)
        return finished(potts, labels, jnp.mean(labels == proposed, dtype=dtype))


def directed_edges(
    potts: Potts,
) -> tuple[Int[Array, "half"], Int[Array, "half"], Float[Array, "half"]]:
    """Each edge from both its ends: the site, its neighbour, the coupling."""
    edges = potts.graph.edges
    coupling = jnp.broadcast_to(potts.coupling, edges.shape[:1])
    first, second = jnp.concatenate([edges, edges[:, ::-1]]).T
    return first, second, jnp.concatenate([coupling, coupling])


def num_colours(potts: Potts) -> Count:
    """How many colours the graph has."""
    return jnp.max(potts.graph.colours) + 1


def finished(
    potts: Potts, labels: Int[Array, "site"], acceptance_rate: Scalar
) -> tuple[LabelState, SingleSiteInfo]:
    """The state and the info at the end of a sweep."""
    info = SingleSiteInfo(acceptance_rate, potts.num_like(labels), potts.magnetisation(labels))
    return LabelState(labels, potts(labels)), info

r"""Generalised Swendsen-Wang sampling of partitions: bonded pieces choose their cluster anew.

Given the partition, neighbours in the same cluster are bonded with probability $q_e$; given the
bonds, each connected piece leaves its cluster and joins another one, or makes a new one, by its
exact conditional probability (`bayleaf.partitions.collapsed` has the formulas). Any $q_e$ in [0, 1)
leaves the posterior invariant, as long as it does not look at the labels; it decides only how large
the pieces are:

- ``bonds=0.0``: single sites, collapsed Gibbs sampling. Good when the data are informative.
- ``Decoupled(1.0)``: the bonds of Swendsen and Wang, $q_e = 1 - e^{-\beta_e}$. Good when the
  couplings are strong against the data. Otherwise clusters are drawn without regard to the data,
  and large ones hardly ever find a better place.
- ``Decoupled(0.5)``: between the two (Higdon's partial decoupling).
- a number for each edge, or a function, that may use the data (`Contrast`, `LearnedBonds`).

The default draws one of four strengths for each sweep, of which none needs to be the right one;
``bonds="auto"`` finds the best of them in warm-up.

After the sweep it is proposed to split a cluster, or to merge two, as a whole
(`bayleaf.partitions.split_merge`): piece by piece, a new cluster would have to begin with one piece
that nothing holds there yet.

Sources: those of `bayleaf.partitions.collapsed` and `bayleaf.partitions.split_merge`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.mcmc.bond_race import AUTO, Raced
from bayleaf.mcmc.kernel import Kernel, Tuner
from bayleaf.partitions.bonds import Contrast, Decoupled, frozen_bonds, probabilities
from bayleaf.partitions.collapsed import sweep
from bayleaf.partitions.model import as_partition_model
from bayleaf.trees import Frozen
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar

__all__ = ["Contrast", "Decoupled", "GeneralisedSwendsenWang", "PartitionInfo", "PartitionState"]


class PartitionState(NamedTuple):
    """The labels and their log density."""

    position: Int[Array, "site"]
    log_density: Scalar


class PartitionInfo(NamedTuple):
    r"""Numbers that the partition decides, whatever its clusters are called.

    ``num_components`` counts the bonded pieces that were moved; ``num_clusters`` the clusters;
    ``num_like`` the edges within clusters; ``size_entropy`` is $-\sum_j (m_j/n) \log(m_j/n)$;
    ``num_split_merges`` counts the splits and merges that were accepted; ``is_nan`` tells that the
    prior or the likelihood was NaN for a choice, which was not taken.
    """

    num_components: Count
    num_clusters: Count
    num_like: Count
    size_entropy: Scalar
    log_density: Scalar
    num_split_merges: Count
    is_nan: Flag


class GeneralisedSwendsenWang(Kernel):
    """Sweeps of a `bayleaf.partitions.PartitionModel`.

    Draws are labels numbered by first sites (`bayleaf.partitions.first_come_labels`); what they
    have in common is told by `bayleaf.partitions.coclustering` and `point_estimate`.

    Args:
        bonds: q, one number for all edges or one for each, in [0, 1); or a function ``bonds(key,
            model)`` that returns such for one sweep, which may use the data of the model and chance
            but knows no labels; or ``"auto"``, the best of ``Decoupled`` of 0, 0.25, 0.5 and 1,
            which warm-up finds (`bayleaf.mcmc.Raced`). None takes one of these four at random for
            each sweep.
        split_merges: how many splits or merges are proposed in each sweep. One takes about as long
            as visiting the sites of the clusters in question.
        engine: ``"numba"`` (machine code for one thread of a CPU, extra ``fast``) or ``"jax"``;
            None takes numba on CPUs where it is installed, if the prior is a product and the
            likelihood is one of this library. They agree in law.

    Raises:
        BayleafError: bonds outside of [0, 1), or of another shape than the edges of the model; a
            number of proposals that is none; an unknown engine.
    """

    bonds: Frozen | Float[Array, "..."]
    split_merges: int = eqx.field(static=True)
    engine: str | None = eqx.field(static=True)

    def __init__(
        self,
        bonds: Any = None,
        *,
        split_merges: int = 1,
        engine: str | None = None,
    ) -> None:
        if engine not in (None, "numba", "jax"):
            raise bad_argument("engine", engine, '"numba", "jax" or None')
        self.engine = engine
        is_whole = isinstance(split_merges, int | np.integer) and not isinstance(split_merges, bool)
        if not is_whole or split_merges < 0:
            raise bad_argument("split_merges", split_merges, "a whole number, at least 0")
        self.split_merges = int(split_merges)
        if bonds is None:
            bonds = Decoupled(AUTO)
        if isinstance(bonds, str):
            if bonds != "auto":
                raise bad_argument("bonds", bonds, '"auto", numbers or a function')
            bonds = Raced()
        self.bonds = frozen_bonds(bonds)

    def tuner(self) -> Tuner | None:
        """That of the rule, if it learns."""
        rule = self.bonds.thaw() if isinstance(self.bonds, Frozen) else None
        return None if rule is None or not hasattr(rule, "tuner") else rule.tuner()

    def init(self, log_density: LogDensity, position: Position) -> PartitionState:
        """The state at these labels."""
        model, labels = as_partition_model(log_density), jnp.asarray(position)
        shape = (model.graph.num_sites,)
        if labels.shape != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise bad_argument(
                "position",
                f"{labels.dtype} numbers of shape {labels.shape}",
                f"labels, integers of shape {shape}",
            )
        return PartitionState(labels, model(labels))

    def step(
        self, log_density: LogDensity, key: Key, state: PartitionState
    ) -> tuple[PartitionState, PartitionInfo]:
        """One sweep."""
        model = as_partition_model(log_density)
        key_bonds, key_sweep = jax.random.split(key)
        probability = probabilities(self.bonds, key_bonds, model)
        swept = sweep(
            model,
            key_sweep,
            state.position,
            probability,
            num_proposals=self.split_merges,
            engine=self.engine,
        )
        info = PartitionInfo(
            swept.num_components,
            swept.num_clusters,
            swept.num_like,
            swept.size_entropy,
            swept.log_density,
            swept.num_split_merges,
            swept.is_nan,
        )
        return PartitionState(swept.labels, swept.log_density), info

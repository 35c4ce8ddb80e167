r"""Swendsen-Wang sampling of Potts models: whole clusters change their label at once.

Given the labels, like edges are bonded at random; given the bonds, clusters get new labels,

$$r_e \mid z \sim \mathrm{Bernoulli}\big((1 - e^{-\beta_e})\, 1[z_i = z_j]\big), \qquad
  z_C \mid r \;\propto\; \exp \sum_{i \in C} h_i(z_C) :$$

Gibbs sampling of the joint law of labels and bonds, whose marginal is the Potts model. Near the
critical coupling, where single-site updates need $L^{2.2}$ sweeps of an L x L lattice for one
independent draw, it needs a few. A field that is strong against the coupling undoes the advantage:
clusters are drawn without regard to it, and a large one hardly finds a label that suits it. Weaker
bonds help then, $1 - e^{-\delta \beta_e}$ with a strength $\delta < 1$: what they leave of the
coupling, $(1 - \delta) \beta_e$, acts between clusters, which are drawn one after the other.
$\delta = 0$ is Gibbs sampling of single sites. Any $\delta$ is exact.

Negative couplings give no bonds, and stay as a repulsion between clusters in the same way
(`bayleaf.partitions.relabel`): exact on frustrated graphs too.

Source: Swendsen & Wang (1987), Physical Review Letters 58; Edwards & Sokal (1988), Physical Review
D 38, for the joint law; Higdon (1998), Journal of the American Statistical Association 93, for
weaker bonds (partial decoupling).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel
from bayleaf.partitions.potts import Potts, as_potts
from bayleaf.partitions.sweep import bond_probability, sweep
from bayleaf.types import Count, Key, LogDensity, Position, Scalar


class LabelState(NamedTuple):
    """The labels and their log density."""

    position: Int[Array, "site"]
    log_density: Scalar


class SwendsenWangInfo(NamedTuple):
    """What the sweep made.

    ``num_like`` counts the edges whose ends are alike: with one coupling beta and no field the
    energy is minus beta times that. For ``magnetisation`` see `bayleaf.partitions.Potts`.
    """

    num_clusters: Count
    num_like: Count
    magnetisation: Scalar


class SwendsenWang(Kernel):
    """Swendsen-Wang sweeps of a `bayleaf.partitions.Potts`.

    Args:
        strength: delta, from 0 to 1: how much of each coupling the bonds account for. Try 0.3 when
            a likelihood outweighs the couplings.
        engine: ``"numba"`` (machine code for one thread of a CPU, extra ``fast``) or ``"jax"``;
            None takes numba on CPUs where it is installed. They agree in law; the key gives
            different draws in each.
    """

    strength: float = eqx.field(default=1.0, static=True)
    engine: str | None = eqx.field(default=None, static=True)

    def __check_init__(self) -> None:
        """Refuse an impossible strength and an unknown engine."""
        if not 0 <= self.strength <= 1:
            raise bad_argument("strength", self.strength, "a number from 0 to 1")
        if self.engine not in (None, "numba", "jax"):
            raise bad_argument("engine", self.engine, '"numba", "jax" or None')

    def init(self, log_density: LogDensity, position: Position) -> LabelState:
        """The state at these labels."""
        return label_state(as_potts(log_density), position)

    def step(
        self, log_density: LogDensity, key: Key, state: LabelState
    ) -> tuple[LabelState, SwendsenWangInfo]:
        """One sweep."""
        potts = as_potts(log_density)
        bonds = {} if self.strength == 1 else weakened(potts, self.strength)
        swept = sweep(potts, key, state.position, engine=self.engine, **bonds)
        info = SwendsenWangInfo(
            swept.num_clusters, swept.num_like, potts.magnetisation(swept.labels)
        )
        return LabelState(swept.labels, swept.log_density), info


def weakened(potts: Potts, strength: float) -> dict[str, Any]:
    """Bond probabilities that account for a part of the coupling, and what they leave of it."""
    attraction = jnp.maximum(potts.coupling, 0)
    return {
        "probability": bond_probability(strength * attraction),
        "residual": potts.coupling - strength * attraction,
    }


def label_state(potts: Potts, position: Position) -> LabelState:
    """The state of a kernel at labels; what is none is refused."""
    labels, num_sites = jnp.asarray(position), potts.graph.num_sites
    if labels.shape != (num_sites,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise bad_argument(
            "position",
            f"{labels.dtype} numbers of shape {labels.shape}",
            f"labels, integers of shape ({num_sites},)",
        )
    return LabelState(labels, potts(labels))

r"""Potts models: labels on the sites of a graph that like, or dislike, to equal their neighbours'.

$$\log p(z) = \sum_{e = (i, j)} \beta_e\, 1[z_i = z_j] + \sum_i h_i(z_i) - \log Z,
  \qquad z_i \in \{0, \dots, q - 1\},$$

with a coupling $\beta_e$ of any sign for each edge and a field $h_i(s)$ for each site and state: an
external field, or the log likelihood of the data at site i if its state is s, in which case p is
the posterior of the labels. $\log Z$ is never computed.

Ising's model with spins $s_i = 2 z_i - 1$ is the one of two states with twice the coupling, since

$$J s_i s_j = 2 J\, 1[z_i = z_j] - J :$$

`Potts.ising(graph, J)` has $\beta = 2 J$. On the square lattice the critical coupling is
$\log(1 + \sqrt q)$, hence $J = \log(1 + \sqrt 2) / 2 = 0.4407$.

Source: Potts (1952), Mathematical Proceedings of the Cambridge Philosophical Society 48; Wu (1982),
Reviews of Modern Physics 54, section I.B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.partitions.arguments import is_known
from bayleaf.partitions.graphs import Graph
from bayleaf.targets import Target
from bayleaf.targets.starts import Drawn
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Key, Position, Scalar

Labels = Int[Array, "site"]


class Potts(eqx.Module):
    """A Potts model; called on labels it returns their log density up to a constant.

    It can be sampled as it is, ``bl.sample(potts, bl.mcmc.SwendsenWang(), key=key)``, from labels
    drawn at random; see `target` for large lattices.

    Args:
        graph: the sites and edges.
        num_states: q, how many states a site can have.
        coupling: beta, one number for all edges or one for each.
        field: h, numbers [state] for all sites, or [site, state]; minus infinity forbids a state.

    Raises:
        BayleafError: a wrong shape; couplings that are not finite; a field that is NaN or plus
            infinity, or leaves a site no state.
    """

    graph: Graph
    coupling: Float[Array, "..."]
    field: Float[Array, "site state"] | None
    num_states: int = eqx.field(static=True)
    is_attractive: bool = eqx.field(static=True)

    def __init__(self, graph: Graph, num_states: int, coupling: Any, *, field: Any = None) -> None:
        self.graph = checked_graph(graph)
        self.num_states = checked_num_states(num_states)
        self.coupling = checked_coupling(coupling, graph)
        self.field = checked_field(field, graph.num_sites, self.num_states, self.coupling.dtype)
        # Known when it is made outside of jit; a coupling that is traced may have any sign.
        self.is_attractive = is_known(self.coupling) and bool(
            np.all(np.asarray(self.coupling) >= 0)
        )

    @classmethod
    def ising(cls, graph: Graph, coupling: Any, *, field: Any = None) -> Potts:
        """Ising's model: log p = sum of J s s' over the edges + sum of h s, with spins s = 2 z - 1.

        Args:
            graph: the sites and edges.
            coupling: J, one number or one for each edge; inverse temperature times interaction.
            field: h, one number or one for each site.
        """
        both = None
        if field is not None:
            h = jnp.broadcast_to(jnp.asarray(field, float), (graph.num_sites,))
            both = jnp.stack([-h, h], axis=1)
        return cls(graph, 2, 2 * jnp.asarray(coupling, float), field=both)

    def __call__(self, labels: Labels) -> Scalar:
        """The log density up to a constant; minus infinity for labels that are no states."""
        ends = self.graph.edges
        is_like = labels[ends[:, 0]] == labels[ends[:, 1]]
        if self.coupling.ndim == 0:
            total = self.coupling * jnp.sum(is_like).astype(self.coupling.dtype)
        else:
            total = jnp.sum(jnp.where(is_like, self.coupling, 0))
        if self.field is not None:
            total += jnp.sum(self.field_at(labels))
        is_inside = jnp.all((labels >= 0) & (labels < self.num_states))
        return jnp.where(is_inside, total, -jnp.inf)

    def field_at(self, labels: Labels) -> Float[Array, "site"]:
        """The field that each site feels in its state."""
        if self.field is None:
            return jnp.zeros(labels.shape, self.coupling.dtype)
        return jnp.take_along_axis(self.field, labels[:, None], axis=1)[:, 0]

    def num_like(self, labels: Labels) -> Count:
        """How many edges join sites of the same label."""
        ends = self.graph.edges
        return jnp.sum(labels[ends[:, 0]] == labels[ends[:, 1]], dtype=jnp.int32)

    def magnetisation(self, labels: Labels) -> Scalar:
        """The order parameter (q m - 1) / (q - 1), where m is the share of the commonest state.

        0 when all states are equally common, 1 when there is one only; for two states the absolute
        mean of the spins.
        """
        q, dtype = self.num_states, self.coupling.dtype
        if q == 1:
            return jnp.ones((), dtype)
        if q <= 8:  # a few passes are faster than a scatter
            commonest = jnp.max(jnp.stack([jnp.sum(labels == state) for state in range(q)]))
        else:
            commonest = jnp.max(jnp.bincount(labels, length=q))
        return (q * commonest.astype(dtype) / labels.shape[0] - 1) / (q - 1)

    def random_labels(self, key: Key) -> Labels:
        """Labels drawn site by site from the field alone: uniform without one."""
        shape = (self.graph.num_sites,)
        if self.field is None:
            return jax.random.randint(key, shape, 0, self.num_states, jnp.int32)
        return jax.random.categorical(key, self.field).astype(jnp.int32)

    def with_field(self, field: Any) -> Potts:
        """The same model in another field, which may be traced: a step of a Gibbs sampler, say."""
        new = checked_field(field, self.graph.num_sites, self.num_states, self.coupling.dtype)
        return eqx.tree_at(lambda potts: potts.field, self, new, is_leaf=lambda leaf: leaf is None)

    def target(self, keep: Callable[[Labels], Any] | None = None) -> Target:
        """The model as a `bayleaf.Target`, whose chains start at `random_labels`.

        Args:
            keep: a function of the labels; what it returns is kept of each draw in place of them.
                Draws of a lattice are large, and often only a few numbers of them are wanted. Such
                a run can be extended but not be loaded to be extended.

        Examples:
            >>> import jax, bayleaf as bl
            >>> potts = bl.partitions.Potts(bl.partitions.Graph.lattice((8, 8)), 3, 0.5)
            >>> target = potts.target(keep=lambda labels: {"like": potts.num_like(labels)})
        """
        frozen = None if keep is None else frozen_function(keep, "keep")
        start = Drawn(frozen_function(self.random_labels, "init"))
        return Target._of(PottsModel(self, frozen), start)


class PottsModel(eqx.Module):
    """What `bayleaf.Target` asks of a model: here parameters are labels, as they are."""

    potts: Potts
    keep: Frozen | None

    def log_density(self, u: Position) -> Scalar:
        """That of the labels."""
        return self.potts(u)

    def constrain(self, u: Position) -> Any:
        """What is kept of a draw."""
        return u if self.keep is None else self.keep(u)

    def unconstrain(self, x: Position) -> Labels:
        """The labels, if labels are what is kept."""
        shape = (self.potts.graph.num_sites,)
        if not isinstance(x, jax.Array) or x.shape != shape:
            raise bad_argument(
                "init",
                f"draws of {jax.tree.map(jnp.shape, x)}",
                f"labels, integers of shape {shape}",
            )
        return x

    def check(self, x: Position, argument: str) -> None:
        """Raise if these are no labels; a leading axis of chains is allowed."""
        labels, potts = np.asarray(x), self.potts
        if labels.dtype.kind not in "iu" or labels.shape[-1:] != (potts.graph.num_sites,):
            raise bad_argument(
                argument,
                f"{labels.dtype} numbers of shape {labels.shape}",
                f"labels, integers of shape ({potts.graph.num_sites},)",
            )
        outside = labels[(labels < 0) | (labels >= potts.num_states)]
        if outside.size:
            raise bad_argument(
                argument, f"the label {outside[0]}", f"labels from 0 to {potts.num_states - 1}"
            )


def as_potts(log_density: Any) -> Potts:
    """The Potts model that a kernel for labels is to sample, or the error that says what it got."""
    model = getattr(log_density, "model", log_density)
    if isinstance(model, PottsModel):
        return model.potts
    if not isinstance(model, Potts):
        raise bad_argument(
            "target",
            f"a {type(log_density).__name__}",
            "a bayleaf.partitions.Potts, whose graph and couplings the kernel uses",
            "As a block of Gibbs, call the kernel's step in a Conditional.",
        )
    return model


def checked_graph(graph: Any) -> Graph:
    """A graph, or the error."""
    if not isinstance(graph, Graph):
        raise bad_argument(
            "graph", f"a {type(graph).__name__}", "a graph", "Try Graph.lattice((64, 64))."
        )
    return graph


def checked_num_states(num_states: Any) -> int:
    """A number of states, or the error."""
    is_whole = isinstance(num_states, int | np.integer) and not isinstance(num_states, bool)
    if not is_whole or not 1 <= num_states < 2**31:
        raise bad_argument("num_states", num_states, "a whole number, at least 1")
    return int(num_states)


def checked_coupling(coupling: Any, graph: Graph) -> Float[Array, "..."]:
    """One finite coupling, or one for each edge."""
    value = as_real(coupling, "coupling")
    if value.shape not in ((), (graph.num_edges,)):
        raise bad_argument(
            "coupling",
            f"shape {value.shape}",
            f"one number, or one for each of {graph.num_edges} edges",
        )
    if is_known(value) and not np.all(np.isfinite(value)):
        where = np.flatnonzero(~np.isfinite(np.atleast_1d(value)))[0]
        raise bad_argument(
            "coupling" if value.ndim == 0 else f"coupling[{where}]",
            str(np.atleast_1d(value)[where]),
            "a finite number",
        )
    return value


def checked_field(
    field: Any, num_sites: int, num_states: int, dtype: Any
) -> Float[Array, "site state"] | None:
    """The field of each site, or None."""
    if field is None:
        return None
    value = as_real(field, "field").astype(dtype)
    if value.shape not in ((num_states,), (num_sites, num_states)):
        raise bad_argument(
            "field",
            f"shape {value.shape}",
            f"shape [state] = ({num_states},) or [site, state] = {(num_sites, num_states)}",
        )
    if is_known(value):
        rows = np.atleast_2d(np.asarray(value))
        bad = (
            np.isnan(rows).any(axis=1)
            | (rows == np.inf).any(axis=1)
            | (rows.max(axis=1) == -np.inf)
        )
        if bad.any():
            site = int(np.flatnonzero(bad)[0])
            raise bad_argument(
                "field" if value.ndim == 1 else f"field[{site}]",
                str(rows[site].tolist()),
                "numbers below infinity, and at least one state that is not forbidden",
            )
    return jnp.broadcast_to(value, (num_sites, num_states))


def as_real(value: Any, name: str) -> Float[Array, "..."]:
    """A floating-point array; integers become one."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.dtype.kind not in "iufV":
        raise bad_argument(name, f"{array.dtype} values", "real numbers")
    array = jnp.asarray(array)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)

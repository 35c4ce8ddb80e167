r"""Partition models: how sites fall into clusters, when the number of clusters is not known.

$$p(\Pi \mid y) \;\propto\; g(|A_1|, \dots, |A_k|) \prod_{j=1}^k p(y_{A_j})
  \exp \sum_{e = (i, j)} \beta_e\, 1[z_i = z_j]$$

for a partition $\Pi = \{A_1, \dots, A_k\}$ of the sites of a graph, written as labels z: a prior on
the sizes of clusters (`bayleaf.partitions.priors`), the likelihood of each cluster's data
(`bayleaf.partitions.likelihoods`), and couplings that make neighbours alike, as in a Potts model.
Without couplings it is a mixture model with its parameters integrated out; with a Dirichlet process
it is the Potts-DP model.

Labels that name the same clusters by other numbers are the same partition, and have the same
density. Samplers return them numbered by their first sites (`first_come_labels`): site 0 has label
0, and a new number is the next one. Each label is then a function of the partition, and may be
averaged or looked at for convergence like any other number.

Sources: Orbanz & Buhmann (2008), International Journal of Computer Vision 77; Xu, Caron & Doucet
(2016), "Bayesian nonparametric image segmentation using a generalized Swendsen-Wang algorithm",
arXiv:1602.03048.
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
from bayleaf.partitions.arguments import whole
from bayleaf.partitions.graphs import Graph
from bayleaf.partitions.likelihoods import CollapsedLikelihood
from bayleaf.partitions.potts import checked_coupling, checked_graph
from bayleaf.partitions.priors import PartitionPrior
from bayleaf.targets import Target
from bayleaf.targets.starts import Drawn
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Key, Position, Scalar

Labels = Int[Array, "site"]


class PartitionModel(eqx.Module):
    """A model of partitions; called on labels it returns their log density up to a constant.

    It can be sampled as it is: ``bl.sample(model, bl.mcmc.GeneralisedSwendsenWang(), key=key)``.

    Args:
        graph: the sites and edges.
        prior: on partitions.
        likelihood: of the data of the sites; None for the prior alone.
        coupling: beta, one number for all edges or one for each, of any sign.
        max_clusters: partitions into more clusters have probability zero. None allows one for each
            site. The JAX engine takes time in proportion to it, the compiled one does not.

    Raises:
        BayleafError: arguments of another kind; data for another number of sites; a prior that is
            NaN somewhere; couplings that are not finite.

    Examples:
        >>> import jax.numpy as jnp, bayleaf as bl
        >>> model = bl.partitions.PartitionModel(
        ...     bl.partitions.Graph.lattice((1, 4)),
        ...     bl.partitions.DirichletProcess(1.0),
        ...     bl.partitions.NormalMean([0.1, -0.2, 5.0, 5.3], variance=1.0, prior_variance=9.0),
        ...     coupling=0.5,
        ... )
        >>> bool(model(jnp.array([0, 0, 1, 1])) > model(jnp.array([0, 1, 0, 1])))
        True
    """

    graph: Graph
    prior: PartitionPrior
    likelihood: CollapsedLikelihood | None
    coupling: Float[Array, "..."]
    max_clusters: int = eqx.field(static=True)

    def __init__(
        self,
        graph: Graph,
        prior: PartitionPrior,
        likelihood: CollapsedLikelihood | None = None,
        *,
        coupling: Any = 1.0,
        max_clusters: int | None = None,
    ) -> None:
        self.graph = checked_graph(graph)
        self.prior = checked_prior(prior, graph.num_sites)
        self.likelihood = checked_likelihood(likelihood, graph.num_sites)
        self.coupling = checked_coupling(coupling, graph)
        if self.likelihood is not None:
            self.coupling = self.coupling.astype(self.likelihood.statistics.dtype)
        most = graph.num_sites if max_clusters is None else whole(max_clusters, "max_clusters")
        self.max_clusters = min(most, graph.num_sites)

    @property
    def statistics(self) -> Float[Array, "site stat"]:
        """The statistics of each site: none, without data."""
        if self.likelihood is None:
            return jnp.zeros((self.graph.num_sites, 0), self.coupling.dtype)
        return self.likelihood.statistics

    def __call__(self, labels: Labels) -> Scalar:
        """The log density; minus infinity for labels outside of 0, ..., max_clusters - 1."""
        sizes, totals = self.add_up(labels)
        total = self.prior.log_weight(sizes).astype(self.coupling.dtype)
        total += jnp.sum(jnp.where(sizes > 0, self.log_marginals(sizes, totals), 0))
        ends = self.graph.edges
        is_like = labels[ends[:, 0]] == labels[ends[:, 1]]
        total += jnp.sum(jnp.where(is_like, self.coupling, jnp.zeros_like(self.coupling)))
        is_inside = jnp.all((labels >= 0) & (labels < self.max_clusters))
        return jnp.where(is_inside, total, -jnp.inf)

    def add_up(
        self, groups: Int[Array, "site"], num_groups: int | None = None
    ) -> tuple[Int[Array, "cluster"], Float[Array, "cluster stat"]]:
        """Sizes, and sums of statistics, of groups of sites."""
        num = self.max_clusters if num_groups is None else num_groups
        sizes = jnp.zeros(num, jnp.int32).at[groups].add(1)
        return sizes, jax.ops.segment_sum(self.statistics, groups, num)

    def log_marginals(
        self, sizes: Int[Array, "cluster"], totals: Float[Array, "cluster stat"]
    ) -> Float[Array, "cluster"]:
        """Log p of the data of clusters; of what has no sites it is of no use."""
        if self.likelihood is None:
            return jnp.zeros(sizes.shape, self.coupling.dtype)
        return jax.vmap(self.likelihood.log_marginal)(sizes, totals)

    def num_like(self, labels: Labels) -> Count:
        """How many edges lie within clusters."""
        ends = self.graph.edges
        return jnp.sum(labels[ends[:, 0]] == labels[ends[:, 1]], dtype=jnp.int32)

    def random_labels(self, key: Key) -> Labels:
        """A random partition into 1 to 8 clusters, without regard to the model."""
        key_number, key_labels = jax.random.split(key)
        most = min(8, self.max_clusters)
        number = jax.random.randint(key_number, (), 1, most + 1, jnp.int32)
        labels = jax.random.randint(key_labels, (self.graph.num_sites,), 0, number, jnp.int32)
        return first_come_labels(labels, most)

    def with_prior(self, prior: PartitionPrior) -> PartitionModel:
        """The same model under another prior, whose numbers may be traced (Gibbs on alpha, say)."""
        return PartitionModel(
            self.graph,
            prior,
            self.likelihood,
            coupling=self.coupling,
            max_clusters=self.max_clusters,
        )

    def target(self, keep: Callable[[Labels], Any] | None = None) -> Target:
        """The model as a `bayleaf.Target`, whose chains start at `random_labels`.

        Args:
            keep: a function of the labels; what it returns is kept of each draw in place of them.
        """
        frozen = None if keep is None else frozen_function(keep, "keep")
        return Target._of(
            PartitionDensity(self, frozen), Drawn(frozen_function(self.random_labels, "init"))
        )


class PartitionDensity(eqx.Module):
    """What `bayleaf.Target` asks of a model: here parameters are labels, as they are."""

    partition: PartitionModel
    keep: Frozen | None

    def log_density(self, u: Position) -> Scalar:
        """That of the labels."""
        return self.partition(u)

    def constrain(self, u: Position) -> Any:
        """What is kept of a draw."""
        return u if self.keep is None else self.keep(u)

    def unconstrain(self, x: Position) -> Labels:
        """The labels, if labels are what is kept."""
        shape = (self.partition.graph.num_sites,)
        if not isinstance(x, jax.Array) or x.shape != shape:
            got = f"draws of shape {jax.tree.map(jnp.shape, x)}"
            raise bad_argument("init", got, f"labels, integers of shape {shape}")
        return x

    def check(self, x: Position, argument: str) -> None:
        """Raise if these are no labels; a leading axis of chains is allowed."""
        labels, model = np.asarray(x), self.partition
        if labels.dtype.kind not in "iu" or labels.shape[-1:] != (model.graph.num_sites,):
            raise bad_argument(
                argument,
                f"{labels.dtype} numbers of shape {labels.shape}",
                f"labels, integers of shape ({model.graph.num_sites},)",
            )
        outside = labels[(labels < 0) | (labels >= model.max_clusters)]
        if outside.size:
            raise bad_argument(
                argument, f"the label {outside[0]}", f"labels from 0 to {model.max_clusters - 1}"
            )


def first_come_labels(labels: Labels, num_labels: int) -> Labels:
    """The same partition with its clusters numbered 0, 1, ... by their first sites.

    Args:
        labels: from 0 to num_labels - 1.
        num_labels: how many labels there may be.
    """
    sites = jnp.arange(labels.shape[0], dtype=jnp.int32)
    first = jax.ops.segment_min(sites, labels, num_labels)[labels]
    number = jnp.cumsum(first == sites, dtype=labels.dtype) - 1
    return number[first]


def as_partition_model(log_density: Any) -> PartitionModel:
    """The model that a kernel for partitions is to sample, or the error that says what it got."""
    model = getattr(log_density, "model", log_density)
    if isinstance(model, PartitionDensity):
        return model.partition
    if not isinstance(model, PartitionModel):
        raise bad_argument(
            "target",
            f"a {type(log_density).__name__}",
            "a bayleaf.partitions.PartitionModel, whose parts the kernel uses",
            "As a block of Gibbs, call the kernel's step in a Conditional.",
        )
    return model


def checked_prior(prior: Any, num_sites: int) -> PartitionPrior:
    """A prior that is of use for so many sites."""
    if not isinstance(prior, PartitionPrior):
        raise bad_argument(
            "prior",
            f"a {type(prior).__name__}",
            "a prior on partitions, such as bl.partitions.DirichletProcess(1.0)",
            "A function of the sizes goes into bl.partitions.Symmetric(function).",
        )
    prior.check(num_sites)
    return prior


def checked_likelihood(likelihood: Any, num_sites: int) -> CollapsedLikelihood | None:
    """A likelihood with data for each site, or None."""
    if likelihood is None:
        return None
    if not isinstance(likelihood, CollapsedLikelihood):
        raise bad_argument(
            "likelihood",
            f"a {type(likelihood).__name__}",
            "a likelihood of clusters, such as bl.partitions.NormalInverseWishart(data, scale=...)",
        )
    if likelihood.num_sites != num_sites:
        raise bad_argument(
            "likelihood", f"data for {likelihood.num_sites} sites", f"data for {num_sites}"
        )
    return likelihood

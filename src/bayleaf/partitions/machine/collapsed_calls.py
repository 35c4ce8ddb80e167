"""The machine code for partition models as a JAX function; `vmap` runs over chains."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bayleaf.partitions.likelihoods import (
    CollapsedLikelihood,
    DirichletMultinomial,
    NormalInverseWishart,
    NormalMean,
)
from bayleaf.partitions.priors import PartitionPrior, ProductPrior
from bayleaf.partitions.tempering import Powered
from bayleaf.types import Count, Flag, Key, Scalar


class PartitionSwept(NamedTuple):
    """What a sweep leaves behind: a partition, and what it is like.

    ``num_components`` counts the bonded pieces that were moved, ``num_clusters`` the clusters,
    ``num_like`` the edges within clusters; ``size_entropy`` is that of the clusters' shares of the
    sites; ``is_nan`` tells that a weight was NaN;
    ``num_split_merges`` counts the splits and merges that were done.
    """

    labels: Int[Array, "site"]
    num_components: Count
    num_clusters: Count
    num_like: Count
    is_nan: Flag
    num_split_merges: Count
    log_density: Scalar
    size_entropy: Scalar


def has_machine_code(prior: PartitionPrior, likelihood: CollapsedLikelihood | None) -> bool:
    """Whether the machine code knows the likelihood, and the prior is a product."""
    known = NormalMean | NormalInverseWishart | DirichletMultinomial | None
    likelihood = likelihood.likelihood if isinstance(likelihood, Powered) else likelihood
    return isinstance(prior, ProductPrior) and isinstance(likelihood, known)


def sweep(
    model: Any, key: Key, labels: Int[Array, "site"], bonds: Any, num_proposals: int
) -> PartitionSwept:
    """One sweep of a `bayleaf.partitions.PartitionModel` with machine code."""
    num_sites, dtype = model.graph.num_sites, model.coupling.dtype
    kind, dim, numbers = written_down(model.likelihood, dtype)
    statistics = model.statistics.astype(dtype)
    steps = model.prior.log_size_steps(num_sites).astype(dtype)
    opened = model.prior.log_opened(jnp.arange(model.max_clusters)).astype(dtype)
    count, real = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), dtype)
    results = (
        jax.ShapeDtypeStruct(labels.shape, jnp.int32),
        *[count] * 5,
        real,
        real,
    )
    call = jax.ffi.ffi_call(_name(), results, vmap_method="expand_dims")
    new, components, clusters, like, num_nan, num_done, density, entropy = call(
        labels.astype(jnp.int32),
        jax.random.key_data(key),
        model.graph.edges.astype(jnp.int32),
        model.coupling,
        bonds.astype(dtype),
        statistics,
        numbers,
        steps,
        opened,
        np.array([kind, dim, num_proposals], np.int32),
    )
    new = new.astype(labels.dtype)
    return PartitionSwept(new, components, clusters, like, num_nan > 0, num_done, density, entropy)


def written_down(likelihood: CollapsedLikelihood | None, dtype: Any) -> tuple[int, int, Any]:
    """A likelihood for `bayleaf.partitions.machine.marginals`: kind, dimension, numbers."""
    from bayleaf.partitions.machine import marginals

    power = jnp.ones((), dtype)
    if isinstance(likelihood, Powered):
        likelihood, power = likelihood.likelihood, likelihood.power
    match likelihood:
        case NormalMean(variance=variance, prior_variance=prior, shift=shift):
            kind, dim, parts = marginals.NORMAL, shift.size, [variance, prior, shift]
        case NormalInverseWishart(scale=scale, shift=shift):
            dim = shift.size
            lower = scale[np.tril_indices(dim)]
            first = [likelihood.mean_strength, likelihood.degrees, jnp.linalg.slogdet(scale)[1]]
            kind, parts = marginals.WISHART, [jnp.stack(first), shift, lower]
        case DirichletMultinomial(concentration=concentration):
            kind, dim, parts = marginals.HISTOGRAM, concentration.size, [concentration]
        case _:
            kind, dim, parts = marginals.NONE, 0, [jnp.zeros(0, dtype)]
    return kind, dim, jnp.concatenate([*parts, power[None]]).astype(dtype)


@functools.cache
def _name() -> str:
    """The name under which XLA knows the function, which is compiled now."""
    from bayleaf.partitions.machine import collapsed, ffi

    ffi.register("bayleaf_partition_sweep", collapsed.partition_sweep)
    return "bayleaf_partition_sweep"

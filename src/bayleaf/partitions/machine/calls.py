"""The machine code as JAX functions: operands in, results out, `vmap` runs over chains.

They exist on CPUs where numba is installed (`is_available`), and are then compiled, or read from
numba's cache, when they are first traced.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from bayleaf.types import Count, Key, Scalar


class Swept(NamedTuple):
    """What a sweep leaves behind; ``num_like`` counts the edges with equal labels at their ends."""

    labels: Int[Array, "site"]
    num_clusters: Count
    num_like: Count
    log_density: Scalar


@functools.cache
def is_available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def sweep_lattice(
    key: Key,
    labels: Int[Array, "site"],
    *,
    shape: tuple[int, ...],
    is_periodic: bool,
    num_states: int,
    coupling: Scalar,
    probability: Scalar,
    field: Float[Array, "site state"] | None,
) -> Swept:
    """One sweep of a lattice with one coupling, whose like edges bond with one probability."""
    layout = np.array([num_states, is_periodic, *shape], np.int32)
    numbers = jnp.stack([coupling, probability])
    return _swept("lattice_sweep", key, labels, [numbers], field, layout, coupling.dtype)


def sweep_graph(
    key: Key,
    labels: Int[Array, "site"],
    *,
    edges: Int[Array, "edge 2"],
    num_states: int,
    coupling: Float[Array, "..."],
    probability: Float[Array, "..."],
    residual: Float[Array, "..."] | None,
    field: Float[Array, "site state"] | None,
) -> Swept:
    """One sweep of a graph; couplings and the like are one for all edges, or one for each.

    Edges of the residual couplings are those that are not bonded and still pull or push.
    """
    dtype = coupling.dtype
    residual = jnp.zeros(0, dtype) if residual is None else residual
    layout = np.array([num_states], np.int32)
    numbers = [edges.astype(jnp.int32), coupling, probability, residual]
    return _swept("graph_sweep", key, labels, numbers, field, layout, dtype)


def components(
    edges: Int[Array, "edge 2"], is_open: Bool[Array, "edge"], num_sites: int
) -> Int[Array, "site"]:
    """The smallest site of each site's component."""
    result = jax.ShapeDtypeStruct((num_sites,), jnp.int32)
    call = jax.ffi.ffi_call(_name("components"), result, vmap_method="expand_dims")
    return call(edges.astype(jnp.int32), is_open)


def _swept(
    function: str, key: Key, labels: Any, numbers: list[Any], field: Any, layout: Any, dtype: Any
) -> Swept:
    words: UInt32[Array, "word"] = jax.random.key_data(key)
    field = jnp.zeros((0, 0), dtype) if field is None else field.astype(dtype)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    results = (
        jax.ShapeDtypeStruct(labels.shape, jnp.int32),
        count,
        count,
        jax.ShapeDtypeStruct((), dtype),
    )
    call = jax.ffi.ffi_call(_name(function), results, vmap_method="expand_dims")
    new, *rest = call(labels.astype(jnp.int32), words, *numbers, field, layout)
    return Swept(new.astype(labels.dtype), *rest)


@functools.cache
def _name(function: str) -> str:
    """The name under which XLA knows the function, which is compiled now."""
    from bayleaf.partitions.machine import ffi, graph, lattice

    home = lattice if function == "lattice_sweep" else graph
    name = f"bayleaf_{function}"
    ffi.register(name, getattr(home, function))
    return name

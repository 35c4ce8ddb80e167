"""Connected components of a graph of which some edges are open.

The component of a site is named by its smallest site. Two implementations give the same answer:

- on a CPU with numba a union-find in machine code, `bayleaf.partitions.machine`;
- everywhere else hooking and pointer jumping, in JAX: for every open edge the larger of the two
  roots is hooked to the smaller one, then every site jumps to the root of its tree; again until
  nothing changes. That takes O(log n) rounds, about six on a critical lattice. (Handing the
  smallest label from neighbour to neighbour takes as many rounds as the longest path has sites.)

Source: Shiloach & Vishkin (1982), Journal of Algorithms 3.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from bayleaf.errors import bad_argument
from bayleaf.partitions.graphs import Graph
from bayleaf.partitions.machine import calls
from bayleaf.types import Count, Flag


def connected_components(
    graph: Graph, is_open: Bool[Array, "edge"], *, engine: str | None = None
) -> Int[Array, "site"]:
    """The smallest site of each site's component.

    Args:
        graph: sites and edges.
        is_open: which edges connect.
        engine: ``"numba"`` or ``"jax"``; None takes numba on CPUs where it is installed.

    Raises:
        BayleafError: a flag too many or too few, an unknown engine, or one that is not installed.
    """
    if is_open.shape != (graph.num_edges,):
        raise bad_argument(
            "is_open", f"shape {is_open.shape}", f"a flag for each of {graph.num_edges} edges"
        )

    def compiled(edges: Any, is_open: Any) -> Any:
        return calls.components(edges, is_open, graph.num_sites)

    def traced(edges: Any, is_open: Any) -> Any:
        return hook_and_jump(edges, is_open, graph.num_sites)

    return by_platform(engine, compiled, traced, graph.edges, is_open)


def by_platform(engine: str | None, compiled: Any, traced: Any, *args: Any) -> Any:
    """What ``compiled`` returns on a CPU with numba, what ``traced`` returns elsewhere."""
    if engine not in (None, "numba", "jax"):
        raise bad_argument("engine", engine, '"numba", "jax" or None')
    if engine == "numba" and not calls.is_available():
        raise bad_argument(
            "engine",
            engine,
            "an engine that is installed",
            "Numba comes with pip install 'bayleaf[fast]'.",
        )
    if engine == "jax" or not calls.is_available():
        return traced(*args)
    if engine == "numba":
        return compiled(*args)
    if jax.default_backend() != "cpu":  # tracing the machine code would compile it for nothing
        return traced(*args)
    return jax.lax.platform_dependent(*args, cpu=compiled, default=traced)


def hook_and_jump(
    edges: Int[Array, "edge 2"], is_open: Bool[Array, "edge"], num_sites: int
) -> Int[Array, "site"]:
    """`connected_components` in JAX."""
    first, second = edges[:, 0], edges[:, 1]

    def jump(parent: Int[Array, "site"]) -> Int[Array, "site"]:
        return jax.lax.while_loop(lambda p: jnp.any(p != p[p]), lambda p: p[p], parent)

    def one_round(carry: tuple[Any, Flag]) -> tuple[Any, Flag]:
        parent, _ = carry
        a, b = parent[first], parent[second]
        # Closed edges, and those within a tree, hook nothing: they point past the end.
        larger = jnp.where(is_open & (a != b), jnp.maximum(a, b), num_sites)
        hooked = jump(parent.at[larger].min(jnp.minimum(a, b), mode="drop"))
        return hooked, jnp.any(hooked != parent)

    parent = jnp.arange(num_sites, dtype=jnp.int32)
    return jax.lax.while_loop(lambda carry: carry[1], one_round, (parent, jnp.array(True)))[0]


def num_components(components: Int[Array, "site"]) -> Count:
    """How many components `connected_components` has found."""
    sites = jnp.arange(components.shape[0], dtype=components.dtype)
    return jnp.sum(components == sites, dtype=jnp.int32)

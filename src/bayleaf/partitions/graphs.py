"""Graphs of sites: lattices, lists of edges, and the adjacency of regions in an image.

A graph is its number of sites and its edges (i, j). An edge may stand in the list more than once:
its couplings then add up. Sites without edges are allowed, and so are graphs of many parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.errors import bad_argument


class Graph(eqx.Module):
    """Sites 0, ..., num_sites - 1 and the edges between them.

    Attributes:
        edges: pairs of sites, int32.
        colours: a colour for each site such that no edge joins sites of the same colour. Sites of
            one colour can be updated together.
        lengths: what the edges measure, if anything: for regions, the length of the boundary.
        num_sites: how many sites.
        shape: the sizes of a lattice, whose sites are numbered in raster order; None for others.
        is_periodic: whether a lattice is wrapped around at its ends.
    """

    edges: Int[Array, "edge 2"]
    colours: Int[Array, "site"]
    lengths: Float[Array, "edge"] | None
    num_sites: int = eqx.field(static=True)
    shape: tuple[int, ...] | None = eqx.field(static=True)
    is_periodic: bool = eqx.field(static=True)

    def __init__(
        self,
        num_sites: int,
        edges: Any,
        *,
        lengths: Any = None,
    ) -> None:
        """See `from_edges`."""
        pairs = checked_edges(num_sites, edges)
        self._fill(num_sites, pairs, greedy_colours(num_sites, pairs), checked(lengths, pairs))

    @classmethod
    def from_edges(cls, num_sites: int, edges: Any, *, lengths: Any = None) -> Graph:
        """A graph given by its edges.

        Args:
            num_sites: how many sites; those that no edge names stand alone.
            edges: integers [edge, 2], from 0 to num_sites - 1; the order within a pair is free.
            lengths: a number for each edge.

        Raises:
            BayleafError: a wrong shape, numbers that are no integers, a site out of range, an edge
                from a site to itself.
        """
        return cls(num_sites, edges, lengths=lengths)

    @classmethod
    def lattice(cls, shape: Sequence[int], *, periodic: bool = False) -> Graph:
        """A lattice in any number of dimensions, each site joined to the next along each axis.

        Args:
            shape: the sizes, ``(rows, columns)`` for an image; sites are numbered as in
                ``labels.ravel()``.
            periodic: whether the last site along each axis is joined to the first. Along an axis of
                size 2 the two sites then have two edges, by the formula (the convention of exact
                solutions for the torus); along one of size 1 there is none.

        Raises:
            BayleafError: a shape that is none.
        """
        sizes = checked_shape(shape)
        sites = np.arange(int(np.prod(sizes))).reshape(sizes)
        pairs = []
        for axis, size in enumerate(sizes):
            ends = np.roll(sites, -1, axis)
            last = size if periodic and size > 1 else size - 1
            inside = tuple(slice(last) if a == axis else slice(None) for a in range(len(sizes)))
            pairs.append(np.stack([sites[inside].ravel(), ends[inside].ravel()], axis=1))
        edges = np.concatenate(pairs).astype(np.int32)
        if periodic and any(size % 2 and size > 1 for size in sizes):
            colours = greedy_colours(sites.size, edges)  # an odd ring cannot be chequered
        else:
            colours = (np.indices(sizes).sum(axis=0) % 2).ravel()
        self = object.__new__(cls)
        self._fill(sites.size, edges, colours, None, sizes, periodic)
        return self

    @classmethod
    def region_adjacency(cls, regions: Any) -> Graph:
        """The graph of an image that is divided into regions, such as super-pixels.

        Two regions are neighbours when a pixel of one lies beside a pixel of the other, along an
        axis; ``lengths`` counts these pairs of pixels: the length of the boundary.

        Args:
            regions: integers of any number of dimensions; region r is site r. Pixels of -1 belong
                to no region. (Scikit-image's ``slic`` counts from 0 with ``start_label=0``.)

        Raises:
            BayleafError: numbers that are no integers or below -1, or one that is left out.
        """
        array = checked_regions(regions)
        num_sites = int(array.max()) + 1
        pairs = []
        for axis in range(array.ndim):
            here = array[(slice(None),) * axis + (slice(-1),)].ravel()
            next_ = array[(slice(None),) * axis + (slice(1, None),)].ravel()
            is_border = (here != next_) & (here >= 0) & (next_ >= 0)
            pairs.append(np.stack([here[is_border], next_[is_border]], axis=1))
        ordered = np.sort(np.concatenate(pairs).astype(np.int64), axis=1)
        keys, counts = np.unique(ordered[:, 0] * num_sites + ordered[:, 1], return_counts=True)
        edges = np.stack([keys // num_sites, keys % num_sites], axis=1)
        return cls(num_sites, edges, lengths=counts)

    @property
    def num_edges(self) -> int:
        """How many edges."""
        return self.edges.shape[0]

    def _fill(
        self,
        num_sites: int,
        edges: np.ndarray,
        colours: np.ndarray,
        lengths: np.ndarray | None,
        shape: tuple[int, ...] | None = None,
        is_periodic: bool = False,
    ) -> None:
        values = {
            "edges": jnp.asarray(edges, jnp.int32),
            "colours": jnp.asarray(colours, jnp.int32),
            "lengths": None if lengths is None else jnp.asarray(lengths, float),
            "num_sites": int(num_sites),
            "shape": shape,
            "is_periodic": bool(is_periodic),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def greedy_colours(num_sites: int, edges: np.ndarray) -> np.ndarray:
    """Colours by rounds: a site is coloured when it comes first among its uncoloured neighbours.

    Rounds take a fixed random order, so that there are few of them (Luby 1986; Jones & Plassmann
    1993): about ten for a lattice, and one for each site of a complete graph.
    """
    order = np.random.default_rng(0).permutation(num_sites)
    colours = np.full(num_sites, -1)
    first, second = edges[:, 0], edges[:, 1]
    for colour in itertools.count():
        is_waiting = colours < 0
        if not is_waiting.any():
            return colours
        both = is_waiting[first] & is_waiting[second]
        first, second = first[both], second[both]
        later = np.where(order[first] > order[second], first, second)
        is_waiting[later] = False
        colours[is_waiting] = colour
    raise AssertionError("unreachable")


def checked_edges(num_sites: Any, edges: Any) -> np.ndarray:
    """The edges as an array; what is no list of edges is refused by name."""
    is_whole = isinstance(num_sites, int | np.integer) and not isinstance(num_sites, bool)
    if not is_whole or not 1 <= num_sites < 2**31:
        raise bad_argument("num_sites", num_sites, "a whole number, at least 1 and below 2^31")
    pairs = np.asarray(edges)
    if pairs.size == 0:
        return np.zeros((0, 2), np.int32)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise bad_argument("edges", f"shape {pairs.shape}", "shape [edge, 2]: pairs of sites")
    if pairs.dtype.kind not in "iu":
        raise bad_argument("edges", f"{pairs.dtype} numbers", "integers, the numbers of sites")
    outside = np.flatnonzero(np.any((pairs < 0) | (pairs >= num_sites), axis=1))
    if outside.size:
        raise bad_argument(
            f"edges[{outside[0]}]",
            str(pairs[outside[0]].tolist()),
            f"sites from 0 to {num_sites - 1}",
        )
    loops = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if loops.size:
        raise bad_argument(
            f"edges[{loops[0]}]",
            f"an edge from site {pairs[loops[0], 0]} to itself",
            "edges between two sites",
            "Such an edge changes no probability: leave it out.",
        )
    return pairs.astype(np.int32)


def checked(lengths: Any, edges: np.ndarray) -> np.ndarray | None:
    """One finite number for each edge, or None."""
    if lengths is None:
        return None
    values = np.asarray(lengths)
    if values.shape != edges.shape[:1]:
        raise bad_argument(
            "lengths", f"shape {values.shape}", f"one for each of {len(edges)} edges"
        )
    if values.dtype.kind not in "iuf" or not np.all(np.isfinite(values)):
        raise bad_argument("lengths", "numbers that are not finite", "finite numbers")
    return values


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The sizes of a lattice."""
    sizes = tuple(shape) if isinstance(shape, Sequence) else ()
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in sizes)
    if not sizes or not whole or min(sizes) < 1 or np.prod(sizes, dtype=float) >= 2**31:
        raise bad_argument(
            "shape", shape, "the sizes of a lattice, such as (64, 64), with fewer than 2^31 sites"
        )
    return tuple(int(size) for size in sizes)


def checked_regions(regions: Any) -> np.ndarray:
    """Numbers of regions, each of which occurs."""
    array = np.asarray(regions)
    if array.ndim < 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise bad_argument(
            "regions", f"{array.dtype} numbers of shape {array.shape}", "an image of integers"
        )
    if array.min() < -1 or array.max() < 0:
        raise bad_argument(
            "regions",
            f"numbers from {array.min()} to {array.max()}",
            "regions from 0, or -1 for none",
        )
    missing = np.flatnonzero(np.bincount(array[array >= 0].ravel()) == 0)
    if missing.size:
        raise bad_argument(
            "regions",
            f"no pixel of region {missing[0]}",
            f"each number from 0 to {array.max()}",
            "Number them by np.unique(regions, return_inverse=True)[1].reshape(regions.shape).",
        )
    return array.astype(np.int64)

"""A Swendsen-Wang sweep of any graph, and connected components, in machine code for one thread."""

from __future__ import annotations

import numpy as np
from numba import types

from bayleaf.partitions.machine import ffi
from bayleaf.partitions.machine.ffi import OPERANDS, RESULTS, machine_code
from bayleaf.partitions.machine.random import generator, uniform
from bayleaf.partitions.machine.states import draw_free, draw_weighted, field_at, sum_by_cluster
from bayleaf.partitions.machine.union_find import join, number_roots


@machine_code
def bond_graph(labels, edges, probabilities, rng, parent):
    """Draw the bonds of like edges, one word each, and join what they connect."""
    stride = 1 if probabilities.size == edges.shape[0] else 0
    for e in range(edges.shape[0]):
        i, j = edges[e, 0], edges[e, 1]
        if labels[i] == labels[j] and uniform(rng) < probabilities[e * stride]:
            join(parent, i, j)


@machine_code
def neighbours(edges, residuals, cluster, num_clusters):
    """For each cluster its edges to others with a residual coupling: offsets, others, couplings."""
    stride = 1 if residuals.size == edges.shape[0] else 0
    offsets = np.zeros(num_clusters + 1, np.int64)
    for e in range(edges.shape[0]):
        a, b = cluster[edges[e, 0]], cluster[edges[e, 1]]
        if a != b and residuals[e * stride] != 0:
            offsets[a + 1] += 1
            offsets[b + 1] += 1
    offsets = np.cumsum(offsets)
    others, couplings = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float64)
    at = offsets[:-1].copy()
    for e in range(edges.shape[0]):
        a, b = cluster[edges[e, 0]], cluster[edges[e, 1]]
        if a != b and residuals[e * stride] != 0:
            others[at[a]], couplings[at[a]] = b, residuals[e * stride]
            others[at[b]], couplings[at[b]] = a, residuals[e * stride]
            at[a] += 1
            at[b] += 1
    return offsets, others, couplings


@machine_code
def like_on_graph(labels, edges, couplings):
    """The number of edges whose ends have the same label, and the sum of their couplings."""
    stride = 1 if couplings.size == edges.shape[0] else 0
    count, total = 0, 0.0
    for e in range(edges.shape[0]):
        if labels[edges[e, 0]] == labels[edges[e, 1]]:
            count += 1
            total += couplings[e * stride]
    return count, total


def graph_sweep(frame):
    """Labels, key, edges, couplings, probabilities, residuals, field, layout -> as for a lattice.

    The layout is the number of states. Couplings and the like are one for all edges, or one for
    each; there may be no residuals.
    """
    if ffi.is_request(frame):
        return types.uint64(0)
    num_states = ffi.whole(frame, OPERANDS, 7, 0)[0]
    num_sites = ffi.whole(frame, RESULTS, 0, 0).size
    parent, cluster = np.empty(num_sites, np.int32), np.empty(num_sites, np.int32)
    for chain in range(ffi.num_chains(frame)):
        labels = ffi.whole(frame, OPERANDS, 0, chain)
        rng = generator(ffi.whole(frame, OPERANDS, 1, chain))
        edges = ffi.whole(frame, OPERANDS, 2, chain).reshape(-1, 2)
        couplings = ffi.reals(frame, OPERANDS, 3, chain)
        probabilities = ffi.reals(frame, OPERANDS, 4, chain)
        residuals = ffi.reals(frame, OPERANDS, 5, chain)
        field = ffi.reals(frame, OPERANDS, 6, chain)
        new = ffi.whole(frame, RESULTS, 0, chain)
        parent[:] = np.arange(num_sites)
        bond_graph(labels, edges, probabilities, rng, parent)
        num_clusters = number_roots(parent, num_sites, cluster)
        states = np.zeros(num_clusters, np.int32)
        if field.size or residuals.size:
            for i in range(num_sites):
                states[cluster[i]] = labels[i]
            weights = sum_by_cluster(field, cluster, num_clusters, num_states)
            linked = neighbours(
                edges[: edges.shape[0] * (residuals.size > 0)], residuals, cluster, num_clusters
            )
            draw_weighted(weights, linked[0], linked[1], linked[2], rng, states)
        else:
            draw_free(num_states, rng, states)
        for i in range(num_sites):
            new[i] = states[cluster[i]]
        num_like, total = like_on_graph(new, edges, couplings)
        ffi.put_whole(frame, 1, chain, num_clusters)
        ffi.put_whole(frame, 2, chain, num_like)
        ffi.put_real(frame, 3, chain, total + field_at(new, field, num_states))
    return types.uint64(0)


def components(frame):
    """Edges, which are open -> the smallest site of each site's component."""
    if ffi.is_request(frame):
        return types.uint64(0)
    for chain in range(ffi.num_chains(frame)):
        edges = ffi.whole(frame, OPERANDS, 0, chain).reshape(-1, 2)
        is_open = ffi.flags(frame, OPERANDS, 1, chain)
        parent = ffi.whole(frame, RESULTS, 0, chain)
        parent[:] = np.arange(parent.size)
        for e in range(edges.shape[0]):
            if is_open[e]:
                join(parent, edges[e, 0], edges[e, 1])
        for i in range(parent.size):
            parent[i] = parent[parent[i]]  # parents are smaller and already at their roots
    return types.uint64(0)

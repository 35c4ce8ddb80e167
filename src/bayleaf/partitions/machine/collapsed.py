"""A sweep of a partition model in machine code: bonds, components, new clusters for these in turn.

The algorithm is that of `bayleaf.partitions.collapsed`, which says it in formulas. Everything is
computed in float64 and anew from the labels at each sweep, so that nothing drifts.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from bayleaf.partitions.machine import ffi
from bayleaf.partitions.machine.ffi import OPERANDS, RESULTS, machine_code
from bayleaf.partitions.machine.graph import bond_graph, like_on_graph, neighbours
from bayleaf.partitions.machine.marginals import log_joined, log_marginal
from bayleaf.partitions.machine.random import generator
from bayleaf.partitions.machine.split_merge import split_or_merge
from bayleaf.partitions.machine.states import draw_state
from bayleaf.partitions.machine.union_find import number_roots


@machine_code
def add_up(groups, num_groups, statistics):
    """Sizes and sums of statistics of groups of sites."""
    sizes = np.zeros(num_groups, np.int64)
    totals = np.zeros((num_groups, statistics.shape[1]))
    for i in range(groups.size):
        sizes[groups[i]] += 1
        for s in range(statistics.shape[1]):
            totals[groups[i], s] += statistics[i, s]
    return sizes, totals


@machine_code
def size_weights(steps, num_sites):
    """Log w(m) at m = 1, ..., num_sites, from its steps; at infinity it begins anew."""
    log_size = np.zeros(num_sites + 1)
    for m in range(1, num_sites + 1):
        before = log_size[m - 1]
        log_size[m] = steps[m - 1] + (before if before > -np.inf else 0.0)
    return log_size


@machine_code
def weigh(model, log_size, opened, clusters, present, component, pull, log_weights, joined):
    """The log weights of the clusters that a component may join, and last of a new one.

    ``model`` is kind, numbers, dim; ``clusters`` are their sizes, sums and log marginals, of which
    those at ``present`` are there. Returns how many weights there are.
    """
    kind, numbers, dim, room, both, by_size = model
    sizes, totals, values = clusters
    size, more = component
    num = present.size
    stuck = 0  # clusters of a size that the prior forbids unless this component joins
    for a in range(num):
        stuck += log_size[sizes[present[a]]] == -np.inf
    for a in range(num):
        j = present[a]
        m = sizes[j]
        joined[a] = log_joined(
            kind, numbers, dim, m, totals, j, values[j], size, more, room, both, by_size
        )
        is_stuck = log_size[m] == -np.inf
        log_weights[a] = log_size[m + size] + joined[a] - values[j] + pull[j]
        if not is_stuck:
            log_weights[a] -= log_size[m]
        if stuck > is_stuck:
            log_weights[a] = -np.inf
    if num == opened.size:
        return num
    joined[num] = log_marginal(kind, numbers, dim, size, more, room, by_size)
    log_weights[num] = opened[num] + log_size[size] + joined[num]
    if stuck > 0:
        log_weights[num] = -np.inf
    return num + 1


@machine_code
def visit_all(model, log_size, opened, clusters, components, links, labels, rng):
    """Each component leaves its cluster and chooses one, in turn; how many weights were NaN.

    ``labels`` holds the cluster of each component, and becomes the new one.
    """
    kind, numbers, dim, room, _, by_size = model
    sizes, totals, values = clusters
    offsets, others, couplings = links
    places = sizes.size
    present, where = np.empty(places, np.int64), np.full(places, -1, np.int64)
    free, num, num_free, num_nan = np.empty(places, np.int64), 0, 0, 0
    for j in range(places - 1, -1, -1):
        if sizes[j] > 0:
            present[num], where[j] = j, num
            num += 1
        else:
            free[num_free] = j
            num_free += 1
    pull, work = np.zeros(places), np.empty(places + 1)
    log_weights, joined = np.empty(places + 1), np.empty(places + 1)
    for c in range(labels.size):
        old, size, more = labels[c], components[0][c], components[1][c]
        sizes[old] -= size
        if sizes[old] > 0:
            for s in range(more.size):
                totals[old, s] -= more[s]
            values[old] = log_marginal(kind, numbers, dim, sizes[old], totals[old], room, by_size)
        else:  # exactly zero: what rounding would leave behind must not welcome the next one
            totals[old] = 0.0
            values[old] = 0.0
            num -= 1
            last = present[num]
            present[where[old]], where[last], where[old] = last, where[old], -1
            free[num_free] = old
            num_free += 1
        for k in range(offsets[c], offsets[c + 1]):
            pull[labels[others[k]]] += couplings[k]
        count = weigh(
            model,
            log_size,
            opened,
            clusters,
            present[:num],
            (size, more),
            pull,
            log_weights,
            joined,
        )
        for k in range(offsets[c], offsets[c + 1]):
            pull[labels[others[k]]] = 0.0
        for a in range(count):
            if np.isnan(log_weights[a]):
                log_weights[a] = -np.inf
                num_nan += 1
        a = draw_state(log_weights[:count], work[:count], rng)
        if a == num:
            num_free -= 1
            new = free[num_free]
            present[num], where[new] = new, num
            num += 1
        else:
            new = present[a]
        sizes[new] += size
        for s in range(more.size):
            totals[new, s] += more[s]
        values[new] = joined[a]
        labels[c] = new
    return num_nan


@machine_code
def in_order(labels, places):
    """Number the clusters 0, 1, ... by their first sites; how many there are."""
    number, found = np.full(places, -1, np.int32), 0
    for i in range(labels.size):
        if number[labels[i]] < 0:
            number[labels[i]] = found
            found += 1
        labels[i] = number[labels[i]]
    return found


@machine_code
def one_sweep(
    labels,
    edges,
    couplings,
    bonds,
    residuals,
    statistics,
    model,
    num_proposals,
    log_size,
    opened,
    rng,
    new,
):
    """One sweep: ``new`` gets the labels. Returns counts and the log density."""
    num_sites, places = labels.size, opened.size
    parent, number = np.arange(num_sites).astype(np.int32), np.empty(num_sites, np.int32)
    bond_graph(labels, edges, bonds, rng, parent)
    num_components = number_roots(parent, num_sites, number)
    links = neighbours(edges, residuals, number, num_components)
    components = add_up(number, num_components, statistics)
    sizes, totals = add_up(labels, places, statistics)
    kind, numbers, dim, room, _, by_size = model
    values = np.zeros(places)
    for j in range(places):
        if sizes[j] > 0:
            values[j] = log_marginal(kind, numbers, dim, sizes[j], totals[j], room, by_size)
    chosen = np.empty(num_components, np.int64)
    for i in range(num_sites):
        chosen[number[i]] = labels[i]
    clusters = (sizes, totals, values)
    num_nan = visit_all(model, log_size, opened, clusters, components, links, chosen, rng)
    num_done = 0
    for _ in range(num_proposals):
        num_done += split_or_merge(
            model, log_size, opened, clusters, components, links, chosen, rng
        )
    for i in range(num_sites):
        new[i] = chosen[number[i]]
    num_like, density = like_on_graph(new, edges, couplings)
    entropy = 0.0
    for j in range(places):
        if sizes[j] > 0:
            density += values[j] + log_size[sizes[j]]
            entropy -= sizes[j] / num_sites * math.log(sizes[j] / num_sites)
    num_clusters = in_order(new, places)
    for k in range(num_clusters):
        density += opened[k]
    return (num_components, num_clusters, num_like, num_nan, num_done), density, entropy


def partition_sweep(frame):
    """See `bayleaf.partitions.machine.collapsed_calls.sweep`."""
    if ffi.is_request(frame):
        return types.uint64(0)
    layout = ffi.whole(frame, OPERANDS, 9, 0)
    kind, dim = layout[0], layout[1]
    room = np.empty((dim, dim))
    for chain in range(ffi.num_chains(frame)):
        labels = ffi.whole(frame, OPERANDS, 0, chain)
        rng = generator(ffi.whole(frame, OPERANDS, 1, chain))
        edges = ffi.whole(frame, OPERANDS, 2, chain).reshape(-1, 2)
        couplings = ffi.reals(frame, OPERANDS, 3, chain)
        bonds = ffi.reals(frame, OPERANDS, 4, chain)
        statistics = ffi.reals(frame, OPERANDS, 5, chain)
        num_stats = statistics.size // labels.size
        numbers = ffi.reals(frame, OPERANDS, 6, chain)
        steps = ffi.reals(frame, OPERANDS, 7, chain)
        by_size = np.full(labels.size + 1, np.nan)
        counts, density, entropy = one_sweep(
            labels,
            edges,
            couplings,
            bonds,
            couplings + np.log1p(-bonds),
            statistics.reshape(labels.size, num_stats),
            (kind, numbers, dim, room, np.empty(num_stats), by_size),
            layout[2],
            size_weights(steps, labels.size),
            ffi.reals(frame, OPERANDS, 8, chain),
            rng,
            ffi.whole(frame, RESULTS, 0, chain),
        )
        for k in range(5):
            ffi.put_whole(frame, k + 1, chain, counts[k])
        ffi.put_real(frame, 6, chain, density)
        ffi.put_real(frame, 7, chain, entropy)
    return types.uint64(0)

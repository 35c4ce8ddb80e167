"""Splits and merges of clusters in machine code; `bayleaf.partitions.split_merge` says how."""

from __future__ import annotations

import math

import numpy as np

from bayleaf.partitions.machine.ffi import machine_code
from bayleaf.partitions.machine.marginals import log_joined, log_marginal
from bayleaf.partitions.machine.random import below, uniform


@machine_code
def log_share(first, second):
    """Log of exp(first) / (exp(first) + exp(second))."""
    gap = second - first
    return -math.log1p(math.exp(gap)) if gap < 0 else -gap - math.log1p(math.exp(-gap))


@machine_code
def between(links, side, c, pull):
    """The residual couplings of component c with those on either side."""
    offsets, others, couplings = links
    pull[:] = 0.0
    for k in range(offsets[c], offsets[c + 1]):
        if side[others[k]] > 0:
            pull[side[others[k]] - 1] += couplings[k]


@machine_code
def allocate(model, components, links, labels, first, second, rng):
    """Two sides that grow from two components, and what the split weighs against the merger.

    Of two components in one cluster the others in it are dealt out at random; of two clusters they
    go where they are. Returns the sides, their sizes, sums, log marginals, the couplings that the
    split cuts, and the log probability of dealing so.
    """
    kind, numbers, dim, room, both, by_size = model
    own_sizes, own_totals = components
    is_split = labels[first] == labels[second]
    order, count = np.empty(labels.size, np.int64), 0
    for c in range(labels.size):
        is_in = labels[c] == labels[first] or labels[c] == labels[second]
        if is_in and c != first and c != second:
            order[count] = c
            count += 1
    side, pull, joined = np.zeros(labels.size, np.int8), np.zeros(2), np.empty(2)
    sizes, totals, values = np.empty(2, np.int64), np.empty((2, own_totals.shape[1])), np.empty(2)
    for s, c in ((0, first), (1, second)):
        sizes[s] = own_sizes[c]
        totals[s] = own_totals[c]
        values[s] = log_marginal(kind, numbers, dim, sizes[s], totals[s], room, by_size)
        side[c] = s + 1
    between(links, side, second, pull)
    cut, log_dealt = pull[0], 0.0
    for i in range(count):
        j = i + below(rng, count - i)
        order[i], order[j] = order[j], order[i]
        c = order[i]
        size, more = own_sizes[c], own_totals[c]
        between(links, side, c, pull)
        for s in range(2):
            joined[s] = log_joined(
                kind, numbers, dim, sizes[s], totals, s, values[s], size, more, room, both, by_size
            )
        # Of the prior only that large sides grow: any rule of dealing is exact.
        here = joined[0] - values[0] + pull[0] + math.log(sizes[0])
        there = joined[1] - values[1] + pull[1] + math.log(sizes[1])
        log_first = log_share(here, there)
        if is_split:
            s = 0 if uniform(rng) < math.exp(log_first) else 1
        else:
            s = 0 if labels[c] == labels[first] else 1
        log_dealt += log_first if s == 0 else log_share(there, here)
        cut += pull[1 - s]
        side[c] = s + 1
        sizes[s] += size
        totals[s] += more
        values[s] = joined[s]
    return side, sizes, totals, values, cut, log_dealt


@machine_code
def split_or_merge(model, log_size, opened, clusters, components, links, labels, rng):
    """Propose to split a cluster or to merge two; whether it was done."""
    kind, numbers, dim, room, _, by_size = model
    sizes, totals, values = clusters
    if labels.size < 2:
        return False
    first, second = below(rng, labels.size), below(rng, labels.size - 1)
    second += second >= first
    old, other = labels[first], labels[second]
    is_split = old == other
    number, free = 0, -1
    for j in range(sizes.size):
        number += sizes[j] > 0
        if sizes[j] == 0:
            free = j
    if is_split and free < 0:
        return False
    side, new_sizes, new_totals, new_values, cut, log_dealt = allocate(
        model, components, links, labels, first, second, rng
    )
    size = new_sizes[0] + new_sizes[1]
    merged = values[old]
    if not is_split:
        merged = log_marginal(
            kind, numbers, dim, size, new_totals[0] + new_totals[1], room, by_size
        )
    gain = log_size[new_sizes[0]] + log_size[new_sizes[1]] - log_size[size]
    gain += new_values[0] + new_values[1] - merged - cut - log_dealt
    gain += opened[number if is_split else number - 1]
    height = math.log(1 - uniform(rng))
    if is_split:
        if not height < gain:  # NaN is not
            return False
        for c in range(labels.size):
            if side[c] == 2:
                labels[c] = free
        for s, j in ((0, old), (1, free)):
            sizes[j], values[j] = new_sizes[s], new_values[s]
            totals[j] = new_totals[s]
        return True
    if not height < -gain:
        return False
    for c in range(labels.size):
        if side[c] == 2:
            labels[c] = old
    sizes[old], values[old] = size, merged
    totals[old] = new_totals[0] + new_totals[1]
    sizes[other], values[other] = 0, 0.0
    totals[other] = 0.0
    return True

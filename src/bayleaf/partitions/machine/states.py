"""New states of clusters in machine code, free or weighted by a field and by residual couplings."""

from __future__ import annotations

import math

import numpy as np

from bayleaf.partitions.machine.ffi import machine_code
from bayleaf.partitions.machine.random import U64, below, uniform, word


@machine_code
def draw_free(num_states, rng, states):
    """Every cluster gets a label at random."""
    bits = U64(0)
    for c in range(states.size):
        if num_states == 2:
            bits = word(rng) if c % 64 == 0 else bits >> U64(1)
            states[c] = np.int32(bits & U64(1))
        else:
            states[c] = below(rng, num_states)


@machine_code
def draw_state(log_weights, weights, rng):
    """A label with probability proportional to exp(log_weights); ``weights`` is room to work in."""
    highest = log_weights[0]
    for s in range(1, log_weights.size):
        highest = max(highest, log_weights[s])
    total = 0.0
    for s in range(log_weights.size):
        weights[s] = math.exp(log_weights[s] - highest)
        total += weights[s]
    height, last = uniform(rng) * total, 0
    for s in range(log_weights.size):
        if weights[s] > 0:
            last = s
            height -= weights[s]
            if height < 0:
                return s
    return last


@machine_code
def draw_weighted(log_weights, offsets, others, couplings, rng, states):
    """Clusters in random order get labels from their conditionals, given the latest of all others.

    Those that no repelling edge connects are independent. ``states`` holds the present labels and
    becomes the new ones.
    """
    order = np.arange(states.size)
    if others.size:
        for i in range(states.size - 1, 0, -1):
            j = below(rng, i + 1)
            order[i], order[j] = order[j], order[i]
    room = np.empty(log_weights.shape[1])
    for c in order:
        for k in range(offsets[c], offsets[c + 1]):
            log_weights[c, states[others[k]]] += couplings[k]
        states[c] = draw_state(log_weights[c], room, rng)


@machine_code
def sum_by_cluster(field, cluster, num_clusters, num_states):
    """The field of each cluster: that of its sites together."""
    total = np.zeros((num_clusters, num_states))
    if field.size:
        for i in range(cluster.size):
            for s in range(num_states):
                total[cluster[i], s] += field[i * num_states + s]
    return total


@machine_code
def field_at(labels, field, num_states):
    """The field's share of the log density."""
    total = 0.0
    if field.size:
        for i in range(labels.size):
            total += field[i * num_states + labels[i]]
    return total

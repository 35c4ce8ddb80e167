"""A Swendsen-Wang sweep of a lattice with one coupling in machine code, for one thread.

Sites are visited in raster order and get provisional labels, as in the two-pass labelling of
images: a site takes the label of the neighbour that it is bonded to. Only a site that is bonded to
two labels (one in five at the critical point) asks the union-find to join them, and that after the
row, so that the loop over the sites has no branch to mispredict. Bonds are drawn 64 at a time.
Rows are along the last axis.

Source for the labelling: Wu, Otoo & Suzuki (2009), Pattern Analysis and Applications 12.
"""

from __future__ import annotations

import numpy as np
from numba import types

from bayleaf.partitions.machine import ffi
from bayleaf.partitions.machine.ffi import OPERANDS, RESULTS, machine_code
from bayleaf.partitions.machine.random import U64, bernoulli, digits_of, generator
from bayleaf.partitions.machine.states import draw_free, draw_weighted, field_at, sum_by_cluster
from bayleaf.partitions.machine.union_find import join, number_roots


@machine_code
def row_of(row, axis, step, sizes):
    """The row that lies ``step`` further along an axis, around the end; and the row's place."""
    stride = 1
    for other in range(axis + 1, sizes.size - 1):
        stride *= sizes[other]
    place = (row // stride) % sizes[axis]
    return row + ((place + step) % sizes[axis] - place) * stride, place


@machine_code
def label_row(labels, start, width, has_above, digits, rng, provisional, parent, count, pairs):
    """Provisional labels of a row from the site on the left and the one above."""
    previous, left, waiting = 0, labels[start], 0
    for block in range(0, width, 64):
        across = bernoulli(rng, digits)
        if block == 0:
            across &= ~U64(1)  # nothing is left of the first site
        up = bernoulli(rng, digits) if has_above else U64(0)
        behind = width if has_above else 0
        for i in range(start + block, start + min(block + 64, width)):
            state = labels[i]
            is_left = np.int64(across & U64(1)) & (state == left)
            is_up = np.int64(up & U64(1)) & (state == labels[i - behind])
            across >>= U64(1)
            up >>= U64(1)
            above = provisional[i - behind]
            parent[count] = count
            own = previous if is_left else count
            own = above if is_up else own
            pairs[waiting, 0], pairs[waiting, 1] = previous, above
            waiting += is_left & is_up & (previous != above)
            count += 1 - (is_left | is_up)
            provisional[i] = own
            previous, left = own, state
    for k in range(waiting):
        join(parent, pairs[k, 0], pairs[k, 1])
    return count


@machine_code
def bond_rows(labels, start, other, width, digits, rng, provisional, parent):
    """Draw the bonds between two rows, and join what they connect."""
    for block in range(0, width, 64):
        bits = bernoulli(rng, digits)
        for k in range(block, min(block + 64, width)):
            if bits & U64(1) and labels[start + k] == labels[other + k]:
                join(parent, provisional[start + k], provisional[other + k])
            bits >>= U64(1)


@machine_code
def label_lattice(labels, sizes, is_periodic, digits, rng, provisional, parent):
    """Bonds of a lattice with one coupling: provisional labels, their union-find, their number."""
    width, last = sizes[-1], sizes.size - 2
    num_rows, count = labels.size // width, 0
    pairs = np.empty((width + 1, 2), np.int32)
    for row in range(num_rows):
        start = row * width
        has_above = last >= 0 and row_of(row, last, 0, sizes)[1] > 0
        count = label_row(
            labels, start, width, has_above, digits, rng, provisional, parent, count, pairs
        )
        if is_periodic and width > 1:
            bond_rows(labels, start, start + width - 1, 1, digits, rng, provisional, parent)
    for row in range(num_rows):
        for axis in range(last + 1):
            behind, place = row_of(row, axis, -1, sizes)
            wraps = place == 0
            if (wraps and is_periodic and sizes[axis] > 1) or (not wraps and axis < last):
                bond_rows(
                    labels, row * width, behind * width, width, digits, rng, provisional, parent
                )
    return count


@machine_code
def like_on_lattice(labels, sizes, is_periodic):
    """The number of edges whose ends have the same label."""
    width, total = sizes[-1], 0
    for row in range(labels.size // width):
        start = row * width
        for i in range(start + 1, start + width):
            total += labels[i] == labels[i - 1]
        if is_periodic and width > 1:
            total += labels[start] == labels[start + width - 1]
        for axis in range(sizes.size - 1):
            behind, place = row_of(row, axis, -1, sizes)
            if place > 0 or (is_periodic and sizes[axis] > 1):
                back = behind * width
                for k in range(width):
                    total += labels[start + k] == labels[back + k]
    return total


def lattice_sweep(frame):
    """Labels, key, [coupling, probability], field, layout -> labels, clusters, like, log density.

    The layout is the number of states, whether the lattice is periodic, and its sizes.
    """
    if ffi.is_request(frame):
        return types.uint64(0)
    layout = ffi.whole(frame, OPERANDS, 4, 0)
    num_states, is_periodic, sizes = layout[0], layout[1], layout[2:].astype(np.int64)
    num_sites = np.prod(sizes)
    provisional, parent = np.empty(num_sites, np.int32), np.empty(num_sites + 1, np.int32)
    number = np.empty(num_sites, np.int32)
    for chain in range(ffi.num_chains(frame)):
        labels = ffi.whole(frame, OPERANDS, 0, chain)
        rng = generator(ffi.whole(frame, OPERANDS, 1, chain))
        coupling = ffi.reals(frame, OPERANDS, 2, chain)
        field = ffi.reals(frame, OPERANDS, 3, chain)
        new = ffi.whole(frame, RESULTS, 0, chain)
        digits = digits_of(coupling[1])
        count = label_lattice(labels, sizes, is_periodic, digits, rng, provisional, parent)
        num_clusters = number_roots(parent, count, number)
        states = np.zeros(num_clusters, np.int32)
        if field.size:
            for i in range(num_sites):
                provisional[i] = number[provisional[i]]
            weights = sum_by_cluster(field, provisional, num_clusters, num_states)
            alone = np.zeros(num_clusters + 1, np.int64)
            draw_weighted(weights, alone, states[:0], weights[0, :0], rng, states)
            for i in range(num_sites):
                new[i] = states[provisional[i]]
        else:
            draw_free(num_states, rng, states)
            for k in range(count):  # from here on a provisional label's number is its new state
                number[k] = states[number[k]]
            for i in range(num_sites):
                new[i] = number[provisional[i]]
        num_like = like_on_lattice(new, sizes, is_periodic)
        ffi.put_whole(frame, 1, chain, num_clusters)
        ffi.put_whole(frame, 2, chain, num_like)
        ffi.put_real(frame, 3, chain, coupling[0] * num_like + field_at(new, field, num_states))
    return types.uint64(0)

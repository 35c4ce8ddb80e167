"""Union-find in machine code: ``parent[i] <= i``, and a root is its component's smallest member.

Paths are halved as they are followed (Tarjan & van Leeuwen 1984).
"""

# ruff: noqa: D103

from __future__ import annotations

from bayleaf.partitions.machine.ffi import machine_code


@machine_code
def find(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@machine_code
def join(parent, i, j):
    i, j = find(parent, i), find(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@machine_code
def number_roots(parent, count, number):
    """Number the components 0, 1, ... in the order of their roots; how many there are."""
    found = 0
    for i in range(count):
        is_root = parent[i] == i
        number[i] = found if is_root else number[parent[i]]
        found += is_root
    return found

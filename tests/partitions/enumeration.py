"""Potts models of a few sites, and what one sweep does to them, by enumeration in NumPy.

`sweep_matrix` goes through every bond configuration of every state, and through every order in
which clusters can be drawn. The planted bugs are those that one would make.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

BUGS = ("unlike bonds", "no field", "doubled coupling", "singletons stay")


class Model(NamedTuple):
    """What `bayleaf.partitions.Potts` is made of."""

    num_sites: int
    num_states: int
    edges: tuple[tuple[int, int], ...]
    couplings: tuple[float, ...]
    field: np.ndarray  # [site, state]


def states(model):
    """All labellings ``[state, site]``; the last site changes fastest."""
    return np.array(list(itertools.product(range(model.num_states), repeat=model.num_sites)))


def law(model):
    """The probability of each labelling."""
    z = states(model)
    weights = model.field[np.arange(model.num_sites), z].sum(axis=1)
    for (i, j), coupling in zip(model.edges, model.couplings, strict=True):
        weights = weights + coupling * (z[:, i] == z[:, j])
    p = np.exp(weights - weights.max())
    return p / p.sum()


def sweep_matrix(model, probabilities=None, bug=None):
    """The transition matrix of a sweep with these bond probabilities of like edges.

    States of probability zero, where no chain can be, stay where they are.
    """
    couplings = np.array(model.couplings)
    strength = 2 if bug == "doubled coupling" else 1
    q = np.maximum(0, -np.expm1(-strength * couplings)) if probabilities is None else probabilities
    residuals = couplings + np.log1p(-np.array(q))
    if probabilities is None:
        residuals = np.minimum(couplings, 0)
    z = states(model)
    place = {tuple(row): k for k, row in enumerate(z)}
    matrix = np.zeros((len(z), len(z)))
    impossible = law(model) == 0
    np.fill_diagonal(matrix, impossible)
    for k, start in enumerate(z):
        if impossible[k]:
            continue
        able = [
            e
            for e, (i, j) in enumerate(model.edges)
            if q[e] > 0 and (start[i] == start[j] or bug == "unlike bonds")
        ]
        for bonds in itertools.product((0, 1), repeat=len(able)):
            drawn = np.where(bonds, q[able], 1 - q[able]).prod()
            open_edges = [model.edges[e] for e, bond in zip(able, bonds, strict=True) if bond]
            for end, p in relabelled(model, start, open_edges, residuals, bug):
                matrix[k, place[end]] += drawn * p
    return matrix


def relabelled(model, start, open_edges, residuals, bug=None):
    """Labellings and their probabilities when clusters are drawn in turn, in random order."""
    root = list(range(model.num_sites))
    for i, j in open_edges:
        a, b = sorted((root[i], root[j]))
        root = [a if r == b else r for r in root]
    clusters = [np.flatnonzero(np.array(root) == r) for r in sorted(set(root))]
    if bug == "singletons stay":
        clusters = [c for c in clusters if len(c) > 1]
    links = [
        (i, j, residual)
        for (i, j), residual in zip(model.edges, residuals, strict=True)
        if residual != 0 and root[i] != root[j]
    ]
    # Without links between them clusters are independent, and every order does the same.
    orders = list(itertools.permutations(clusters)) if links else [tuple(clusters)]
    for order in orders:
        reached = {tuple(start): 1 / len(orders)}
        for cluster in order:
            moved = {}
            for labels, p in reached.items():
                for end, conditional in drawn(model, labels, cluster, links, bug):
                    moved[end] = moved.get(end, 0.0) + p * conditional
            reached = moved
        yield from reached.items()


def drawn(model, labels, cluster, links, bug):
    """The labellings that differ in one cluster's label, and their conditional probabilities."""
    weights = np.zeros(model.num_states)
    if bug != "no field":
        weights += model.field[cluster].sum(axis=0)
    for i, j, residual in links:
        for inside, outside in ((i, j), (j, i)):
            if inside in cluster and outside not in cluster:
                weights[labels[outside]] += residual
    p = np.exp(weights - weights.max())
    for state, probability in enumerate(p / p.sum()):
        end = list(labels)
        for site in cluster:
            end[site] = state
        yield tuple(end), probability


def site_by_site(model, order, accept=False):
    """The transition matrix of a scan of single sites: Gibbs, or Metropolis if ``accept``."""
    z = states(model)
    p, place = law(model), {tuple(row): k for k, row in enumerate(z)}
    total = np.eye(len(z))
    for site in order:
        step = np.zeros_like(total)
        for k, row in enumerate(z):
            ends = [place[(*row[:site], s, *row[site + 1 :])] for s in range(model.num_states)]
            if accept:
                others = [end for end in ends if end != k]
                for end in others:
                    step[k, end] = min(1, p[end] / p[k]) / len(others)
                step[k, k] += 1 - step[k].sum()
            else:
                step[k, ends] = p[ends] / p[ends].sum()
        total = total @ step
    return total

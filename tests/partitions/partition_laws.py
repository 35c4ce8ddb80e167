"""Partition models of a few sites by enumeration, with formulas of their own, in NumPy and SciPy.

`kernel` is the exact matrix of one sweep, made from a sampler's conditional log weights: the sum
over all bonds, and over all choices of one component after the other.
"""

from __future__ import annotations

import itertools
from math import lgamma, log

import jax.numpy as jnp
import numpy as np
from scipy import stats

from bayleaf.partitions import (
    DirichletProcess,
    FiniteDirichlet,
    Graph,
    NormalMean,
    PartitionModel,
    PitmanYor,
    SizePower,
    SizeWeights,
    Symmetric,
    UniformLabels,
    UniformPartition,
)

EDGES = ((0, 1), (2, 3), (0, 2), (1, 3), (0, 3))
"""A square with a diagonal."""

_RNG = np.random.default_rng(0)
DATA = _RNG.normal(0, 1.5, 4)
COUPLINGS = np.array([1.1, -0.4, 0.7, 1.6, 0.3])
BONDS = _RNG.uniform(0.1, 0.95, 5)


def log_power(base, num):
    """Of base (base + 1) ... (base + num - 1)."""
    return lgamma(base + num) - lgamma(base)


def first_half(sizes):
    """A g that is no product: it looks at the largest and the smallest cluster."""
    there = jnp.where(sizes > 0, sizes, jnp.max(sizes))
    return -0.3 * jnp.max(sizes) ** 2 + 0.7 * jnp.min(there)


PRIORS = {
    "Dirichlet process": (
        DirichletProcess(0.7),
        lambda s: len(s) * log(0.7) + sum(lgamma(m) for m in s),
    ),
    "Pitman-Yor": (
        PitmanYor(0.3, 0.5),
        lambda s: (
            sum(log(0.5 + 0.3 * k) for k in range(1, len(s)))
            + sum(lgamma(m - 0.3) - lgamma(0.7) for m in s)
        ),
    ),
    "Pitman-Yor of negative concentration": (
        PitmanYor(0.6, -0.2),
        lambda s: (
            sum(log(-0.2 + 0.6 * k) for k in range(1, len(s)))
            + sum(lgamma(m - 0.6) - lgamma(0.4) for m in s)
        ),
    ),
    "finite Dirichlet": (
        FiniteDirichlet(3, 0.5),
        lambda s: (
            lgamma(4) - lgamma(4 - len(s)) + sum(log_power(0.5, m) for m in s)
            if len(s) <= 3
            else -np.inf
        ),
    ),
    "uniform labels": (
        UniformLabels(3),
        lambda s: lgamma(4) - lgamma(4 - len(s)) if len(s) <= 3 else -np.inf,
    ),
    "uniform": (UniformPartition(), lambda s: 0.0),
    "power": (SizePower(-1.5, 0.4), lambda s: len(s) * log(0.4) - 1.5 * sum(log(m) for m in s)),
    "any weights of sizes": (
        SizeWeights(lambda m: -0.2 * (m - 2.0) ** 2, concentration=2.0),
        lambda s: sum(log(2) - 0.2 * (m - 2) ** 2 for m in s),
    ),
    "any function": (
        Symmetric(first_half),
        lambda s: -0.3 * max(s) ** 2 + 0.7 * min(s),
    ),
}
"""Each prior of the library, and log g by a formula of a few letters."""


def first_come(labels):
    """Labels numbered by first sites, as a tuple."""
    number = {}
    return tuple(number.setdefault(label, len(number)) for label in labels)


def partitions(num_sites):
    """All partitions, as labels numbered by first sites."""
    return sorted({first_come(z) for z in itertools.product(range(num_sites), repeat=num_sites)})


def sizes_of(labels):
    return np.bincount(labels).tolist()


def log_normal_marginal(y, variance=1.0, prior_variance=4.0, prior_mean=0.3):
    """The law of data whose common mean is normal."""
    covariance = variance * np.eye(len(y)) + prior_variance
    return stats.multivariate_normal(np.full(len(y), prior_mean), covariance).logpdf(y)


def law(log_g, *, edges=EDGES, couplings=COUPLINGS, data=DATA, most=None):
    """The probability of each partition."""
    every = partitions(len(data))
    weights = []
    for z in every:
        z = np.array(z)
        total = log_g(sizes_of(z)) if most is None or z.max() < most else -np.inf
        total += sum(log_normal_marginal(data[z == k]) for k in range(z.max() + 1))
        total += sum(b for (i, j), b in zip(edges, couplings, strict=True) if z[i] == z[j])
        weights.append(total)
    p = np.exp(np.array(weights) - max(weights))
    return p / p.sum()


def model(prior, **options):
    """The model of which `law` is the law."""
    likelihood = NormalMean(DATA, variance=1.0, prior_variance=4.0, prior_mean=0.3)
    graph = Graph.from_edges(4, np.array(EDGES))
    return PartitionModel(graph, prior, likelihood, coupling=COUPLINGS, **options)


def questions(num_sites=4):
    """Partitions and sets of sites with one label in them, as arrays of labels and of flags."""
    found = [
        (z, members)
        for z in partitions(num_sites)
        for members in itertools.product((False, True), repeat=num_sites)
        if len({label for label, member in zip(z, members, strict=True) if member}) == 1
    ]
    return np.array([z for z, _ in found], np.int32), np.array([m for _, m in found])


def answers(log_weights, num_sites=4):
    """{(partition, members): {partition: probability}} from the log weights of each place."""
    table = {}
    for z, members, row in zip(*questions(num_sites), log_weights, strict=True):
        p = np.exp(row - row.max())
        ends = {}
        for place, probability in enumerate(p / p.sum()):
            end = first_come(np.where(members, place, z).tolist())
            ends[end] = ends.get(end, 0.0) + probability
        table[tuple(z.tolist()), tuple(members.tolist())] = ends
    return table


def kernel(table, bonds=BONDS, *, edges=EDGES, at_once=False):
    """The matrix of one sweep; ``at_once`` is the bug that all components choose at once."""
    num_sites = len(next(iter(table))[0])
    every = partitions(num_sites)
    place = {z: k for k, z in enumerate(every)}
    matrix = np.zeros((len(every), len(every)))
    for k, start in enumerate(every):
        like = [e for e, (i, j) in enumerate(edges) if start[i] == start[j]]
        for drawn in itertools.product((0, 1), repeat=len(like)):
            chance = np.where(drawn, bonds[like], 1 - bonds[like]).prod()
            components = connected(
                num_sites, [edges[e] for e, bond in zip(like, drawn, strict=True) if bond]
            )
            moved = chosen_at_once if at_once else chosen_in_turn
            for end, p in moved(table, start, components).items():
                matrix[k, place[end]] += chance * p
    return matrix


def connected(num_sites, open_edges):
    """The components as flags of their sites, in the order of their first ones."""
    root = list(range(num_sites))
    for i, j in open_edges:
        a, b = sorted((root[i], root[j]))
        root = [a if r == b else r for r in root]
    return [tuple(r == c for r in root) for c in sorted(set(root))]


def chosen_in_turn(table, start, components):
    reached = {start: 1.0}
    for members in components:
        after = {}
        for z, p in reached.items():
            for end, conditional in table[z, members].items():
                after[end] = after.get(end, 0.0) + p * conditional
        reached = after
    return reached


def chosen_at_once(table, start, components):
    """Each sees the start; of the answers only the members' new company is used."""
    reached = {}
    options = []
    for members in components:
        own = []
        for end, p in table[start, members].items():
            company = [k for k in range(len(start)) if not members[k]]
            me = members.index(True)
            friends = [start[k] for k in company if end[k] == end[me]]
            own.append((friends[0] if friends else f"new {me}", p))
        options.append(own)
    for choice in itertools.product(*options):
        labels = list(start)
        chance = 1.0
        for members, (label, p) in zip(components, choice, strict=True):
            chance *= p
            labels = [label if m else old for m, old in zip(members, labels, strict=True)]
        end = first_come(labels)
        reached[end] = reached.get(end, 0.0) + chance
    return reached

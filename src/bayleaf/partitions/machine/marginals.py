"""Log marginal likelihoods of clusters in machine code: the formulas of `bayleaf.partitions`.

``kind`` says which; ``numbers`` holds its parameters, as the function ``written_down`` of
`bayleaf.partitions.machine.collapsed_calls` writes them, and last the power of the likelihood, 1
where it is not tempered. What depends on the size of the cluster
alone is worked out once for each size and kept in ``by_size``, which begins as NaN.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NONE, NORMAL, WISHART, HISTOGRAM = 0, 1, 2, 3


def formula(function: Callable[..., Any]) -> Any:
    """As `bayleaf.partitions.machine.ffi.machine_code`, without a look at each divisor."""
    compiler = numba.njit(cache=True, nogil=True, error_model="numpy")
    return compiler(inspect.unwrap(function))


@formula
def normal_of_size(numbers, dim, m):
    """The determinants of `NormalMean`."""
    total = 0.0
    for c in range(dim):
        variance, prior = numbers[c], numbers[dim + c]
        total -= 0.5 * (m * math.log(2 * math.pi * variance) + math.log1p(m * prior / variance))
    return total


@formula
def normal(numbers, dim, m, total):
    """The squares of `NormalMean`."""
    squares = total[dim]
    for c in range(dim):
        variance, prior, mean = numbers[c], numbers[dim + c], total[c] / m
        gap = mean + numbers[2 * dim + c]
        squares += m * (gap * gap / (variance + m * prior) - mean * mean / variance)
    return -0.5 * squares


@formula
def wishart_of_size(numbers, dim, m):
    """All of `NormalInverseWishart` but the determinant of its scatter."""
    kappa, nu = numbers[0], numbers[1]
    total = 0.5 * (nu * numbers[2] + dim * math.log(kappa / (kappa + m)))
    total -= 0.5 * m * dim * math.log(math.pi)
    for c in range(dim):
        total += math.lgamma(0.5 * (nu + m - c)) - math.lgamma(0.5 * (nu - c))
    return total


@formula
def wishart(numbers, dim, m, total, room):
    """The determinant of the scatter, by the pivots of an elimination."""
    kappa, nu = numbers[0], numbers[1]
    pull = kappa * m / (kappa + m)
    at = 0
    for i in range(dim):
        mean = total[i] / m
        gap = mean + numbers[3 + i]
        for j in range(i + 1):
            other = total[j] / m
            products = total[dim + at] - m * mean * other
            room[i, j] = numbers[3 + dim + at] + products + pull * gap * (other + numbers[3 + j])
            at += 1
    determinant, log_determinant = 1.0, 0.0
    for j in range(dim):
        pivot = room[j, j]
        if not pivot > 0:
            return math.nan
        determinant *= pivot
        if not 1e-150 < determinant < 1e150:
            log_determinant += math.log(determinant)
            determinant = 1.0
        for i in range(j + 1, dim):
            factor = room[i, j] / pivot
            for k in range(j + 1, i + 1):
                room[i, k] -= factor * room[k, j]
    return -0.5 * (nu + m) * (log_determinant + math.log(determinant))


@formula
def log_marginal(kind, numbers, dim, m, total, room, by_size):
    """Log p of a cluster of m sites whose statistics add up to ``total``, times the power."""
    return numbers[numbers.size - 1] * untempered(kind, numbers, dim, m, total, room, by_size)


@formula
def untempered(kind, numbers, dim, m, total, room, by_size):
    """The log of the marginal likelihood itself."""
    if kind == NONE:
        return 0.0
    if kind == HISTOGRAM:
        value, prior, count = 0.0, 0.0, 0.0
        for b in range(dim):
            prior += numbers[b]
            count += total[b]
            if total[b] != 0:
                value += math.lgamma(numbers[b] + total[b]) - math.lgamma(numbers[b])
        return value + math.lgamma(prior) - math.lgamma(prior + count)
    if np.isnan(by_size[m]):
        if kind == NORMAL:
            by_size[m] = normal_of_size(numbers, dim, m)
        else:
            by_size[m] = wishart_of_size(numbers, dim, m)
    if kind == NORMAL:
        return by_size[m] + normal(numbers, dim, m, total)
    return by_size[m] + wishart(numbers, dim, m, total, room)


@formula
def log_joined(kind, numbers, dim, m, totals, j, value, size, more, room, both, by_size):
    """Log p of cluster j, whose own is ``value``, when ``size`` sites with the sum ``more`` join.

    Of histograms only bins that the newcomers fill change.
    """
    if kind == HISTOGRAM:
        prior, added, gain = 0.0, 0.0, 0.0
        for b in range(dim):
            a, x = numbers[b] + totals[j, b], more[b]
            prior += a
            added += x
            if x != 0:
                gain += math.lgamma(a + x) - math.lgamma(a)
        gain += math.lgamma(prior) - math.lgamma(prior + added)
        return value + numbers[numbers.size - 1] * gain
    for s in range(both.size):
        both[s] = totals[j, s] + more[s]
    return log_marginal(kind, numbers, dim, m + size, both, room, by_size)

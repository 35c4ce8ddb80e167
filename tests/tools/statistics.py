"""Statistical assertions with a stated false-alarm rate.

One rule for every test that looks at random numbers: a correct sampler fails with probability
``false_alarm`` (1e-6 by default) *per assertion*, however many numbers the assertion compares.

- Standard errors are Monte Carlo standard errors: the sd over the root of the effective sample
  size, never the sd over the root of the number of draws (unless the draws are independent).
- The standard error is itself an estimate, so the ratio is compared with Student's t and not with
  the normal, whose tail at 1e-6 is too thin. Degrees of freedom: n - 1 for independent draws;
  ess / 5 for Markov chains, because the variance of an autocorrelation time summed over a window of
  2.5 autocorrelation times on each side is that of a variance estimated from ess / 5 normal draws.
- Bonferroni over all numbers compared by one assertion.

    assert_mean(draws, 0.0)                        # draws: [chain, draw, ...] or a pytree of them
    assert_mean(draws, reference, mcse=its_mcse)   # against published reference draws
    assert_cdf(draws, scipy.stats.norm.cdf)        # the whole distribution of one number
    assert_same(draws, others, iid=True)           # two samplers against each other

Use ``iid=True`` for independent draws; their only leading axis is the draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from arviz_stats.base import array_stats
from scipy import stats

FALSE_ALARM = 1e-6
SMALLEST_ESS = 50  # below it no standard error is to be believed


class Estimate(NamedTuple):
    """Means over all draws, flattened over whatever is not a draw."""

    labels: list[str]
    mean: np.ndarray
    standard_error: np.ndarray
    freedom: np.ndarray


def assert_mean(
    draws: Any,
    mean: Any,
    *,
    mcse: Any = 0.0,
    iid: bool = False,
    false_alarm: float = FALSE_ALARM,
) -> None:
    """The expectations of ``draws`` are ``mean``.

    Args:
        draws: array ``[chain, draw, ...]``, or a pytree of such; ``[draw, ...]`` when ``iid``.
        mean: expected values, an array or a pytree of the same structure (or one number for all).
        mcse: standard errors of ``mean``, when it is an estimate itself.
        iid: the draws are independent.
        false_alarm: probability that this assertion fails though the means agree.
    """
    got = estimate(draws, iid=iid)
    expected = _like(mean, draws, iid)
    error = np.hypot(got.standard_error, _like(mcse, draws, iid))
    _judge(got, expected, error, false_alarm)


def assert_same(
    draws: Any, others: Any, *, iid: bool = False, false_alarm: float = FALSE_ALARM
) -> None:
    """Two sets of draws have the same expectations."""
    got, other = estimate(draws, iid=iid), estimate(others, iid=iid)
    got = got._replace(freedom=np.minimum(got.freedom, other.freedom))
    error = np.hypot(got.standard_error, other.standard_error)
    _judge(got, other.mean, error, false_alarm)


def assert_cdf(
    draws: Any,
    cdf: Callable[[np.ndarray], np.ndarray],
    *,
    iid: bool = False,
    false_alarm: float = FALSE_ALARM,
    num_points: int = 9,
) -> None:
    """The draws of one real number, ``[chain, draw]`` or ``[draw]``, have this continuous CDF.

    Independent draws: the exact Kolmogorov-Smirnov test. Markov chains: the shares of draws below
    ``num_points`` quantiles, each with its Monte Carlo standard error.
    """
    draws = np.asarray(draws, np.float64)
    if iid:
        result = stats.kstest(draws, cdf)
        assert result.pvalue >= false_alarm, (
            f"{draws.size} draws do not follow the CDF: Kolmogorov-Smirnov distance "
            f"{result.statistic:.4f}, p = {result.pvalue:.2g} < {false_alarm:.2g}"
        )
        return
    points = np.arange(1, num_points + 1) / (num_points + 1)
    below = cdf(draws)[..., None] <= points
    assert_mean({"share below quantile": below}, points, false_alarm=false_alarm)


def assert_counts(
    counts: Any, probabilities: Any, *, false_alarm: float = FALSE_ALARM, what: str = "cell"
) -> None:
    """Independent categorical draws (their counts, last axis) have these probabilities.

    The exact binomial test in every cell, so that cells of probability zero must stay empty.
    """
    counts, probabilities = np.broadcast_arrays(np.asarray(counts), np.asarray(probabilities))
    totals = counts.sum(axis=-1, keepdims=True) + np.zeros_like(counts)
    lower = stats.binom.cdf(counts, totals, probabilities)
    upper = stats.binom.sf(counts - 1, totals, probabilities)
    p_values = np.minimum(1.0, 2.0 * np.minimum(lower, upper))
    worst = np.unravel_index(np.argmin(p_values), p_values.shape)
    assert p_values[worst] >= false_alarm / p_values.size, (
        f"{what} {tuple(map(int, worst))}: {counts[worst]} of {totals[worst]} draws, expected a "
        f"share of {probabilities[worst]:.5g}; p = {p_values[worst]:.2g}, allowed "
        f"{false_alarm / p_values.size:.2g} (false-alarm rate {false_alarm:.2g}, "
        f"{p_values.size} comparisons)"
    )


def estimate(draws: Any, *, iid: bool) -> Estimate:
    """Means, their standard errors and the degrees of freedom of these, over a pytree of draws."""
    parts = [_estimate_leaf(path, leaf, iid) for path, leaf in _leaves(draws)]
    labels = [label for part in parts for label in part.labels]
    return Estimate(
        labels, *(np.concatenate(column) for column in list(zip(*parts, strict=True))[1:])
    )


def _estimate_leaf(path: str, leaf: Any, iid: bool) -> Estimate:
    values = np.asarray(leaf, np.float64)
    num_axes = 1 if iid else 2
    assert values.ndim >= num_axes, f"{path}: draws of shape {values.shape} lack their leading axes"
    shape = values.shape[num_axes:]
    values = values.reshape(*values.shape[:num_axes], -1)
    labels = [f"{path}{list(map(int, index)) if index else ''}" for index in np.ndindex(*shape)]
    assert np.all(np.isfinite(values)), f"{path}: some draws are not finite"
    if iid:
        size = np.full(values.shape[-1], values.shape[0], np.float64)
        freedom = size - 1
    else:
        size = np.array([_effective_size(values[..., i]) for i in range(values.shape[-1])])
        freedom = size / 5
    axes = tuple(range(num_axes))
    spread = values.std(axis=axes, ddof=1)
    low = [f"{label} ({n:.0f})" for label, n in zip(labels, size, strict=True) if n < SMALLEST_ESS]
    assert not low, f"effective sample size below {SMALLEST_ESS}: {', '.join(low[:5])}"
    return Estimate(labels, values.mean(axis=axes), spread / np.sqrt(size), freedom)


def _effective_size(values: np.ndarray) -> float:
    """Effective number of draws of ``[chain, draw]`` for the mean, at most their number."""
    if np.all(values == values.flat[0]):
        return float(values.size)  # constant: the mean is exact and is judged as such
    return min(float(array_stats.ess(values, method="mean")), float(values.size))


def _judge(got: Estimate, expected: np.ndarray, error: np.ndarray, false_alarm: float) -> None:
    gap = got.mean - expected
    # Round-off of the mean itself, so that a constant statistic is compared sensibly.
    error = np.maximum(error, 1e-12 * np.maximum(1.0, np.abs(expected)))
    scores = gap / error
    limits = stats.t.isf(false_alarm / (2 * gap.size), got.freedom)
    bad = np.flatnonzero(~(np.abs(scores) <= limits))
    bad = bad[np.argsort(-np.abs(scores[bad]))]
    lines = [
        f"  {got.labels[i]}: {got.mean[i]:.6g}, expected {expected[i]:.6g}; "
        f"{scores[i]:+.1f} standard errors of {error[i]:.2g}, allowed {limits[i]:.1f}"
        for i in bad[:8]
    ]
    assert not lines, "\n".join(
        [
            f"{bad.size} of {gap.size} means are wrong (false-alarm rate {false_alarm:.2g}):",
            *lines,
        ]
    )


def _like(values: Any, draws: Any, iid: bool) -> np.ndarray:
    """``values`` (number, array or pytree) as one flat vector in the order of the estimates."""
    leaves = [np.asarray(leaf) for _, leaf in _leaves(draws)]
    given = jax.tree.leaves(values)
    given = given * len(leaves) if len(given) == 1 else given
    shapes = [leaf.shape[1 if iid else 2 :] for leaf in leaves]
    return np.concatenate(
        [
            np.broadcast_to(np.asarray(value, np.float64), shape).ravel()
            for value, shape in zip(given, shapes, strict=True)
        ]
    )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(jax.tree_util.keystr(path) or "draws", leaf) for path, leaf in paths]

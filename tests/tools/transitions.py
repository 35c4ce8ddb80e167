"""Exact one-step transition tests on small discrete spaces.

A kernel on states ``0..S-1`` has a transition matrix. Two helpers give the exact one of a
textbook kernel (`metropolis_matrix`, `gibbs_matrix`), `count_transitions` counts very many
independent steps of the kernel under test from every state, and `assert_transitions` compares the
two by exact binomial tests: a correct kernel fails with probability 1e-6 in all.

The stationary law alone cannot tell two kernels apart that share it, nor a kernel that hardly
moves from a good one; the matrix can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from tests.tools.statistics import FALSE_ALARM, assert_counts


def metropolis_matrix(probabilities: Any, proposal: Any) -> np.ndarray:
    """P[i, j] of Metropolis-Hastings with target ``probabilities`` and proposal ``q[i, j]``."""
    target, proposal = np.asarray(probabilities, np.float64), np.asarray(proposal, np.float64)
    flow = target[:, None] * proposal
    with np.errstate(divide="ignore", invalid="ignore"):
        accept = np.where(flow > 0, np.minimum(1.0, flow.T / flow), 0.0)
    matrix = proposal * accept
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    return matrix


def gibbs_matrix(joint: Any, order: tuple[int, ...]) -> np.ndarray:
    """P over the ravelled cells of ``joint``, redrawing the axes of ``order`` one after another."""
    joint = np.asarray(joint, np.float64)
    cells = list(np.ndindex(*joint.shape))
    total = np.eye(len(cells))
    for axis in order:
        conditional = joint / joint.sum(axis=axis, keepdims=True)
        matrix = np.zeros_like(total)
        for i, start in enumerate(cells):
            for j, end in enumerate(cells):
                same = all(
                    a == b for k, (a, b) in enumerate(zip(start, end, strict=True)) if k != axis
                )
                matrix[i, j] = conditional[end] if same else 0.0
        total = total @ matrix
    return total


def count_transitions(
    step: Callable[[Any, Any], Any], num_states: int, *, key: Any, num_steps: int
) -> np.ndarray:
    """Counts ``[from, to]`` of independent steps: ``step(key, from) -> to``, integers both."""

    def row(start: Any, key: Any) -> Any:
        ends = jax.vmap(step, in_axes=(0, None))(jax.random.split(key, num_steps), start)
        return jnp.bincount(jnp.ravel(ends), length=num_states)

    keys = jax.random.split(key, num_states)
    counts = np.asarray(jax.jit(jax.vmap(row))(jnp.arange(num_states), keys))
    assert counts.sum() == num_states * num_steps, "the kernel left the space"
    return counts


def assert_transitions(counts: Any, matrix: Any, *, false_alarm: float = FALSE_ALARM) -> None:
    """The counted steps come from this transition matrix."""
    assert_counts(counts, matrix, false_alarm=false_alarm, what="transition (from, to)")


def assert_invariant_matrix(matrix: Any, probabilities: Any) -> None:
    """pi P = pi, exactly (to round-off), for a matrix known in closed form."""
    target = np.asarray(probabilities, np.float64).ravel()
    target = target / target.sum()
    np.testing.assert_allclose(np.asarray(matrix).sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(target @ matrix, target, atol=1e-12)


def assert_invariant_counts(
    counts: Any, probabilities: Any, *, false_alarm: float = FALSE_ALARM
) -> None:
    """pi P = pi for a matrix known by counts only: is the flow into every state its probability?

    The share that enters j, sum_i pi_i n_ij / n_i, is a weighted mean of independent counts.
    """
    counts = np.asarray(counts, np.float64)
    target = np.asarray(probabilities, np.float64).ravel()
    target = target / target.sum()
    totals = counts.sum(axis=1, keepdims=True)
    rows = counts / totals
    inflow = target @ rows
    variance = (target**2) @ (rows * (1 - rows) / totals)
    error = np.sqrt(np.maximum(variance, 1e-24))
    scores = (inflow - target) / error
    limit = stats.norm.isf(false_alarm / (2 * target.size))
    worst = int(np.argmax(np.abs(scores)))
    assert abs(scores[worst]) <= limit, (
        f"state {worst}: probability {target[worst]:.5g} becomes {inflow[worst]:.5g} after one "
        f"step, {scores[worst]:+.1f} standard errors, allowed {limit:.1f}"
    )

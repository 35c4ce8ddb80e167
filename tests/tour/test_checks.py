"""The tour's comparisons accept good draws and reject bad ones, and NaN is never ok."""

from __future__ import annotations

import numpy as np
import pytest

from bayleaf.tour import checks
from bayleaf.tour.checks import Comparison


@pytest.fixture(scope="module")
def draws():
    return np.random.default_rng(0).normal(3.0, 2.0, (4, 2000))


def compared(draws, reference_ess=np.inf):
    return checks.judge(
        [
            checks.mean("mean", draws, 3.0),
            checks.sd("sd", draws, 3.0, 2.0, reference_ess),
            checks.share("below the mean", draws <= 3.0, 0.5, reference_ess),
        ]
    )


def test_independent_draws_agree(draws):
    assert all(c.ok for c in compared(draws))


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        (lambda x: x + 0.3, {"mean", "below the mean"}),
        (lambda x: 3 + 1.15 * (x - 3), {"sd"}),
        (lambda x: np.where(x < 3, x - 0.5, x), {"mean", "sd"}),
        (lambda x: np.repeat(x[:, :8], 250, axis=1), {"mean", "sd", "below the mean"}),
    ],
    ids=["shifted", "wide", "bent", "sticky"],
)
def test_a_planted_fault_is_found(draws, fault, failed):
    assert failed <= {c.quantity for c in compared(fault(draws)) if not c.ok}


def test_too_few_effective_draws_are_not_ok_even_when_they_are_right():
    few = np.repeat(np.array([[2.0, 4.0], [4.0, 2.0]]), 500, axis=1)
    (comparison,) = checks.judge([checks.mean("mean", few, 3.0)])
    assert comparison.value == 3.0
    assert not comparison.ok


def test_a_reference_with_an_error_of_its_own_allows_more(draws):
    (exact,) = checks.judge([checks.mean("mean", draws, 3.0)])
    (vague,) = checks.judge([checks.mean("mean", draws, 3.0, 0.5)])
    assert vague.tolerance > 10 * exact.tolerance


def test_more_comparisons_allow_more_each(draws):
    estimate = checks.mean("mean", draws, 3.0)
    assert checks.judge([estimate] * 50)[0].tolerance > checks.judge([estimate])[0].tolerance


def test_the_false_alarm_rate_is_kept():
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(200):
        estimates = [checks.mean("x", rng.normal(size=(2, 100)), 0.0) for _ in range(2)]
        failed += any(not c.ok for c in checks.judge(estimates, false_alarm=0.05))
    assert failed <= 27  # Binomial(200, 0.05) exceeds this with probability 1e-6


@pytest.mark.parametrize(
    ("comparison", "ok"),
    [
        (Comparison("x", 1.0, 1.1, 0.2), True),
        (Comparison("x", 1.0, 1.3, 0.2), False),
        (Comparison("x", 2.0, 1.0, relation="≥"), True),
        (Comparison("x", 0.9, 1.0, 0.2, "≥"), True),
        (Comparison("x", 0.7, 1.0, 0.2, "≥"), False),
        (Comparison("x", 2.0, 1.0, relation="≤"), False),
        (Comparison("x", np.nan, 1.0, 9.0), False),
        (Comparison("x", np.nan, 1.0, 9.0, "≥"), False),
        (Comparison("x", 1.0, 1.0, np.nan), False),
    ],
)
def test_relations(comparison, ok):
    assert comparison.ok is ok

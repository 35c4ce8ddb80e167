"""Hulls: masses of their pieces and shares within them, against quadrature of the lines."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from bayleaf.logconcave import hull
from bayleaf.logconcave.hull import Knots, SecantHull, TangentHull

inf = np.inf
METHODS = {"tangents": TangentHull(), "secants": SecantHull()}
SHARES = np.array([0.01, 0.3, 0.99])


def normal(x):
    return -0.5 * x * x, -x


def flat(x):
    return 0 * x + 1.0, 0 * x


def nearly_flat(x):
    return -1e-9 * x, 0 * x - 1e-9


def plateau(x):
    """Flat on (-1, 1), quadratic on either side."""
    beyond = np.sign(x) * np.maximum(np.abs(x) - 1, 0)
    return -0.5 * beyond**2, -beyond


def gamma(x):
    return 1.5 * np.log(x) - x, 1.5 / x - 1


def steep(x):
    return -1e4 * x, 0 * x - 1e4


# Five knots each, so that one compiled program serves them all.
CASES = {
    "two infinite ends": (normal, [-2.0, -0.5, 0.1, 0.7, 1.5], (-inf, inf)),
    "an end on the left": (gamma, [0.1, 0.5, 1.0, 2.0, 6.0], (0.0, inf)),
    "an end on the right": (normal, [-9.0, -8.0, -7.0, -6.0, -5.0], (-inf, -4.5)),
    "all on one side of the mode": (normal, [4.01, 4.1, 4.5, 5.0, 6.0], (4.0, inf)),
    "flat": (flat, [2.1, 2.5, 3.0, 3.5, 4.9], (2.0, 5.0)),
    "nearly flat": (nearly_flat, [2.1, 2.5, 3.0, 3.5, 4.9], (2.0, 5.0)),
    "a flat segment": (plateau, [-2.0, -0.5, 0.0, 0.5, 3.0], (-inf, inf)),
    "steep": (steep, [0.1, 0.2, 0.3, 0.4, 0.5], (0.0, 1.0)),
    "equal knots": (normal, [-1.0, -1.0, 0.5, 1.0, 1.0], (-inf, 3.0)),
    "knots at the ends": (normal, [-1.0, -0.5, 0.0, 0.5, 1.0], (-1.0, 1.0)),
}


@jax.jit
def build(knots):
    return {name: hull.build(method, knots) for name, method in METHODS.items()}


def built(case: str, method: str, dtype: Any = np.float64) -> Any:
    function, x, (low, high) = CASES[case]
    value, slope = function(np.asarray(x))
    return build(Knots(*(jnp.asarray(part, dtype) for part in (x, value, slope, low, high))))[
        method
    ]


def lines_of(case, method):
    """The lines of each cell and tail as (point, value, slope); the hull is the least of them.

    All tangents hold everywhere; a chord holds in the cells beside its own.
    """
    function, x, (low, high) = CASES[case]
    x = np.unique(x)
    value, slope = function(x)
    if method == "tangents":
        lines = [(x, value, slope)] * (x.size + 1)
    else:
        chord = np.diff(value) / np.diff(x)
        near = [[i for i in (cell - 2, cell) if 0 <= i < chord.size] for cell in range(x.size + 1)]
        lines = [(x[i], value[i], chord[i]) for i in near]
    return lines, np.concatenate([[low], x, [high]])


def log_integral(height, low, high):
    """Log of the integral of exp(height) between two points, by adaptive quadrature."""
    if not low < high:
        return -inf
    ends = [end for end in (low, high) if np.isfinite(end)]
    top = max(map(height, ends))
    found = integrate.quad(lambda t: np.exp(height(t) - top), low, high, epsabs=0, limit=200)
    return top + np.log(found[0])


def log_masses(case, method):
    """Exact log masses of the left tail, the cells between different knots, the right tail."""
    lines, ends = lines_of(case, method)

    def height(line):
        return lambda t: np.min(line[1] + line[2] * (t - line[0]))

    return np.array(
        [
            log_integral(height(line), *pair)
            for line, pair in zip(lines, itertools.pairwise(ends), strict=True)
        ]
    )


def assert_masses(found, case, method, atol=1e-9):
    """Errors of logs are relative errors of the masses."""
    expected = log_masses(case, method)
    log_mass = np.asarray(found.log_mass, np.float64)
    inner = np.logaddexp(log_mass[:-1, 1], log_mass[1:, 0])
    got = np.concatenate([log_mass[:1, 0], inner, log_mass[-1:, 1]])
    is_cell = np.concatenate([[True], np.diff(CASES[case][1]) > 0, [True]])
    assert np.all(np.isneginf(got[~is_cell])), "between equal knots there is nothing"
    np.testing.assert_allclose(got[is_cell], expected, atol=atol, rtol=0)
    np.testing.assert_allclose(
        found.log_total, np.logaddexp.reduce(expected[~np.isneginf(expected)]), atol=atol, rtol=0
    )


def assert_shares(found, atol=1e-9):
    """The point drawn for a uniform r has the share r of its piece between itself and the start."""
    relative = found.log_mass - found.value[:, None]
    parts = (found.rate, found.start, found.step, found.fill, relative)
    pieces = np.stack([np.ravel(part) for part in parts], axis=1)
    for rate, start, step, fill, log_mass in pieces[np.isfinite(pieces[:, -1])]:
        ends = start - step * np.log1p(-fill * SHARES)
        areas = [log_integral(lambda t, k=rate: k * t, *sorted((start, end))) for end in ends]
        np.testing.assert_allclose(areas, log_mass + np.log(SHARES), atol=atol, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_masses_and_shares_are_those_of_quadrature(case, method):
    found = built(case, method)
    assert_masses(found, case, method)
    assert_shares(found)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", [case for case in CASES if case != "steep"])
def test_float32_masses_are_as_right(case, method):
    """Values of up to 40 are rounded to 2e-6; chords of them, over cells of 0.1, to 1e-4."""
    found = built(case, method, np.float32)
    assert found.log_mass.dtype == np.float32
    assert_masses(found, case, method, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_planted_bugs_are_caught(method):
    """No division by the rate; a support that is forgotten; distances to the wrong side."""
    case = "all on one side of the mode"
    right = built(case, method)
    rates = -jnp.log(jnp.where(right.step == 0, 1, jnp.abs(right.step)))
    bare = right._replace(log_mass=right.log_mass + rates)
    function, x, (_, high) = CASES[case]
    knots = Knots(*map(jnp.asarray, (x, *function(np.asarray(x)), -inf, high)))
    for wrong in (bare, build(knots)[method]):
        with pytest.raises(AssertionError):
            assert_masses(wrong, case, method)
    with pytest.raises(AssertionError):
        assert_shares(right._replace(step=-right.step))


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_fall_off_cannot_be_normalised(method):
    x = jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    ends = jnp.array(-inf), jnp.array(inf)
    for slope in (0.0, 1.0):
        knots = Knots(x, slope * x, jnp.full(5, slope), *ends)
        assert build(knots)[method].log_total == inf

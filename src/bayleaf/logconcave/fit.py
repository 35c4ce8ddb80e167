r"""Builds the hull of one target: search, refinement, and a look into the tails.

Refinement is not random. Gilks & Wild add the points that they reject; here every cell between two
knots, and both tails, get a new knot at once where hull and squeeze are furthest apart (Leydold's
derandomised adaptive rejection), and this is done a fixed number of times: 3, 7, 15, 31 ... knots.
The hull is then final before the first draw. So all targets of a batch take the same steps, which
vectorises, and draws are exact by the plainest argument there is: rejection from a fixed hull.

Log-concavity is checked at all of these points, and at some far out in both tails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.logconcave.hull import (
    Hull,
    HullMethod,
    Knots,
    build,
    first_crossing,
    lines,
    scalar,
    tolerance,
)
from bayleaf.logconcave.search import Window, find_window
from bayleaf.logconcave.trouble import (
    EXHAUSTED,
    FINE,
    IMPROPER,
    NAN,
    NOT_CONCAVE,
    NOWHERE,
    Trouble,
    first_value_trouble,
    noted,
)
from bayleaf.types import Count, Scalar

Points = Float[Array, "point"]
LEAST_SHARE = 0.1  # of its cell that a new knot keeps from the old ones
TAIL_DEPTH = 1.5  # nats from the higher end of a tail to its new knot
NUM_PROBES = 8


class Fit(NamedTuple):
    """A hull, its highest knot, half the width of the search's window, and what is wrong."""

    hull: Hull
    peak: Scalar
    peak_value: Scalar
    spread: Scalar
    num_evaluations: Count
    trouble: Trouble


def fit_hull(
    method: HullMethod,
    log_density: Callable[[Any], Any],
    points: Points,
    low: Scalar,
    high: Scalar,
    num_doublings: int,
    num_probes: int = NUM_PROBES,
) -> Fit:
    """The hull of a log-concave density of one variable; pure and traceable.

    Args:
        method: `TangentHull` or `SecantHull`.
        log_density: of a scalar, up to a constant.
        points: where to look first, at least three different ones inside the support.
        low: lower end of the support, or minus infinity.
        high: upper end of the support, or infinity.
        num_doublings: the hull has ``2 ** (num_doublings + 2) - 1`` knots.
        num_probes: points in each tail at which log-concavity is checked beside.
    """
    values = jax.vmap(lambda x: scalar(log_density, x))
    window = find_window(values, points, low, high)
    knots, trouble = first_knots(method, log_density, window)
    for _ in range(num_doublings):
        knots, trouble = doubled(method, log_density, knots, trouble)
    hull = build(method, knots)
    trouble = checked(method, hull, knots, trouble)
    if num_probes:
        trouble = probed(values, hull, num_probes, trouble)
    peak = jnp.argmax(knots.value)
    spread = (window.x[2] - window.x[0]) / 2
    count = window.num_evaluations + hull.x.size + 2 * num_probes
    return Fit(hull, knots.x[peak], knots.value[peak], spread, count, trouble)


def first_knots(
    method: HullMethod, log_density: Callable[[Any], Any], window: Window
) -> tuple[Knots, Trouble]:
    """The knots that the search has found, with their slopes."""
    value, slope = jax.vmap(lambda x: method.evaluate(log_density, x))(window.x)
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    is_nowhere = ~(jnp.max(value) > -jnp.inf)
    is_narrow = ~((window.x[0] < window.x[1]) & (window.x[1] < window.x[2]))
    code = jnp.where(is_nowhere, NOWHERE, jnp.where(is_narrow, EXHAUSTED, FINE))
    trouble = noted(window.trouble, code, window.x[1])
    return Knots(window.x, value, slope, window.low, window.high), trouble


def doubled(
    method: HullMethod, log_density: Callable[[Any], Any], knots: Knots, trouble: Trouble
) -> tuple[Knots, Trouble]:
    """A knot more in each cell and each tail: K become 2 K + 1."""
    hull = lines(method, knots)
    inner = jnp.diff(knots.x)
    share = jnp.where(inner > 0, hull.width[:-1, 1] / jnp.where(inner > 0, inner, 1), 0.5)
    inside = knots.x[:-1] + inner * jnp.clip(share, LEAST_SHARE, 1 - LEAST_SHARE)
    first = knots.x[:1] - tail_point(hull.rate[0, 0], hull.width[0, 0])
    last = knots.x[-1:] + tail_point(hull.rate[-1, 1], hull.width[-1, 1])
    x = jnp.concatenate([first, inside, last])
    value, slope = jax.vmap(lambda x: method.evaluate(log_density, x))(x)

    trouble = noted(trouble, *first_value_trouble(x, value))
    is_zero = ~(value > -jnp.inf)
    is_hole = is_zero[1:-1] & (inner > 0)
    code = jnp.where(jnp.any(is_hole), NOT_CONCAVE, FINE)
    trouble = noted(trouble, code, x[1:-1][jnp.argmax(is_hole)])
    # Zero density in a tail: the support ends before. The new knot repeats its neighbour.
    low = jnp.where(is_zero[0], jnp.maximum(knots.low, x[0]), knots.low)
    high = jnp.where(is_zero[-1], jnp.minimum(knots.high, x[-1]), knots.high)

    def merged(old: Array, new: Array) -> Array:
        neighbour = jnp.concatenate([old[:1], old[:-1], old[-1:]])
        new = jnp.where(is_zero, neighbour, new)
        return jnp.concatenate([jnp.stack([new[:-1], old], axis=1).reshape(-1), new[-1:]])

    merged_knots = Knots(
        merged(knots.x, x), merged(knots.value, value), merged(knots.slope, slope), low, high
    )
    return merged_knots, trouble


def tail_point(rate: Scalar, width: Scalar) -> Array:
    """How far out the new knot of a tail is: near its higher end, at most half-way to its end."""
    depth = TAIL_DEPTH / jnp.maximum(jnp.abs(rate), jnp.finfo(rate.dtype).tiny * 1e3)
    depth = jnp.minimum(depth, width / 2)
    finite = jnp.where(jnp.isfinite(width), width, 0)
    return jnp.where((rate > 0) & jnp.isfinite(width), finite - depth, depth)[None]


def checked(method: HullMethod, hull: Hull, knots: Knots, trouble: Trouble) -> Trouble:
    """Whether the knots are those of a concave function, and the hull has a finite area."""
    is_bad_slope = ~jnp.isfinite(knots.slope)
    code = jnp.where(jnp.any(is_bad_slope), NAN, FINE)
    trouble = noted(trouble, code, knots.x[jnp.argmax(is_bad_slope)])
    is_crossed, where = first_crossing(hull, method.slopes(knots))
    trouble = noted(trouble, jnp.where(is_crossed, NOT_CONCAVE, FINE), where)
    peak = hull.x[jnp.argmax(hull.value)]
    code = jnp.where(jnp.isfinite(hull.log_total), FINE, IMPROPER)
    return noted(trouble, code, peak)


def probed(
    values: Callable[[Points], Points], hull: Hull, num_probes: int, trouble: Trouble
) -> Trouble:
    """Whether the density stays below the hull in both tails, at doubling distances.

    A second mode far away, or a tail that is heavier than exponential, shows here at once, where
    rejected draws would show it late or never.
    """
    power = 2.0 ** jnp.arange(1, num_probes + 1).astype(hull.x.dtype)

    def side(knot: int, at: int, outward: float) -> tuple[Array, Array]:
        rate, width = hull.rate[knot, at], hull.width[knot, at]
        depth = 2 * power / jnp.maximum(jnp.abs(rate), jnp.finfo(rate.dtype).tiny * 1e6)
        finite = jnp.where(jnp.isfinite(width), width, 0)
        depth = jnp.where(jnp.isfinite(width), jnp.minimum(depth, 0.999 * finite), depth)
        rising = finite * (1 - 1 / power)
        depth = jnp.where((rate > 0) & jnp.isfinite(width), rising, depth)
        return hull.x[knot] + outward * depth, hull.value[knot] + rate * depth

    left, left_bound = side(0, 0, -1.0)
    right, right_bound = side(-1, 1, 1.0)
    x, bound = jnp.concatenate([left, right]), jnp.concatenate([left_bound, right_bound])
    slope = jnp.repeat(hull.rate[jnp.array([0, -1]), jnp.array([0, 1])], num_probes)
    value = values(x)
    # NaN compares as False: so far out it is overflow, and of no account.
    is_above = value - bound > tolerance(x, jnp.maximum(jnp.abs(value), jnp.abs(bound)), slope)
    code = jnp.where(jnp.any(is_above), NOT_CONCAVE, FINE)
    return noted(trouble, code, x[jnp.argmax(is_above)])

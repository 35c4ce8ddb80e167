r"""Finds where the mass of a log-concave density is: three knots about its peak, at its scale.

A hull over any knots is correct, but one whose knots are far from the peak, or much closer together
than the density is wide, would never be hit. So before a hull is built, three points are moved
until

- the density falls by 0.7 to 12 nats from the highest of them to the outer ones, or the support
  ends there,
- by the extended chords, the peak is at most 3 nats above the highest of them.

Each round evaluates four points: one on each side (further out by ever larger steps, or inwards by
what a parabola asks for), the vertex of the parabola through the three, and a midpoint. So smooth
densities converge as fast as Newton's method, others by bisection, whatever the scale; values are
all that is used. Non-finite values steer the search and are reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.logconcave.hull import first_bend
from bayleaf.logconcave.trouble import FINE, NOT_CONCAVE, Trouble, fine, first_value_trouble, noted
from bayleaf.types import Count, Flag, Scalar

LEAST_DROP, MOST_DROP, MOST_RISE = 0.7, 12.0, 3.0
MAX_ROUNDS = 100
NUM_CANDIDATES = 4
NEAR = 1e-4  # of the window: points closer than this are one

Points = Float[Array, "point"]
Three = Float[Array, "3"]


class Window(NamedTuple):
    """Three points in ascending order and the ends of the support as far as they are known.

    ``candidates`` are the points to look at next.
    """

    x: Three
    value: Three
    low: Scalar
    high: Scalar
    candidates: Points
    is_done: Flag
    num_rounds: Count
    trouble: Trouble

    @property
    def num_evaluations(self) -> Count:
        """Points looked at so far."""
        return self.num_rounds * self.candidates.size


def find_window(
    evaluate: Callable[[Points], Points],
    points: Points,
    low: Scalar,
    high: Scalar,
    is_concave: bool = True,
) -> Window:
    """Three knots at the density's scale; pure and traceable.

    Args:
        evaluate: values of the log density at a vector of points.
        points: where to look first, at least three different ones inside the support.
        low: lower end of the support, or minus infinity.
        high: upper end of the support, or infinity.
        is_concave: whether to report values that are not those of a concave function.
    """
    dtype = points.dtype
    few = max(0, NUM_CANDIDATES - points.size)
    points = jnp.concatenate([points, jnp.repeat(points[-1:], few)])
    # The first round looks at the points given, so that the density is compiled here once only.
    start = Window(
        jnp.full(3, points[0]),
        jnp.full(3, -jnp.inf, dtype),
        low,
        high,
        points,
        jnp.zeros((), bool),
        jnp.zeros((), jnp.int32),
        fine(dtype),
    )

    def is_going(window: Window) -> Flag:
        return ~window.is_done & (window.num_rounds < MAX_ROUNDS) & (window.trouble.code == FINE)

    def look(window: Window) -> Window:
        # The window comes last: of equal points the sort keeps the order, and its first values of
        # minus infinity are no finding.
        known = window.value > -jnp.inf
        x = jnp.concatenate([window.candidates, jnp.where(known, window.x, window.candidates[0])])
        new = evaluate(window.candidates)
        value = jnp.concatenate([new, jnp.where(known, window.value, new[0])])
        return choose(x, value, window, is_concave)

    return jax.lax.while_loop(is_going, look, start)


def choose(x: Points, value: Points, last: Window, is_concave: bool) -> Window:
    """The three best of these points, and where to look next."""
    low, high, num_rounds = last.low, last.high, last.num_rounds
    trouble = noted(last.trouble, *first_value_trouble(x, value))
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    order = jnp.argsort(x)
    x, value = x[order], value[order]
    is_some = value > -jnp.inf
    index = jnp.arange(x.size)
    is_any = jnp.any(is_some)
    peak = jnp.where(is_any, jnp.argmax(value), x.size // 2)

    # Where the density is zero it is zero beyond, too: the support ends before.
    is_before, is_after = is_any & ~is_some & (index < peak), is_any & ~is_some & (index > peak)
    low = jnp.maximum(low, jnp.max(jnp.where(is_before, x, -jnp.inf)))
    high = jnp.minimum(high, jnp.min(jnp.where(is_after, x, jnp.inf)))
    inside = (x > low) & (x < high) & is_some
    # Points beyond the support say nothing: the nearest one inside takes their place.
    nearest = jnp.clip(index, jnp.argmax(inside), x.size - 1 - jnp.argmax(inside[::-1]))
    x_in, value_in = x[nearest], jnp.where(is_any, value[nearest], 0)
    is_bent, where = first_bend(x_in, value_in)
    trouble = noted(trouble, jnp.where(is_bent & is_concave, NOT_CONCAVE, FINE), where)

    three = _three(x, value, inside, peak)
    x, value = x[three], value[three]
    is_distinct = (x[1] > x[0]) & (x[2] > x[1])
    candidates, is_good, is_close = _next(x, value, low, high, num_rounds)
    # Points have been tried between these three, and none of them took a place: then the peak is
    # not as high as the chords allow.
    is_same = jnp.all(jnp.abs(x - last.x) <= NEAR * (x[2] - x[0]))
    is_done = is_good & (is_close | is_same)
    lonely = _around(x, low, high, num_rounds)
    candidates = jnp.where(is_distinct, candidates, lonely)
    # As many as there were: the last one is repeated.
    candidates = candidates[jnp.minimum(jnp.arange(last.candidates.size), NUM_CANDIDATES - 1)]
    is_done = is_done & is_distinct
    return Window(x, value, low, high, candidates, is_done, num_rounds + 1, trouble)


def _three(x: Points, value: Points, inside: Array, peak: Array) -> Array:
    """Indices of the peak and of the nearest points on both sides that lie clearly lower.

    A side without such a point gives its outermost. When the peak is an outer point the other side
    gives two. Where there are too few points, indices repeat.
    """
    index = jnp.arange(x.size)
    drop = value[peak] - value

    def left(of: Array, least: float) -> Array:
        """The nearest point left of index ``of`` that lies lower, else the outermost, else of."""
        there = inside & (x < x[of])
        low_enough = there & (drop >= least)
        nearest = jnp.max(jnp.where(low_enough, index, -1))
        outermost = jnp.min(jnp.where(there, index, of))
        return jnp.where(nearest >= 0, nearest, outermost)

    def right(of: Array, least: float) -> Array:
        there = inside & (x > x[of])
        low_enough = there & (drop >= least)
        nearest = jnp.min(jnp.where(low_enough, index, x.size))
        outermost = jnp.max(jnp.where(there, index, of))
        return jnp.where(nearest < x.size, nearest, outermost)

    a, b = left(peak, LEAST_DROP), right(peak, LEAST_DROP)
    next_b, next_a = right(peak, -jnp.inf), left(peak, -jnp.inf)  # the very neighbours
    both = jnp.stack([a, peak, b])
    at_left = jnp.stack([peak, next_b, jnp.maximum(b, right(next_b, LEAST_DROP))])
    at_right = jnp.stack([jnp.minimum(a, left(next_a, LEAST_DROP)), next_a, peak])
    return jnp.where(x[a] == x[peak], at_left, jnp.where(x[b] == x[peak], at_right, both))


def _around(x: Three, low: Scalar, high: Scalar, num_rounds: Count) -> Points:
    """Where to look when fewer than three points are known: about the outer ones, ever wider."""
    growth = 2.0 ** jnp.minimum(num_rounds, 60).astype(x.dtype)
    width = jnp.maximum(x[2] - x[0], 1 + 1e3 * jnp.finfo(x.dtype).eps * jnp.abs(x[1])) * growth
    # Half-way to the ends where they are near, so that zeros close in on a narrow support.
    left = jnp.maximum(x[0] - width, between(low, x[0], 0.5))
    right = jnp.minimum(x[2] + width, between(high, x[2], 0.5))
    candidates = [left, right, between(left, x[0], 0.5), between(right, x[2], 0.5)]
    limit = jnp.finfo(x.dtype).max / 16
    return jnp.clip(jnp.stack(candidates), -limit, limit)


def between(end: Array, x: Array, share: Any) -> Array:
    """``share`` of the way from an end of the support to ``x``; the end where it is infinite."""
    finite = jnp.where(jnp.isfinite(end), end, x)
    return jnp.where(jnp.isfinite(end), finite + (x - finite) * share, end)


def _next(
    x: Three, value: Three, low: Scalar, high: Scalar, num_rounds: Count
) -> tuple[Points, Flag, Flag]:
    """Four points to look at; whether both sides are good, and whether the peak is close."""
    peak = jnp.argmax(value)
    gaps = jnp.diff(x)
    gaps = jnp.where(gaps > 0, gaps, 1)
    chord = jnp.diff(value) / gaps
    # How far the density may rise above the highest point, by the chord that is extended into the
    # cell (Gilks' hull); beyond an outer point by the chord that leads to it.
    rise_a = value[1] - chord[1] * gaps[0] - jnp.max(value)
    rise_b = value[1] + chord[0] * gaps[1] - jnp.max(value)
    outside_low = jnp.where(peak == 0, -chord[0] * (x[0] - low), 0)
    outside_high = jnp.where(peak == 2, chord[1] * (high - x[2]), 0)
    drops = jnp.max(value) - value

    left, left_ok = _outward(
        x[0] - low, x[peak] - x[0], drops[0], outside_low, jnp.isfinite(low), x[2] - x[0],
        num_rounds,
    )  # fmt: skip
    right, right_ok = _outward(
        high - x[2], x[2] - x[peak], drops[2], outside_high, jnp.isfinite(high), x[2] - x[0],
        num_rounds,
    )  # fmt: skip
    is_close = (rise_a <= MOST_RISE) & (rise_b <= MOST_RISE)

    # The parabola through the three points; where it has no vertex between them, a midpoint.
    bend = (chord[0] - chord[1]) / (gaps[0] + gaps[1])
    vertex = (x[0] + x[1]) / 2 + chord[0] / jnp.where(bend > 0, 2 * bend, 1)
    middles = (x[:-1] + x[1:]) / 2
    is_left = rise_a >= rise_b
    middle = jnp.where(is_left, middles[0], middles[1])
    # One that is known already would come again and again, moved by rounding alone.
    is_new = jnp.abs(vertex - x[1]) > NEAR * (x[2] - x[0])
    is_vertex = (bend > 0) & (vertex > x[0]) & (vertex < x[2]) & is_new
    other = jnp.where(is_left, middles[1], middles[0])
    vertex = jnp.where(is_vertex, vertex, other)
    limit = jnp.finfo(x.dtype).max / 16
    candidates = jnp.stack([x[peak] - left, x[peak] + right, vertex, middle])
    return jnp.clip(candidates, -limit, limit), left_ok & right_ok, is_close


def _outward(
    room: Array,
    distance: Array,
    drop: Array,
    rise: Array,
    is_finite: Array,
    span: Array,
    num_rounds: Count,
) -> tuple[Array, Flag]:
    """Where to look on one side, as a distance from the peak, and whether that side is good.

    Args:
        room: from the outer point to the end of the support.
        distance: from the peak to the outer point; 0 when they are one.
        drop: how far the density falls between them.
        rise: how far it may still rise beyond the outer point.
        is_finite: whether the support ends on this side.
        span: between the outer points of both sides.
        num_rounds: rounds so far; steps outwards grow with them.
    """
    growth = 2.0 ** jnp.minimum(num_rounds + 1, 60).astype(span.dtype)
    step = growth * jnp.where(distance > 0, distance, span)
    is_edge = distance <= 0
    # Towards a finite end: half of what is left, or as close as a linear rise asks for.
    share = jnp.where(is_edge, jnp.minimum(0.5, 1 / jnp.maximum(rise, 2)), 0.5)
    finite_room = jnp.where(is_finite, room, 0)
    towards_end = distance + finite_room * (1 - share)
    further = jnp.where(is_finite, jnp.minimum(distance + step, towards_end), distance + step)
    further = jnp.where(is_edge & is_finite, towards_end, further)
    # Too low: a parabola falls by 2 nats at this share of the way. What falls more suddenly (an
    # exponential, a kink) does so farther out, and this share alone would be tried for ever.
    power = jnp.asarray([1.0, 0.5, 0.25, 0.0], span.dtype)[num_rounds % 4]  # 0: half-way
    nearer = distance * jnp.clip((2 / jnp.maximum(drop, 1e-3)) ** (power / 2), 1e-6, 0.5)
    is_good = jnp.where(
        is_edge, is_finite & (rise <= MOST_RISE), (drop >= LEAST_DROP) | is_finite
    ) & (drop <= MOST_DROP)
    is_short = is_edge | (drop < LEAST_DROP)
    return jnp.where(is_short, further, nearer), is_good

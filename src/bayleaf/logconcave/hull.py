r"""Piecewise-exponential hulls of a log-concave density of one variable.

With $\varphi = \log f$ known at knots $x_1 < \dots < x_K$, two piecewise linear functions enclose
it:

    squeeze:  the chord through neighbouring knots, and minus infinity beyond the outer ones
    hull:     to the left and to the right of each knot a line through it

The hull's piece on side $d \in \{-1, +1\}$ of knot $i$ is $\varphi_i + \kappa t$ at
$x_i + d\,t$, $0 \le t \le w$: rate $\kappa$ in the outward direction, width $w$ up to where it
meets the piece of the neighbouring knot, or up to the end of the support. Two ways to choose the
lines:

- `TangentHull` (Gilks & Wild 1992): the tangent on both sides. Needs the derivative.
- `SecantHull` (Gilks 1992): the chord of the neighbouring cell, extended. Needs values only.

All is kept relative to a knot and in logarithms: masses of steep, of nearly flat and of infinite
pieces come from one expression that neither overflows nor cancels, in float32 too.

Sources: Gilks & Wild, Applied Statistics 41 (1992), eqs. 1-4; Gilks, Bayesian Statistics 4 (1992).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.types import Flag, Scalar

Knotwise = Float[Array, "knot"]
Sidewise = Float[Array, "knot side"]  # side 0 lies left of the knot, side 1 right


class Knots(NamedTuple):
    """Abscissae in ascending order (equal ones are allowed), and what is known at them.

    ``low`` and ``high`` are the ends of the support. They move inwards when the density turns out
    to be zero at a point: a log-concave density is zero beyond it too.
    """

    x: Knotwise
    value: Knotwise
    slope: Knotwise
    low: Scalar
    high: Scalar


class Hull(NamedTuple):
    """The pieces of a hull, ready to be drawn from; axes knot and side.

    A piece holds its mass at distances ``start + step L`` from the knot, where
    ``L = -log1p(-fill r)`` for a uniform ``r``. ``gap`` is how fast hull and squeeze part.
    ``log_total``, of the area below the hull, is not finite when it cannot be normalised.
    """

    x: Knotwise
    value: Knotwise
    rate: Sidewise
    width: Sidewise
    gap: Sidewise
    start: Sidewise
    step: Sidewise
    fill: Sidewise
    log_mass: Sidewise
    log_total: Scalar


@runtime_checkable
class HullMethod(Protocol):
    """How lines are laid through knots; `TangentHull` and `SecantHull` fit."""

    def evaluate(self, log_density: Callable[[Any], Any], x: Array) -> tuple[Array, Array]:
        """Value of the log density at one point, and its slope where that is used."""
        ...

    def slopes(self, knots: Knots) -> tuple[Array, Array]:
        """Slopes of the lines left and right of each knot."""
        ...


class TangentHull(eqx.Module):
    """Lines are tangents; at a kink any line between the one-sided tangents will do."""

    def evaluate(self, log_density: Callable[[Any], Any], x: Array) -> tuple[Array, Array]:
        """Value and derivative, by one forward-mode pass."""
        value, slope = jax.jvp(lambda t: scalar(log_density, t), (x,), (jnp.ones_like(x),))
        return value, slope

    def slopes(self, knots: Knots) -> tuple[Array, Array]:
        """The same on both sides."""
        return knots.slope, knots.slope


class SecantHull(eqx.Module):
    """Lines are chords of the neighbouring cell: twice as far from the density, no derivative."""

    def evaluate(self, log_density: Callable[[Any], Any], x: Array) -> tuple[Array, Array]:
        """The value; the slope is not looked at."""
        value = scalar(log_density, x)
        return value, jnp.zeros_like(value)

    def slopes(self, knots: Knots) -> tuple[Array, Array]:
        """Left of a knot the chord that begins in it, right of it the one that ends in it."""
        chord = chords(knots)
        is_cell = jnp.diff(knots.x) > 0
        index = jnp.arange(chord.size)
        # Equal knots have no chord between them: the next one that exists takes its place.
        before = jax.lax.cummax(jnp.where(is_cell, index, -1))
        after = jax.lax.cummin(jnp.where(is_cell, index, chord.size), reverse=True)
        # Where there is none, nothing bounds the density from this side, and the piece is empty.
        right = jnp.where(before >= 0, chord[before], jnp.inf)
        left = jnp.where(after < chord.size, chord[after], -jnp.inf)
        none = jnp.full((1,), jnp.inf, chord.dtype)
        return jnp.concatenate([left, -none]), jnp.concatenate([none, right])


class MetropolisHull(eqx.Module):
    """What adaptive rejection Metropolis uses: secants where the knots look concave, else chords.

    Gilks, Best & Tan (1995), eq. 4: max(chord, min(secants)). A secant that runs below the chord
    drags the minimum below it too, so the maximum is the chord unless both run above.
    """

    def evaluate(self, log_density: Callable[[Any], Any], x: Array) -> tuple[Array, Array]:
        """The value; the slope is not looked at."""
        return SecantHull().evaluate(log_density, x)

    def slopes(self, knots: Knots) -> tuple[Array, Array]:
        """As for `SecantHull`, but where one of the lines would run below the chord."""
        left, right = SecantHull().slopes(knots)
        chord = chords(knots)
        is_concave = (right[:-1] >= chord) & (left[1:] <= chord)
        right = jnp.concatenate([jnp.where(is_concave, right[:-1], chord), right[-1:]])
        left = jnp.concatenate([left[:1], jnp.where(is_concave, left[1:], chord)])
        return left, right


def scalar(log_density: Callable[[Any], Any], x: Array) -> Array:
    """The log density at one point, in the point's own precision."""
    return jnp.asarray(log_density(x), x.dtype).reshape(())


def chords(knots: Knots) -> Array:
    """Slopes of the chords between neighbouring knots; 0 between equal ones."""
    width, rise = jnp.diff(knots.x), jnp.diff(knots.value)
    return jnp.where(width > 0, rise / jnp.where(width > 0, width, 1), 0)


class Lines(NamedTuple):
    """The pieces of a hull as lines: rates, widths, and the rates at which the squeeze departs."""

    rate: Sidewise
    width: Sidewise
    gap: Sidewise


def build(method: HullMethod, knots: Knots) -> Hull:
    """The hull over these knots."""
    return _pieces(knots, *lines(method, knots))


def lines(method: HullMethod, knots: Knots) -> Lines:
    """The lines through the knots, cut off where they meet."""
    x, value = knots.x, knots.value
    left, right = method.slopes(knots)
    h, chord = jnp.diff(x), chords(knots)

    # Where the lines of neighbours meet, as a distance from the left one. Lines of nearly equal
    # slope meet anywhere, by rounding even outside of the cell: hence the clip.
    fall = right[:-1] - left[1:]
    is_free = fall > jnp.finfo(x.dtype).tiny
    meet = (jnp.diff(value) - left[1:] * h) / jnp.where(is_free, fall, 1)
    # An infinite slope: one of the lines is missing, and the other fills the cell.
    meet = jnp.where(jnp.isposinf(right[:-1]), 0, jnp.where(jnp.isneginf(left[1:]), h, meet))
    meet = jnp.where(is_free & ~jnp.isnan(meet), jnp.clip(meet, 0, h), h / 2)

    ends = [(x[:1] - knots.low), (knots.high - x[-1:])]
    width = jnp.stack(
        [jnp.concatenate([ends[0], h - meet]), jnp.concatenate([meet, ends[1]])], axis=1
    )
    rate = jnp.stack([-left, right], axis=1)
    rate = jnp.where((width > 0) & jnp.isfinite(rate), rate, 0)
    apart = jnp.asarray([1 / jnp.finfo(x.dtype).eps ** 2], x.dtype)  # no squeeze: parts at once
    gap = jnp.stack(
        [
            jnp.concatenate([apart, rate[1:, 0] + chord]),
            jnp.concatenate([rate[:-1, 1] - chord, apart]),
        ],
        axis=1,
    )
    return Lines(rate, width, jnp.maximum(gap, 0))


def _pieces(knots: Knots, rate: Array, width: Array, gap: Array) -> Hull:
    """Masses of the pieces, and how to draw from them.

    A piece of height h at its higher end falls by u = |rate| width over its width and has the mass

        h (1 - exp(-u)) / |rate| = h width (1 - exp(-u)) / u,

    and the distance from the higher end at which a share r of the mass lies is
    -log(1 - r (1 - exp(-u))) / |rate|. With u kept away from zero both hold for flat pieces too.
    """
    is_finite = jnp.isfinite(width)
    least = jnp.asarray(1e-30, rate.dtype)  # float32 still resolves products of it with r
    fall = jnp.where(is_finite, jnp.abs(rate) * width, jnp.inf)
    fall = jnp.maximum(fall, least)
    steepness = jnp.abs(rate)
    scale = jnp.where(
        is_finite & jnp.isfinite(fall),
        width / fall,
        1 / jnp.where(steepness > 0, steepness, 1),
    )
    fill = -jnp.expm1(-fall)
    is_rising = rate > 0
    rise = jnp.where(is_rising & is_finite, rate * jnp.where(is_finite, width, 0), 0)
    mass = jnp.where(width > 0, scale * fill, 0)
    is_improper = ~is_finite & (rate >= 0)  # does not fall off where the support has no end
    log_mass = jnp.where(is_improper, jnp.inf, knots.value[:, None] + rise + jnp.log(mass))
    return Hull(
        knots.x,
        knots.value,
        rate,
        width,
        gap,
        start=jnp.where(is_rising & is_finite, width, 0),
        step=jnp.where(is_rising, -scale, scale),
        fill=fill,
        log_mass=log_mass,
        log_total=jax.scipy.special.logsumexp(log_mass),
    )


def tolerance(x: Array, value: Array, slope: Array) -> Array:
    """How far a log density may seem to leave its hull by rounding alone.

    Its own rounding is taken as eps^(2/3) of its size, which forgives sums of thousands of terms
    and is still far below what a density that is not log-concave does. That of x moves it by
    slope times eps |x|.
    """
    eps = jnp.finfo(value.dtype).eps
    moved = jnp.where(jnp.isfinite(slope), jnp.abs(slope), 0) * jnp.abs(x)
    return 8 * eps ** (2 / 3) * (1 + jnp.abs(value)) + 16 * eps * moved


def first_bend(x: Array, value: Array) -> tuple[Flag, Scalar]:
    """Whether some value lies below the chord of its neighbours (it must not), and where."""
    left, right = x[1:-1] - x[:-2], x[2:] - x[1:-1]
    span = left + right
    share = jnp.where(span > 0, left / jnp.where(span > 0, span, 1), 0)
    size = jnp.maximum(jnp.abs(value[:-2]), jnp.abs(value[2:]))
    slope = jnp.abs(value[2:] - value[:-2]) / jnp.where(span > 0, span, 1)
    reach = jnp.maximum(jnp.abs(x[:-2]), jnp.abs(x[2:]))
    below = (1 - share) * value[:-2] + share * value[2:] - value[1:-1]
    slack = tolerance(reach, jnp.maximum(size, jnp.abs(value[1:-1])), slope)
    is_bent = (below > slack) & (left > 0) & (right > 0)
    return jnp.any(is_bent), x[1:-1][jnp.argmax(is_bent)]


def first_crossing(hull: Hull, method_slopes: tuple[Array, Array]) -> tuple[Flag, Scalar]:
    """Whether a knot lies above the line of its neighbour (it must not), and where."""
    left, right = method_slopes
    h, rise = jnp.diff(hull.x), jnp.diff(hull.value)
    size = jnp.maximum(jnp.abs(hull.value[1:]), jnp.abs(hull.value[:-1]))
    reach = jnp.maximum(jnp.abs(hull.x[1:]), jnp.abs(hull.x[:-1]))

    def above(line: Array, excess: Array) -> Array:
        is_line = jnp.isfinite(line) & (h > 0)
        line = jnp.where(is_line, line, 0)
        return is_line & (excess > tolerance(reach, size, line))

    forward = above(right[:-1], rise - jnp.where(jnp.isfinite(right[:-1]), right[:-1], 0) * h)
    backward = above(left[1:], jnp.where(jnp.isfinite(left[1:]), left[1:], 0) * h - rise)
    is_crossed = forward | backward
    return jnp.any(is_crossed), hull.x[1:][jnp.argmax(is_crossed)]

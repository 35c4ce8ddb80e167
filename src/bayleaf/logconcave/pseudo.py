"""Builds a hull for a density that need not be log-concave, and may rise above it in places.

Its knots are the points given and those of a search for a mode. Then, one after the other, the
cell or tail with the greatest mass under the hull gets a new knot. Where nothing is known between
distant knots their secants run high: such cells come first, and in the end all hold about the same
mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from bayleaf.logconcave.fit import LEAST_SHARE, Fit, Points, tail_point
from bayleaf.logconcave.hull import Hull, Knots, MetropolisHull, build, scalar
from bayleaf.logconcave.search import Window, find_window
from bayleaf.logconcave.trouble import FINE, IMPROPER, NOWHERE, first_value_trouble, noted
from bayleaf.types import Scalar

NUM_SPLITS = 60
FLOOR = 200.0  # nats below the peak at which a density counts as zero


def fit_pseudo_hull(
    log_density: Callable[[Any], Any], points: Points, low: Scalar, high: Scalar
) -> Fit:
    """A hull that covers the density where the points do; pure and traceable.

    Args:
        log_density: of a scalar, up to a constant.
        points: where to look; all of them become knots.
        low: lower end of the support, or minus infinity.
        high: upper end of the support, or infinity.
    """
    method = MetropolisHull()
    values = jax.vmap(lambda x: scalar(log_density, x))
    window = find_window(values, points, low, high, is_concave=False)
    x = jnp.sort(jnp.concatenate([points, window.x]))
    value = values(x)
    trouble = noted(window.trouble, *first_value_trouble(x, value))
    code = jnp.where(jnp.max(value) > -jnp.inf, FINE, NOWHERE)
    trouble = noted(trouble, code, x[x.size // 2])
    # Room for all knots to come: the last one stands in for them.
    x = jnp.concatenate([x, jnp.repeat(x[-1:], NUM_SPLITS)])
    value = floored(x, jnp.concatenate([value, jnp.repeat(value[-1:], NUM_SPLITS)]), window)

    def split(_: Any, carry: Any) -> Any:
        x, value, trouble = carry
        knots = Knots(x, value, jnp.zeros_like(x), low, high)
        new, place = _where_mass_is(knots, build(method, knots))
        new_value = values(new[None])
        trouble = noted(trouble, *first_value_trouble(new[None], new_value))
        source = _inserted(x, new, place)
        x = jnp.where(source < 0, new, x[source])
        value = jnp.where(source < 0, new_value[0], value[source])
        return x, floored(x, value, window), trouble

    x, value, trouble = jax.lax.fori_loop(0, NUM_SPLITS, split, (x, value, trouble))
    hull = build(method, Knots(x, value, jnp.zeros_like(x), low, high))
    peak = jnp.argmax(value)
    code = jnp.where(jnp.isfinite(hull.log_total), FINE, IMPROPER)
    trouble = noted(trouble, code, x[peak])
    spread, count = (window.x[2] - window.x[0]) / 2, window.num_evaluations + hull.x.size
    return Fit(hull, x[peak], value[peak], spread, count, trouble)


def _where_mass_is(knots: Knots, hull: Hull) -> tuple[Scalar, Array]:
    """The new knot of the heaviest cell or tail, and its place among the knots."""
    x, log_mass = knots.x, hull.log_mass
    cells = jnp.logaddexp(log_mass[:-1, 1], log_mass[1:, 0])
    masses = jnp.concatenate([log_mass[:1, 0], cells, log_mass[-1:, 1]])
    inner = jnp.diff(x)
    meet = jnp.clip(hull.width[:-1, 1], LEAST_SHARE * inner, (1 - LEAST_SHARE) * inner)
    span = 2 * (x[-1] - x[0])

    def outwards(rate: Scalar, width: Scalar) -> Array:
        # A tail that does not fall yet: go on by the width of what is known.
        is_flat = (rate >= 0) & ~jnp.isfinite(width)
        return jnp.where(is_flat, span[None], tail_point(rate, width))

    left = x[:1] - outwards(hull.rate[0, 0], hull.width[0, 0])
    right = x[-1:] + outwards(hull.rate[-1, 1], hull.width[-1, 1])
    place = jnp.argmax(masses)
    new = jnp.concatenate([left, x[:-1] + meet, right])[place]
    limit = jnp.finfo(x.dtype).max / 16
    return jnp.clip(new, -limit, limit), place


def _inserted(x: Array, new: Scalar, place: Array) -> Array:
    """Which of the old knots stands where, -1 for the new one, when it comes in at ``place``.

    The last knot stands in for all that are still to come, so that there is one to lose.
    """
    index = jnp.arange(x.size)
    shifted = jnp.where(index < place, index, jnp.where(index == place, -1, index - 1))
    last = jnp.argmax(x == x[-1])
    appended = jnp.where(index > last, -1, index)
    return jnp.where(new > x[-1], appended, shifted)


def floored(x: Array, value: Array, window: Window) -> Array:
    """Knots where the density is zero, or nearly so, get a finite height: a hull may be too high.

    It falls outwards, so that tails can be normalised.
    """
    value = jnp.where(jnp.isnan(value), -jnp.inf, value)
    top = jnp.argmax(value)
    spread = jnp.maximum(window.x[2] - window.x[0], jnp.finfo(x.dtype).tiny)
    return jnp.maximum(value, value[top] - FLOOR * (1 + jnp.abs(x - x[top]) / spread))

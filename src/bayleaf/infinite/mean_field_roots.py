"""A root on the half line of variances: a walk until the sign changes, then Newton in the bracket.

It is the root that iterating the map from q = 1 would reach. All of it runs inside compiled code.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bayleaf.types import Scalar

MAX_NEWTON = 200


class Status(enum.IntEnum):
    """What became of the search for q*."""

    FOUND = 0
    UNBOUNDED = 1
    VANISHES = 2
    MARGINAL = 3


class Bracket(NamedTuple):
    """q' > q at ``low``, q' < q at ``high``; ``q`` is the start of Newton between them."""

    low: Scalar
    high: Scalar
    q: Scalar
    status: Int[Array, ""]


def find_bracket(excess: Callable[[Scalar], Scalar], floor: Scalar, one: Scalar) -> Bracket:
    """Walk by factors of 4 from q = 1 to where the map points, until it points back."""
    info = jnp.finfo(one.dtype)
    highest, lowest = one / info.eps**2, one * info.eps**2
    is_up = excess(one) > 0
    factor = jnp.where(is_up, 4 * one, one / 4)

    def is_going(carry):
        _, now = carry
        # Where the gap is lost in round-off the walk goes on: at criticality without biases it
        # vanishes like q^2, and what looks like a root at q = eps is none.
        same_side = jnp.where(is_up, excess(now) >= 0, excess(now) <= 0)
        return same_side & (now < highest) & (now > lowest)

    def walk(carry):
        return carry[1], carry[1] * factor

    last, now = jax.lax.while_loop(is_going, walk, (one, one * factor))
    # No variance is smaller than that of the biases, so the search need not go below it.
    low = jnp.where(is_up, last, jnp.maximum(now, floor))
    high = jnp.where(is_up, now, last)
    code = jnp.where(now >= highest, Status.UNBOUNDED, Status.FOUND)
    code = jnp.where((now <= lowest) & (floor == 0), Status.VANISHES, code)
    return Bracket(low, high, jnp.sqrt(low * high), code.astype(jnp.int32))


def newton_in_bracket(
    function: Callable[[Scalar], tuple[Scalar, Scalar]], bracket: Bracket
) -> Scalar:
    """The root where ``function`` goes from + to -; a step that leaves the bracket is halved."""

    def is_going(carry):
        _, _, _, is_done, count = carry
        return ~is_done & (count < MAX_NEWTON)

    def step(carry):
        low, high, q, _, count = carry
        value, slope = function(q)
        low, high = jnp.where(value > 0, q, low), jnp.where(value < 0, q, high)
        newton = q - value / slope
        inside = (newton > low) & (newton < high)
        new = jnp.where(inside, newton, (low + high) / 2)
        new = jnp.where(value == 0, q, new)
        width = 2 * jnp.finfo(q.dtype).eps * q
        is_done = (value == 0) | (jnp.abs(new - q) <= width) | (high - low <= width)
        return low, high, new, is_done, count + 1

    no = jnp.zeros((), bool)
    start = (bracket.low, bracket.high, bracket.q, no, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(is_going, step, start)[2]

"""The way from a starting point to where the posterior has its mass: a short quasi-Newton ascent.

A random start can lie a billion nats below the mass. Hamiltonian trajectories are bad at climbing:
from rest on a steep slope they run downhill forward and backward in time alike, which is a U-turn,
and their energy errors grow with the height. A few dozen L-BFGS steps do it instead. They stop as
soon as the log density rises by less than half a nat for each coordinate in several steps together:
draws lie about dim / 2 below the mode, so nearer to it is not nearer to them, and a density without
a mode (the neck of a funnel) is not followed to infinity.

Each iteration tries one point along the L-BFGS direction: it is taken when the log density rises,
else the next try is four times shorter.

Source: Nocedal & Wright, Numerical Optimization (2006), algorithm 7.5; as a start for chains, Zhang
et al., Pathfinder (2022), section 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayleaf.types import Count, LogDensity, Position, Scalar

MEMORY = 6
PATIENCE = 4
"""Steps over which the ascent is judged."""

MAX_TRIES = 300
SHORTEN = 0.25


class _Ascent(NamedTuple):
    """Where the ascent stands; ``heights`` are the log densities of the latest points."""

    x: Float[Array, "dim"]
    value: Scalar
    gradient: Float[Array, "dim"]
    direction: Float[Array, "dim"]
    memory: Any
    length: Scalar
    heights: Float[Array, "step"]
    tries: Count


def approach(log_density: LogDensity, position: Position) -> tuple[Position, Count]:
    """A point near the mass, reached from ``position``, and the number of gradients it took."""
    import optax  # here, since it would be a third of what importing bayleaf costs

    start, unravel = ravel_pytree(position)
    value_and_grad = jax.value_and_grad(lambda x: log_density(unravel(x)))
    lbfgs = optax.scale_by_lbfgs(memory_size=MEMORY)
    enough = 0.5 * start.size

    def is_climbing(at: _Ascent) -> Any:
        has_risen = at.heights[-1] - at.heights[0] > enough
        return has_risen & (at.tries < MAX_TRIES) & (at.length > 1e-12)

    def attempt(at: _Ascent) -> _Ascent:
        x = at.x + at.length * at.direction
        value, gradient = value_and_grad(x)
        is_better = (value > at.value) & jnp.all(jnp.isfinite(gradient))
        # The library minimises: what it is told are the gradients of minus the log density.
        descent, memory = lbfgs.update(-gradient, at.memory, x)
        there = _Ascent(
            x,
            value,
            gradient,
            -jnp.asarray(descent),
            memory,
            jnp.ones_like(at.length),
            jnp.append(at.heights[1:], value),
            at.tries,
        )
        stay = at._replace(length=SHORTEN * at.length)
        new = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), there, stay)
        return new._replace(tries=at.tries + 1)

    value, gradient = value_and_grad(start)
    descent, memory = lbfgs.update(-gradient, lbfgs.init(start), start)
    heights = jnp.full(PATIENCE, -jnp.inf, value.dtype).at[-1].set(value)
    tries = jnp.ones((), jnp.int32)
    direction = -jnp.asarray(descent)
    at = _Ascent(start, value, gradient, direction, memory, jnp.ones_like(value), heights, tries)
    at = jax.lax.while_loop(is_climbing, attempt, at)
    return unravel(at.x), at.tries

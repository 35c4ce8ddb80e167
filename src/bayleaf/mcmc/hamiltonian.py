"""The Hamiltonian system that HMC and NUTS share: energy, state and the leapfrog integrator.

    H(x, p) = U(x) + K(p),   U = -log density,   K = p' M^-1 p / 2

The joint density is exp(-H); the talk prints exp(+K), exp(+(U + K)) and the acceptance ratio the
other way round, all three with the wrong sign. A leapfrog step is

    p_half = p - (eps/2) grad U(x);  x* = x + eps M^-1 p_half;  p* = p_half - (eps/2) grad U(x*).

It preserves volume and is reversible after a flip of the momentum, which is why the acceptance
probability needs no Jacobian: min(1, exp(H(x, p) - H(x*, p*))).

Source: Neal, MCMC using Hamiltonian dynamics (2011), sections 2.3 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayleaf.mcmc.metric import Metric
from bayleaf.types import Flag, LogDensity, Position, Scalar

MAX_ENERGY_ERROR = 1000.0
"""A trajectory whose energy rises by more than this has left the level set: a divergence."""

LogDensityAndGradient = Callable[[Float[Array, "dim"]], tuple[Scalar, Float[Array, "dim"]]]


class HamiltonianState(NamedTuple):
    """A position with what is known about the log density there."""

    position: Position
    log_density: Scalar
    gradient: Position


class Front(NamedTuple):
    """A point of a trajectory, ready to move on: momentum is kept half a step ahead.

    ``momentum`` belongs to ``offset``; ``half_momentum`` and ``half_velocity = M^-1
    half_momentum`` are those of the next half step. Keeping both costs one product with M^-1 a
    step instead of two. ``offset`` is the displacement from the start of the trajectory: distances
    between its points then keep full precision however far the posterior lies from zero.
    """

    offset: Float[Array, "..."]
    momentum: Float[Array, "..."]
    half_momentum: Float[Array, "..."]
    half_velocity: Float[Array, "..."]


class Leaf(NamedTuple):
    """What was found at the new point of a leapfrog step."""

    log_density: Scalar
    gradient: Float[Array, "dim"]
    energy: Scalar


def initial_state(log_density: LogDensity, position: Position) -> HamiltonianState:
    """Evaluate the log density and its gradient at ``position``."""
    return HamiltonianState(position, *jax.value_and_grad(log_density)(position))


def flat_value_and_grad(
    log_density: LogDensity, position: Position
) -> tuple[LogDensityAndGradient, Callable[[Float[Array, "dim"]], Position]]:
    """The log density with gradient as functions of the raveled position, and the unravel."""
    _, unravel = ravel_pytree(position)
    return jax.value_and_grad(lambda x: log_density(unravel(x))), unravel


def depart(
    momentum: Float[Array, "dim"],
    gradient: Float[Array, "dim"],
    metric: Metric,
    step: Scalar,
) -> tuple[Front, Scalar]:
    """The front at the start of a trajectory with signed step size, and its kinetic energy."""
    velocity = metric.velocity(momentum)
    front = Front(
        jnp.zeros_like(momentum),
        momentum,
        momentum + 0.5 * step * gradient,
        velocity + 0.5 * step * metric.velocity(gradient),
    )
    return front, 0.5 * jnp.dot(momentum, velocity)


def leapfrog(
    value_and_grad: LogDensityAndGradient,
    start: Float[Array, "dim"],
    metric: Metric,
    front: Front,
    step: Scalar,
) -> tuple[Front, Leaf]:
    """One leapfrog step of signed size ``step``: one gradient, one product with M^-1."""
    offset = front.offset + step * front.half_velocity
    log_density, gradient = value_and_grad(start + offset)
    pull = metric.velocity(gradient)
    momentum = front.half_momentum + 0.5 * step * gradient
    velocity = front.half_velocity + 0.5 * step * pull
    energy = 0.5 * jnp.dot(momentum, velocity) - log_density
    ahead = Front(
        offset,
        momentum,
        front.half_momentum + step * gradient,
        front.half_velocity + step * pull,
    )
    return ahead, Leaf(log_density, gradient, energy)


def is_broken(leaf: Leaf) -> Flag:
    """Whether the log density or its gradient is NaN (or +inf), which is a fault of the target.

    A log density of -inf is not, whatever the gradient there: the trajectory has only left the
    support.
    """
    is_inside = leaf.log_density != -jnp.inf
    is_finite = jnp.isfinite(leaf.log_density) & ~jnp.any(jnp.isnan(leaf.gradient))
    return is_inside & ~is_finite

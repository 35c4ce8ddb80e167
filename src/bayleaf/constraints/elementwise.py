"""Constraints on each number by itself: bounds below, above, on both sides."""

# ruff: noqa: D102  (what each method does is said once, in base.py)

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from bayleaf.constraints.base import Constraint, finite_exp, like, shown
from bayleaf.errors import bad_argument
from bayleaf.types import Scalar


class Real(Constraint):
    """No constraint: x = u."""

    def constrain(self, u: Array) -> Array:
        return u

    def unconstrain(self, x: Array) -> Array:
        return x

    def log_jacobian(self, u: Array) -> Scalar:
        return jnp.zeros((), u.dtype)


class Positive(Constraint):
    """x > 0: x = exp(u)."""

    def constrain(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        return finite_exp(u)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(x)

    def log_jacobian(self, u: Float[Array, "..."]) -> Scalar:
        return jnp.sum(u)

    def violation(self, x: np.ndarray) -> str | None:
        return None if np.all(x > 0) else "numbers > 0"


class GreaterThan(Constraint):
    """x > lower: x = lower + exp(u). The bound is a number or has the shape of x."""

    lower: Array = eqx.field(converter=jnp.asarray)

    def constrain(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        lower = like(self.lower, u)
        return jnp.maximum(lower + finite_exp(u, 2.0), _next_inside(lower, jnp.inf))

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(x - like(self.lower, x))

    def log_jacobian(self, u: Float[Array, "..."]) -> Scalar:
        return jnp.sum(u)

    def violation(self, x: np.ndarray) -> str | None:
        return None if np.all(x > self.lower) else f"numbers > {shown(self.lower)}"


class LessThan(Constraint):
    """x < upper: x = upper - exp(u). The bound is a number or has the shape of x."""

    upper: Array = eqx.field(converter=jnp.asarray)

    def constrain(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        upper = like(self.upper, u)
        return jnp.minimum(upper - finite_exp(u, 2.0), _next_inside(upper, -jnp.inf))

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(like(self.upper, x) - x)

    def log_jacobian(self, u: Float[Array, "..."]) -> Scalar:
        return jnp.sum(u)

    def violation(self, x: np.ndarray) -> str | None:
        return None if np.all(x < self.upper) else f"numbers < {shown(self.upper)}"


class UnitInterval(Constraint):
    """0 < x < 1: x = 1/(1 + exp(-u))."""

    def constrain(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        limits = jnp.finfo(u.dtype)
        return jnp.clip(jax.nn.sigmoid(u), float(limits.tiny), 1.0 - float(limits.epsneg))

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(x) - jnp.log1p(-x)

    def log_jacobian(self, u: Float[Array, "..."]) -> Scalar:
        return jnp.sum(_log_logistic_slope(u))

    def violation(self, x: np.ndarray) -> str | None:
        return None if np.all((x > 0) & (x < 1)) else "numbers between 0 and 1, both excluded"


class Interval(Constraint):
    """lower < x < upper: x = lower + (upper - lower)/(1 + exp(-u)).

    The bounds are numbers or have the shape of x.
    """

    lower: Array = eqx.field(converter=jnp.asarray)
    upper: Array = eqx.field(converter=jnp.asarray)

    def __check_init__(self) -> None:
        bounds = (self.lower, self.upper)
        if any(isinstance(bound, Tracer) for bound in bounds):
            return
        if not np.all(np.asarray(self.lower) < np.asarray(self.upper)):
            got = f"({shown(self.lower)}, {shown(self.upper)})"
            raise bad_argument("interval(lower, upper)", got, "lower < upper")

    def constrain(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        lower, upper = like(self.lower, u), like(self.upper, u)
        width = upper - lower
        # Each half is measured from its own end: lower + width * sigmoid(u) loses upper - x.
        x = jnp.where(u < 0, lower + width * jax.nn.sigmoid(u), upper - width * jax.nn.sigmoid(-u))
        return jnp.clip(x, _next_inside(lower, upper), _next_inside(upper, lower))

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.log(x - like(self.lower, x)) - jnp.log(like(self.upper, x) - x)

    def log_jacobian(self, u: Float[Array, "..."]) -> Scalar:
        width = like(self.upper, u) - like(self.lower, u)
        return jnp.sum(jnp.log(width) + _log_logistic_slope(u))

    def violation(self, x: np.ndarray) -> str | None:
        if np.all((x > self.lower) & (x < self.upper)):
            return None
        return f"numbers > {shown(self.lower)} and < {shown(self.upper)}"


def _log_logistic_slope(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(s (1 - s)) for s = sigmoid(u); by way of s itself it is -inf from u = 17 in float32."""
    return -jax.nn.softplus(u) - jax.nn.softplus(-u)


def _next_inside(bound: Float[Array, "..."], towards: ArrayLike) -> Float[Array, "..."]:
    """The number next to ``bound``; next to 0 the smallest normal one, as others are flushed."""
    towards = jnp.broadcast_to(jnp.asarray(towards, bound.dtype), bound.shape)
    tiny = jnp.sign(towards) * jnp.finfo(bound.dtype).tiny
    return jnp.where(bound == 0, tiny, jnp.nextafter(bound, towards))

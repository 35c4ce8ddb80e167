"""Constraints on vectors: simplexes and increasing sequences, along the last axis."""

# ruff: noqa: D102  (what each method does is said once, in base.py)

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.constraints.base import (
    Constraint,
    Shape,
    finite_exp,
    float_dtype,
    log_tiny,
    row,
    shown,
)
from bayleaf.errors import bad_argument
from bayleaf.types import Scalar


class Simplex(Constraint):
    r"""K positive numbers with sum 1: x = softmax(V u), V an orthonormal basis of contrasts.

    This is the inverse isometric log-ratio (Egozcue et al. 2003). No entry is singled out, so a
    symmetric density of x is symmetric in u, where stick breaking gives the last entries K-fold
    curvature. With the Helmert contrasts V u costs a cumulative sum. Free coordinates: the first
    K-1 entries, for which det dx/du = sqrt(K) prod_k x_k.
    """

    def constrain(self, u: Float[Array, "*batch free"]) -> Float[Array, "*batch category"]:
        # Below `tiny` an entry would be flushed to 0, whose logarithm ends a chain in NaN.
        return jnp.exp(jnp.maximum(self._log_x(u), log_tiny(u.dtype)))

    def unconstrain(self, x: Float[Array, "*batch category"]) -> Float[Array, "*batch free"]:
        z = jnp.log(x)
        count = jnp.arange(1, x.shape[-1], dtype=x.dtype)
        ahead = jnp.cumsum(z, axis=-1)[..., :-1]
        return (ahead - row(count, z) * z[..., 1:]) / row(jnp.sqrt(count * (count + 1)), z)

    def log_jacobian(self, u: Float[Array, "*batch free"]) -> Scalar:
        num_batch = math.prod(u.shape[:-1])
        return jnp.sum(self._log_x(u)) + 0.5 * num_batch * math.log(u.shape[-1] + 1)

    def unconstrained_shape(self, shape: Shape) -> Shape:
        return _last_axis_less_one(self, shape)

    def violation(self, x: np.ndarray) -> str | None:
        if not np.all(x > 0):
            return "positive numbers that sum to 1 along the last axis"
        tolerance = 10 * x.shape[-1] * np.finfo(float_dtype(x)).eps
        if np.any(np.abs(x.sum(-1) - 1) > tolerance):
            return f"numbers that sum to 1 along the last axis (here: {shown(x.sum(-1))})"
        return None

    def _log_x(self, u: Float[Array, "*batch free"]) -> Float[Array, "*batch category"]:
        """Log softmax of V u; column j of V is (1, ..., 1 [j times], -j, 0, ...)/sqrt(j (j+1))."""
        count = jnp.arange(1, u.shape[-1] + 1, dtype=u.dtype)
        w = u / row(jnp.sqrt(count * (count + 1)), u)
        behind = jnp.flip(jnp.cumsum(jnp.flip(w, -1), -1), -1)
        edge = jnp.zeros_like(u[..., :1])
        z = jnp.concatenate([behind, edge], -1) - jnp.concatenate([edge, row(count, u) * w], -1)
        return jax.nn.log_softmax(z, axis=-1)


class Ordered(Constraint):
    """x_1 < x_2 < ...: x_1 = u_1, x_k = x_{k-1} + exp(u_k)."""

    def constrain(self, u: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        gaps = finite_exp(u[..., 1:], 2.0 * u.shape[-1])
        return jnp.cumsum(jnp.concatenate([u[..., :1], gaps], axis=-1), axis=-1)

    def unconstrain(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return jnp.concatenate([x[..., :1], jnp.log(jnp.diff(x, axis=-1))], axis=-1)

    def log_jacobian(self, u: Float[Array, "*batch dim"]) -> Scalar:
        return jnp.sum(u[..., 1:])

    def unconstrained_shape(self, shape: Shape) -> Shape:
        return _with_last_axis(self, shape)

    def violation(self, x: np.ndarray) -> str | None:
        return None if np.all(np.diff(x) > 0) else "increasing numbers along the last axis"


class PositiveOrdered(Constraint):
    """0 < x_1 < x_2 < ...: x_k = x_{k-1} + exp(u_k) with x_0 = 0."""

    def constrain(self, u: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return jnp.cumsum(finite_exp(u, 2.0 * u.shape[-1]), axis=-1)

    def unconstrain(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return jnp.concatenate([jnp.log(x[..., :1]), jnp.log(jnp.diff(x, axis=-1))], axis=-1)

    def log_jacobian(self, u: Float[Array, "*batch dim"]) -> Scalar:
        return jnp.sum(u)

    def unconstrained_shape(self, shape: Shape) -> Shape:
        return _with_last_axis(self, shape)

    def violation(self, x: np.ndarray) -> str | None:
        if np.all(x > 0) and np.all(np.diff(x) > 0):
            return None
        return "positive, increasing numbers along the last axis"


def _with_last_axis(constraint: Constraint, shape: Shape) -> Shape:
    if not shape or shape[-1] == 0:
        raise bad_argument(
            f"a parameter that is {type(constraint).__name__}", f"shape {shape}", "a last axis"
        )
    return shape


def _last_axis_less_one(constraint: Constraint, shape: Shape) -> Shape:
    _with_last_axis(constraint, shape)
    return (*shape[:-1], shape[-1] - 1)

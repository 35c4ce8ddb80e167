"""Correlation matrices and their Cholesky factors, by canonical partial correlations."""

# ruff: noqa: D102  (what each method does is said once, in base.py)

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.constraints.base import Constraint, Shape, float_dtype, log_tiny, row
from bayleaf.errors import bad_argument
from bayleaf.types import Scalar


class CorrelationCholesky(Constraint):
    r"""Lower Cholesky factor L of a correlation matrix, from d(d-1)/2 reals.

    The canonical partial correlations z = tanh(u) fill the strictly lower triangle by rows:

        L_ij = z_ij prod_{k<j} sqrt(1 - z_ik^2),    L_ii = prod_{k<i} sqrt(1 - z_ik^2).

    Free coordinates: the strictly lower triangle of L. Row i is triangular in z_i, so that the
    log-Jacobian is the sum over i > k of (1 + (i-1-k)/2) log(1 - z_ik^2), i and k from 1.
    """

    def constrain(self, u: Float[Array, "*batch free"]) -> Float[Array, "*batch dim dim"]:
        dim = _matrix_size(u.shape[-1])
        rows, columns = np.tril_indices(dim, -1)
        square = jnp.zeros((*u.shape[:-1], dim, dim), u.dtype)
        half_logs = square.at[..., rows, columns].set(0.5 * _log_sech_squared(u))
        ones = jnp.ones((*u.shape[:-1], dim), u.dtype)
        index = np.arange(dim)
        z = square.at[..., rows, columns].set(jnp.tanh(u)).at[..., index, index].set(ones)
        before = jnp.cumsum(half_logs, axis=-1) - half_logs
        # A diagonal that underflows to 0 would make the factor singular.
        return z * jnp.exp(jnp.maximum(before, log_tiny(u.dtype)))

    def unconstrain(self, x: Float[Array, "*batch dim dim"]) -> Float[Array, "*batch free"]:
        rows, columns = np.tril_indices(x.shape[-1], -1)
        # arctanh(z) = arcsinh(z / sqrt(1 - z^2)), and L_ij over the norm of what follows it in
        # row i is that ratio: nothing is subtracted, so strong correlations keep their digits.
        squares = jnp.square(x)
        after = jnp.flip(jnp.cumsum(jnp.flip(squares, -1), -1), -1)[..., 1:]
        return jnp.arcsinh(x[..., rows, columns] / jnp.sqrt(after[..., rows, columns]))

    def log_jacobian(self, u: Float[Array, "*batch free"]) -> Scalar:
        rows, columns = np.tril_indices(_matrix_size(u.shape[-1]), -1)
        weight = jnp.asarray(1 + 0.5 * (rows - 1 - columns), u.dtype)
        return jnp.sum(row(weight, u) * _log_sech_squared(u))

    def unconstrained_shape(self, shape: Shape) -> Shape:
        return _strict_triangle(self, shape)

    def violation(self, x: np.ndarray) -> str | None:
        tolerance = 10 * x.shape[-1] * np.finfo(float_dtype(x)).eps
        if np.any(np.triu(x, 1) != 0) or np.any(np.diagonal(x, axis1=-2, axis2=-1) <= 0):
            return "a lower triangular matrix with a positive diagonal"
        if np.any(np.abs(np.square(x).sum(-1) - 1) > tolerance):
            return "rows of length 1"
        return None


class Correlation(Constraint):
    r"""Correlation matrix R = L L^T, L from `CorrelationCholesky`.

    Free coordinates: the strictly lower triangle of R. The log-Jacobian is the sum over i > k of
    (1 + (d-1-k)/2) log(1 - z_ik^2), k from 1 (Lewandowski et al. 2009, equation 11, and the slope
    of tanh).
    """

    def constrain(self, u: Float[Array, "*batch free"]) -> Float[Array, "*batch dim dim"]:
        factor = CorrelationCholesky().constrain(u)
        product = factor @ jnp.swapaxes(factor, -1, -2)
        index = np.arange(product.shape[-1])
        # The diagonal is 1 by construction; rounding would leave 1 + eps, which is no correlation.
        return product.at[..., index, index].set(jnp.ones(product.shape[:-1], u.dtype))

    def unconstrain(self, x: Float[Array, "*batch dim dim"]) -> Float[Array, "*batch free"]:
        return CorrelationCholesky().unconstrain(jnp.linalg.cholesky(x))

    def log_jacobian(self, u: Float[Array, "*batch free"]) -> Scalar:
        dim = _matrix_size(u.shape[-1])
        _, columns = np.tril_indices(dim, -1)
        weight = jnp.asarray(1 + 0.5 * (dim - 2 - columns), u.dtype)
        return jnp.sum(row(weight, u) * _log_sech_squared(u))

    def unconstrained_shape(self, shape: Shape) -> Shape:
        return _strict_triangle(self, shape)

    def violation(self, x: np.ndarray) -> str | None:
        tolerance = 10 * x.shape[-1] * np.finfo(float_dtype(x)).eps
        if np.any(np.abs(np.diagonal(x, axis1=-2, axis2=-1) - 1) > tolerance):
            return "a matrix with ones on its diagonal"
        if np.any(np.abs(x - np.swapaxes(x, -1, -2)) > tolerance):
            return "a symmetric matrix"
        if np.any(np.linalg.eigvalsh(x)[..., 0] <= 0):
            return "a positive definite matrix"
        return None


def _log_sech_squared(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 - tanh(u)^2); by way of tanh it is -inf from u = 9 in float32."""
    return 2 * math.log(2) - 2 * (jax.nn.softplus(2 * u) - u)


def _strict_triangle(constraint: Constraint, shape: Shape) -> Shape:
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise bad_argument(
            f"a parameter that is {type(constraint).__name__}", f"shape {shape}", "a square matrix"
        )
    return (*shape[:-2], shape[-1] * (shape[-1] - 1) // 2)


def _matrix_size(num_free: int) -> int:
    """The d with d (d-1)/2 = num_free."""
    dim = round((1 + np.sqrt(1 + 8 * num_free)) / 2)
    if dim * (dim - 1) // 2 != num_free:
        raise bad_argument("u", f"{num_free} numbers", "d(d-1)/2 numbers, for a d x d correlation")
    return dim

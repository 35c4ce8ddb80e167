"""Cholesky factors that fail honestly, and what follows from them.

A covariance that is not positive definite is a mistake of its author more often than rounding.
It is refused by name where values are known; inside compiled code, where nothing can be raised,
the factor is NaN and so is every log density made from it. No multiple of the identity is ever
added in silence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from bayleaf.errors import BayleafError, bad_argument
from bayleaf.types import Matrix, Scalar, Vector


class NotPositiveDefiniteError(BayleafError):
    """A matrix that must be positive definite is not."""


def cholesky(matrix: Matrix, name: str = "matrix") -> Matrix:
    """The lower Cholesky factor.

    Args:
        matrix: symmetric and positive definite.
        name: what the caller calls it, for the error.

    Raises:
        BayleafError: the matrix is not square, finite or symmetric.
        NotPositiveDefiniteError: it has an eigenvalue that is not positive. Under jit, vmap or
            grad nothing is raised and the factor is NaN.
    """
    if isinstance(matrix, Tracer):
        return jnp.linalg.cholesky(matrix)
    values = np.asarray(matrix)
    if not np.all(np.isfinite(values)):
        raise bad_argument(name, "a matrix with NaN or infinite entries", "finite numbers")
    tolerance = 100 * np.finfo(values.dtype).eps * np.max(np.abs(values), initial=0.0)
    if np.any(np.abs(values - values.T) > tolerance):
        raise bad_argument(
            name, "a matrix that is not symmetric", "a symmetric matrix", "Try (A + A.T) / 2."
        )
    factor = jnp.linalg.cholesky(matrix)
    if not np.all(np.isfinite(factor)):
        smallest = np.linalg.eigvalsh(values)[0]
        raise NotPositiveDefiniteError(
            f"{name}: got a matrix with smallest eigenvalue {smallest:.3g}, expected a positive "
            "definite one. Use float64, drop redundant rows, or add a multiple of the identity."
        )
    return factor


def solve_lower(factor: Matrix, x: Float[Array, "dim *batch"]) -> Float[Array, "dim *batch"]:
    """``L^-1 x`` for a lower triangular factor."""
    return jax.scipy.linalg.solve_triangular(factor, x, lower=True)


def log_determinant(factor: Matrix | Vector) -> Scalar:
    """``log det(L L^T)`` from the Cholesky factor, or from the diagonal of a diagonal one."""
    diagonal = jnp.diagonal(factor) if factor.ndim == 2 else factor
    return 2.0 * jnp.sum(jnp.log(diagonal))

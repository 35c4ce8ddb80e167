r"""The log density of Gaussian outputs that share a covariance, with a gradient from its factor.

    log p(Y) = -1/2 tr(R' A^-1 R) - o/2 log det A - n o/2 log 2 pi,   R = Y - mean  (n by o)

and its differential, in which everything comes from the one Cholesky factor that the value needs,

    d log p = 1/2 tr((W W' - o A^-1) dA) - tr(W' dR),   W = A^-1 R.

(Rasmussen & Williams 2006, eq. 2.30 and 5.9, for o outputs.) Differentiating through the Cholesky
factorisation itself costs more than twice as much and keeps several matrices of n x n. The rule is
linear in dA and dR, so that both modes of differentiation and second derivatives work.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.gp.solvers import Columns, lower_factor
from bayleaf.linalg import log_determinant
from bayleaf.types import Matrix, Scalar

SMALLEST_BLOCK = 256
"""Inverses of blocks up to this size are not split further."""


@jax.custom_jvp
def log_density(covariance: Matrix, residual: Columns) -> Scalar:
    """The log density of the columns of ``residual``, each N(0, covariance)."""
    return _value(lower_factor(covariance), residual)[0]


@log_density.defjvp
def _differential(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    covariance, residual = primals
    factor = lower_factor(covariance)
    value, weights = _value(factor, residual)
    slope = 0.5 * (weights @ weights.T - residual.shape[1] * inverse_from_factor(factor))
    return value, jnp.sum(slope * tangents[0]) - jnp.sum(weights * tangents[1])


def _value(factor: Matrix, residual: Columns) -> tuple[Scalar, Columns]:
    """The log density, and ``A^-1 residual``."""
    white = jax.scipy.linalg.solve_triangular(factor, residual, lower=True)
    weights = jax.scipy.linalg.solve_triangular(factor, white, lower=True, trans=1)
    normaliser = log_determinant(factor) + factor.shape[0] * math.log(2 * math.pi)
    return -0.5 * (jnp.sum(white**2) + residual.shape[1] * normaliser), weights


def inverse_from_factor(factor: Matrix, block: int | None = None) -> Float[Array, "dim dim"]:
    """``(L L')^-1``, by halves.

    With L = [[A, 0], [B, C]] and W = B A^-1 the blocks of the inverse are

        X22 = (C C')^-1,   X21 = -X22 W,   X11 = (A A')^-1 - W' X21,

    two inverses of half the size, a triangular solve and two products: less than half of what
    solving for the n columns of the identity costs, and nearly all of it matrix products.
    """
    n = factor.shape[0]
    block = max(SMALLEST_BLOCK, n // 4) if block is None else block
    if n <= block:
        return jax.scipy.linalg.cho_solve((factor, True), jnp.eye(n, dtype=factor.dtype))
    h = n // 2
    a, b, c = factor[:h, :h], factor[h:, :h], factor[h:, h:]
    w = jax.lax.linalg.triangular_solve(a, b, left_side=False, lower=True)
    x22 = inverse_from_factor(c, block)
    x21 = -x22 @ w
    x11 = inverse_from_factor(a, block) - w.T @ x21
    return jnp.block([[x11, x21.T], [x21, x22]])

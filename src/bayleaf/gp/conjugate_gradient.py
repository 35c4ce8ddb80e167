r"""Preconditioned conjugate gradients: systems with a covariance that is never stored.

A x = b with A = K + diag(e) is solved by products of A with vectors alone; rows of K are made in
blocks, used and dropped, so memory is O(N (block + rank)). The number of steps grows with the root
of the condition number of P^-1 A, so the preconditioner

    P = L L' + diag(e),   L = pivoted Cholesky factor of K of small rank,

takes out the large eigenvalues, which for smooth kernels are few; it is applied through Woodbury's
identity in O(N rank). All right-hand sides run at once, each with its own step sizes.

Use it when the N^2 numbers of the Cholesky factor do not fit, and only with noise: without, the
condition number is that of K, and nothing converges. Predictions are as exact as ``tolerance``, the
norm of the residual over that of b. There is no determinant, hence no marginal likelihood: choose
hyper-parameters on a part of the data, with `bayleaf.gp.Cholesky`.

Source: Gardner, Pleiss, Bindel, Weinberger & Wilson, GPyTorch (2018), section 4 and its appendix;
Harbrecht, Peters & Schneider (2012), algorithm 1, the pivoted factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument, warn
from bayleaf.gp.kernel import Points, diagonal
from bayleaf.types import Count, Vector

Columns = Float[Array, "num column"]


class ConjugateGradient(eqx.Module):
    """The iterative solver for many points.

    Args:
        tolerance: norm of the residual over that of the right-hand side at which a solution is
            good enough.
        rank: columns of the preconditioner's factor.
        max_steps: after which an unfinished solution is given back, with a warning.
        block_size: rows of the covariance that exist at one time.
    """

    tolerance: float = eqx.field(static=True, default=1e-8)
    rank: int = eqx.field(static=True, default=100)
    max_steps: int = eqx.field(static=True, default=1000)
    block_size: int = eqx.field(static=True, default=1024)

    def __check_init__(self) -> None:
        for name in ("rank", "max_steps", "block_size"):
            if getattr(self, name) < 1:
                raise bad_argument(name, getattr(self, name), "at least 1")
        if not 0 < self.tolerance < 1:
            raise bad_argument("tolerance", self.tolerance, "a number between 0 and 1")

    def factorise(self, kernel: Callable[..., Any], x: Points, extra: Vector) -> Iterative:
        """The preconditioner, for the products that follow."""
        size = min(self.block_size, x.shape[0])
        variances = diagonal(kernel, x)
        rank = min(self.rank, x.shape[0])
        low = pivoted_cholesky(kernel, x, variances, rank)
        scaled = low / extra[:, None]
        inner = jnp.eye(rank, dtype=low.dtype) + low.T @ scaled
        capacity = jnp.linalg.cholesky(inner)
        # A point and itself in two batches may not have the diagonal's covariance: white noise.
        apart = jax.vmap(lambda point: kernel(point[None], point[None])[0, 0])(x)
        lift = extra + variances - apart
        limits = (self.tolerance, self.max_steps, size)
        return Iterative(kernel, x, lift, extra, low, capacity, *limits)

    def memory(self, num: int, itemsize: int) -> float:
        """One block of rows, the preconditioner and a few vectors."""
        return float(num * (2 * min(self.block_size, num) + 2 * self.rank + 20) * itemsize)


class Iterative(eqx.Module):
    """A = kernel(x) + diag(extra), solved anew for each right-hand side."""

    kernel: Any
    x: Points
    lift: Vector
    extra: Vector
    low: Float[Array, "num rank"]
    capacity: Float[Array, "rank rank"]
    tolerance: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)
    block_size: int = eqx.field(static=True)

    def multiply(self, b: Columns) -> Columns:
        """``A b``, in blocks of rows."""
        num, size = self.x.shape[0], self.block_size
        num_blocks = -(-num // size)

        def block(start: Count) -> Columns:
            # The last block starts early enough to be whole; its first rows are made twice.
            rows = jax.lax.dynamic_slice_in_dim(self.x, start, size)
            return self.kernel(rows, self.x) @ b

        starts = jnp.minimum(jnp.arange(num_blocks) * size, num - size)
        parts = jax.lax.map(block, starts)
        index = starts[:, None] + jnp.arange(size)[None]
        product = jnp.zeros_like(b).at[index].set(parts)
        return product + self.lift[:, None] * b

    def precondition(self, b: Columns) -> Columns:
        """``P^-1 b`` by Woodbury's identity."""
        scaled = b / self.extra[:, None]
        inner = jax.scipy.linalg.cho_solve((self.capacity, True), self.low.T @ scaled)
        return scaled - (self.low @ inner) / self.extra[:, None]

    def run(self, b: Columns) -> Descent:
        """Conjugate gradients until every column is solved."""
        size = jnp.linalg.norm(b, axis=0)
        goal = self.tolerance * jnp.where(size > 0, size, 1)

        def is_going(at: Descent) -> Any:
            return jnp.any(jnp.linalg.norm(at.residual, axis=0) > goal) & (
                at.num_steps < self.max_steps
            )

        def advance(at: Descent) -> Descent:
            image = self.multiply(at.direction)
            curvature = jnp.sum(at.direction * image, axis=0)
            # A column that is solved has no direction left: 0 / 0 must not become NaN.
            step = at.slope / jnp.where(curvature > 0, curvature, 1)
            residual = at.residual - step[None] * image
            steep = self.precondition(residual)
            slope = jnp.sum(residual * steep, axis=0)
            share = slope / jnp.where(at.slope > 0, at.slope, 1)
            direction = steep + share[None] * at.direction
            x = at.x + step[None] * at.direction
            return Descent(x, residual, direction, slope, at.num_steps + 1)

        steep = self.precondition(b)
        slope = jnp.sum(b * steep, axis=0)
        start = Descent(jnp.zeros_like(b), b, steep, slope, jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(is_going, advance, start)

    def solve(self, b: Columns) -> Columns:
        """``A^-1 b``; a column that is not solved after ``max_steps`` is NaN."""
        end = self.run(b)
        size = jnp.linalg.norm(b, axis=0)
        # What is not solved is no answer, and must not look like one.
        is_lost = jnp.linalg.norm(end.residual, axis=0) > self.tolerance * size
        return jnp.where(is_lost[None], jnp.nan, end.x)

    def inner(
        self, b: Float[Array, "num left"], c: Float[Array, "num right"]
    ) -> Float[Array, "left right"]:
        """``b' A^-1 c``."""
        return b.T @ self.solve(c)

    def squares(self, b: Columns) -> Float[Array, "column"]:
        """The diagonal of ``b' A^-1 b``."""
        return jnp.sum(b * self.solve(b), axis=0)

    def check(self, kernel: Callable[..., Any], x: Points, extra: Vector) -> None:
        """Raise when there is no noise to make this converge."""
        if not bool(np.all(np.asarray(extra) > 0)):
            raise bad_argument(
                "noise_std", 0.0, "noise > 0 for gp.ConjugateGradient", "Use solver=gp.Cholesky()."
            )


class Descent(NamedTuple):
    """Where conjugate gradients stand, for every column."""

    x: Columns
    residual: Columns
    direction: Columns
    slope: Float[Array, "column"]
    num_steps: Count


def warn_unsolved(weights: Array) -> None:
    """Say that a solution is not one."""
    if not bool(jnp.all(jnp.isfinite(weights))):
        warn(
            "Conjugate gradients did not converge within max_steps, and the solution is NaN. "
            "Raise max_steps or rank, or loosen tolerance (float32 reaches about 1e-5)."
        )


def pivoted_cholesky(
    kernel: Callable[..., Any], x: Points, variances: Vector, rank: int
) -> Float[Array, "num rank"]:
    """Columns of the Cholesky factor of ``kernel(x)``, the point that is known worst first."""

    def column(k: Count, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        low, left = carry
        pivot = jnp.argmax(left)
        row = kernel(jax.lax.dynamic_slice_in_dim(x, pivot, 1), x)[0]
        row = row.at[pivot].set(variances[pivot])
        new = row - low @ low[pivot]
        size = left[pivot]
        # Past the numerical rank the rest is round-off; a zero column leaves the factor as it is.
        is_left = size > 10 * jnp.finfo(x.dtype).eps * variances[pivot]
        new = jnp.where(is_left, new / jnp.sqrt(jnp.where(is_left, size, 1)), 0)
        left = jnp.maximum(left - new**2, 0).at[pivot].set(0)
        return low.at[:, k].set(new), left

    low = jnp.zeros((x.shape[0], rank), x.dtype)
    return jax.lax.fori_loop(0, rank, column, (low, variances))[0]

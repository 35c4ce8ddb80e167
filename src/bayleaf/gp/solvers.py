"""How systems with the covariance of the data are solved: the interface, and the Cholesky factor.

A solver is a small module with one verb, ``factorise(kernel, x, extra) -> Solved``, for the matrix
A = kernel(x) + diag(extra). What it returns has three:

    solve(b)      A^-1 b
    inner(b, c)   b' A^-1 c
    squares(b)    the diagonal of b' A^-1 b

- `Cholesky`: exact, O(N^3) once and N^2 numbers of memory. The default, up to about 20,000 points.
- `bayleaf.gp.ConjugateGradient`: iterative, without the matrix; for more points than fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.gp.kernel import Points
from bayleaf.linalg import NotPositiveDefiniteError
from bayleaf.types import Matrix, Vector

Columns = Float[Array, "num column"]


@runtime_checkable
class Solved(Protocol):
    """A = kernel(x) + diag(extra), ready to be solved with."""

    def solve(self, b: Columns) -> Columns:
        """``A^-1 b``."""
        ...

    def inner(
        self, b: Float[Array, "num left"], c: Float[Array, "num right"]
    ) -> Float[Array, "left right"]:
        """``b' A^-1 c``."""
        ...

    def squares(self, b: Columns) -> Float[Array, "column"]:
        """The diagonal of ``b' A^-1 b``."""
        ...

    def check(self, kernel: Callable[..., Any], x: Points, extra: Vector) -> None:
        """Raise or warn, outside of compiled code, if the solution is not to be believed."""
        ...


@runtime_checkable
class Solver(Protocol):
    """What makes a `Solved`."""

    def factorise(self, kernel: Callable[..., Any], x: Points, extra: Vector) -> Solved:
        """Get ready for the matrix ``kernel(x) + diag(extra)``."""
        ...

    def memory(self, num: int, itemsize: int) -> float:
        """The bytes that `factorise` needs for so many points."""
        ...


class Cholesky(eqx.Module):
    """The exact solver: one Cholesky factor, shared by all outputs and all predictions."""

    def factorise(self, kernel: Callable[..., Any], x: Points, extra: Vector) -> Factorised:
        """The Cholesky factor of the covariance; NaN if it is not positive definite."""
        return Factorised(lower_factor(add_diagonal(kernel(x), extra)))

    def memory(self, num: int, itemsize: int) -> float:
        """The matrix, its factor, and one more while they are made."""
        return 3.0 * num**2 * itemsize


class Factorised(eqx.Module):
    """The lower Cholesky factor L of A."""

    factor: Matrix

    def whiten(self, b: Columns) -> Columns:
        """``L^-1 b``."""
        return jax.scipy.linalg.solve_triangular(self.factor, b, lower=True)

    def solve(self, b: Columns) -> Columns:
        """``A^-1 b``."""
        return jax.scipy.linalg.cho_solve((self.factor, True), b)

    def inner(
        self, b: Float[Array, "num left"], c: Float[Array, "num right"]
    ) -> Float[Array, "left right"]:
        """``b' A^-1 c``."""
        left = self.whiten(b)
        return left.T @ (left if c is b else self.whiten(c))

    def squares(self, b: Columns) -> Float[Array, "column"]:
        """The diagonal of ``b' A^-1 b``."""
        return jnp.sum(self.whiten(b) ** 2, axis=0)

    def check(self, kernel: Callable[..., Any], x: Points, extra: Vector) -> None:
        """Raise if the matrix was not positive definite, and say what it was."""
        # The last pivot is NaN as soon as any is: no need to look at N^2 numbers.
        if not bool(jnp.isfinite(self.factor[-1, -1])):
            raise not_positive_definite(kernel, x, extra)


def not_positive_definite(
    kernel: Callable[..., Any], x: Points, extra: Vector
) -> NotPositiveDefiniteError:
    """The error that names why ``kernel(x) + diag(extra)`` has no Cholesky factor."""
    matrix = np.asarray(kernel(x), np.float64) + np.diag(np.asarray(extra, np.float64))
    if not np.all(np.isfinite(matrix)):
        row = int(np.argmax(~np.all(np.isfinite(matrix), axis=1)))
        got = f"a covariance with NaN or infinite entries, the first in row {row}"
        return NotPositiveDefiniteError(
            f"kernel: got {got}, expected finite numbers. Look at that row of x, and at the "
            "hyper-parameters."
        )
    advice = "Use float64, or give a noise_std or a jitter (such as 1e-8 in float64) > 0."
    same = duplicates(x)
    if same is not None:
        advice = f"Rows {same[0]} and {same[1]} of x are equal: leave one out. Or else: {advice}"
    smallest = np.linalg.eigvalsh(matrix)[0] if len(matrix) <= 4000 else np.nan
    scale = np.mean(np.diagonal(matrix))
    if smallest < -1e-4 * scale:
        advice = "No jitter repairs this: the function is not a covariance kernel."
    return NotPositiveDefiniteError(
        f"kernel: got a covariance of {len(matrix)} points with smallest eigenvalue "
        f"{smallest:.3g}, expected a positive definite one. {advice}"
    )


def duplicates(x: Points) -> tuple[int, int] | None:
    """Two rows that are equal, if there are any."""
    rows = np.asarray(x).reshape(len(x), -1)
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(rows)))
    return (int(first[inverse.ravel()[again[0]]]), int(again[0])) if again.size else None


def lower_factor(matrix: Matrix) -> Matrix:
    """The lower Cholesky factor of a matrix that is symmetric by construction."""
    return jax.lax.linalg.cholesky(matrix, symmetrize_input=False)


def add_diagonal(matrix: Matrix | Float[np.ndarray, "num num"], extra: Vector) -> Matrix:
    """``matrix + diag(extra)``; the matrix of a user's own kernel may be NumPy's."""
    index = jnp.arange(matrix.shape[0])
    return jnp.asarray(matrix).at[index, index].add(extra)


def check_memory(solver: Solver, num: int, itemsize: int, available: float | None) -> None:
    """Raise before the machine starts to swap."""
    needed = solver.memory(num, itemsize)
    if available is not None and needed > available:
        raise bad_argument(
            "x",
            f"{num} points, which need {needed / 1e9:.3g} GB",
            f"what fits into the {available / 1e9:.3g} GB that are free",
            "Use solver=gp.ConjugateGradient() (with noise), float32, or fewer points.",
        )

"""The covariance and the mean of a process, given data: kernels and functions like any other."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bayleaf.gp.kernel import Gram, Kernel, Points, as_points, diagonal
from bayleaf.types import Scalar, Vector


class Conditioned(Kernel):
    """``k(x, x') - k(x, X) A^-1 k(X, x')``: the covariance of f, given outputs at X.

    Attributes:
        kernel: k, of the process before.
        x: X.
        solved: A, ready to be solved with.
        added: the variance that ``jitter`` put on the diagonal of A.
    """

    kernel: Any
    x: Points
    solved: Any
    added: Scalar

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The covariances of f at each point of ``x1`` with f at each of ``x2``."""
        first = as_points(x1)
        second = None if x2 is None else as_points(x2)
        left = self.kernel(self.x, first)
        right = left if second is None else self.kernel(self.x, second)
        return self.kernel(first, second) - self.solved.inner(left, right)

    def diagonal(self, x: ArrayLike) -> Vector:
        """The variance of f; at a noiseless datum zero, and never below for round-off."""
        points = as_points(x)
        known = self.solved.squares(self.kernel(self.x, points))
        return jnp.maximum(diagonal(self.kernel, points) - known, 0)


class ConditionedMean(eqx.Module):
    """``mean(x) + k(x, X) weights``, with ``weights = A^-1 (Y - mean(X))``."""

    mean: Any
    kernel: Any
    x: Points
    weights: Float[Array, "num *output"]

    def __call__(self, x: Points) -> Float[Array, "num *output"]:
        """The mean of f at ``x``."""
        # The transpose of what the variance needs too: in one program it is made once.
        correction = self.kernel(self.x, x).T @ self.weights
        if isinstance(self.mean, jax.Array):
            return self.mean.astype(x.dtype) + correction
        before = self.mean(x)
        return correction + (before[:, None] if before.ndim < correction.ndim else before)


def unconditioned(kernel: Any) -> Any:
    """The kernel of the process before it was given any data."""
    while isinstance(kernel, Conditioned):
        kernel = kernel.kernel
    return kernel

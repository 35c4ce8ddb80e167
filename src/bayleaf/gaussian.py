r"""The multivariate Gaussian with its Cholesky factor at hand.

    log N(x; m, L L^T) = -1/2 |z|^2 - sum_i log L_ii - d/2 log(2 pi),   z = L^-1 (x - m).

The factor is computed once, when the object is made. Use it as the prior or the reference of
elliptical slice sampling, as the proposal of a random walk, and wherever a latent Gaussian process
meets its covariance matrix. A diagonal covariance keeps only its standard deviations.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.linalg import cholesky, log_determinant, solve_lower
from bayleaf.trees import is_traced
from bayleaf.types import Key, Matrix, Scalar, Vector


class Gaussian(eqx.Module):
    """A Gaussian on vectors: ``Gaussian(mean, covariance)``.

    Attributes:
        mean: the mean.
        factor: the lower Cholesky factor L of the covariance, or the standard deviations when the
            covariance is diagonal.
    """

    mean: Vector
    factor: Matrix | Vector

    def __init__(self, mean: ArrayLike, covariance: ArrayLike):
        matrix = _floating(covariance, "covariance")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise bad_argument(
                "covariance",
                f"shape {matrix.shape}",
                "a square matrix",
                "For independent coordinates use Gaussian.from_scale.",
            )
        self.mean = _mean(mean, matrix)
        self.factor = cholesky(matrix, "covariance")

    @classmethod
    def from_scale(cls, mean: ArrayLike, scale: ArrayLike) -> Gaussian:
        """Independent coordinates; ``scale`` is one standard deviation, or one a coordinate."""
        deviations = _floating(scale, "scale")
        if deviations.ndim == 0:
            deviations = jnp.broadcast_to(deviations, np.shape(mean))
        if not is_traced(deviations) and not np.all(np.asarray(deviations) > 0):
            raise bad_argument("scale", str(np.asarray(deviations)), "numbers > 0")
        return cls._make(_mean(mean, deviations), deviations)

    @classmethod
    def from_cholesky(cls, mean: ArrayLike, factor: ArrayLike) -> Gaussian:
        """From a lower triangular L with positive diagonal; the covariance is L L^T."""
        lower = _floating(factor, "factor")
        if lower.ndim != 2 or lower.shape[0] != lower.shape[1]:
            raise bad_argument("factor", f"shape {lower.shape}", "a square matrix")
        if not is_traced(lower):
            values = np.asarray(lower)
            if np.any(np.triu(values, 1) != 0) or not np.all(np.diagonal(values) > 0):
                raise bad_argument(
                    "factor", "another matrix", "a lower triangle with positive diagonal"
                )
        return cls._make(_mean(mean, lower), lower)

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Matrix:
        """The covariance matrix."""
        if self.factor.ndim == 1:
            return jnp.diag(jnp.square(self.factor))
        return self.factor @ self.factor.T

    def log_prob(self, x: Vector) -> Scalar:
        """Log density at ``x``."""
        z = self.whiten(x)
        normaliser = log_determinant(self.factor) + self.dim * math.log(2 * math.pi)
        return -0.5 * (jnp.dot(z, z) + normaliser)

    def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Float[Array, "*shape dim"]:
        """Independent draws, coordinates on the last axis."""
        z = jax.random.normal(key, (*shape, self.dim), self.mean.dtype)
        unwhiten = self.unwhiten
        for _ in shape:
            unwhiten = jax.vmap(unwhiten)
        return unwhiten(z)

    def whiten(self, x: Vector) -> Vector:
        """``L^-1 (x - mean)``: standard normal when ``x`` is a draw."""
        centred = x - self.mean
        return centred / self.factor if self.factor.ndim == 1 else solve_lower(self.factor, centred)

    def unwhiten(self, z: Vector) -> Vector:
        """``mean + L z``: a draw when ``z`` is standard normal."""
        return self.mean + (self.factor * z if self.factor.ndim == 1 else self.factor @ z)

    @classmethod
    def _make(cls, mean: Vector, factor: Matrix | Vector) -> Gaussian:
        self = object.__new__(cls)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "factor", factor)
        return self


def _floating(x: ArrayLike, name: str) -> Float[Array, "..."]:
    array = jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise bad_argument(name, "complex numbers", "real numbers")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def _mean(mean: ArrayLike, factor: Array) -> Vector:
    """The mean as a vector of the factor's precision; one number stands for all coordinates."""
    array = jnp.asarray(mean, factor.dtype)
    if array.ndim == 0:
        return jnp.broadcast_to(array, factor.shape[:1])
    if array.shape != factor.shape[:1]:
        raise bad_argument("mean", f"shape {array.shape}", f"shape {factor.shape[:1]} or a number")
    return array

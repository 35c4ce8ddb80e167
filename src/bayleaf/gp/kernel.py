"""What a covariance kernel is, and sums, products and multiples of kernels.

A kernel is a callable ``kernel(x1, x2=None)`` that returns the matrix of k(x1_i, x2_j). Without
``x2`` it is the covariance of ``x1`` with itself: symmetric, with the exact diagonal, which
round-off in a distance would blur. ``kernel.diagonal(x)`` is that diagonal alone. Points are rows:
``x`` has the shape ``[num, feature]``, or ``[num, ...]`` for the kernels of networks.

Kernels are Equinox modules whose hyper-parameters are leaves: they are traced and have gradients.
Whatever follows this protocol is a kernel; those of this room can be combined as well:

    k1 + k2    k1 * k2    2.0 * k    k + 1.0

(a number stands for a constant kernel). ``bl.Gaussian(mean, kernel(x))`` is the Gaussian of the
process at ``x``, the prior of `bayleaf.mcmc.EllipticalSlice`.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.types import Vector

Points = Float[Array, "_ ..."]
Gram = Float[Array, "num1 num2"]
Numbers = ArrayLike | Sequence[float]


class Kernel(eqx.Module):
    """What every kernel of this room offers; see the module's head."""

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The covariances of each point of ``x1`` with each of ``x2``."""
        raise NotImplementedError(type(self).__name__)

    def diagonal(self, x: ArrayLike) -> Vector:
        """The variance at each point."""
        return jax.vmap(lambda point: self(point[None])[0, 0])(as_points(x))

    def __add__(self, other: Any) -> Kernel:
        return Sum(self, as_kernel(other))

    def __radd__(self, other: Any) -> Kernel:
        return Sum(as_kernel(other), self)

    def __mul__(self, other: Any) -> Kernel:
        return Product(self, other) if callable(other) else Scaled(self, other)

    def __rmul__(self, other: Any) -> Kernel:
        return Product(other, self) if callable(other) else Scaled(self, other)


class Sum(Kernel):
    """``first(x1, x2) + second(x1, x2)``: the sum of two independent processes."""

    first: Any
    second: Any

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The sum of both matrices."""
        return self.first(x1, x2) + self.second(x1, x2)

    def diagonal(self, x: ArrayLike) -> Vector:
        """The sum of both variances."""
        return diagonal(self.first, x) + diagonal(self.second, x)


class Product(Kernel):
    """``first(x1, x2) second(x1, x2)``, entry by entry."""

    first: Any
    second: Any

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The product of both matrices, entry by entry."""
        return self.first(x1, x2) * self.second(x1, x2)

    def diagonal(self, x: ArrayLike) -> Vector:
        """The product of both variances."""
        return diagonal(self.first, x) * diagonal(self.second, x)


class Scaled(Kernel):
    """``variance * kernel``: the process times the root of ``variance``."""

    kernel: Any
    variance: Array

    def __init__(self, kernel: Any, variance: ArrayLike):
        self.kernel, self.variance = kernel, positive(variance, "variance")

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The multiple of the matrix."""
        matrix = self.kernel(x1, x2)
        return self.variance.astype(matrix.dtype) * matrix

    def diagonal(self, x: ArrayLike) -> Vector:
        """The multiple of the variances."""
        values = diagonal(self.kernel, x)
        return self.variance.astype(values.dtype) * values


class Constant(Kernel):
    """``variance`` for every pair of points: an unknown level, the same everywhere."""

    variance: Array

    def __init__(self, variance: ArrayLike = 1.0):
        self.variance = positive(variance, "variance")

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The same number everywhere."""
        x1, x2 = pair(x1, x2)
        return jnp.full((x1.shape[0], x2.shape[0]), self.variance.astype(x1.dtype))

    def diagonal(self, x: ArrayLike) -> Vector:
        """The same number everywhere."""
        x = as_points(x)
        return jnp.full(x.shape[:1], self.variance.astype(x.dtype))


class White(Kernel):
    """``variance`` for a point with itself and zero for all other pairs: noise of its own.

    Two batches have no point in common, so ``white(x1, x2)`` is zero even where rows are equal.
    """

    variance: Array

    def __init__(self, variance: ArrayLike = 1.0):
        self.variance = positive(variance, "variance")

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """A multiple of the identity, or zero between two batches."""
        if x2 is None:
            return jnp.diag(self.diagonal(x1))
        x1, x2 = pair(x1, x2)
        return jnp.zeros((x1.shape[0], x2.shape[0]), x1.dtype)

    def diagonal(self, x: ArrayLike) -> Vector:
        """The same number everywhere."""
        x = as_points(x)
        return jnp.full(x.shape[:1], self.variance.astype(x.dtype))


def diagonal(kernel: Callable[..., Any], x: ArrayLike) -> Vector:
    """The variances of any callable that follows the protocol, with or without ``diagonal``."""
    if hasattr(kernel, "diagonal"):
        return cast(Any, kernel).diagonal(x)
    return jax.vmap(lambda point: kernel(point[None])[0, 0])(as_points(x))


def as_kernel(other: Any) -> Any:
    """A kernel, from itself or from the variance of a constant one."""
    return other if callable(other) else Constant(other)


def positive(value: Numbers, name: str) -> Array:
    """A hyper-parameter that must be above zero, as floating-point numbers."""
    array = strong(value)
    is_known = not isinstance(array, Tracer)
    if is_known and not np.all((np.asarray(array) > 0) & np.isfinite(np.asarray(array))):
        raise bad_argument(name, str(np.asarray(array)), "finite numbers > 0")
    return array


def strong(value: Numbers) -> Array:
    """Floating-point numbers of settled precision: a weak 0.1 would compile programs twice."""
    array = jnp.asarray(value if isinstance(value, jax.Array) else np.asarray(value))
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def as_points(x: ArrayLike, name: str = "x") -> Points:
    """Rows of numbers, in floating point; what has no rows of features is refused."""
    array = jnp.asarray(x)
    if array.ndim < 2:
        raise bad_argument(
            name,
            f"shape {array.shape}",
            "one row of features for each point",
            "For points on a line write x[:, None].",
        )
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def pair(x1: ArrayLike, x2: ArrayLike | None) -> tuple[Points, Points]:
    """Both batches of points in one precision; they must have the same features."""
    x1 = as_points(x1, "x1")
    x2 = x1 if x2 is None else as_points(x2, "x2")
    if x1.shape[1:] != x2.shape[1:]:
        raise bad_argument("x2", f"shape {x2.shape}", f"points like those of x1: {x1.shape}")
    dtype = jnp.promote_types(x1.dtype, x2.dtype)
    return x1.astype(dtype), x2.astype(dtype)

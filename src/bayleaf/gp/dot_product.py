"""Kernels of the inner product: straight lines and polynomials with Gaussian coefficients.

    Linear       variance <x, z>                    f(x) = <w, x>,  w ~ N(0, variance)
    Polynomial   (variance <x, z> + offset)^degree  a polynomial of that degree

``variance`` is one number or one for each feature. Centre the features first: these kernels know
where the origin is. Source: Rasmussen & Williams (2006), section 4.2.2, one variance per feature.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from bayleaf.errors import bad_argument
from bayleaf.gp.kernel import Gram, Kernel, Numbers, as_points, pair, positive
from bayleaf.gp.stationary import scaled
from bayleaf.types import Vector


class Linear(Kernel):
    """``sum_f variance_f x_f x'_f``; add a `Constant` for a line that misses the origin."""

    variance: Array

    def __init__(self, variance: Numbers = 1.0):
        self.variance = positive(variance, "variance")

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The inner products of each point of ``x1`` with each of ``x2``."""
        a, b = pair(x1, x2)
        scale = 1 / jnp.sqrt(self.variance)
        return jnp.matmul(scaled(a, scale), scaled(b, scale).T, precision="highest")

    def diagonal(self, x: ArrayLike) -> Vector:
        """The squared norms."""
        return jnp.sum(scaled(as_points(x), 1 / jnp.sqrt(self.variance)) ** 2, axis=1)


class Polynomial(Kernel):
    """``(sum_f variance_f x_f x'_f + offset)^degree``."""

    variance: Array
    offset: Array
    degree: int = eqx.field(static=True)

    def __init__(self, degree: int, variance: Numbers = 1.0, offset: ArrayLike = 1.0):
        if not isinstance(degree, int) or degree < 1:
            raise bad_argument("degree", degree, "a whole number of at least 1")
        self.degree = degree
        self.variance = positive(variance, "variance")
        self.offset = positive(offset, "offset")

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The covariances of each point of ``x1`` with each of ``x2``."""
        products = Linear(self.variance)(x1, x2)
        return (products + self.offset.astype(products.dtype)) ** self.degree

    def diagonal(self, x: ArrayLike) -> Vector:
        """The variances."""
        products = Linear(self.variance).diagonal(x)
        return (products + self.offset.astype(products.dtype)) ** self.degree

r"""Kernels of the distance r = |x - x'| / l, and the periodic one.

Each has a ``length_scale`` l, over which the process forgets itself: one number, or one for each
feature (automatic relevance determination: a feature with a long scale hardly matters). The
variance of all is 1; scale them by a number, ``2.0 * gp.Matern52(0.3)``.

    SquaredExponential   exp(-r^2 / 2)                                 (4.9), infinitely smooth
    Matern12             exp(-r)                                       (4.17), rough, continuous
    Matern32             (1 + a) exp(-a), a = sqrt(3) r                (4.17), once differentiable
    Matern52             (1 + a + a^2 / 3) exp(-a), a = sqrt(5) r      (4.17), twice differentiable
    RationalQuadratic    (1 + r^2 / (2 mixture))^-mixture              (4.19), a mixture of scales
    Periodic             exp(-2 sum_f sin^2(pi (x_f - x'_f) / p) / l^2)    (4.31)

Squared distances of more than `FEW` features are |a|^2 + |b|^2 - 2 a'b of centred points, one
matrix product; it leaves an error of round-off times |a|^2, which for few features (long series,
where |a| is large) is avoided by adding up the squared differences.

Source: Rasmussen & Williams (2006), section 4.2; the numbers are those of its equations.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.gp.kernel import Gram, Kernel, Numbers, Points, as_points, pair, positive
from bayleaf.types import Vector

FEW = 4
"""Up to so many features distances are sums of squared differences."""


def as_length_scale(value: Numbers) -> Array:
    """Positive numbers; the error names ``length_scale``."""
    return positive(value, "length_scale")


def as_mixture(value: Numbers) -> Array:
    """Positive numbers; the error names ``mixture``."""
    return positive(value, "mixture")


class Stationary(Kernel):
    """A kernel of the scaled squared distance; ``profile`` says which."""

    length_scale: Array = eqx.field(default=1.0, converter=as_length_scale)

    def profile(self, squared: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance at a squared distance."""
        raise NotImplementedError(type(self).__name__)

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The covariances of each point of ``x1`` with each of ``x2``."""
        a, b = pair(x1, x2)
        scale = self.length_scale
        squared = squared_distances(scaled(a, scale), None if x2 is None else scaled(b, scale))
        return self.profile(squared)

    def diagonal(self, x: ArrayLike) -> Vector:
        """One at every point."""
        x = as_points(x)
        return jnp.ones(x.shape[:1], x.dtype)


class SquaredExponential(Stationary):
    """``exp(-r^2 / 2)``."""

    def profile(self, squared: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance at a squared distance."""
        return jnp.exp(-0.5 * squared)


class Matern12(Stationary):
    """``exp(-r)``, also called the exponential or Ornstein-Uhlenbeck kernel."""

    def profile(self, squared: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance at a squared distance."""
        return jnp.exp(-root(squared))


class Matern32(Stationary):
    """``(1 + a) exp(-a)`` with ``a = sqrt(3) r``."""

    def profile(self, squared: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance at a squared distance."""
        a = math.sqrt(3) * root(squared)
        return (1 + a) * jnp.exp(-a)


class Matern52(Stationary):
    """``(1 + a + a^2 / 3) exp(-a)`` with ``a = sqrt(5) r``."""

    def profile(self, squared: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance at a squared distance."""
        a = math.sqrt(5) * root(squared)
        return (1 + a + 5 / 3 * squared) * jnp.exp(-a)


class RationalQuadratic(Stationary):
    """``(1 + r^2 / (2 mixture))^-mixture``: squared exponentials of many scales.

    Args:
        length_scale: l.
        mixture: alpha; the larger, the closer to one `SquaredExponential`.
    """

    mixture: Array = eqx.field(default=1.0, converter=as_mixture)

    def profile(self, squared: Float[Array, "..."]) -> Float[Array, "..."]:
        """The covariance at a squared distance."""
        mixture = self.mixture.astype(squared.dtype)
        # log1p: for a large mixture (1 + small)^-large loses the small in round-off.
        return jnp.exp(-mixture * jnp.log1p(squared / (2 * mixture)))


class Periodic(Kernel):
    """``exp(-2 sum_f sin^2(pi (x_f - x'_f) / period) / l^2)``: what repeats itself exactly.

    Args:
        period: after which the process is the same; one number, or one for each feature.
        length_scale: l, in units of the chord of a circle of radius 1; as `period`.
    """

    period: Array
    length_scale: Array

    def __init__(self, period: Numbers = 1.0, length_scale: Numbers = 1.0):
        self.period = positive(period, "period")
        self.length_scale = positive(length_scale, "length_scale")

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None) -> Gram:
        """The covariances of each point of ``x1`` with each of ``x2``."""
        a, b = pair(x1, x2)

        # A circle of radius 1 for each feature: its chord is 2 sin(pi d / p).
        def around(x: Points) -> Points:
            turn = 2 * math.pi * scaled(x, self.period)
            return jnp.concatenate(
                [
                    scaled(jnp.cos(turn), self.length_scale),
                    scaled(jnp.sin(turn), self.length_scale),
                ],
                axis=1,
            )

        return jnp.exp(-0.5 * squared_distances(around(a), None if x2 is None else around(b)))

    def diagonal(self, x: ArrayLike) -> Vector:
        """One at every point."""
        x = as_points(x)
        return jnp.ones(x.shape[:1], x.dtype)


def scaled(x: Points, scale: Array) -> Points:
    """Features in units of their scales."""
    if x.ndim != 2:
        raise bad_argument(
            "x", f"shape {x.shape}", "the shape [num, feature]", "Write x.reshape(len(x), -1)."
        )
    if scale.ndim > 1 or scale.size not in (1, x.shape[1]):
        raise bad_argument(
            "length_scale", f"shape {scale.shape}", f"one number, or {x.shape[1]}: one a feature"
        )
    return x / jnp.broadcast_to(scale.astype(x.dtype), x.shape[1:])[None]


def squared_distances(a: Points, b: Points | None) -> Gram:
    """``|a_i - b_j|^2``; without ``b``, of ``a`` with itself and exactly zero on the diagonal."""
    other = a if b is None else b
    if a.shape[1] <= FEW:
        squared = jnp.zeros((a.shape[0], other.shape[0]), a.dtype)
        for left, right in zip(a.T, other.T, strict=True):
            squared = squared + (left[:, None] - right[None]) ** 2
    else:
        squared = by_products(a, other)
    if b is None:
        index = jnp.arange(a.shape[0])
        squared = jnp.where(index[:, None] == index[None], 0, squared)
    return squared


def by_products(a: Points, b: Points) -> Gram:
    """Squared distances from norms and one matrix product of centred points."""
    # The centre is a constant: distances do not depend on it, and neither may gradients.
    centre = jax.lax.stop_gradient(jnp.mean(b, axis=0, keepdims=True))
    a, b = a - centre, b - centre
    products = jnp.matmul(a, b.T, precision="highest")
    squared = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None] - 2 * products
    return jnp.maximum(squared, 0)  # round-off leaves -1e-16, whose root is NaN


def root(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, with slope 0 at 0, where that of the root is infinite and times 0 is NaN."""
    # Not by jnp.where(squared == 0, ...) around a safe root: XLA may compute ``squared`` twice with
    # different round-off, 0 here and 1e-33 there, and the conditions then contradict each other.
    return jnp.sqrt(jnp.maximum(squared, jnp.finfo(squared.dtype).tiny))

"""Kinks of an activation, by Price's theorem: sums of ramps under pairs of Gaussian units.

The series of a kinked function converges like N^(-1/2). Its kinks are a sum of ramps,

    kappa(x) = sum_j d_j max(x - k_j, 0),        d_j the jump of phi' at k_j,

and phi - kappa has none. With x_i = k_i / sqrt(q1), y_j = k_j / sqrt(q2), m = max(x_i, y_j),
rho = cos theta, and sums over i and j with the factor d_i d_j,

    E kappa'(u) kappa'(v) = sum Phi(-m) - (1 / 2 pi) int_0^theta E_ij(t) dt,
    E kappa(u) kappa(v)   = sqrt(q1 q2) sum [(1 + x_i y_j) Phi(-m) - min(x_i, y_j) N(m)
                            - (1 - rho) Phi(-m) + (1 / 2 pi) int_0^theta (cos t - rho) E_ij(t) dt],
    E_ij(t) = exp(-(x_i - y_j)^2 / (8 sin^2(t / 2)) - (x_i + y_j)^2 / (8 cos^2(t / 2))),

since the second derivative of a ramp is a point mass. One kink at 0 is the arc-cosine kernel. Where
rho < 0 the path starts at rho = -1 instead: then P = P(x_i < z < -y_j) takes the place of Phi(-m),
N(x_i) b - N(b) x_i - (1 + x_i b) P with b = -y_j (if x_i < b) that of the first two terms, the
integrals are added, and x_i - y_j and x_i + y_j change places.

E_ij vanishes at t = 0 within |x_i - y_j|, which may be small: nodes are placed at t = theta s^3, s
the Gauss-Legendre nodes of [0, 1]. The integral of E_ij is wrong by at most `ERROR` times 2 pi if
the variances differ a little, and exact where they are equal.

Source: Price, A useful theorem for nonlinear devices having Gaussian inputs, IRE Transactions on
Information Theory 4 (1958).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from bayleaf.infinite.arcs import root
from bayleaf.infinite.quadrature import Kinks, hermite_sums, scaled

NUM_NODES = 64
ERROR = 2e-8  # found by comparing with 1200 nodes

Values = Float[Array, "..."]


class Ramps(NamedTuple):
    """Of kappa: E kappa(u) kappa(v), how far that is below its value at rho = 1, and slopes."""

    value: Values
    fall: Values
    slope: Values
    slope_at_one: Values


def kinked(x: Values, kinks: Kinks, jumps: list[Any]) -> Values:
    """kappa(x)."""
    total = jnp.zeros_like(x)
    for k, d in zip(kinks, jumps, strict=True):
        total = total + d * jnp.maximum(x - k, 0)
    return total


def kinked_coefficients(
    q: Float[Array, "*batch"], num_terms: int, kinks: Kinks, jumps: list[Any]
) -> Float[Array, "term *batch"]:
    """c_n of kappa: sqrt(q) N(x) h_(n - 2)(x) / sqrt(n (n - 1)) for n > 1."""
    sd, total = root(q), jnp.zeros((num_terms, *q.shape), q.dtype)
    n = np.arange(2, max(num_terms, 2))
    scale = jnp.asarray(1 / np.sqrt(n * (n - 1)), q.dtype).reshape((-1,) + (1,) * q.ndim)
    for k, d in zip(kinks, jumps, strict=True):
        x = scaled(k, sd)
        above, density = ndtr(-x), _density(x)
        first = jnp.stack([density - x * above, above])
        later = scale * hermite_sums(x, density, n.size, lambda rows: rows)
        total = total + d * sd[None] * jnp.concatenate([first, later])[:num_terms]
    return total


def ramps(
    one_minus: Values, one_plus: Values, q1: Values, q2: Values, kinks: Kinks, jumps: list[Any]
) -> Ramps:
    """The formulas of the module's head, for pairs with 1 - rho and 1 + rho."""
    zero = jnp.zeros((), one_minus.dtype)
    if not kinks:
        return Ramps(zero, zero, zero, zero)
    size = root(q1) * root(q2)
    is_acute = one_minus <= one_plus
    gap = jnp.minimum(one_minus, one_plus)
    points, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    path = Path(2 * jnp.arctan2(root(gap), root(2 - gap)), gap, (points + 1) / 2, weights / 2)
    value = fall = slope = slope_at_one = zero
    for k, d in zip(kinks, jumps, strict=True):
        for other, e in zip(kinks, jumps, strict=True):
            x, y = scaled(k, root(q1)), scaled(other, root(q2))
            apart, along = (x - y) ** 2 / 8, (x + y) ** 2 / 8
            area, moment = path.integrals(
                jnp.where(is_acute, apart, along), jnp.where(is_acute, along, apart)
            )
            (top, above), (bottom, between) = _at_one(x, y), _at_minus_one(x, y)
            rise = bottom + gap * between + moment
            below = gap * above - moment
            value = value + d * e * jnp.where(is_acute, top - below, rise)
            fall = fall + d * e * jnp.where(is_acute, below, top - rise)
            slope = slope + d * e * jnp.where(is_acute, above - area, between + area)
            slope_at_one = slope_at_one + d * e * above
    return Ramps(size * value, size * fall, slope, slope_at_one)


class Path(NamedTuple):
    """Nodes of integrals over angles from 0 to ``theta``, with 1 - cos theta = ``gap``."""

    theta: Values
    gap: Values
    points: np.ndarray
    weights: np.ndarray

    def integrals(self, apart: Values, along: Values) -> tuple[Values, Values]:
        """Over 2 pi, those of E = exp(-apart / sin^2 - along / cos^2) and (cos t - rho) E."""
        dtype = self.theta.dtype
        shares = jnp.asarray(self.points**3, dtype)
        weights = jnp.asarray(self.weights * 3 * self.points**2 / (2 * np.pi), dtype)

        def step(sums: tuple[Values, Values], node: tuple[Array, Array]) -> Any:
            share, weight = node
            sine = jnp.sin(share * self.theta / 2) ** 2
            density = jnp.exp(-_over(apart, sine) - along / (1 - sine))
            part = weight * self.theta * density
            return (sums[0] + part, sums[1] + part * (self.gap - 2 * sine)), None

        zero = jnp.zeros_like(self.theta * apart)
        return jax.lax.scan(step, (zero, zero), (shares, weights))[0]


def _at_one(x: Values, y: Values) -> tuple[Values, Values]:
    """E max(z - x, 0) max(z - y, 0), and the probability that both are positive."""
    low, high = jnp.minimum(x, y), jnp.maximum(x, y)
    above = ndtr(-high)
    return (1 + x * y) * above - low * _density(high), above


def _at_minus_one(x: Values, y: Values) -> tuple[Values, Values]:
    """The same of z and -z."""
    is_some, end = x < -y, -y
    between = jnp.where(is_some, ndtr(end) - ndtr(x), 0)
    value = end * _density(x) - x * _density(end) - (1 + x * end) * between
    return jnp.where(is_some, value, 0), between


def _over(numerator: Values, denominator: Values) -> Values:
    """A quotient that may be infinite, without NaN in its derivative."""
    return numerator / jnp.maximum(denominator, jnp.finfo(denominator.dtype).tiny ** 0.4)


def _density(x: Values) -> Values:
    return jnp.exp(-0.5 * x * x) / (2 * jnp.pi) ** 0.5

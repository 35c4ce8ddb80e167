"""Gaussian moments of an activation, as the mean-field theory of deep networks needs them.

For u = sqrt(q) z and (u, v) jointly normal with variances q and correlation c,

    V(q) = E phi(u)^2,  D(q) = E phi'(u)^2,  M(c) = E phi(u) phi(v),  M'(c) / q = E phi'(u) phi'(v);

the last equality is Price's theorem, so one representation of M gives the slope of the c-map too.

- `SmoothActivation`, any function without kinks. One-dimensional integrals by the trapezoidal rule,
  which converges geometrically for analytic functions under a normal density (Gauss-Hermite does
  so only with the root of the number of nodes for tanh, which has poles). M by Mehler's formula,
  M(c) = sum_n a_n^2 c^n with a_n = E phi(sqrt(q) z) h_n(z): once the a_n are known, an evaluation
  is a polynomial. The rest of the series is a power of c that is right at c = 1 in value and slope.
- `PiecewiseLinear`: ReLU, leaky ReLU, hard tanh, absolute value. Mehler's series would converge
  like n^(-3/2). By Price's theorem applied twice, with s_i the jump of the slope at the kink k_i,
  M''(c) = q^2 sum_ij s_i s_j N2(k_i, k_j), so that with c = cos(theta)

      E phi'(u) phi'(v) = D - (1 / 2 pi) sum_ij s_i s_j int_0^theta E_ij(t) dt,
      M(c) = V - (1 - c) q D + (q / 2 pi) sum_ij s_i s_j int_0^theta (cos t - cos theta) E_ij(t) dt,
      E_ij(t) = exp(-(k_i - k_j)^2 / (2 q sin^2 t) - k_i k_j / (q (1 + cos t))),

  whose integrands are smooth: 48 Gauss-Legendre nodes give all digits. One kink at 0 is the
  arc-cosine kernel.

Sources: Mehler 1866; Price 1958; Poole et al. 2016 for V, D and M in networks.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.infinite.piecewise import ABRelu
from bayleaf.infinite.quadrature import hermite_rows
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Scalar

STEP, REACH = 1 / 16, 12.0
"""Trapezoidal rule in z on [-REACH, REACH]. A pole of phi at distance d from the reals leaves an
error of exp(-2 pi d / (sqrt(q) STEP)): 1e-16 for tanh up to q = 18."""

NUM_TERMS = 256
"""Terms of Mehler's series; what is left of E phi^2 after them is kept and reported."""

NUM_ANGLES = 48


class Correlated(eqx.Module):
    """M(c) at one variance q, and its slope; ``left_out(c)`` bounds the error of M."""

    def value_and_slope(self, c: Scalar) -> tuple[Scalar, Scalar]:
        """E phi(u) phi(v) and E phi'(u) phi'(v)."""
        raise NotImplementedError

    def left_out(self, c: Scalar) -> Scalar:
        """A bound on the error of the value, rounding aside."""
        return jnp.zeros_like(c)


class SmoothActivation(eqx.Module):
    """A function without kinks, applied to each number; see the module for how it is integrated.

    Args:
        function: from array to array, elementwise, differentiable by JAX. A kinked function is
            refused, for the integrals would be wrong in the fourth digit: see `PiecewiseLinear`.
    """

    function: Frozen

    def __init__(self, function: Any):
        self.function = frozen_function(function, "activation")
        refuse_kinks(function)

    def __call__(self, u: Array) -> Array:
        """phi, elementwise."""
        return self.function(u)

    def derivative(self, u: Array) -> Array:
        """phi', elementwise."""
        return jax.jvp(self.function, (u,), (jnp.ones_like(u),))[1]

    def second_moment(self, q: Scalar) -> tuple[Scalar, Scalar]:
        """V(q) and dV/dq = E phi(u)^2 (z^2 - 1) / (2 q), which needs no derivative of phi."""
        z, weights, _ = rule(str(q.dtype))
        squares = self(jnp.sqrt(q) * z) ** 2
        return jnp.sum(weights * squares), jnp.sum(weights * (z**2 - 1) * squares) / (2 * q)

    def slope_moment(self, q: Scalar) -> Scalar:
        """D(q)."""
        z, weights, _ = rule(str(q.dtype))
        return jnp.sum(weights * self.derivative(jnp.sqrt(q) * z) ** 2)

    def at(self, q: Scalar) -> Correlated:
        """M at the variance q."""
        z, _, hermite = map(jnp.asarray, rule(str(q.dtype)))
        squares = (hermite @ self(jnp.sqrt(q) * z)) ** 2
        orders = jnp.arange(NUM_TERMS, dtype=q.dtype)
        tiny = jnp.finfo(q.dtype).eps * jnp.sum(squares)
        rest = self.second_moment(q)[0] - jnp.sum(squares)
        slope_rest = q * self.slope_moment(q) - jnp.sum(orders * squares)
        rest = jnp.maximum(rest, 0)
        # Below round-off the quotient of the two rests is noise.
        order = jnp.where(rest > 8 * tiny, slope_rest / jnp.where(rest > 0, rest, 1), NUM_TERMS)
        order = jax.lax.stop_gradient(jnp.maximum(order, NUM_TERMS))
        return MehlerSeries(q, squares, rest, order)


class MehlerSeries(Correlated):
    """sum_n a_n^2 c^n, and a last power that stands for all the others."""

    q: Scalar
    squares: Float[Array, "term"]
    rest: Scalar
    order: Scalar

    def value_and_slope(self, c: Scalar) -> tuple[Scalar, Scalar]:
        """Horner's rule for the value and its derivative at once."""

        def horner(carry, coefficient):
            value, slope = carry
            return (value * c + coefficient, slope * c + value), None

        zero = jnp.zeros_like(c)
        (value, slope), _ = jax.lax.scan(horner, (zero, zero), self.squares[::-1], unroll=16)
        power = jnp.abs(c) ** (self.order - 1)
        value = value + self.rest * power * jnp.abs(c)
        return value, (slope + self.rest * self.order * power * jnp.sign(c)) / self.q

    def left_out(self, c: Scalar) -> Scalar:
        """Every power that was left out is between 0 and |c|^NUM_TERMS."""
        return self.rest * jnp.abs(c) ** NUM_TERMS


class PiecewiseLinear(eqx.Module):
    """A continuous function that is linear between its kinks.

    phi(u) = offset + slopes[0] u + sum_i (slopes[i + 1] - slopes[i]) max(u - kinks[i], 0).

    Args:
        kinks: in increasing order.
        slopes: one more than kinks, from left to right.
        offset: makes the function what it shall be; 0 for ReLU, -1 for hard tanh.
    """

    kinks: tuple[float, ...] = eqx.field(static=True)
    slopes: tuple[float, ...] = eqx.field(static=True)
    offset: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        if not self.kinks or list(self.kinks) != sorted(set(self.kinks)):
            raise bad_argument("kinks", self.kinks, "at least one number, in increasing order")
        if len(self.slopes) != len(self.kinks) + 1:
            raise bad_argument("slopes", self.slopes, f"{len(self.kinks) + 1} numbers")

    @property
    def jumps(self) -> np.ndarray:
        """By how much the slope jumps at each kink."""
        return np.diff(np.asarray(self.slopes))

    def __call__(self, u: Array) -> Array:
        """phi, elementwise."""
        value = self.offset + self.slopes[0] * u
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            value = value + float(jump) * jnp.maximum(u - kink, 0)
        return value

    def derivative(self, u: Array) -> Array:
        """phi', elementwise; the right-hand one at a kink."""
        slope = jnp.full_like(u, self.slopes[0])
        for kink, jump in zip(self.kinks, self.jumps, strict=True):
            slope = slope + float(jump) * (u >= kink)
        return slope

    def second_moment(self, q: Scalar) -> tuple[Scalar, Scalar]:
        """V(q), and dV/dq = D(q) + E phi phi'', where phi'' is a point mass at each kink."""
        kinks = jnp.asarray(self.kinks, q.dtype)
        z = jnp.pad(kinks / jnp.sqrt(q), 1)
        density = jnp.pad(jnp.exp(-0.5 * z[1:-1] ** 2) / np.sqrt(2 * np.pi), 1)
        moment = z * density
        mass = self.masses(q)
        first = -jnp.sqrt(q) * jnp.diff(density)
        second = q * (mass - jnp.diff(moment))
        slope = jnp.asarray(self.slopes, q.dtype)
        jumps = jnp.asarray(self.jumps, q.dtype)
        start = self.offset - jnp.concatenate([jnp.zeros(1, q.dtype), jnp.cumsum(jumps * kinks)])
        value = jnp.sum(start**2 * mass + 2 * start * slope * first + slope**2 * second)
        at_kinks = jnp.sum(jumps * self(kinks) * density[1:-1]) / jnp.sqrt(q)
        return value, jnp.sum(slope**2 * mass) + at_kinks

    def slope_moment(self, q: Scalar) -> Scalar:
        """D(q)."""
        return jnp.sum(jnp.asarray(self.slopes, q.dtype) ** 2 * self.masses(q))

    def masses(self, q: Scalar) -> Float[Array, "piece"]:
        """The probability of each piece. Infinite ends over sqrt(q) would have no derivative."""
        below = ndtr(jnp.asarray(self.kinks, q.dtype) / jnp.sqrt(q))
        return jnp.diff(jnp.pad(below, 1, constant_values=(0, 1)))

    def at(self, q: Scalar) -> Correlated:
        """M at the variance q."""
        return AngleIntegral(self, q, self.second_moment(q)[0], self.slope_moment(q))


class AngleIntegral(Correlated):
    """M of a piecewise linear function as an integral over the angle arccos(c)."""

    activation: PiecewiseLinear
    q: Scalar
    variance: Scalar
    slope_moment: Scalar

    def value_and_slope(self, c: Scalar) -> tuple[Scalar, Scalar]:
        """The two integrals share their nodes."""
        nodes, weights = (jnp.asarray(part, c.dtype) for part in legendre())
        # arccos(1 - e) loses half of the digits of e, and has no derivative at 1.
        inside = jnp.abs(c) < 1
        half = jnp.sqrt(jnp.where(inside, 1 - c, 1) / 2)
        theta = jnp.where(inside, 2 * jnp.arcsin(half), jnp.where(c < 0, np.pi, 0))
        t = theta * nodes
        kinks = jnp.asarray(self.activation.kinks, c.dtype) / jnp.sqrt(self.q)
        jumps = jnp.asarray(self.activation.jumps, c.dtype)
        left, right = kinks[:, None, None], kinks[None, :, None]
        sine, cosine = jnp.sin(t)[None, None], jnp.cos(t)[None, None]
        gap = (left - right) ** 2
        exponent = -jnp.where(gap > 0, gap / (2 * jnp.maximum(sine, 1e-30) ** 2), 0)
        exponent = exponent - left * right / jnp.maximum(1 + cosine, 1e-30)
        density = jnp.einsum("i,j,ijt->t", jumps, jumps, jnp.exp(exponent))
        density = density * weights * theta / (2 * np.pi)
        slope = self.slope_moment - jnp.sum(density)
        curved = jnp.sum((jnp.cos(t) - c) * density)
        return self.variance - self.q * ((1 - c) * self.slope_moment - curved), slope


relu = PiecewiseLinear((0.0,), (0.0, 1.0))
hard_tanh = PiecewiseLinear((-1.0, 1.0), (0.0, 1.0, 0.0), -1.0)

_KNOWN = {
    jax.nn.relu: relu,
    jax.nn.hard_tanh: hard_tanh,
    jax.nn.relu6: PiecewiseLinear((0.0, 6.0), (0.0, 1.0, 0.0)),
    jax.nn.leaky_relu: PiecewiseLinear((0.0,), (0.01, 1.0)),
    jnp.abs: PiecewiseLinear((0.0,), (-1.0, 1.0)),
}


def as_activation(activation: Any) -> SmoothActivation | PiecewiseLinear:
    """The activation with its moments; known kinked ones, and others that must be smooth."""
    if isinstance(activation, SmoothActivation | PiecewiseLinear):
        return activation
    if isinstance(activation, ABRelu):
        return PiecewiseLinear((0.0,), (activation.negative, activation.positive))
    try:
        known = _KNOWN.get(activation)
    except TypeError:
        known = None
    return SmoothActivation(activation) if known is None else known


def refuse_kinks(function: Any) -> None:
    """A trapezoidal sum that moves when the grid does has met a kink or a jump."""
    step = 0.05
    u = np.arange(-8, 8, step)
    grids = [jnp.asarray(u + shift * step) for shift in (0.0, 0.25, 0.5, 0.75)]
    try:
        sums = [float(jnp.sum(jnp.exp(-(x**2) / 2) * function(x) ** 2)) for x in grids]
    except jax.errors.TracerArrayConversionError:
        return
    except jax.errors.ConcretizationTypeError:
        return
    if not np.all(np.isfinite(sums)):
        raise bad_argument("activation", f"{function!r}, not finite", "a finite function")
    accuracy = 1e-9 if grids[0].dtype == jnp.float64 else 1e-5
    if np.ptp(sums) > accuracy * max(abs(sums[0]), 1e-30):
        raise bad_argument(
            "activation",
            f"{function!r}, which has a kink or a jump",
            "a smooth function",
            "Use bayleaf.infinite.PiecewiseLinear where it is linear between its kinks.",
        )


@functools.cache
def legendre() -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NUM_ANGLES)
    return (nodes + 1) / 2, weights / 2


@functools.cache
def rule(dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes z, weights of the normal law, and rows weights * h_n(z) for n < NUM_TERMS."""
    z = np.arange(-REACH, REACH + STEP / 2, STEP)
    weights = STEP * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    rows = hermite_rows(z, weights, NUM_TERMS)
    return z.astype(dtype), weights.astype(dtype), rows.astype(dtype)

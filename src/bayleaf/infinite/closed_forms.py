"""Smooth activations whose Gaussian moments are known: Erf, Gelu, Sin, Cos, Exp, Gaussian, Rbf.

With u, v of variances q1, q2 and covariance k, and 1 - rho^2 = (1 - rho)(1 + rho) =: d,

    Erf:       (2 / pi) arcsin(2 k / sqrt(p1 p2)),  p = 1 + 2 q            (Williams 1998)
    Gelu:      k / 4 + [k F + G (q1 q2 - k^2 + k^2 / (1 + q1) + k^2 / (1 + q2))] / 4,
               F = (2 / pi) arcsin(k / sqrt((1 + q1)(1 + q2))),  G = (2 / pi) / sqrt(D),
               D = (1 + q1)(1 + q2) - k^2                                   (by parts, twice)
    Sin:       exp(-(q1 + q2) / 2) sinh(k), and cosh(k) for Cos
    Exp:       exp((q1 + q2) / 2 + k)
    Gaussian:  1 / sqrt((1 + 2 b q1)(1 + 2 b q2) - 4 b^2 k^2).

Determinants are sums of positive terms, q1 q2 - k^2 = q1 q2 d, so that large variances of near
duplicates lose nothing.

Source: Williams, Computation with infinite neural networks, Neural Computation 10 (1998), for Erf;
the others follow by Gaussian integrals.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.infinite.activation import (
    Activation,
    Moments,
    Pair,
    Values,
    bounded,
    gaussian_state,
)
from bayleaf.infinite.arcs import arcsin, half_angle, root
from bayleaf.infinite.piecewise import finite
from bayleaf.infinite.state import KernelState, kept, safe_ratio


class Erf(Activation):
    """The error function ``2 / sqrt(pi) int_0^x exp(-t^2) dt``."""

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return jax.scipy.special.erf(x)

    def second_moment(self, q: Values) -> Values:
        """(2 / pi) arcsin(2 q / (1 + 2 q))."""
        return 2 / jnp.pi * self._angle(q)

    def slope_moment(self, q: Values) -> Values:
        """(4 / pi) / sqrt(1 + 4 q)."""
        return 4 / jnp.pi / jnp.sqrt(1 + 4 * q)

    def cross(self, pair: Pair) -> Moments:
        """(2 / pi) arcsin(...), and (4 / pi) / sqrt(p1 p2 - 4 k^2)."""
        one, two = self._side(pair.q1), self._side(pair.q2)
        below, slope = _angles(pair, one, two)
        angle = jnp.maximum(one.root_angle**2 / 2 + two.root_angle**2 / 2 - below, 0)
        return Moments(2 / jnp.pi * jnp.where(pair.rho < 0, -angle, angle), slope)

    def propagate(self, state: Any) -> KernelState:
        """As above, with 1 - |rho'| from the difference of angles itself."""
        state = gaussian_state(state, self)
        q1, q2 = bounded(state.q1), bounded(state.q2)
        sides = kept((self._side(q1), self._side(q2)))
        one = ErfSide(*(state.side1(x) for x in sides[0]))
        two = ErfSide(*(state.side2(x) for x in sides[1]))
        units = Pair(state.rho, state.one_minus, state.one_plus, one.q, two.q)
        below, slope = _angles(units, one, two)
        # sqrt(A1 A2) - A = (A1 + A2) / 2 - A - (sqrt(A1) - sqrt(A2))^2 / 2.
        gap = jnp.maximum(below - 0.5 * (one.root_angle - two.root_angle) ** 2, 0)
        size = one.root_angle * two.root_angle
        gap = jnp.where(size == 0, 1, safe_ratio(gap, size))
        is_acute = state.one_minus <= state.one_plus
        return state.with_correlation(
            jnp.where(is_acute, gap, 2 - gap),
            jnp.where(is_acute, 2 - gap, gap),
            ntk=state.unscaled(state.ntk) * slope,
            var1=2 / jnp.pi * sides[0].root_angle ** 2,
            var2=2 / jnp.pi * sides[1].root_angle ** 2,
            exponent1=jnp.zeros_like(state.exponent1),
            exponent2=jnp.zeros_like(state.exponent2),
            is_gaussian=False,
            is_fresh=False,
        ).normalised()

    def _angle(self, q: Values) -> Values:
        """arcsin(z) for z = 2 q / (1 + 2 q); near z = 1 from 1 - z = 1 / (1 + 2 q)."""
        z = 2 * q / (1 + 2 * q)
        is_small = z <= 0.7
        large = jnp.pi / 2 - half_angle(jnp.where(is_small, 1, 1 / (1 + 2 * q)))
        return jnp.where(is_small, arcsin(jnp.where(is_small, z, 0)), large)

    def _side(self, q: Values) -> ErfSide:
        angle = self._angle(q)
        p = 1 + 2 * q
        return ErfSide(
            q,
            2 * q / p,
            root(2 * q / p),
            1 / p,
            jnp.sin(angle / 2),
            jnp.cos(angle / 2),
            root(angle),
        )


class ErfSide(NamedTuple):
    """Of single inputs: q, z = 2 q / p, its root, 1 / p, sin and cos of A / 2, sqrt(A)."""

    q: Values
    z: Values
    root_z: Values
    over_p: Values
    sin: Values
    cos: Values
    root_angle: Values


def _angles(pair: Pair, one: ErfSide, two: ErfSide) -> tuple[Values, Values]:
    """B - A and E phi' phi', for A = arcsin(2 |k| / sqrt(p1 p2)) and B = (A1 + A2) / 2.

    sin^2 B - sin^2 A = sin^2((A1 - A2) / 2) + z1 z2 (1 - rho^2), and the left side is
    sin(B - A) sin(B + A): no difference of near numbers is left.
    """
    shape = one.z * two.z * (pair.one_minus * pair.one_plus)
    sine = jnp.minimum(jnp.abs(pair.rho) * (one.root_z * two.root_z), 1)
    # 1 - z1 z2 rho^2, where 1 - z1 z2 = (1 + 2 q1 + 2 q2) / (p1 p2).
    cosine = jnp.sqrt(one.over_p * two.over_p + (one.z * two.over_p + two.z * one.over_p) + shape)
    sin_b = one.sin * two.cos + one.cos * two.sin
    cos_b = one.cos * two.cos - one.sin * two.sin
    product = (one.sin * two.cos - one.cos * two.sin) ** 2 + shape
    below = arcsin(jnp.minimum(safe_ratio(product, sine * cos_b + cosine * sin_b), 1))
    slope = 4 / jnp.pi * (jnp.sqrt(one.over_p) * jnp.sqrt(two.over_p)) / cosine
    return below, slope


class Gelu(Activation):
    """``x Phi(x)``, Phi the normal distribution function; not the tanh approximation."""

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return x * jax.scipy.stats.norm.cdf(x)

    def second_moment(self, q: Values) -> Values:
        """``cross`` at rho = 1."""
        return self.cross(_itself(q)).value

    def slope_moment(self, q: Values) -> Values:
        """``cross`` at rho = 1."""
        return self.cross(_itself(q)).slope

    def cross(self, pair: Pair) -> Moments:
        """The formula of the module's head, and its derivative with respect to k."""
        q1, q2, k = pair.q1, pair.q2, pair.covariance
        product = (1 + q1) * (1 + q2)
        rest = q1 * q2 * (pair.one_minus * pair.one_plus)
        determinant = 1 + q1 + q2 + rest
        size = jnp.abs(k)
        # arcsin(k / sqrt(product)) = pi / 2 - the angle with cosine 1 - gap.
        gap = determinant / (product + size * jnp.sqrt(product))
        angle = jnp.where(k < 0, -1, 1) * (jnp.pi / 2 - half_angle(jnp.minimum(gap, 1)))
        both = 2 / jnp.pi * angle
        density = 2 / jnp.pi / jnp.sqrt(determinant)
        shares = 1 / (1 + q1) + 1 / (1 + q2)
        value = 0.25 * (k + k * both + density * (rest + k * k * shares))
        slope = 0.25 * (1 + both + density * k * (shares + 1 / determinant))
        return Moments(value, slope)


class Sin(Activation):
    """``amplitude sin(frequency x + phase)``.

    With b = frequency, E = a^2 / 2 [exp(-b^2 (q1 + q2 - 2k) / 2) - cos(2 phase)
    exp(-b^2 (q1 + q2 + 2k) / 2)].
    """

    amplitude: float = eqx.field(static=True, default=1.0)
    frequency: float = eqx.field(static=True, default=1.0)
    phase: float = eqx.field(static=True, default=0.0)

    def __check_init__(self) -> None:
        for name in ("amplitude", "frequency", "phase"):
            finite(getattr(self, name), name)

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return self.amplitude * jnp.sin(self.frequency * x + self.phase)

    def second_moment(self, q: Values) -> Values:
        """a^2 / 2 [1 - cos(2 phase) exp(-2 b^2 q)]."""
        fall = jnp.exp(-2 * self.frequency**2 * q)
        # At phase 0 the difference is of near numbers where q is small.
        turn = 2 * jnp.sin(jnp.asarray(self.phase, q.dtype)) ** 2
        change = -jnp.expm1(-2 * self.frequency**2 * q)
        return self.amplitude**2 / 2 * (change + turn * fall)

    def slope_moment(self, q: Values) -> Values:
        """a^2 b^2 / 2 [1 + cos(2 phase) exp(-2 b^2 q)]."""
        even = jnp.cos(jnp.asarray(2 * self.phase, q.dtype))
        scale = (self.amplitude * self.frequency) ** 2 / 2
        return scale * (1 + even * jnp.exp(-2 * self.frequency**2 * q))

    def cross(self, pair: Pair) -> Moments:
        """See the class."""
        even = jnp.cos(jnp.asarray(2 * self.phase, pair.rho.dtype))
        apart, sum_ = _squares(pair)
        low = jnp.exp(-(self.frequency**2) / 2 * apart)
        high = even * jnp.exp(-(self.frequency**2) / 2 * sum_)
        scale = self.amplitude**2 / 2
        return Moments(scale * (low - high), scale * self.frequency**2 * (low + high))


class Cos(Sin):
    """``amplitude cos(frequency x + phase)``."""

    def __init__(self, amplitude: float = 1.0, frequency: float = 1.0, phase: float = 0.0):
        self.amplitude, self.frequency = amplitude, frequency
        self.phase = finite(phase, "phase") + jnp.pi / 2


class Rbf(Sin):
    """``sqrt(2) sin(sqrt(2 gamma) x + pi / 4)``, with E = exp(-gamma (q1 + q2 - 2k))."""

    def __init__(self, gamma: float = 1.0):
        if not finite(gamma, "gamma") > 0:
            raise bad_argument("gamma", gamma, "a number > 0")
        self.amplitude, self.frequency, self.phase = 2**0.5, (2 * gamma) ** 0.5, jnp.pi / 4


class Exp(Activation):
    """``amplitude exp(rate x)``."""

    amplitude: float = eqx.field(static=True, default=1.0)
    rate: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        for name in ("amplitude", "rate"):
            finite(getattr(self, name), name)

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return self.amplitude * jnp.exp(self.rate * x)

    def second_moment(self, q: Values) -> Values:
        """a^2 exp(2 b^2 q)."""
        return self.amplitude**2 * jnp.exp(2 * self.rate**2 * q)

    def slope_moment(self, q: Values) -> Values:
        """b^2 times the second moment."""
        return self.rate**2 * self.second_moment(q)

    def cross(self, pair: Pair) -> Moments:
        """a^2 exp(b^2 (q1 + q2 + 2k) / 2)."""
        _, sum_ = _squares(pair)
        value = self.amplitude**2 * jnp.exp(self.rate**2 / 2 * sum_)
        return Moments(value, self.rate**2 * value)


class Gaussian(Activation):
    """``amplitude exp(-rate x^2)``."""

    amplitude: float = eqx.field(static=True, default=1.0)
    rate: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        if not finite(self.rate, "rate") > 0:
            raise bad_argument("rate", self.rate, "a number > 0")
        finite(self.amplitude, "amplitude")

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return self.amplitude * jnp.exp(-self.rate * x**2)

    def second_moment(self, q: Values) -> Values:
        """a^2 / sqrt(1 + 4 b q)."""
        return self.amplitude**2 / jnp.sqrt(1 + 4 * self.rate * q)

    def slope_moment(self, q: Values) -> Values:
        """4 a^2 b^2 q (1 + 4 b q)^(-3/2)."""
        return 4 * self.rate**2 * q * self.second_moment(q) / (1 + 4 * self.rate * q)

    def cross(self, pair: Pair) -> Moments:
        """a^2 / sqrt(D), and 4 b^2 k a^2 D^(-3/2)."""
        r1, r2 = 2 * self.rate * pair.q1, 2 * self.rate * pair.q2
        determinant = 1 + r1 + r2 + r1 * r2 * (pair.one_minus * pair.one_plus)
        value = self.amplitude**2 / jnp.sqrt(determinant)
        return Moments(value, 4 * self.rate**2 * pair.covariance * value / determinant)


def _itself(q: Values) -> Pair:
    one = jnp.ones_like(q)
    return Pair(one, 0 * one, 2 * one, q, q)


def _squares(pair: Pair) -> tuple[Values, Values]:
    """E (u - v)^2 and E (u + v)^2, as sums of positive terms."""
    norms = (root(pair.q1) - root(pair.q2)) ** 2
    size = 2 * pair.size
    return norms + size * pair.one_minus, norms + size * pair.one_plus

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
from bayleaf.infinite.state import KernelState, safe_ratio


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
        _, angle, slope = self._angles(pair)
        sign = jnp.where(pair.rho < 0, -1, 1)
        return Moments(2 / jnp.pi * sign * angle, slope)

    def propagate(self, state: KernelState) -> KernelState:
        """As above, with 1 - |rho'| from the difference of angles itself."""
        state = gaussian_state(state, self)
        q1, q2 = bounded(state.q1), bounded(state.q2)
        units = Pair(state.rho, state.one_minus, state.one_plus, state.side1(q1), state.side2(q2))
        below, _, slope = self._angles(units)
        angle1, angle2 = self._angle(q1), self._angle(q2)
        half1, half2 = state.side1(root(angle1)), state.side2(root(angle2))
        # sqrt(A1 A2) - A = (A1 + A2) / 2 - A - (sqrt(A1) - sqrt(A2))^2 / 2.
        gap = jnp.maximum(below - 0.5 * (half1 - half2) ** 2, 0)
        gap = jnp.where((half1 == 0) | (half2 == 0), 1, safe_ratio(gap, half1 * half2))
        is_acute = state.one_minus <= state.one_plus
        return state.with_correlation(
            jnp.where(is_acute, gap, 2 - gap),
            jnp.where(is_acute, 2 - gap, gap),
            ntk=state.unscaled(state.ntk) * slope,
            var1=2 / jnp.pi * angle1,
            var2=2 / jnp.pi * angle2,
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

    def _angles(self, pair: Pair) -> tuple[Values, Values, Values]:
        """B - A, A and E phi' phi', for A = arcsin(2 |k| / sqrt(p1 p2)), B = (A1 + A2) / 2.

        sin^2 B - sin^2 A = sin^2((A1 - A2) / 2) + z1 z2 (1 - rho^2) with z = 2 q / p, and the left
        side is sin(B - A) sin(B + A): no difference of near numbers is left.
        """
        determinant = pair.one_minus * pair.one_plus
        p1, p2 = 1 + 2 * pair.q1, 1 + 2 * pair.q2
        z1, z2 = 2 * pair.q1 / p1, 2 * pair.q2 / p2
        sine = jnp.minimum(jnp.abs(pair.rho) * (root(z1) * root(z2)), 1)
        # 1 - z1 z2 rho^2 = 1 - z1 z2 + z1 z2 d, and 1 - z1 z2 = (1 + 2 q1 + 2 q2) / (p1 p2).
        open_ = (1 / p1) / p2 + z1 / p2 + z2 / p1
        squared = open_ + (z1 * z2) * determinant
        cosine = jnp.sqrt(squared)
        a1, a2 = self._angle(pair.q1), self._angle(pair.q2)
        sin_b = jnp.sin(a1 / 2) * jnp.cos(a2 / 2) + jnp.cos(a1 / 2) * jnp.sin(a2 / 2)
        cos_b = jnp.cos(a1 / 2) * jnp.cos(a2 / 2) - jnp.sin(a1 / 2) * jnp.sin(a2 / 2)
        product = jnp.sin((a1 - a2) / 2) ** 2 + z1 * z2 * determinant
        below = arcsin(jnp.minimum(safe_ratio(product, sine * cos_b + cosine * sin_b), 1))
        slope = 4 / jnp.pi / (jnp.sqrt(p1) * jnp.sqrt(p2) * cosine)
        return below, jnp.maximum(0.5 * (a1 + a2) - below, 0), slope


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

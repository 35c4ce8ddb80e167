"""Activations with kinks or jumps at zero: ReLU and its family, Sign, powers of ReLU.

With theta = arccos(rho) and J = sin theta + (pi - theta) cos theta, for
phi(x) = a min(x, 0) + b max(x, 0),

    E phi(u) phi(v)   = sqrt(q1 q2) [(a - b)^2 J / (2 pi) + a b rho],
    E phi'(u) phi'(v) = (a - b)^2 (pi - theta) / (2 pi) + a b.

These are functions of the angle alone, so variances keep their exponents and nothing overflows at
any depth. 1 -+ rho' is formed from 1 -+ rho: with g = min(1 - rho, 1 + rho) and
s = (sin t - t cos t) / pi at cos t = 1 - g, there is only the difference g - s of numbers of
different order.

Source: Cho & Saul, Kernel methods for deep learning, NeurIPS 2009 (arc-cosine kernels).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.infinite.activation import Activation, Moments, Pair, Values, gaussian_state
from bayleaf.infinite.arcs import chord_area, half_angle
from bayleaf.infinite.state import KernelState


class ABRelu(Activation):
    """``negative min(x, 0) + positive max(x, 0)``: a and b of the formulas."""

    negative: float = eqx.field(static=True)
    positive: float = eqx.field(static=True)

    def __init__(self, negative: float, positive: float):
        self.negative, self.positive = finite(negative, "negative"), finite(positive, "positive")
        if self.negative == self.positive == 0:
            raise bad_argument("negative, positive", "0 and 0", "slopes that are not both zero")

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return self.negative * jnp.minimum(x, 0) + self.positive * jnp.maximum(x, 0)

    @property
    def _norm(self) -> float:
        return self.negative**2 + self.positive**2

    def second_moment(self, q: Values) -> Values:
        """(a^2 + b^2) q / 2."""
        return self._norm / 2 * q

    def slope_moment(self, q: Values) -> Values:
        """(a^2 + b^2) / 2."""
        return jnp.full_like(q, self._norm / 2)

    def cross(self, pair: Pair) -> Moments:
        """The formulas of the module's head."""
        one_minus, one_plus, slope = self._angles(pair.one_minus, pair.one_plus)
        value = 0.5 * (one_plus - one_minus) * (self._norm / 2) * pair.size
        return Moments(value, slope)

    def propagate(self, state: Any) -> KernelState:
        """As above, without leaving the scale of the state."""
        state = gaussian_state(state, self)
        one_minus, one_plus, slope = self._angles(state.one_minus, state.one_plus)
        return state.evolve(
            one_minus=one_minus,
            one_plus=one_plus,
            ntk=state.ntk * slope,
            var1=self._norm / 2 * state.var1,
            var2=self._norm / 2 * state.var2,
            is_gaussian=False,
            is_fresh=False,
        ).normalised()

    def _angles(self, one_minus: Values, one_plus: Values) -> tuple[Values, Values, Values]:
        """1 - rho', 1 + rho' and E phi' phi'."""
        a, b, norm = self.negative, self.positive, self._norm
        odd = 2 * a * b / norm  # the share of the linear part
        even, both = (a - b) ** 2 / norm, (a + b) ** 2 / norm  # 1 - odd and 1 + odd
        is_acute = one_minus <= one_plus
        gap = jnp.minimum(one_minus, one_plus)
        area = even / jnp.pi * chord_area(gap)
        angle = half_angle(gap) / jnp.pi
        acute = gap - area
        new_minus = jnp.where(is_acute, acute, both - odd * gap - area)
        new_plus = jnp.where(is_acute, 2 - acute, even + odd * gap + area)
        slope = norm / 2 * (even * jnp.where(is_acute, 1 - angle, angle) + odd)
        return new_minus, new_plus, slope


class Relu(ABRelu):
    """``max(x, 0)``."""

    def __init__(self):
        super().__init__(0.0, 1.0)


class LeakyRelu(ABRelu):
    """``max(x, 0) + slope min(x, 0)``."""

    def __init__(self, slope: float = 0.01):
        super().__init__(slope, 1.0)


class Abs(ABRelu):
    """``|x|``."""

    def __init__(self):
        super().__init__(-1.0, 1.0)


class Sign(Activation):
    """The sign of x: E sign(u) sign(v) = 1 - 2 theta / pi.

    Its derivative is zero almost everywhere, so that nothing before it is trained: Theta' = 0.
    """

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return jnp.sign(x)

    def second_moment(self, q: Values) -> Values:
        """1, for whatever q > 0."""
        return jnp.where(q > 0, jnp.ones_like(q), 0)

    def slope_moment(self, q: Values) -> Values:
        """0."""
        return jnp.zeros_like(q)

    def cross(self, pair: Pair) -> Moments:
        """1 - 2 theta / pi, and 0."""
        share = 2 / jnp.pi * half_angle(jnp.minimum(pair.one_minus, pair.one_plus))
        value = jnp.where(pair.one_minus <= pair.one_plus, 1 - share, share - 1)
        value = jnp.where(pair.size > 0, value, 0)
        return Moments(value, jnp.zeros_like(value))

    def propagate(self, state: Any) -> KernelState:
        """1 - rho' = 2 theta / pi."""
        state = gaussian_state(state, self)
        share = 2 / jnp.pi * half_angle(jnp.minimum(state.one_minus, state.one_plus))
        is_acute = state.one_minus <= state.one_plus
        return state.evolve(
            one_minus=jnp.where(is_acute, share, 2 - share),
            one_plus=jnp.where(is_acute, 2 - share, share),
            ntk=jnp.zeros_like(state.ntk),
            var1=self.second_moment(state.var1),
            var2=self.second_moment(state.var2),
            exponent1=jnp.zeros_like(state.exponent1),
            exponent2=jnp.zeros_like(state.exponent2),
            is_gaussian=False,
            is_fresh=False,
        )


def finite(value: float, name: str) -> float:
    """A number that is built into the program."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise bad_argument(name, repr(value), "a finite number") from None
    if not abs(number) < float("inf"):
        raise bad_argument(name, number, "a finite number")
    return number

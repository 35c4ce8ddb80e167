"""What an activation has to know of Gaussian units, and how it then maps the kernels.

For phi and Gaussian units u, v with variances q1, q2 and correlation rho,

    K' = E phi(u) phi(v),    Theta' = Theta E phi'(u) phi'(v).

An activation offers four numbers: ``second_moment(q)`` = E phi(sqrt(q) z)^2, ``slope_moment(q)`` =
E phi'(sqrt(q) z)^2, and ``cross(pair)`` = both of the above for pairs. It is a function too:
``Relu()(x)``.

A new activation is a subclass with these methods; those with kinks replace ``propagate`` as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.infinite.arcs import root
from bayleaf.infinite.dense import one_state
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.state import KernelState, kept, safe_ratio
from bayleaf.types import Key, Scalar

Values = Float[Array, "..."]


class Pair(NamedTuple):
    """Two Gaussian units, or arrays of such pairs; the fields broadcast with each other."""

    rho: Values
    one_minus: Values
    one_plus: Values
    q1: Values
    q2: Values

    @property
    def size(self) -> Values:
        """sqrt(q1 q2)."""
        return root(self.q1) * root(self.q2)

    @property
    def covariance(self) -> Values:
        """The covariance, rho sqrt(q1 q2)."""
        return self.rho * self.size


def pair(rho: ArrayLike, q1: ArrayLike, q2: ArrayLike) -> Pair:
    """A pair from numbers or arrays of one shape."""
    rho, q1, q2 = jnp.broadcast_arrays(*(jnp.asarray(x, float) for x in (rho, q1, q2)))
    return Pair(rho, 1 - rho, 1 + rho, q1, q2)


class Moments(NamedTuple):
    """E phi(u) phi(v), E phi'(u) phi'(v), and a bound on what a series leaves out of the first.

    ``fall`` is the integral of the second over covariances from k to sqrt(q1 q2), good where rho is
    near 1; None takes the mean of both ends.
    """

    value: Values
    slope: Values
    error: Scalar | float = 0.0
    fall: Values | None = None


class Activation(Layer):
    """An elementwise function with its Gaussian moments."""

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        raise NotImplementedError(type(self).__name__)

    def second_moment(self, q: Values) -> Values:
        """E phi(sqrt(q) z)^2 for a standard normal z."""
        raise NotImplementedError(type(self).__name__)

    def slope_moment(self, q: Values) -> Values:
        """E phi'(sqrt(q) z)^2."""
        raise NotImplementedError(type(self).__name__)

    def cross(self, pair: Pair) -> Moments:
        """E phi(u) phi(v) and E phi'(u) phi'(v)."""
        raise NotImplementedError(type(self).__name__)

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """phi(x)."""
        return self(x)

    def propagate(self, state: Any) -> KernelState:
        """K' and Theta' from the moments; 1 - rho' in its own way where rho is near 1."""
        state = gaussian_state(state, self)
        q1, q2 = bounded(state.q1), bounded(state.q2)
        sides = kept((self._side(q1), self._side(q2)))
        one, two = (
            Side(*(side(x) for x in rows))
            for rows, side in zip(sides, (state.side1, state.side2), strict=True)
        )
        units = Pair(state.rho, state.one_minus, state.one_plus, one.q, two.q)
        value, slope, error, fall = self.cross(units)
        rho = jnp.clip(safe_ratio(value, one.size * two.size), -1, 1)
        if fall is None:
            mean_slope = 0.5 * (slope + one.slope * two.slope)
            fall = one.sd * two.sd * units.one_minus * mean_slope
        one_minus = _near_one(units, one, two, fall, 1 - rho)
        return state.with_correlation(
            one_minus,
            1 + rho,
            ntk=state.unscaled(state.ntk) * slope,
            var1=sides[0].size ** 2,
            var2=sides[1].size ** 2,
            exponent1=jnp.zeros_like(state.exponent1),
            exponent2=jnp.zeros_like(state.exponent2),
            error=state.error + jnp.asarray(error, q1.dtype),
            is_gaussian=False,
            is_fresh=False,
        ).normalised()

    def _side(self, q: Values) -> Side:
        return Side(
            q,
            root(q),
            root(self.second_moment(q)),
            root(self.slope_moment(q)),
            root(self._speed(q)),
        )

    def _speed(self, q: Values) -> Values:
        """|df/ds|^2 = (W + 2 q dW/dq) / V - q (dV/dq)^2 / V^2, W the slope moment, by parts."""
        one = jnp.ones_like(q)
        slope, slope_change = jax.jvp(self.slope_moment, (q,), (one,))
        value, change = jax.jvp(self.second_moment, (q,), (one,))
        speed = safe_ratio(slope + 2 * q * slope_change, value) - q * safe_ratio(change, value) ** 2
        return jnp.maximum(speed, 0)


class Side(NamedTuple):
    """Of single inputs: q, and the roots of q, E phi^2, E phi'^2 and |df/ds|^2."""

    q: Values
    sd: Values
    size: Values
    slope: Values
    speed: Values


def _near_one(units: Pair, one: Side, two: Side, fall: Array, plain: Array) -> Array:
    """1 - rho' of near duplicates, which the difference ``plain`` would lose.

    With the slope S(k) = dK'/dk at covariance k and k_1 = sqrt(q1 q2),

        sqrt(V1 V2) - K' = [sqrt(V1 V2) - K'(k_1)] + integral of S from k to k_1.

    The integral is ``fall``. The bracket, over sqrt(V1 V2), is
    |f(s_1) - f(s_2)|^2 / 2 for the unit vector f(s) = phi(s z) / sqrt(V) in the Gaussian L2 space,
    hence |df/ds|^2 (s_1 - s_2)^2 / 2 with s = sqrt(q), to second order in s_1 - s_2: inputs on one
    ray and of other lengths are no near duplicates.
    """
    path = safe_ratio(fall, one.size * two.size)
    norms = 0.5 * (one.speed * two.speed) * (one.sd - two.sd) ** 2
    eps = jnp.finfo(plain.dtype).eps
    is_near = (units.one_minus < eps ** (1 / 3)) & (norms < eps**0.5)
    return jnp.where(is_near, path + norms, plain)


def gaussian_state(state: Any, layer: Layer) -> KernelState:
    """The state before an activation, whose units must be Gaussian."""
    state = one_state(state, layer)
    if not state.is_gaussian:
        raise bad_argument(
            type(layer).__name__,
            "units that are not Gaussian",
            "a layer with weights before it",
            "Put Dense(width) between the inputs, or the activation before, and this one.",
        )
    return state


def bounded(q: Values) -> Values:
    """Variances with products that do not overflow; activations are saturated long before."""
    info = jnp.finfo(q.dtype)
    return jnp.minimum(q, jnp.asarray(float(info.max) ** 0.4, q.dtype))

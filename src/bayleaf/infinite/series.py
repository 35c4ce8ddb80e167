"""Any activation by its Hermite series: Elementwise, and Polynomial, whose series is finite.

With c_n(q) = E phi(sqrt(q) z) h_n(z), Mehler's formula gives

    E phi(u) phi(v)   = sum_n c_n(q1) c_n(q2) rho^n,
    E phi'(u) phi'(v) = sum_n n c_n(q1) c_n(q2) rho^(n - 1) / sqrt(q1 q2),

a few operations per term and pair, where a two-dimensional quadrature takes hundreds of evaluations
of phi. The coefficients belong to single inputs.

What is cut off is known, by Parseval: T(q) = E phi^2 - sum c_n^2 of the first sum (N terms) and
R(q) = E phi'^2 - sum n c_n^2 / q of the second. They are put at the first term that is left out,
which makes the diagonal exact; elsewhere the error of the first sum is at most

    min(sqrt(T1 T2) |rho|^N, sqrt(q1 q2 R1 R2) (1 - rho)),

and its largest value is reported. Smooth functions converge fast: tanh at q = 1 leaves 1e-8 of the
second sum after 64 terms, at q = 9 it leaves 1e-2, and more terms are needed. Kinked functions
converge like N^(-1/2): use a closed form where there is one.

Source: Mehler (1866); Daniely, Frostig & Singer, NeurIPS 2016 (dual activations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.infinite.activation import Activation, Moments, Pair, Values
from bayleaf.infinite.arcs import root
from bayleaf.infinite.dense import positive_int
from bayleaf.infinite.piecewise import finite
from bayleaf.infinite.quadrature import coefficients, expectation
from bayleaf.infinite.state import kept, safe_ratio
from bayleaf.trees import Frozen, frozen_function

UNROLLED = 80  # longer series are summed by a loop, which compiles faster and runs slower


class Elementwise(Activation):
    """Any elementwise function, such as ``jnp.tanh``.

    Args:
        function: phi, of an array, elementwise, differentiable by JAX almost everywhere.
        num_terms: N, the length of the series. 64 suits float32 with variances up to about 2; a
            kernel whose series leaves out more than 1e-5 of it comes with a warning.
    """

    function: Frozen
    num_terms: int = eqx.field(static=True)
    parity: int | None = eqx.field(static=True)

    def __init__(self, function: Any, num_terms: int = 64):
        self.function = frozen_function(function, "function")
        self.num_terms = positive_int(num_terms, "num_terms")
        self.parity = _parity(self.function)

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return self.function(x)

    def derivative(self, x: Array) -> Array:
        """phi'(x)."""
        return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]

    def second_moment(self, q: Values) -> Values:
        """By quadrature."""
        return expectation(lambda x: self(x) ** 2, q)

    def slope_moment(self, q: Values) -> Values:
        """By quadrature."""
        return expectation(lambda x: self.derivative(x) ** 2, q)

    def cross(self, pair: Pair) -> Moments:
        """The two series, with what they leave out at the next term."""
        tails = kept([self._tails(q) for q in (pair.q1, pair.q2)])
        (c1, rest1, slope_rest1), (c2, rest2, slope_rest2) = tails
        rest, slope_rest = rest1 * rest2, slope_rest1 * slope_rest2
        value, slope = mehler(c1, c2, pair.rho, self.parity)
        last = _matching(self.num_terms, self.parity)
        power = pair.rho ** (last - 1)
        bound = jnp.minimum(
            rest * jnp.abs(power), pair.size * slope_rest * jnp.maximum(pair.one_minus, 0)
        )
        size = root(self.second_moment(pair.q1)) * root(self.second_moment(pair.q2))
        return Moments(
            value + rest * power * pair.rho,
            safe_ratio(slope, pair.size) + slope_rest * power,
            jnp.max(jax.lax.stop_gradient(safe_ratio(bound, size))),
        )

    def _tails(self, q: Values) -> tuple[Array, Values, Values]:
        """c_n, the root of T and the root of R."""
        c = coefficients(self.function, q, self.num_terms)
        n = jnp.arange(self.num_terms, dtype=q.dtype).reshape((1,) * q.ndim + (-1,))
        inside = safe_ratio(jnp.sum(n * c * c, axis=-1), q)
        whole = self.second_moment(q)
        rest = whole - jnp.sum(c * c, axis=-1)
        # Differences of round-off are no tails, and their roots would be large.
        return c, _tail(rest, whole), _tail(self.slope_moment(q) - inside, inside)


class Polynomial(Activation):
    """``sum_k coefficients[k] x^k``; its kernels are exact."""

    coefficients: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, coefficients: Sequence[float]):
        numbers = tuple(finite(c, "coefficients") for c in np.ravel(coefficients))
        if not numbers or not any(numbers):
            raise bad_argument("coefficients", numbers, "at least one number that is not zero")
        self.coefficients = numbers

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return jnp.polyval(jnp.asarray(self.coefficients[::-1], x.dtype), x)

    def second_moment(self, q: Values) -> Values:
        """The sum of the squared Hermite coefficients."""
        return jnp.sum(self.hermite(q) ** 2, axis=-1)

    def slope_moment(self, q: Values) -> Values:
        """The same of the derivative."""
        slopes = tuple(k * c for k, c in enumerate(self.coefficients))[1:] or (0.0,)
        return jnp.sum(_hermite_of(slopes, q) ** 2, axis=-1)

    def cross(self, pair: Pair) -> Moments:
        """The two finite series."""
        value, slope = mehler(self.hermite(pair.q1), self.hermite(pair.q2), pair.rho, None)
        return Moments(value, safe_ratio(slope, pair.size))

    def hermite(self, q: Values) -> Float[Array, "*batch term"]:
        """c_n(q)."""
        return _hermite_of(self.coefficients, q)


def mehler(
    c1: Float[Array, "... term"],
    c2: Float[Array, "... term"],
    rho: Values,
    parity: int | None,
) -> tuple[Values, Values]:
    """Sum c1_n c2_n rho^n and its derivative with respect to rho.

    Args:
        c1: coefficients of side 1.
        c2: coefficients of side 2.
        rho: correlations.
        parity: 0 or 1 where all terms that are not of this parity vanish.
    """
    first, step = (0, 1) if parity is None else (parity, 2)
    c1, c2 = c1[..., first::step], c2[..., first::step]
    y = rho if parity is None else rho * rho
    value, slope = _horner(c1, c2, y)
    if parity is None:
        return value, slope
    if parity == 0:
        return value, 2 * rho * slope
    return rho * value, value + 2 * y * slope


def _horner(c1: Array, c2: Array, y: Array) -> tuple[Array, Array]:
    """The polynomial with coefficients c1 c2, and its derivative, in one pass."""
    num_terms = c1.shape[-1]

    def step(value: Array, slope: Array, a: Array, b: Array) -> tuple[Array, Array]:
        return value * y + a * b, slope * y + value

    value, slope = jnp.zeros_like(y), jnp.zeros_like(y)
    if num_terms <= UNROLLED:
        for n in reversed(range(num_terms)):
            value, slope = step(value, slope, c1[..., n], c2[..., n])
        return value, slope
    terms = (jnp.moveaxis(c1, -1, 0)[::-1], jnp.moveaxis(c2, -1, 0)[::-1])
    return jax.lax.scan(lambda carry, t: (step(*carry, *t), None), (value, slope), terms)[0]


def _hermite_of(coefficients_: tuple[float, ...], q: Array) -> Array:
    """Hermite coefficients of a polynomial of sqrt(q) z: z^k = sum_j k! / (2^j j! n!) He_n."""
    sd = root(q)
    columns = []
    for n in range(len(coefficients_)):
        total = jnp.zeros_like(q)
        for k in range(n, len(coefficients_), 2):
            j = (k - n) // 2
            weight = math.factorial(k) / (2**j * math.factorial(j)) / math.sqrt(math.factorial(n))
            total = total + coefficients_[k] * weight * sd**k
        columns.append(total)
    return jnp.stack(columns, axis=-1)


def _tail(rest: Values, whole: Values) -> Values:
    """The root of what is left out, and zero where that is round-off."""
    noise = 16 * jnp.finfo(rest.dtype).eps * whole
    return root(jnp.where(rest > noise, rest, 0))


def _matching(num_terms: int, parity: int | None) -> int:
    """The first n >= num_terms whose term does not vanish."""
    return num_terms if parity is None else num_terms + (num_terms + parity) % 2


def _parity(function: Frozen) -> int | None:
    """0 for even functions, 1 for odd ones, seen at a few points; None for others."""
    x = jnp.asarray([0.1, 0.37, 0.9, 1.7, 3.1, 7.7])
    try:
        left, right = np.asarray(function(-x)), np.asarray(function(x))
    except jax.errors.JAXTypeError:  # arrays of the function are being traced
        return None
    if right.shape != x.shape:
        raise bad_argument("function", f"shape {right.shape} from {x.shape}", "elementwise")
    if not np.all(np.isfinite(right)):
        raise bad_argument("function", "NaN or infinity", "finite values")
    if np.array_equal(left, right):
        return 0
    return 1 if np.array_equal(left, -right) else None

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
second sum after 64 terms, at q = 9 it leaves 1e-2, and more terms are needed.

Kinked functions converge like N^(-1/2). Of those whose kinks are known, phi = psi + kappa with the
ramps kappa of the kinks, whose moments have formulas (see `bayleaf.infinite.kinks`), and the series
is that of E phi phi - E kappa kappa: its terms are c_n c_n less those of kappa. For piecewise
linear functions psi is linear and nothing is left out. Else T and R are those of psi, and the terms
of psi with kappa add sqrt(T1 T2') + sqrt(T1' T2) to the bound, T' of kappa.

Source: Mehler (1866); Daniely, Frostig & Singer, NeurIPS 2016 (dual activations).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.infinite.activation import Activation, Moments, Pair, Values
from bayleaf.infinite.arcs import root
from bayleaf.infinite.dense import positive_int
from bayleaf.infinite.kinks import ERROR, kinked, kinked_coefficients, ramps
from bayleaf.infinite.piecewise import finite
from bayleaf.infinite.quadrature import Kinks, coefficients, expectation
from bayleaf.infinite.state import kept, safe_ratio
from bayleaf.trees import Frozen, frozen_function

_NOISE = 16  # units in the last place that are round-off
UNROLLED = 80  # longer series are summed by a loop, which compiles faster and runs slower


class Elementwise(Activation):
    """Any elementwise function, such as ``jnp.tanh``.

    Args:
        function: phi, of an array, elementwise, differentiable by JAX almost everywhere.
        num_terms: N, the length of the series. 64 suits float32 with variances up to about 2; a
            kernel whose series leaves out more than 1e-5 of it comes with a warning.
        kinks: where phi' jumps: ``kinks=(-1.0, 1.0)`` for the hard tanh. phi itself must not jump.
    """

    function: Frozen
    num_terms: int = eqx.field(static=True)
    kinks: Kinks = eqx.field(static=True)
    parity: int | None = eqx.field(static=True)

    def __init__(self, function: Any, num_terms: int = 64, kinks: Sequence[float] = ()):
        self.function = frozen_function(function, "function")
        self.num_terms = positive_int(num_terms, "num_terms")
        self.kinks = tuple(sorted({finite(k, "kinks") for k in kinks}))
        parity = _parity(self.function)
        self.parity = None if self.kinks else parity  # ramps are neither even nor odd
        _refuse_jumps(self.function, self.kinks)

    def __call__(self, x: Array) -> Array:
        """phi(x)."""
        return self.function(x)

    def derivative(self, x: Array) -> Array:
        """phi'(x)."""
        return jax.jvp(self.function, (x,), (jnp.ones_like(x),))[1]

    def second_moment(self, q: Values) -> Values:
        """By quadrature."""
        return self._expectation(lambda x: self(x) ** 2, q)

    def slope_moment(self, q: Values) -> Values:
        """By quadrature."""
        return self._expectation(lambda x: self.derivative(x) ** 2, q)

    def _expectation(self, function: Callable[[Array], Array], q: Values) -> Values:
        return expectation(function, q, self.kinks, self.parity is not None)

    def cross(self, pair: Pair) -> Moments:
        """The two series, with what they leave out at the next term, and the kinks."""
        jumps = [_jump(self.function, jnp.asarray(k, pair.rho.dtype)) for k in self.kinks]
        one, two = kept([self._terms(q, jumps) for q in (pair.q1, pair.q2)])
        last = _matching(self.num_terms, self.parity)
        # Bounds that are never met keep XLA from (2 rho)^n / 2^n, which is infinity / infinity.
        power = jnp.clip(pair.rho, -2, 2) ** (last - 1)
        rest, slope_rest = one.rest * two.rest, one.slope_rest * two.slope_rest
        value, slope = mehler(one.whole, two.whole, pair.rho, self.parity)
        if self.kinks:
            less, slope_less = mehler(one.ramp, two.ramp, pair.rho, self.parity)
            value, slope = value - less, slope - slope_less
        value = value + rest * power * pair.rho
        slope = safe_ratio(slope, pair.size) + slope_rest * power
        kink = ramps(pair.one_minus, pair.one_plus, pair.q1, pair.q2, self.kinks, jumps)
        # The values of pairs would be computed anew for each of what they are needed for.
        value, slope, kink = kept((value, slope, kink))
        mixed = one.rest * two.ramp_rest + one.ramp_rest * two.rest
        bound = jnp.minimum(
            rest * jnp.abs(power), pair.size * slope_rest * jnp.maximum(pair.one_minus, 0)
        )
        quadrature = ERROR * pair.size * sum(abs(d) for d in jumps) ** 2
        bound = (bound + mixed * jnp.abs(power) + quadrature) * (one.over_size * two.over_size)
        # The smooth part of the slope at rho = 1; that of kinks falls like sqrt(1 - rho).
        ends = 0.5 * (one.smooth_slope + two.smooth_slope)
        fall = pair.size * pair.one_minus * (0.5 * (slope + ends)) + kink.fall
        return Moments(
            value + kink.value,
            slope + kink.slope,
            jnp.max(jax.lax.stop_gradient(bound)),
            fall,
        )

    def _terms(self, q: Values, jumps: list[Array]) -> Terms:
        """What the series needs of single inputs."""

        def psi(x: Array) -> Array:
            return self(x) - kinked(x, self.kinks, jumps)

        def psi_slope(x: Array) -> Array:
            return jax.jvp(psi, (x,), (jnp.ones_like(x),))[1]

        is_even = self.parity is not None
        smooth = coefficients(psi, q, self.num_terms, self.kinks, is_even)
        n = jnp.arange(self.num_terms, dtype=q.dtype).reshape((-1,) + (1,) * q.ndim)
        if self.parity is not None:  # half of the nodes know nothing of the other terms
            smooth = jnp.where(n % 2 == self.parity, smooth, 0)
        ramp = kinked_coefficients(q, self.num_terms, self.kinks, jumps)
        size, slope_size = root(self.second_moment(q)), root(self.slope_moment(q))
        whole, slope_whole = (
            self._expectation(lambda x, f=f: f(x) ** 2, q) for f in (psi, psi_slope)
        )
        # Round-off is no term of the series of a function that is linear but for its kinks.
        noise = _NOISE * jnp.finfo(q.dtype).eps * size[None]
        smooth = jnp.where(jnp.abs(smooth) > noise, smooth, 0)
        inside = safe_ratio(jnp.sum(n * smooth**2, axis=0), q)
        itself = ramps(jnp.zeros_like(q), jnp.full_like(q, 2), q, q, self.kinks, jumps)
        return Terms(
            smooth + ramp,
            ramp,
            _tail(whole - jnp.sum(smooth**2, axis=0), size**2),
            _tail(slope_whole - inside, slope_size**2),
            _tail(itself.value - jnp.sum(ramp**2, axis=0), itself.value),
            slope_size**2 - itself.slope_at_one,
            safe_ratio(jnp.ones_like(q), size),
        )


class Terms(NamedTuple):
    """Of single inputs: c_n of phi and kappa; roots of T and R of psi, and of T of kappa.

    Then E phi'^2 without E kappa'^2, and the root of 1 / E phi^2.
    """

    whole: Values
    ramp: Values
    rest: Values
    slope_rest: Values
    ramp_rest: Values
    smooth_slope: Values
    over_size: Values


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
        one, two = kept([jnp.moveaxis(self.hermite(q), -1, 0) for q in (pair.q1, pair.q2)])
        value, slope = mehler(one, two, pair.rho, None)
        return Moments(value, safe_ratio(slope, pair.size))

    def hermite(self, q: Values) -> Float[Array, "*batch term"]:
        """c_n(q)."""
        return _hermite_of(self.coefficients, q)


def mehler(
    c1: Float[Array, "term ..."],
    c2: Float[Array, "term ..."],
    rho: Values,
    parity: int | None,
) -> tuple[Values, Values]:
    """Sum c1_n c2_n rho^n and its derivative with respect to rho.

    Args:
        c1: coefficients of side 1; terms first, since columns that are apart are gathered slowly.
        c2: coefficients of side 2.
        rho: correlations.
        parity: 0 or 1 where all terms that are not of this parity vanish.
    """
    first, step = (0, 1) if parity is None else (parity, 2)
    c1, c2 = c1[first::step], c2[first::step]
    y = rho if parity is None else rho * rho
    value, slope = _horner(c1, c2, y)
    if parity is None:
        return value, slope
    if parity == 0:
        return value, 2 * rho * slope
    return rho * value, value + 2 * y * slope


def _horner(c1: Array, c2: Array, y: Array) -> tuple[Array, Array]:
    """The polynomial with coefficients c1 c2, and its derivative, in one pass."""
    num_terms = c1.shape[0]

    def step(value: Array, slope: Array, a: Array, b: Array) -> tuple[Array, Array]:
        return value * y + a * b, slope * y + value

    value, slope = jnp.zeros_like(y), jnp.zeros_like(y)
    if num_terms <= UNROLLED:
        for n in reversed(range(num_terms)):
            value, slope = step(value, slope, c1[n], c2[n])
        return value, slope
    terms = (c1[::-1], c2[::-1])
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
    noise = _NOISE * jnp.finfo(rest.dtype).eps * whole
    return root(jnp.where(rest > noise, rest, 0))


def _matching(num_terms: int, parity: int | None) -> int:
    """The first n >= num_terms whose term does not vanish."""
    return num_terms if parity is None else num_terms + (num_terms + parity) % 2


def _jump(function: Callable[[Array], Array], kink: Array) -> Array:
    """The jump of phi' at a kink, from four slopes beside it, on straight lines."""
    _, right = _beside(function, kink, 1)
    _, left = _beside(function, kink, -1)
    return right - left


def _beside(function: Callable[[Array], Array], kink: Array, side: int) -> tuple[Array, Array]:
    """Values and slopes just beside a kink."""
    step = side * 1e-3 * jnp.maximum(jnp.abs(kink), 1)
    points = kink + step * jnp.arange(1, 3, dtype=kink.dtype)
    values, slopes = jax.jvp(function, (points,), (jnp.ones_like(points),))
    return 2 * values[0] - values[1], 2 * slopes[0] - slopes[1]


def _refuse_jumps(function: Frozen, kinks: Kinks) -> None:
    """A function that jumps at a kink has no moments of slopes."""
    for k in kinks:
        try:
            left, right = (float(_beside(function, jnp.asarray(k), s)[0]) for s in (-1, 1))
        except jax.errors.JAXTypeError:  # arrays of the function are being traced
            return
        if not abs(left - right) <= 1e-4 * (1 + abs(left)):
            raise bad_argument(
                "function",
                f"{left:.3g} and {right:.3g} on both sides of {k}",
                "a function that is continuous at its kinks",
                "Sign() has kernels of its own.",
            )


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

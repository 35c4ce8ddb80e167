r"""L-BFGS ascent, with its inverse Hessian as a diagonal plus a matrix of low rank.

The last J accepted steps s = x_new - x and changes of the downhill gradient z = g_old - g_new (g is
the gradient of the log density) are kept as columns of S and Z. From a diagonal a > 0 they make

    H^-1 = diag(a) + B C B',   B = [diag(a) Z, S],
    C = [[0, -R^-1], [-R^-T, R^-T (D + Z' diag(a) Z) R^-1]],   R = triu(S'Z), D = diag(S'Z),

what the recursion of BFGS gives when it starts at diag(a), without a matrix of dim x dim anywhere.
The diagonal follows the curvature too:

    1 / a_new = p / (b a) + z^2 / b - p s^2 / (b c a^2),
    p = z' diag(a) z,   b = s'z,   c = s' (s / a),

whose first update does not depend on the scale of the first a. A step along which the log density
is not concave, b <= 0, is not remembered: H^-1 then stays positive definite.

A step goes along H^-1 g to where the log density has risen enough and its slope has fallen enough
(the weak Wolfe conditions): the bracket of step sizes is cut where the slope, taken to change
linearly, is zero, but never near its ends. NaN counts as no rise.

Sources: Byrd, Nocedal & Schnabel, Mathematical Programming 63 (1994), eq. 2.6; Gilbert & Lemarechal
(1989), the diagonal; Zhang, Carpenter, Gelman & Vehtari, JMLR 23 (2022), algorithms 2 and 3; Lewis
& Overton, Mathematical Programming 141 (2013), algorithm 2.6, the search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayleaf.types import Count, Flag, Scalar, Vector

ARMIJO = 1e-4  # share of the promised rise that a step must keep (Nocedal & Wright, eq. 3.6a)
WOLFE = 0.9  # share of the slope that may be left at its end (eq. 3.6b)
MAX_TRIES = 40
"""Points tried in one search; the last halvings are below the resolution of float32."""

ValueAndGrad = Callable[[Vector], tuple[Scalar, Vector]]


class History(NamedTuple):
    """The pairs that are remembered, the latest last, and the diagonal; unused columns are zero."""

    steps: Float[Array, "dim pair"]
    bends: Float[Array, "dim pair"]
    diagonal: Vector


class LowRank(NamedTuple):
    """The matrix diag(diagonal) + outer inner outer'; ``rank`` is twice the number of pairs."""

    diagonal: Vector
    outer: Float[Array, "dim rank"]
    inner: Float[Array, "rank rank"]

    def __matmul__(self, x: Vector) -> Vector:
        return self.diagonal * x + self.outer @ (self.inner @ (self.outer.T @ x))


class Ascent(NamedTuple):
    """Where the ascent stands; ``inverse`` is H^-1 there, as the history tells it.

    ``is_stuck``: the last search found no better point.
    """

    x: Vector
    value: Scalar
    gradient: Vector
    history: History
    inverse: LowRank
    direction: Vector
    is_stuck: Flag
    num_gradients: Count

    @property
    def promise(self) -> Scalar:
        """The rise that a quadratic model still promises, g' H^-1 g / 2."""
        return 0.5 * jnp.dot(self.gradient, self.direction)


def begin(value_and_grad: ValueAndGrad, start: Vector, history_size: int) -> Ascent:
    """An ascent that stands at ``start``; it first tries to move each coordinate by 1 or less."""
    value, gradient = value_and_grad(start)
    none = jnp.zeros((start.size, history_size), start.dtype)
    diagonal = jnp.ones_like(start) / jnp.maximum(1, jnp.max(jnp.abs(gradient)))
    inverse = LowRank(
        diagonal,
        jnp.zeros((start.size, 2 * history_size), start.dtype),
        jnp.zeros((2 * history_size, 2 * history_size), start.dtype),
    )
    is_stuck = ~(jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)))
    history = History(none, none, diagonal)
    direction = diagonal * gradient
    num_gradients = jnp.ones((), jnp.int32)
    return Ascent(start, value, gradient, history, inverse, direction, is_stuck, num_gradients)


def advance(value_and_grad: ValueAndGrad, at: Ascent) -> Ascent:
    """One step of L-BFGS; the same place, and ``is_stuck``, when no step is uphill."""
    found = _search(value_and_grad, at)
    num_gradients = at.num_gradients + found.num_tries
    x = at.x + found.size * at.direction
    history = remember(at.history, x - at.x, at.gradient - found.gradient)
    inverse = inverse_hessian(history)
    here = (x, found.value, found.gradient, history, inverse, inverse @ found.gradient)
    there = Ascent(*here, found.is_stuck, num_gradients)
    stay = at._replace(is_stuck=found.is_stuck, num_gradients=num_gradients)
    return jax.tree.map(lambda a, b: jnp.where(found.is_stuck, b, a), there, stay)


def remember(history: History, step: Vector, bend: Vector) -> History:
    """The history with one more pair and the diagonal that follows; unless it is not concave."""
    s, z, a = step, bend, history.diagonal
    b = jnp.dot(s, z)
    p = jnp.dot(z, a * z)
    c = jnp.dot(s, s / a)
    diagonal = 1 / ((p / a) * (1 - s**2 / (a * c)) / b + z**2 / b)
    new = History(_append(history.steps, s), _append(history.bends, z), diagonal)
    is_concave = b > 1e-12 * jnp.dot(z, z)  # Zhang et al., algorithm 3
    is_good = is_concave & jnp.all(jnp.isfinite(diagonal) & (diagonal > 0))
    return jax.tree.map(lambda a, b: jnp.where(is_good, a, b), new, history)


def inverse_hessian(history: History) -> LowRank:
    """The inverse of minus the Hessian of the log density, as the history tells it."""
    steps, bends, diagonal = history
    scaled = diagonal[:, None] * bends
    products = steps.T @ bends
    curvature = jnp.diagonal(products)
    # An unused pair is a column of zeros: a one in its place of R takes it out of the matrix.
    used = jnp.where(curvature == 0, 1, curvature)
    upper = jnp.triu(products, 1) + jnp.diag(used)
    middle = jnp.diag(curvature) + bends.T @ scaled
    eye = jnp.eye(curvature.size, dtype=diagonal.dtype)
    inverse = jax.scipy.linalg.solve_triangular(upper, eye)
    corner = inverse.T @ middle @ inverse
    inner = jnp.block([[jnp.zeros_like(eye), -inverse], [-inverse.T, corner]])
    return LowRank(diagonal, jnp.concatenate([scaled, steps], axis=1), inner)


class _Search(NamedTuple):
    """The bracket [low, high] of step sizes, what was found at ``size``, and what to try next."""

    low: Scalar
    high: Scalar
    slope: Scalar  # at low
    size: Scalar
    value: Scalar
    gradient: Vector
    next_size: Scalar
    is_done: Flag
    is_stuck: Flag
    num_tries: Count


def _search(value_and_grad: ValueAndGrad, at: Ascent) -> _Search:
    """A step size that satisfies the weak Wolfe conditions."""
    direction = at.direction
    start_slope = jnp.dot(at.gradient, direction)
    # Round-off of the value itself must not count as a fall, or the last steps are all refused.
    slack = 8 * jnp.finfo(at.x.dtype).eps * (1 + jnp.abs(at.value))

    def is_going(now: _Search) -> Flag:
        return ~now.is_done & (now.num_tries < MAX_TRIES)

    def attempt(now: _Search) -> _Search:
        size = now.next_size
        value, gradient = value_and_grad(at.x + size * direction)
        rises = value >= at.value + ARMIJO * size * start_slope - slack
        rises = rises & jnp.all(jnp.isfinite(gradient))  # NaN compares as False
        slope = jnp.dot(gradient, direction)
        is_level = slope <= WOLFE * start_slope
        # Where the slope would be zero if it changed linearly between the last low and here.
        level = now.low + (size - now.low) * now.slope / (now.slope - slope)
        low = jnp.where(rises & ~is_level, size, now.low)
        high = jnp.where(rises, now.high, size)
        next_size = _inside(low, high, level)
        low_slope = jnp.where(rises & ~is_level, slope, now.slope)
        is_done, num_tries = rises & is_level, now.num_tries + 1
        found = (low, high, low_slope, size, value, gradient, next_size, is_done, ~rises)
        return _Search(*found, num_tries)

    zero, one, no = jnp.zeros_like(slack), jnp.ones_like(slack), jnp.zeros((), bool)
    bracket = (zero, one * jnp.inf, start_slope)
    here = (zero, at.value, at.gradient, one)
    start = _Search(*bracket, *here, no, no, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(is_going, attempt, start)


def _inside(low: Scalar, high: Scalar, guess: Scalar) -> Scalar:
    """The guess, kept from the ends of a bracket; the middle if it is NaN; 2 to 10 times a low."""
    is_open = jnp.isinf(high)
    near = jnp.where(is_open, 2 * low, low + 0.1 * (high - low))
    far = jnp.where(is_open, 10 * low, high - 0.1 * (high - low))
    return jnp.clip(jnp.where(jnp.isfinite(guess), guess, 0.5 * (near + far)), near, far)


def _append(columns: Float[Array, "dim pair"], column: Vector) -> Float[Array, "dim pair"]:
    return jnp.concatenate([columns[:, 1:], column[:, None]], axis=1)

"""Newton's method for the mode of a log density, and the Gaussian that fits its curvature there.

    x^ = argmax log p(x),   H = -grad grad log p(x^),   p(x) ~ N(x^, H^-1)

Every iteration solves H d = grad log p and searches along d by halving. Where H is not positive
definite (the target is not log-concave there) a multiple of the identity is added, so that d is
always uphill. It converges quadratically near the mode; a dense H costs O(dim^3) per iteration,
which is right up to a few thousand dimensions.

With a Gaussian prior, x = m + L w with w ~ N(0, I), the search runs on w: with W = -grad grad log
likelihood the Hessian there is C = I + L' W L, whose eigenvalues are at least 1 for a log-concave
likelihood however singular the prior covariance L L' is. It is the B = I + W^1/2 K W^1/2 of
Rasmussen & Williams in other words (the same eigenvalues), without the square root that forbids
W < 0. The posterior covariance L C^-1 L' is formed as a product and never as a difference, so all
of this holds in float32.

Source: Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), section 3.4 and
algorithm 3.1; Nocedal & Wright, Numerical Optimization (2006), algorithms 3.1 and 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayleaf.types import Count, Flag, Matrix, Scalar, Vector

MAX_STEPS = 100
MAX_HALVINGS = 60
ARMIJO = 1e-4  # share of the promised rise that a step must keep (Nocedal & Wright, eq. 3.4)


class Mode(NamedTuple):
    """Where the search ended.

    ``cholesky`` is that of the precision H there (of H + shift I where H is not positive
    definite, ``shift`` > 0: then it is no maximum, or a flat one).
    """

    position: Vector
    log_density: Scalar
    cholesky: Matrix
    shift: Scalar
    num_steps: Count
    is_converged: Flag


def find_mode(
    log_density: Callable[[Vector], Scalar],
    start: Vector,
    precision: Callable[[Vector], Matrix] | None = None,
    max_steps: int = MAX_STEPS,
) -> Mode:
    """Climb from ``start`` by Newton's method; pure and traceable.

    Args:
        log_density: of a flat vector.
        start: where the log density is finite.
        precision: ``x -> -Hessian`` of the log density; None differentiates twice.
        max_steps: iterations after which the search gives up.

    Returns:
        The mode. It has converged when half a squared Newton step, the rise that a quadratic
        model still promises, is below the resolution of the log density.
    """
    value_and_grad = jax.value_and_grad(log_density)
    precision = precision or (lambda x: -jax.hessian(log_density)(x))
    resolution = jnp.sqrt(jnp.finfo(start.dtype).eps) * 1e-2  # 1e-10 in float64, 3e-6 in float32

    def is_going(carry):
        _, _, _, num_steps, is_converged, is_stuck = carry
        return (num_steps < max_steps) & ~is_converged & ~is_stuck

    def climb(carry):
        x, value, gradient, num_steps, _, _ = carry
        cholesky, _ = shifted_cholesky(precision(x))
        direction = jax.scipy.linalg.cho_solve((cholesky, True), gradient)
        slope = jnp.dot(gradient, direction)
        x, value, gradient, is_stuck = _search(value_and_grad, x, value, gradient, direction, slope)
        return x, value, gradient, num_steps + 1, 0.5 * slope <= resolution, is_stuck

    value, gradient = value_and_grad(start)
    no = jnp.zeros((), bool)
    carry = (start, value, gradient, jnp.zeros((), jnp.int32), no, no)
    x, value, _, num_steps, is_converged, _ = jax.lax.while_loop(is_going, climb, carry)
    cholesky, shift = shifted_cholesky(precision(x))
    is_converged = is_converged & jnp.isfinite(value)
    return Mode(x, value, cholesky, shift, num_steps, is_converged)


def covariance_factor(cholesky: Matrix) -> Matrix:
    """Lower-triangular S with S S' = H^-1, from the Cholesky factor R of H = R R'.

    By a QR factorisation of R^-1: forming H^-1 and taking its Cholesky factor would square the
    condition number and fail in float32.
    """
    inverse = jax.scipy.linalg.solve_triangular(
        cholesky, jnp.eye(cholesky.shape[0], dtype=cholesky.dtype), lower=True
    )
    upper = jnp.linalg.qr(inverse, mode="r")
    sign = jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(upper.dtype)
    return (sign[:, None] * upper).T


def shifted_cholesky(matrix: Matrix) -> tuple[Matrix, Scalar]:
    """Cholesky factor of ``matrix + shift I``, shift the first of 0, s, 10 s, ... that works."""
    eye = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    scale = jnp.mean(jnp.abs(jnp.diagonal(matrix)))
    # A flat log density has no scale, and shifts that underflow to zero would never end.
    scale = jnp.where(scale > jnp.sqrt(jnp.finfo(matrix.dtype).tiny), scale, 1)

    def fails(carry):
        cholesky, shift = carry
        return ~jnp.all(jnp.isfinite(cholesky)) & (shift < 1e6 * scale)

    def shift_more(carry):
        _, shift = carry
        # Not a power of ten times the scale: that would just cancel the curvature -scale.
        shift = jnp.maximum(10 * shift, 2e-3 * scale)
        return jnp.linalg.cholesky(matrix + shift * eye), shift

    start = (jnp.linalg.cholesky(matrix), jnp.zeros((), matrix.dtype))
    return jax.lax.while_loop(fails, shift_more, start)


def _search(
    value_and_grad: Callable[[Vector], tuple[Scalar, Vector]],
    x: Vector,
    value: Scalar,
    gradient: Vector,
    direction: Vector,
    slope: Scalar,
) -> tuple[Vector, Scalar, Vector, Flag]:
    """Halve the step until the log density rises enough; stay, and say so, when it never does."""
    # Round-off of the value itself must not count as a fall, or the last steps are all refused.
    slack = 8 * jnp.finfo(x.dtype).eps * (1 + jnp.abs(value))

    def falls(carry):
        num_halvings, size, (new, new_gradient) = carry
        rises = new >= value + ARMIJO * size * slope - slack
        is_good = rises & jnp.all(jnp.isfinite(new_gradient))  # NaN compares as False
        return ~is_good & (num_halvings < MAX_HALVINGS)

    def halve(carry):
        num_halvings, size, _ = carry
        size = 0.5 * size
        return num_halvings + 1, size, value_and_grad(x + size * direction)

    one = jnp.ones((), x.dtype)
    first = (jnp.zeros((), jnp.int32), one, value_and_grad(x + direction))
    num_halvings, size, (new, new_gradient) = jax.lax.while_loop(falls, halve, first)
    is_stuck = num_halvings >= MAX_HALVINGS
    return (
        jnp.where(is_stuck, x, x + size * direction),
        jnp.where(is_stuck, value, new),
        jnp.where(is_stuck, gradient, new_gradient),
        is_stuck,
    )


class PriorMode(NamedTuple):
    """The mode of a posterior with prior N(mean, L L'), in terms that need no inverse of L L'.

    ``factor`` is A with A A' = posterior covariance; ``slope`` is the gradient of the log
    likelihood at the mode and ``curvature`` is W there, a diagonal as a vector.
    """

    position: Vector
    factor: Matrix
    slope: Vector
    curvature: Vector | Matrix
    num_steps: Count
    is_converged: Flag


def find_prior_mode(
    log_likelihood: Callable[[Vector], Scalar],
    mean: Vector,
    scale: Matrix,
    is_factorised: bool,
    max_steps: int = MAX_STEPS,
) -> PriorMode:
    """Mode and covariance factor of N(mean, scale scale') times a likelihood.

    Args:
        log_likelihood: of a flat vector.
        mean: of the prior.
        scale: L, any square root of the prior covariance.
        is_factorised: the likelihood is a product over the coordinates, so that W is diagonal.
        max_steps: iterations after which the search gives up.
    """
    eye = jnp.eye(scale.shape[0], dtype=scale.dtype)

    def curvature(x):
        if not is_factorised:
            return -jax.hessian(log_likelihood)(x)
        return -jax.jvp(jax.grad(log_likelihood), (x,), (jnp.ones_like(x),))[1]

    def precision(w):
        bend = curvature(mean + scale @ w)
        bent = bend[:, None] * scale if is_factorised else bend @ scale
        return eye + scale.T @ bent

    def log_posterior(w):
        return log_likelihood(mean + scale @ w) - 0.5 * jnp.dot(w, w)

    mode = find_mode(log_posterior, jnp.zeros_like(mean), precision, max_steps)
    position = mean + scale @ mode.position
    # L C^-1 L' = A A' with A = L R^-T for C = R R'.
    factor = jax.scipy.linalg.solve_triangular(mode.cholesky, scale.T, lower=True).T
    return PriorMode(
        position,
        factor,
        jax.grad(log_likelihood)(position),
        curvature(position),
        mode.num_steps,
        mode.is_converged,
    )

"""Gaussian expectations of any function of one variable, and its Hermite coefficients.

    E f(sqrt(q) z) = sum_i w_i f(sqrt(q) z_i),       c_n(q) = E phi(sqrt(q) z) h_n(z),

with h_n the Hermite polynomials that are orthonormal under the normal law. The rule is
Gauss-Legendre on panels from -12 to 12, shorter towards 0, where activations bend at
z = 1 / sqrt(q). Panels end at 0 and at the kinks k / sqrt(q) of the function, if there are any.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.infinite.arcs import root

REACH = 12.0
POINTS = {4: 6, 8: 12}  # of a panel, by the bytes of a number: errors of 1e-8 and 1e-16 for tanh

Kinks = tuple[float, ...]


def rule(
    q: Float[Array, "*batch"], kinks: Kinks = (), is_even: bool = False
) -> tuple[Float[Array, "*one node"], Float[Array, "*one node"]]:
    """Nodes z and weights of the standard normal law; with kinks other than 0, for each variance.

    Args:
        q: variances.
        kinks: where the function that is integrated has kinks.
        is_even: half of the nodes, for even integrands.
    """
    moving = _moving(kinks, is_even)
    if not moving:
        rows = _fixed(POINTS[q.dtype.itemsize], is_even)
        z, weights = (jnp.asarray(x, q.dtype).reshape((1,) * q.ndim + x.shape) for x in rows)
        return z, weights
    ends = jnp.asarray(_ends(is_even), q.dtype)
    borders = [jnp.broadcast_to(ends, (*q.shape, ends.size))]
    borders += [scaled(k, root(q))[..., None] for k in moving]
    ends = jnp.sort(jnp.clip(jnp.concatenate(borders, axis=-1), ends[0], REACH), axis=-1)
    return _panels(jnp, ends, POINTS[q.dtype.itemsize], is_even)


def _panels(xp: Any, ends: Any, num_points: int, is_even: bool) -> tuple[Any, Any]:
    """Nodes and weights of panels with borders ``[..., end]``, by NumPy or JAX."""
    points, shares = (
        xp.asarray(x, ends.dtype).reshape((1,) * ends.ndim + (-1,))
        for x in np.polynomial.legendre.leggauss(num_points)
    )
    half, middle = xp.diff(ends)[..., None] / 2, (ends[..., 1:] + ends[..., :-1])[..., None] / 2
    shape = (*ends.shape[:-1], -1)
    z = (middle + half * points).reshape(shape)
    density = (1 + is_even) * xp.exp(-0.5 * z * z) / (2 * np.pi) ** 0.5
    return z, (half * shares).reshape(shape) * density


def scaled(kink: float, sd: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """``kink / sd``, bounded: 40 standard deviations away there is nothing in either precision."""
    size = abs(kink) / 40
    return kink / jnp.maximum(sd, size) if kink else jnp.zeros_like(sd)


def _moving(kinks: Kinks, is_even: bool) -> list[float]:
    """Kinks that lie elsewhere for each variance."""
    return sorted({k for k in kinks if k and (k > 0 or not is_even)})


def _ends(is_even: bool) -> np.ndarray:
    ends = np.concatenate([[0.0], 2.0 ** np.arange(-6, 0), np.arange(1.0, REACH + 0.25, 0.5)])
    return ends if is_even else np.concatenate([-ends[:0:-1], ends])


@functools.cache
def _fixed(num_points: int, is_even: bool) -> tuple[np.ndarray, np.ndarray]:
    return _panels(np, _ends(is_even), num_points, is_even)


@functools.cache
def _fixed_hermite(num_points: int, is_even: bool, num_terms: int) -> np.ndarray:
    return hermite_rows(*_fixed(num_points, is_even), num_terms)


def hermite_rows(z: np.ndarray, weights: np.ndarray, num_terms: int) -> np.ndarray:
    """``w_i h_n(z_i)`` for any rule, ``[term, node]``."""
    rows = [weights, weights * z]
    for n in range(1, num_terms - 1):
        # On w h_n, which is bounded; h_n itself overflows far out.
        rows.append((z * rows[-1] - np.sqrt(n) * rows[-2]) / np.sqrt(n + 1))
    return np.stack(rows[:num_terms])


def expectation(
    function: Callable[[Array], Array],
    q: Float[Array, "*batch"],
    kinks: Kinks = (),
    is_even: bool = False,
) -> Float[Array, "*batch"]:
    """E f(sqrt(q) z), f elementwise, for each variance."""
    z, weights = rule(q, kinks, is_even)
    values = function(root(q)[..., None] * z)
    if not _moving(kinks, is_even):
        return values @ weights.ravel()
    return jnp.sum(values * weights, axis=-1)


def coefficients(
    function: Callable[[Array], Array],
    q: Float[Array, "*batch"],
    num_terms: int,
    kinks: Kinks = (),
    is_even: bool = False,
) -> Float[Array, "term *batch"]:
    """c_n(q) for n < num_terms; ``is_even`` where only those with even phi h_n are wanted."""
    z, weights = rule(q, kinks, is_even)
    values = function(root(q)[..., None] * z)
    if not _moving(kinks, is_even):
        rows = _fixed_hermite(POINTS[q.dtype.itemsize], is_even, num_terms)
        return jnp.moveaxis(values @ jnp.asarray(rows.T, q.dtype), -1, 0)
    return hermite_sums(z, weights, num_terms, lambda rows: jnp.sum(values * rows, axis=-1))


def hermite_sums(
    z: Float[Array, "..."],
    weights: Float[Array, "..."],
    num_terms: int,
    reduce: Callable[[Array], Array],
) -> Array:
    """``reduce(weights h_n(z))`` for n < num_terms, stacked."""
    n = jnp.arange(num_terms, dtype=z.dtype)

    def step(carry: tuple[Array, Array], n: Array) -> tuple[tuple[Array, Array], Array]:
        before, here = carry
        return (here, (z * here - jnp.sqrt(n) * before) / jnp.sqrt(n + 1)), reduce(here)

    start = (jnp.zeros_like(z * weights), jnp.broadcast_to(weights, jnp.shape(z * weights)))
    return jax.lax.scan(step, start, n)[1]

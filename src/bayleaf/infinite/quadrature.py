"""Gaussian expectations of any function of one variable, and its Hermite coefficients.

    E f(sqrt(q) z) = sum_i w_i f(sqrt(q) z_i),       c_n(q) = E phi(sqrt(q) z) h_n(z),

with h_n the Hermite polynomials that are orthonormal under the normal law. The rule is
Gauss-Legendre on panels from -12 to 12, shorter towards 0, where activations bend at
z = 1 / sqrt(q); kinks at 0 lie on the border of two panels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayleaf.infinite.arcs import root

REACH, POINTS = 12.0, 12


@functools.cache
def rule() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, ``[node]``, of the standard normal law."""
    fine = 2.0 ** np.arange(-6, 0)
    ends = np.concatenate([[0.0], fine, np.arange(1.0, REACH + 0.25, 0.5)])
    ends = np.concatenate([-ends[:0:-1], ends])
    points, weights = np.polynomial.legendre.leggauss(POINTS)
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    z = (middle + half * points).ravel()
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return z, (half * weights).ravel() * density


@functools.cache
def hermite(num_terms: int) -> np.ndarray:
    """``w_i h_n(z_i)`` as a matrix ``[node, term]``."""
    return hermite_rows(*rule(), num_terms).T


def hermite_rows(z: np.ndarray, weights: np.ndarray, num_terms: int) -> np.ndarray:
    """``w_i h_n(z_i)`` for any rule, ``[term, node]``."""
    rows = [weights, weights * z]
    for n in range(1, num_terms - 1):
        # On w h_n, which is bounded; h_n itself overflows far out.
        rows.append((z * rows[-1] - np.sqrt(n) * rows[-2]) / np.sqrt(n + 1))
    return np.stack(rows[:num_terms])


def expectation(
    function: Callable[[Array], Array], q: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """E f(sqrt(q) z), f elementwise, for each variance."""
    z, weights = (jnp.asarray(part, q.dtype) for part in rule())
    return function(_points(q, z)) @ weights


def coefficients(
    function: Callable[[Array], Array], q: Float[Array, "*batch"], num_terms: int
) -> Float[Array, "*batch term"]:
    """c_n(q) for n < num_terms."""
    z = jnp.asarray(rule()[0], q.dtype)
    return function(_points(q, z)) @ jnp.asarray(hermite(num_terms), q.dtype)


def _points(q: Array, z: Array) -> Array:
    return root(q)[..., None] * z.reshape((1,) * q.ndim + z.shape)

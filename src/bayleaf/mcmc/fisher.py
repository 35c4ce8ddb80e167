"""The metric that minimises the Fisher divergence, from draws and their gradients.

For draws x with scores g = grad log density, the M^-1 for which the whitened posterior looks most
like a standard normal, in the sense of E |M^1/2 g + M^-1/2 (x - mean)|^2, is

    diagonal:   M^-1 = diag( sqrt(var x_i / var g_i) ),
    full:       the geometric mean of C_x = cov(x) and C_g^-1 = cov(g)^-1, the only positive
                definite solution S of  S C_g S = C_x.

On a Gaussian g = -P (x - mean) whatever the law of x, and the answer is P^-1 exactly from any
dim + 1 points in general position: no stationarity is needed, which is what makes early warm-up
cheap. A sample covariance needs many independent draws for the same.

In many dimensions the full solution is taken within the span of the draws and scores, after the
diagonal one has been applied, and only directions that still differ from the unit sphere are kept.

Source: Seyboldt, Carlson & Carpenter, Preconditioning HMC by minimising Fisher divergence (2026),
sections 2 and 3.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from bayleaf.mcmc.metric import Dense, Diagonal, LowRank
from bayleaf.types import Count

Rows = Float[Array, "row dim"]


def fisher_diagonal(draws: Rows, scores: Rows, is_used: Bool[Array, "row"]) -> Diagonal:
    """``sqrt(var x / var g)`` by coordinate, over the rows in use."""
    scale, *_ = standardise(draws, scores, is_used)
    return Diagonal(scale**2)


def fisher_dense(draws: Rows, scores: Rows, is_used: Bool[Array, "row"], shrinkage: float) -> Dense:
    """The geometric mean of the draws' covariance and the scores' inverse covariance.

    Args:
        draws: positions, one a row.
        scores: gradients of the log density there.
        is_used: which rows count.
        shrinkage: how many pseudo-draws of a unit sphere are mixed in (after the diagonal scaling).
    """
    scale, x, g, count = standardise(draws, scores, is_used)
    eigenvalues, vectors = geometric_mean(x, g, count, shrinkage)
    factor = scale[:, None] * vectors * jnp.sqrt(eigenvalues)[None]
    return Dense(factor @ factor.T, vectors / (scale[:, None] * jnp.sqrt(eigenvalues)[None]))


def fisher_low_rank(
    draws: Rows,
    scores: Rows,
    is_used: Bool[Array, "row"],
    shrinkage: float,
    rank: int,
) -> LowRank:
    """The same within the span of draws and scores, cut to the ``rank`` strongest directions."""
    scale, x, g, count = standardise(draws, scores, is_used)
    basis, _ = jnp.linalg.qr(jnp.concatenate([x, g]).T)
    eigenvalues, vectors = geometric_mean(x @ basis, g @ basis, count, shrinkage)
    strongest = jnp.argsort(-jnp.abs(jnp.log(eigenvalues)))[:rank]
    return LowRank(scale, basis @ vectors[:, strongest], eigenvalues[strongest])


def standardise(
    draws: Rows, scores: Rows, is_used: Bool[Array, "row"]
) -> tuple[Float[Array, "dim"], Rows, Rows, Count]:
    """The diagonal scale, draws and scores centred, scaled by it, over sqrt(count), and the count.

    Counted are the rows in use that are finite.
    """
    is_used = is_used & jnp.all(jnp.isfinite(draws) & jnp.isfinite(scores), axis=1)
    count = jnp.maximum(jnp.sum(is_used), 1)
    weight = is_used[:, None] / jnp.sqrt(count).astype(draws.dtype)

    def centre(rows: Rows) -> Rows:
        kept = jnp.where(is_used[:, None], rows, 0)
        mean = jnp.sum(kept, axis=0) / count
        return jnp.where(is_used[:, None], kept - mean[None], 0) * weight

    x, g = centre(draws), centre(scores)
    # Root mean squares, then their ratio: squares of scores of 1e20 would overflow in float32.
    spread_x, spread_g = root_mean_square(x), root_mean_square(g)
    scale = jnp.sqrt(spread_x) / jnp.sqrt(spread_g)
    scale = jnp.where((spread_x > 0) & (spread_g > 0) & jnp.isfinite(scale), scale, 1)
    return scale, x / scale[None], g * scale[None], count


def root_mean_square(rows: Rows) -> Float[Array, "dim"]:
    """``sqrt(sum of squares)`` by column, without overflow."""
    largest = jnp.max(jnp.abs(rows), axis=0)
    safe = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum((rows / safe[None]) ** 2, axis=0))


def geometric_mean(
    x: Float[Array, "row k"], g: Float[Array, "row k"], count: Count, shrinkage: float
) -> tuple[Float[Array, "k"], Float[Array, "k k"]]:
    """Eigenvalues and vectors of the positive definite solution S of ``S C_g S = C_x``."""
    eye = jnp.eye(x.shape[1], dtype=x.dtype)
    keep = count / (count + shrinkage)
    # Both covariances over the same number have the same S: their product would overflow without,
    # in float32 from scores of 1e10 on.
    size = jnp.maximum(jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(jnp.abs(g))), 1)
    x, g, eye = x / size, g / size, eye / size / size
    cov_x = keep * (x.T @ x) + (1 - keep) * eye
    cov_g = keep * (g.T @ g) + (1 - keep) * eye
    # S = R^-1 (R C_x R)^1/2 R^-1 with R = C_g^1/2.
    values, vectors = bounded_eigh(cov_g)
    root, inverse_root = jnp.sqrt(values), 1 / jnp.sqrt(values)
    inner_values, inner_vectors = bounded_eigh(
        root[:, None] * (vectors.T @ cov_x @ vectors) * root[None, :]
    )
    half = (vectors * inverse_root[None]) @ (inner_vectors * inner_values[None] ** 0.25)
    return bounded_eigh(half @ half.T)


def bounded_eigh(
    matrix: Float[Array, "k k"],
) -> tuple[Float[Array, "k"], Float[Array, "k k"]]:
    """Eigen-decomposition with eigenvalues kept above rounding error of the largest.

    Without the bound a singular covariance gives small negative eigenvalues, whose roots are NaN.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    floor = jnp.finfo(matrix.dtype).eps * jnp.maximum(values[-1], 1e-30)
    return jnp.maximum(values, floor), vectors

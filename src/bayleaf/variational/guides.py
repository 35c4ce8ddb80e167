r"""Gaussian guides: what variational inference fits to a target, on its unconstrained space.

A *guide* q is anything with ``sample(key) -> position`` and ``log_prob(position)``, an Equinox
module whose inexact arrays are its parameters. `fit` takes any; the three here are Gaussians,

    MeanField   x = m + s * e            covariance diag(s^2)          2 n numbers
    LowRank     x = m + s * e + U w      covariance diag(s^2) + U U'   (2 + r) n numbers
    FullRank    x = m + L e              covariance L L'               n + n (n + 1) / 2 numbers

with m = ``loc``, s = exp ``log_scale`` (for `FullRank` the diagonal of L), U = ``factor``, and e, w
standard normal. Mean field finds the centre and understates the spread of correlated parameters;
full rank is right to about a thousand dimensions; low rank is for what lies between and beyond.

**Steps in units of the guide.** How far a step of an optimiser goes should not depend on whether a
parameter is measured in metres or miles. A guide may say what a step means (``moved``), and ours
take it in their own scale:

    m + L d_m,   L (I + D)   with D lower triangular, its diagonal an exponent.

A step of 0.01 is then a hundredth of a standard deviation wherever the guide stands, and for
`FullRank` fitting A x + b goes through the very images of the guides through which fitting x goes.
Without it a learning rate that suits one target makes another diverge. It is the retraction of a
Riemannian optimiser, and its first order is the natural gradient's direction for m (Tan 2021,
https://arxiv.org/abs/2109.00375, section 3, has it for L too).
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.gaussian import Gaussian
from bayleaf.linalg import solve_lower
from bayleaf.trees import as_arrays, leaf_names
from bayleaf.types import Key, Matrix, Position, Scalar, Vector

LOG_TWO_PI = math.log(2 * math.pi)


def moved(guide: Any, step: Any) -> Any:
    """The guide after a step of its parameters; None in ``step`` leaves a part as it is."""
    if hasattr(guide, "moved"):
        return guide.moved(step)
    return eqx.apply_updates(guide, step)


class GaussianGuide(eqx.Module):
    """What the three have in common: a location, and positions as flat vectors."""

    loc: eqx.AbstractVar[Vector]
    log_scale: eqx.AbstractVar[Vector]
    unravel: eqx.AbstractVar[Any]

    def sample(self, key: Key) -> Position:
        """One draw."""
        return self.unravel(self.flat_sample(key))

    def log_prob(self, x: Position) -> Scalar:
        """Log density at ``x``."""
        residual = ravel_pytree(x)[0] - self.loc
        normaliser = self.log_determinant() + self.loc.size * LOG_TWO_PI
        return -0.5 * (self.squared_distance(residual) + normaliser)

    def flat_sample(self, key: Key) -> Vector:
        """One draw as a vector."""
        raise NotImplementedError

    def squared_distance(self, residual: Vector) -> Scalar:
        """Mahalanobis's: ``residual' covariance^-1 residual``."""
        raise NotImplementedError

    def log_determinant(self) -> Scalar:
        """Of the covariance."""
        raise NotImplementedError

    def columns(self) -> Float[Array, "dim column"]:
        """A square root of the covariance: F with F F' = covariance."""
        raise NotImplementedError

    def variance(self) -> Vector:
        """Of each coordinate."""
        return jnp.sum(jnp.square(self.columns()), axis=1)

    def to_gaussian(self) -> Gaussian:
        """The same distribution on flat vectors."""
        columns = self.columns()
        return Gaussian(self.loc, columns @ columns.T)


class MeanField(GaussianGuide):
    """Independent normal coordinates.

    Args:
        position: where it starts, a pytree of real arrays.
        scale: its first standard deviations, one for all or a pytree like ``position``.
    """

    loc: Vector
    log_scale: Vector
    unravel: Any = eqx.field(static=True)

    def __init__(self, position: Position, *, scale: Any = 0.1):
        self.loc, self.log_scale, self.unravel = _start(position, scale)

    @classmethod
    def from_parameters(cls, loc: Vector, log_scale: Vector) -> MeanField:
        """On vectors, from its parameters, which may be outputs of a network."""
        self = object.__new__(cls)
        object.__setattr__(self, "loc", loc)
        object.__setattr__(self, "log_scale", log_scale)
        object.__setattr__(self, "unravel", _unravel_of(loc))
        return self

    def flat_sample(self, key: Key) -> Vector:
        """``m + s e``."""
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        return self.loc + jnp.exp(self.log_scale) * noise

    def squared_distance(self, residual: Vector) -> Scalar:
        """Sum of squares in standard deviations."""
        return jnp.sum(jnp.square(residual * jnp.exp(-self.log_scale)))

    def log_determinant(self) -> Scalar:
        """Twice the sum of the logarithms of the scales."""
        return 2 * jnp.sum(self.log_scale)

    def columns(self) -> Matrix:
        """``diag(s)``."""
        return jnp.diag(jnp.exp(self.log_scale))

    def variance(self) -> Vector:
        """``s^2``."""
        return jnp.exp(2 * self.log_scale)

    def to_gaussian(self) -> Gaussian:
        """The same distribution on flat vectors, with its diagonal covariance."""
        return Gaussian.from_scale(self.loc, jnp.exp(self.log_scale))

    def moved(self, step: MeanField) -> MeanField:
        """``m + s d``, and the logarithm of s moved by its step."""
        loc = self.loc + jnp.exp(self.log_scale) * step.loc
        log_scale = self.log_scale + step.log_scale
        return eqx.tree_at(lambda g: (g.loc, g.log_scale), self, (loc, log_scale))


class FullRank(GaussianGuide):
    """A Gaussian with any covariance L L'.

    Args:
        position: where it starts, a pytree of real arrays.
        scale: its first standard deviations, one for all or a pytree like ``position``.
    """

    loc: Vector
    log_scale: Vector
    lower: Matrix
    unravel: Any = eqx.field(static=True)

    def __init__(self, position: Position, *, scale: Any = 0.1):
        self.loc, self.log_scale, self.unravel = _start(position, scale)
        self.lower = jnp.zeros((self.loc.size, self.loc.size), self.loc.dtype)

    @classmethod
    def from_cholesky(cls, position: Position, factor: Matrix) -> FullRank:
        """The Gaussian around a position whose covariance is L L', L lower triangular."""
        guide = cls(position)
        factor = jnp.asarray(factor, guide.loc.dtype)
        parts = (jnp.log(jnp.diagonal(factor)), jnp.tril(factor, -1))
        return eqx.tree_at(lambda g: (g.log_scale, g.lower), guide, parts)

    def flat_sample(self, key: Key) -> Vector:
        """``m + L e``."""
        return self.loc + self.columns() @ jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def squared_distance(self, residual: Vector) -> Scalar:
        """``|L^-1 residual|^2``."""
        return jnp.sum(jnp.square(solve_lower(self.columns(), residual)))

    def log_determinant(self) -> Scalar:
        """Twice the sum of the logarithms of the diagonal of L."""
        return 2 * jnp.sum(self.log_scale)

    def columns(self) -> Matrix:
        """L: what stands below the diagonal in ``lower``, and exp ``log_scale`` on it."""
        return jnp.tril(self.lower, -1) + jnp.diag(jnp.exp(self.log_scale))

    def to_gaussian(self) -> Gaussian:
        """The same distribution on flat vectors."""
        return Gaussian.from_cholesky(self.loc, self.columns())

    def moved(self, step: FullRank) -> FullRank:
        """``m + L d`` and ``L (I + D)``."""
        factor = self.columns()
        loc = self.loc + factor @ step.loc
        lower = jnp.tril(factor @ step.columns(), -1)
        parts = (loc, self.log_scale + step.log_scale, lower)
        return eqx.tree_at(lambda g: (g.loc, g.log_scale, g.lower), self, parts)


class LowRank(GaussianGuide):
    """A Gaussian with covariance diag(s^2) + U U'.

    With z = residual / s and V = U / s, Woodbury's z' (I + V V')^-1 z = |z|^2 - |C^-1 V' z|^2 is a
    difference of large numbers where U outweighs s. It is written as what it is the minimum of,

        min_a |z - V a|^2 + |a|^2,   attained at a = (I + V'V)^-1 V'z,

    a sum of squares: nothing cancels, and an error in a counts only squared.

    Args:
        position: where it starts, a pytree of real arrays.
        rank: columns of U.
        scale: its first standard deviations, one for all or a pytree like ``position``.
    """

    loc: Vector
    log_scale: Vector
    factor: Float[Array, "dim rank"]
    unravel: Any = eqx.field(static=True)

    def __init__(self, position: Position, rank: int = 10, *, scale: Any = 0.1):
        if not isinstance(rank, int | np.integer) or isinstance(rank, bool) or rank < 1:
            raise bad_argument("rank", rank, "a whole number, at least 1")
        self.loc, self.log_scale, self.unravel = _start(position, scale)
        rank = min(int(rank), self.loc.size)
        # At U = 0 the gradient of U vanishes by symmetry, U and -U being the same guide.
        noise = jax.random.normal(jax.random.key(0), (self.loc.size, rank), self.loc.dtype)
        self.factor = 0.1 * jnp.exp(self.log_scale)[:, None] * noise

    def flat_sample(self, key: Key) -> Vector:
        """``m + s e + U w``."""
        dim, rank = self.factor.shape
        noise = jax.random.normal(key, (dim + rank,), self.loc.dtype)
        return self.loc + jnp.exp(self.log_scale) * noise[:dim] + self.factor @ noise[dim:]

    def squared_distance(self, residual: Vector) -> Scalar:
        """By the minimum above."""
        z, v, root = residual * jnp.exp(-self.log_scale), self._relative(), self._root()
        a = jax.scipy.linalg.cho_solve((root, True), v.T @ z)
        return jnp.sum(jnp.square(z - v @ a)) + jnp.sum(jnp.square(a))

    def log_determinant(self) -> Scalar:
        """``log det diag(s^2) + log det(I + V'V)``."""
        diagonal = jnp.diagonal(self._root())
        return 2 * (jnp.sum(self.log_scale) + jnp.sum(jnp.log(diagonal)))

    def columns(self) -> Float[Array, "dim column"]:
        """``[diag(s), U]``."""
        return jnp.concatenate([jnp.diag(jnp.exp(self.log_scale)), self.factor], axis=1)

    def variance(self) -> Vector:
        """``s^2`` and the rows of U squared."""
        return jnp.exp(2 * self.log_scale) + jnp.sum(jnp.square(self.factor), axis=1)

    def moved(self, step: LowRank) -> LowRank:
        """Each coordinate in units of its own standard deviation."""
        unit = jax.lax.stop_gradient(jnp.sqrt(self.variance()))
        loc = self.loc + unit * step.loc
        factor = self.factor + unit[:, None] * step.factor
        parts = (loc, self.log_scale + step.log_scale, factor)
        return eqx.tree_at(lambda g: (g.loc, g.log_scale, g.factor), self, parts)

    def _relative(self) -> Float[Array, "dim rank"]:
        """V = U / s."""
        return self.factor * jnp.exp(-self.log_scale)[:, None]

    def _root(self) -> Float[Array, "rank rank"]:
        """The Cholesky factor of I + V'V, whose eigenvalues are at least 1."""
        v = self._relative()
        return jnp.linalg.cholesky(jnp.eye(v.shape[1], dtype=v.dtype) + v.T @ v)


def _start(position: Position, scale: Any) -> tuple[Vector, Vector, Any]:
    """Location, log-scales and the way back, from what the user gives."""
    position = as_arrays(position, "position")
    for name, leaf in zip(leaf_names(position), jax.tree.leaves(position), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise bad_argument(
                f"position, parameter {name}",
                f"{leaf.dtype} numbers",
                "floating-point numbers",
                "Write 1.0, not 1; discrete parameters have no Gaussian guide.",
            )
    loc, unravel = ravel_pytree(position)
    if loc.size == 0:
        raise bad_argument("position", "no parameters at all", "at least one number to infer")
    return loc, jnp.log(_scales(scale, position, loc)), unravel


def _scales(scale: Any, position: Position, loc: Vector) -> Vector:
    """One standard deviation a coordinate."""
    is_number = jax.tree_util.all_leaves([scale]) and np.ndim(scale) == 0
    tree = jax.tree.map(lambda leaf: scale, position) if is_number else scale
    try:
        tree = jax.tree.map(lambda x, s: jnp.broadcast_to(s, jnp.shape(x)), position, tree)
    except (TypeError, ValueError):
        raise bad_argument("scale", scale, "one number, or a tree like the position") from None
    flat = ravel_pytree(tree)[0].astype(loc.dtype)
    if not isinstance(flat, Tracer) and not np.all(np.asarray(flat) > 0):
        raise bad_argument("scale", scale, "numbers > 0")
    return flat


def _unravel_of(loc: ArrayLike) -> Any:
    """The way back for a bare vector; of an array of the same shape and type it is the same."""
    return ravel_pytree(jnp.zeros(jnp.shape(loc), jnp.result_type(loc)))[1]

"""What a constraint is, and the few numeric pieces that several of them share."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.types import Scalar

Shape = tuple[int, ...]


class Constraint(eqx.Module):
    """What every constraint offers; see the module's head."""

    def constrain(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The parameter that the unconstrained ``u`` stands for."""
        raise NotImplementedError(type(self).__name__)

    def unconstrain(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The ``u`` with ``constrain(u) == x``."""
        raise NotImplementedError(type(self).__name__)

    def log_jacobian(self, u: Float[Array, "..."]) -> Scalar:
        """``log |det dx/du|``, summed over all batches."""
        raise NotImplementedError(type(self).__name__)

    def unconstrained_shape(self, shape: Shape) -> Shape:
        """The shape of ``u`` for an ``x`` of the given shape."""
        return shape

    def violation(self, x: np.ndarray) -> str | None:
        """What is wrong with ``x``, as the end of "expected ..."; None when nothing is."""
        del x
        return None

    def check(self, x: ArrayLike, name: str = "x") -> None:
        """Raise if ``x`` is outside; what is traced has no value yet and passes."""
        if any(isinstance(leaf, Tracer) for leaf in (x, *jax.tree.leaves(self))):
            return
        x = np.asarray(x)
        if not np.all(np.isfinite(x)):
            raise bad_argument(name, shown(x), "finite numbers")
        expected = self.violation(x)
        if expected is not None:
            raise bad_argument(name, shown(x), expected)


def finite_exp(u: Float[Array, "..."], headroom: float = 1.0) -> Float[Array, "..."]:
    """exp(u), kept between the smallest normal number and the largest over ``headroom``."""
    # The argument is clipped, not the value: exp'(u) = inf times a zero cotangent is NaN.
    smallest, largest = log_tiny(u.dtype), log_largest(u.dtype) - math.log(headroom)
    return jnp.exp(jnp.clip(u, smallest, largest))


# Python floats, because NumPy's float64 scalars would turn float32 parameters into float64. The
# margin keeps exp of them on the right side: below the smallest normal number all is flushed to 0.
def log_tiny(dtype: Any) -> float:
    """The logarithm of the smallest normal number."""
    return math.log(jnp.finfo(dtype).tiny) + 1e-3


def log_largest(dtype: Any) -> float:
    """The logarithm of the largest number."""
    return math.log(jnp.finfo(dtype).max) - 1e-3


def like(bound: Array, u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The bound in the shape and precision of ``u``."""
    return jnp.broadcast_to(bound, u.shape).astype(u.dtype)


def row(vector: Float[Array, "dim"], like: Float[Array, "..."]) -> Float[Array, "..."]:
    """A vector along the last axis, with as many axes as ``like``."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def float_dtype(x: np.ndarray) -> Any:
    """The precision of an array; that of Python floats for integers."""
    return x.dtype if np.issubdtype(x.dtype, np.floating) else np.dtype(float)


def shown(x: ArrayLike) -> str:
    """A short text for an error message."""
    return np.array2string(np.asarray(x), precision=4, threshold=8).replace("\n", "")

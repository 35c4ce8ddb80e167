"""Every recurring type alias of the library, once.

Axis names used in shape annotations across the library: ``chain``, ``draw``, ``dim`` (length of a
raveled position), ``rank`` (columns of a low-rank factor), ``batch`` (examples of a data set),
``particle``, ``time``, and in `bayleaf.partitions` ``site``, ``edge`` and ``state``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Key = PRNGKeyArray
"""A typed key, as made by ``jax.random.key(seed)``."""

Scalar = Float[Array, ""]
Flag = Bool[Array, ""]
Count = Int[Array, ""]
Vector = Float[Array, "dim"]
Matrix = Float[Array, "dim dim"]

Position = PyTree[Any]
"""Any pytree of arrays: what is being inferred."""

LogDensity = Callable[[Any], Any]
"""A function from a position to the scalar log density, up to a constant."""


@runtime_checkable
class Distribution(Protocol):
    """What can be drawn from and evaluated: proposals, priors, guides.

    `bayleaf.Gaussian`, the guides of `bayleaf.variational` and NumPyro's distributions all fit.
    """

    def sample(self, key: Key) -> Position:
        """One draw."""
        ...

    def log_prob(self, x: Position) -> Scalar:
        """The normalised log density at ``x``."""
        ...

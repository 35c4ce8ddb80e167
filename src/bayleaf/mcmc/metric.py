"""Euclidean metrics: what a momentum weighs in Hamiltonian Monte Carlo.

A metric is a positive definite mass matrix M over the raveled position. Three verbs serve every
integrator and never show how M is stored:

    velocity(p)   = M^-1 p        (the derivative of the kinetic energy p' M^-1 p / 2)
    momentum(z)   = M^1/2 z       (z ~ N(0, I) gives p ~ N(0, M))
    scales        = sqrt(diag(M^-1)), about the posterior standard deviations

The best M^-1 is near the posterior covariance. `Diagonal` costs O(dim) a gradient, `LowRank`
O(dim rank) and sees the strongest correlations, `Dense` O(dim^2) and sees all.

Source: Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo (2017), section 4.2.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


@runtime_checkable
class Metric(Protocol):
    """The verbs that an integrator asks of a metric."""

    def velocity(self, momentum: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^-1 p``."""
        ...

    def momentum(self, normal: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^1/2 z``: standard normal in, momentum out."""
        ...

    @property
    def scales(self) -> Float[Array, "dim"]:
        """``sqrt(diag(M^-1))``."""
        ...


class Diagonal(eqx.Module):
    """``M^-1 = diag(inverse_mass)``."""

    inverse_mass: Float[Array, "dim"]

    def velocity(self, momentum: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^-1 p``."""
        return self.inverse_mass * momentum

    def momentum(self, normal: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^1/2 z``."""
        return normal / jnp.sqrt(self.inverse_mass)

    @property
    def scales(self) -> Float[Array, "dim"]:
        """``sqrt(diag(M^-1))``."""
        return jnp.sqrt(self.inverse_mass)


class LowRank(eqx.Module):
    """``M^-1 = D (I + U (diag(eigenvalues) - I) U') D`` with orthonormal columns U, D diagonal."""

    diagonal: Float[Array, "dim"]
    vectors: Float[Array, "dim rank"]
    eigenvalues: Float[Array, "rank"]

    def velocity(self, momentum: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^-1 p``."""
        return self.diagonal * self._stretch(self.diagonal * momentum, self.eigenvalues)

    def momentum(self, normal: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^1/2 z``."""
        return self._stretch(normal, 1 / jnp.sqrt(self.eigenvalues)) / self.diagonal

    @property
    def scales(self) -> Float[Array, "dim"]:
        """``sqrt(diag(M^-1))``."""
        return self.diagonal * jnp.sqrt(1 + (self.vectors**2) @ (self.eigenvalues - 1))

    def _stretch(
        self, x: Float[Array, "dim"], factors: Float[Array, "rank"]
    ) -> Float[Array, "dim"]:
        return x + self.vectors @ ((factors - 1) * (self.vectors.T @ x))


class Dense(eqx.Module):
    """``M^-1 = inverse_mass``, and any F with ``F F' = M`` to draw momenta."""

    inverse_mass: Float[Array, "dim dim"]
    factor: Float[Array, "dim dim"]

    def velocity(self, momentum: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^-1 p``."""
        return self.inverse_mass @ momentum

    def momentum(self, normal: Float[Array, "dim"]) -> Float[Array, "dim"]:
        """``M^1/2 z``."""
        return self.factor @ normal

    @property
    def scales(self) -> Float[Array, "dim"]:
        """``sqrt(diag(M^-1))``."""
        return jnp.sqrt(jnp.diagonal(self.inverse_mass))

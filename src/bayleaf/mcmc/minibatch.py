"""Mini-batch estimates of a log density and its gradient, plain and with a control variate.

A target that knows its data has ``subsample(key, batch_size)``: a log density whose likelihood is
that of a random batch, scaled by N / n. That scaling lives there and nowhere else.

Source of the control variate: Baker, Fearnhead, Fox & Nemeth, Statistics and Computing 2019, eq. 6.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bayleaf.errors import bad_argument
from bayleaf.types import Count, Key, LogDensity, Position, Scalar


def estimate(
    log_density: LogDensity, batch_size: int | None, key: Key, position: Position
) -> tuple[Scalar, Position]:
    """Log density and gradient at ``position``, from a mini-batch when ``batch_size`` is given."""
    if batch_size is not None:
        log_density = subsampled(log_density, key, batch_size)
    return jax.value_and_grad(log_density)(position)


def first_estimate(
    log_density: LogDensity, batch_size: int | None, position: Position, count: Count
) -> tuple[Scalar, Position]:
    """The estimate where no step has made one.

    The protocol gives no key here, so the mini-batch follows from the step count alone. It acts
    for half a kick, and a run that is resumed draws the same one.
    """
    return estimate(log_density, batch_size, jax.random.fold_in(jax.random.key(0), count), position)


def subsampled(log_density: LogDensity, key: Key, batch_size: int) -> LogDensity:
    """The mini-batch estimate of a log density, or the error that says why there is none."""
    if not hasattr(log_density, "subsample"):
        raise bad_argument(
            "log_density",
            f"{type(log_density).__name__} without a method 'subsample'",
            "a bayleaf.Target with data when batch_size is given",
            "Give the data to Target(..., data=...), or leave batch_size out.",
        )
    return log_density.subsample(key, batch_size)


class ControlVariate(eqx.Module):
    """A target whose mini-batch gradients are corrected by the full gradient at a fixed point.

        g(x) = g_batch(x) - g_batch(anchor) + g_full(anchor)

    The noise of the gradient then vanishes as x nears the anchor, which should be the mode. It
    costs a second gradient a step, and pays when the posterior is narrow (much data, few
    parameters). ``ControlVariate.at(target, anchor)`` makes one.
    """

    target: Any
    anchor: Position
    gradient: Position

    @classmethod
    def at(cls, target: Any, anchor: Position) -> ControlVariate:
        """Evaluate the full gradient at ``anchor`` once."""
        return cls(target, anchor, jax.grad(target)(anchor))

    def __call__(self, position: Position) -> Scalar:
        """The log density itself."""
        return self.target(position)

    def subsample(self, key: Key, batch_size: int) -> LogDensity:
        """The corrected estimate; its value differs from the plain one by a term of mean zero."""
        batch = subsampled(self.target, key, batch_size)
        excess = jax.tree.map(jnp.subtract, jax.grad(batch)(self.anchor), self.gradient)

        def log_density(position: Position) -> Scalar:
            offset = jax.tree.map(jnp.subtract, position, self.anchor)
            return batch(position) - jnp.dot(ravel_pytree(excess)[0], ravel_pytree(offset)[0])

        return log_density

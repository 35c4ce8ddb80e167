"""Phase diagrams: the mean-field theory over a grid of settings, and its critical line.

`phase_diagram` is `MeanField.fixed_point` mapped over arrays in one compiled program. Points
without a fixed point do not stop it: their numbers are infinite, zero or NaN, and `status` says
why.

`critical_weight_std` finds the sw at which chi_1 = 1 for given biases. On the critical line
sw^2 = rho / D(q), so that q is the only unknown left of q = (sw^2 / rho) V(q) + sb^2,

    q - V(q) / D(q) = sb^2,

with V = E phi^2 and D = E phi'^2. The left side is 0 at q = 0 (if phi(0) = 0) and grows for
activations that saturate. For ReLU it is 0 everywhere: its critical line is the point sb = 0,
sw^2 = 2 rho (He initialisation), and with biases it has none.

Sources: Poole et al., NeurIPS 2016; Schoenholz et al., ICLR 2017; arXiv 1912.09132 for dropout.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from bayleaf.errors import BayleafError
from bayleaf.infinite.mean_field import (
    FixedPoint,
    MeanField,
    checked,
    solve_fixed_point,
)
from bayleaf.infinite.mean_field_moments import as_activation
from bayleaf.infinite.mean_field_roots import Status, find_bracket, newton_in_bracket
from bayleaf.types import Scalar


class NoCriticalLineError(BayleafError):
    """No weight variance makes chi_1 = 1 with these biases."""


def phase_diagram(
    activation: Any,
    *,
    weight_std: Any,
    bias_std: Any,
    keep_probability: Any = 1.0,
) -> FixedPoint:
    """The fixed points for all settings; arrays broadcast against each other.

    For a grid of two settings pass ``weight_std=sw[:, None], bias_std=sb[None]``.

    Args:
        activation: as in `MeanField`.
        weight_std: sw, of any shape.
        bias_std: sb, of any shape.
        keep_probability: rho, of any shape.

    Returns:
        A `FixedPoint` whose arrays have the common shape.

    Raises:
        BayleafError: as `MeanField`.
    """
    settings = jnp.broadcast_arrays(*same_rank(checked(weight_std, bias_std, keep_probability)))
    shape = settings[0].shape
    flat = solve_many(as_activation(activation), *(part.reshape(-1) for part in settings))
    return jax.tree.map(lambda leaf: leaf.reshape(shape), flat)


def same_rank(arrays: list[Array]) -> list[Array]:
    """Leading axes of length one, so that broadcasting is never implicit."""
    rank = max(array.ndim for array in arrays)
    return [array.reshape((1,) * (rank - array.ndim) + array.shape) for array in arrays]


@eqx.filter_jit
def solve_many(
    activation: Any, weight_std: Array, bias_std: Array, keep_probability: Array
) -> FixedPoint:
    """The fixed points of many networks with one activation."""

    def solve(sw: Scalar, sb: Scalar, rho: Scalar) -> FixedPoint:
        return solve_fixed_point(
            MeanField(activation, weight_std=sw, bias_std=sb, keep_probability=rho)
        )

    return jax.vmap(solve)(weight_std, bias_std, keep_probability)


def critical_weight_std(
    activation: Any, *, bias_std: Any, keep_probability: Any = 1.0
) -> Float[Array, "..."]:
    """The sw at which chi_1 = 1: gradients neither vanish nor explode.

    With dropout, correlations still settle below one there (chi_2 < 1): it is the line of
    gradients alone.

    Args:
        activation: as in `MeanField`.
        bias_std: sb, a number or an array.
        keep_probability: rho, a number or an array.

    Raises:
        NoCriticalLineError: there is none, as for ReLU with biases. Inside compiled code the
            result is NaN.
    """
    _, *settings = checked(1.0, bias_std, keep_probability)
    sb, rho = jnp.broadcast_arrays(*same_rank(settings))
    found = solve_critical(as_activation(activation), sb.reshape(-1), rho.reshape(-1))
    if not isinstance(found, Tracer) and bool(jnp.any(jnp.isnan(found))):
        missing = float(sb.reshape(-1)[jnp.argmax(jnp.isnan(found))])
        raise NoCriticalLineError(
            f"bias_std = {missing:g}: no weight_std makes chi_1 = 1 for this activation. "
            "Try bias_std = 0, at which ReLU is critical for weight_std = sqrt(2 keep_probability)."
        )
    return found.reshape(sb.shape)


@eqx.filter_jit
def solve_critical(activation: Any, bias_std: Array, keep_probability: Array) -> Array:
    """One root in q for each setting, differentiable in it."""

    def excess(q: Scalar, sb: Scalar) -> Scalar:
        return activation.second_moment(q)[0] / activation.slope_moment(q) + sb**2 - q

    def solve(sb: Scalar, rho: Scalar) -> Scalar:
        one = jnp.ones((), sb.dtype)
        eps = jnp.finfo(sb.dtype).eps

        def firm(q: Scalar) -> Scalar:
            """The sign of round-off would end the search for a bracket."""
            gap = excess(q, sb)
            return jnp.where(jnp.abs(gap) <= 8 * eps * q, 0, gap)

        def with_slope(q: Scalar) -> tuple[Scalar, Scalar]:
            return firm(q), jax.grad(excess)(q, sb)

        bracket = jax.lax.stop_gradient(find_bracket(firm, sb**2, one))
        found = bracket.status == Status.FOUND
        inside = bracket._replace(high=jnp.where(found, bracket.high, 2 * bracket.low))

        def climb(_: Any, start: Scalar) -> Scalar:
            return newton_in_bracket(with_slope, inside._replace(q=start))

        def divide(linear: Any, y: Scalar) -> Scalar:
            return y / linear(one)

        q = jax.lax.custom_root(lambda q: excess(q, sb), inside.q, climb, divide)
        # Without biases the root is q = 0, or any q when the activation has no scale.
        smallest = jnp.asarray(jnp.finfo(q.dtype).tiny ** 0.5, q.dtype)
        q = jnp.where(sb == 0, smallest, q)
        return jnp.where(found | (sb == 0), jnp.sqrt(rho / activation.slope_moment(q)), jnp.nan)

    return jax.vmap(solve)(bias_std, keep_probability)

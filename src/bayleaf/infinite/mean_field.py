"""Mean-field theory of deep networks: how far a signal gets, with dropout and without.

Hidden layers z^l = W phi(z^(l-1)) m / rho + b with W ~ N(0, sw^2 / width), b ~ N(0, sb^2) and
dropout masks m that keep a unit with probability rho, drawn for each input on its own. When the
width goes to infinity the variance q of a unit and the correlation c of two inputs obey

    q' = (sw^2 / rho) E phi(sqrt(q) z)^2 + sb^2,
    c' = (sw^2 E phi(u) phi(v) + sb^2) / q*        (no 1/rho: the masks are independent),

which approach q* and c* like exp(-l / xi). At the fixed point

    chi_q = (sw^2 / rho) E [phi'^2 + phi phi''],   chi_1 = (sw^2 / rho) E phi'(sqrt(q*) z)^2,
    chi_2 = sw^2 E phi'(u) phi'(v) at c*,          xi = -1 / log |chi|.

chi_1 is the factor by which squared gradients change from layer to layer; chi_1 = 1 is the critical
line. Without dropout, c* = 1 and chi_2 = chi_1 on its ordered side (chi_1 < 1). With dropout c* < 1
and chi_2 < 1 everywhere, so that xi_2 is finite everywhere: there is no critical line for signals.
The largest trainable depth of tanh networks is close to 12 min(xi_1, xi_2).

How the fixed points are found. q*: from the start q = 1 towards where the map points until the sign
of q' - q changes, then Newton inside that bracket, which is the point that iteration would reach.
c*: M(c) is a power series with coefficients >= 0, so that c' - c is convex on [0, 1], and Newton
from c = 0 climbs to the smallest root without overshooting: it is the stable one. Both are
differentiable by the implicit function theorem, whatever the number of iterations.

When there is no fixed point, `FixedPoint.status` says why, and the numbers are infinite or NaN.

Sources: Schoenholz, Gilmer, Ganguli & Sohl-Dickstein, ICLR 2017 (q, c, chi_1, xi); Huang, Xu, Du,
Zeng & Zhao, ECAI 2020, arXiv 1912.09132 (dropout, chi_2, the depth 12 min(xi_1, xi_2)). Comparing
with the former: its xi_c is the xi_2 here, its alpha is 1/rho.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from bayleaf.errors import BayleafError, bad_argument
from bayleaf.infinite.mean_field_moments import (
    Correlated,
    PiecewiseLinear,
    SmoothActivation,
    as_activation,
)
from bayleaf.infinite.mean_field_roots import (
    MAX_NEWTON,
    Status,
    find_bracket,
    newton_in_bracket,
)
from bayleaf.types import Flag, Scalar


class NoFixedPointError(BayleafError):
    """The variance of the signal settles nowhere but at zero or infinity."""


MEANING = {
    Status.FOUND: "a fixed point",
    Status.UNBOUNDED: "the variance grows without bound from layer to layer",
    Status.VANISHES: "the variance goes to zero: there is no bias, and chi_1 <= 1 at q = 0",
    Status.MARGINAL: "every variance is a fixed point; what is told is at the start, q = 1",
}


class FixedPoint(eqx.Module):
    """Where the maps end, for one network or (`phase_diagram`) for a grid of them.

    Attributes:
        weight_std: sw; ``bias_std``: sb; ``keep_probability``: rho.
        q: the variance q*. Infinite or 0 when it settles nowhere, see ``status``.
        chi_q: slope of the q-map there.
        chi_1: factor of squared gradients per layer, (sw^2 / rho) E phi'^2.
        c: the stable correlation c*.
        chi_2: slope of the c-map there.
        residual_q, residual_c: |map(x) - x| at q* and c*.
        left_out: a bound on what the truncated series leaves out of c', as a share.
        status: a `Status`, as an integer.
    """

    weight_std: Float[Array, "*grid"]
    bias_std: Float[Array, "*grid"]
    keep_probability: Float[Array, "*grid"]
    q: Float[Array, "*grid"]
    chi_q: Float[Array, "*grid"]
    chi_1: Float[Array, "*grid"]
    c: Float[Array, "*grid"]
    chi_2: Float[Array, "*grid"]
    residual_q: Float[Array, "*grid"]
    residual_c: Float[Array, "*grid"]
    left_out: Float[Array, "*grid"]
    status: Int[Array, "*grid"]

    @property
    def xi_q(self) -> Float[Array, "*grid"]:
        """Layers in which the distance to q* shrinks by e."""
        return -1 / jnp.log(jnp.abs(self.chi_q))

    @property
    def xi_grad(self) -> Float[Array, "*grid"]:
        """Layers in which squared gradients shrink by e; negative where they grow."""
        return -1 / jnp.log(self.chi_1)

    @property
    def xi_1(self) -> Float[Array, "*grid"]:
        """|xi_grad|; infinite on the critical line."""
        return jnp.abs(self.xi_grad)

    @property
    def xi_2(self) -> Float[Array, "*grid"]:
        """Layers in which the distance to c* shrinks by e."""
        return jnp.abs(1 / jnp.log(self.chi_2))

    @property
    def trainable_depth(self) -> Float[Array, "*grid"]:
        """12 min(xi_1, xi_2): the largest depth at which tanh networks were seen to train.

        12 is measured. In the published runs, 12 xi is reached by accuracies over 50 % without
        dropout; with rho = 0.95 it is nearer to 8 xi.
        """
        return 12 * jnp.minimum(self.xi_1, self.xi_2)


class MeanField(eqx.Module):
    """The theory of one network: its maps, and where they end.

    Args:
        activation: phi, a smooth elementwise function of JAX (``jnp.tanh``, ``jax.lax.erf``),
            ``jax.nn.relu``, ``jax.nn.hard_tanh``, or a `PiecewiseLinear`.
        weight_std: sw; weights have variance sw^2 / width.
        bias_std: sb.
        keep_probability: rho, with which dropout keeps a unit; 1 is no dropout.

    Raises:
        BayleafError: a kinked activation that is not piecewise linear, a negative standard
            deviation, or a probability outside (0, 1].
    """

    activation: SmoothActivation | PiecewiseLinear
    weight_std: Scalar
    bias_std: Scalar
    keep_probability: Scalar

    def __init__(
        self, activation: Any, *, weight_std: Any, bias_std: Any, keep_probability: Any = 1.0
    ):
        self.activation = as_activation(activation)
        settings = checked(weight_std, bias_std, keep_probability)
        self.weight_std, self.bias_std, self.keep_probability = settings

    def q_map(self, q: Any) -> Scalar:
        """The variance in the next layer."""
        return compiled_q_map(self, jnp.asarray(q, self.weight_std.dtype))

    def q_map_and_slope(self, q: Scalar) -> tuple[Scalar, Scalar]:
        """The variance in the next layer and its derivative, chi_q at the fixed point."""
        value, slope = self.activation.second_moment(q)
        scale = self.weight_std**2 / self.keep_probability
        return scale * value + self.bias_std**2, scale * slope

    def chi_1(self, q: Any) -> Scalar:
        """(sw^2 / rho) E phi'^2 at the variance ``q``."""
        q = jnp.asarray(q, self.weight_std.dtype)
        return self.weight_std**2 / self.keep_probability * self.activation.slope_moment(q)

    def c_map(self, c: Any, q: Any = None) -> Scalar:
        """The correlation in the next layer of two inputs of variance ``q``, by default q*."""
        dtype = self.weight_std.dtype
        q = self.fixed_point().q if q is None else jnp.asarray(q, dtype)
        c = jnp.asarray(c, dtype)
        return compiled_c_map(self, c, q)

    def fixed_point(self) -> FixedPoint:
        """q*, c* and the slopes of the maps there.

        Raises:
            NoFixedPointError: the variance grows without bound or vanishes. Inside compiled code,
                where nothing can be raised, ``status`` says so.
        """
        point = compiled_fixed_point(self)
        if not isinstance(point.status, Tracer):
            status = Status(int(point.status))
            if status in (Status.UNBOUNDED, Status.VANISHES):
                raise NoFixedPointError(
                    f"weight_std = {float(self.weight_std):g}, bias_std = "
                    f"{float(self.bias_std):g}: no fixed point, {MEANING[status]}. Try a "
                    f"{'smaller' if status == Status.UNBOUNDED else 'larger'} weight_std."
                )
        return point


@eqx.filter_jit
def compiled_q_map(theory: MeanField, q: Scalar) -> Scalar:
    """See `MeanField.q_map`."""
    return theory.q_map_and_slope(q)[0]


@eqx.filter_jit
def compiled_c_map(theory: MeanField, c: Scalar, q: Scalar) -> Scalar:
    """See `MeanField.c_map`."""
    value, _ = theory.activation.at(q).value_and_slope(c)
    return (theory.weight_std**2 * value + theory.bias_std**2) / theory.q_map_and_slope(q)[0]


def checked(weight_std: Any, bias_std: Any, keep_probability: Any) -> list[Array]:
    """The settings as arrays of one dtype, refused by name where they mean nothing."""
    named = {
        "weight_std": weight_std,
        "bias_std": bias_std,
        "keep_probability": keep_probability,
    }
    listed = [np.asarray(v) if isinstance(v, list | tuple) else v for v in named.values()]
    dtype = jnp.result_type(float, *listed)
    arrays = {name: jnp.asarray(value, dtype) for name, value in named.items()}
    for name, array in arrays.items():
        if isinstance(array, Tracer):
            continue
        is_share = name == "keep_probability"
        fine = (array > 0) & (array <= 1) if is_share else (array >= 0) & jnp.isfinite(array)
        if not bool(jnp.all(fine)):
            expected = "numbers in (0, 1]" if is_share else "finite numbers, not negative"
            raise bad_argument(name, named[name], expected)
    return list(arrays.values())


def solve_fixed_point(theory: MeanField) -> FixedPoint:
    """All of it for scalars; the arrays of `phase_diagram` come by vmap."""
    q, status = solve_q(theory)
    settled = (status == Status.FOUND) | (status == Status.MARGINAL)
    safe = jnp.where(settled, q, 1)
    image, chi_q = theory.q_map_and_slope(safe)
    # At q = 0 the limits: chi_1 = chi_q = (sw^2 / rho) phi'(0)^2, if phi(0) = 0.
    smallest = jnp.asarray(jnp.finfo(q.dtype).tiny ** 0.5, q.dtype)
    chi_1 = theory.chi_1(jnp.where(status == Status.VANISHES, smallest, safe))
    law = theory.activation.at(safe)
    c = solve_c(theory, law, safe, chi_1)
    is_one = c == 1
    value, slope = law.value_and_slope(jnp.where(is_one, 0.5, c))
    unbroken = theory.weight_std**2
    c_image = jnp.where(is_one, 1, (unbroken * value + theory.bias_std**2) / safe)
    # At c = 1 the slope is known without cancellation, and has a derivative.
    chi_2 = jnp.where(is_one, chi_1, unbroken * slope)
    nan = jnp.asarray(jnp.nan, q.dtype)
    vanishes = status == Status.VANISHES

    def if_settled(x: Scalar) -> Scalar:
        return jnp.where(settled, x, nan)

    return FixedPoint(
        theory.weight_std,
        theory.bias_std,
        theory.keep_probability,
        q,
        jnp.where(vanishes, chi_1, if_settled(chi_q)),
        jnp.where(vanishes, chi_1, if_settled(chi_1)),
        if_settled(c),
        if_settled(chi_2),
        if_settled(jnp.abs(image - q)),
        if_settled(jnp.abs(c_image - c)),
        if_settled(unbroken * law.left_out(c) / safe),
        status,
    )


compiled_fixed_point = eqx.filter_jit(solve_fixed_point)


def solve_q(theory: MeanField) -> tuple[Scalar, Int[Array, ""]]:
    """q* and what became of the search; 0 or infinity where there is none."""
    dtype = theory.weight_std.dtype
    eps = jnp.finfo(dtype).eps
    one = jnp.ones((), dtype)

    def excess(q: Scalar) -> tuple[Scalar, Scalar]:
        """The gap q' - q, taken as zero where it is round-off."""
        image, slope = theory.q_map_and_slope(q)
        gap = image - q
        return jnp.where(jnp.abs(gap) <= 4 * eps * q, 0, gap), slope - 1

    bracket = jax.lax.stop_gradient(find_bracket(lambda q: excess(q)[0], theory.bias_std**2, one))
    scale_free = (excess(one)[0] == 0) & (excess(4 * one)[0] == 0) & (theory.bias_std == 0)
    status = jnp.where(scale_free, Status.MARGINAL, bracket.status)

    def solve(_: Callable[[Scalar], Scalar], start: Scalar) -> Scalar:
        return newton_in_bracket(excess, bracket._replace(q=start))

    def divide(linear: Callable[[Scalar], Scalar], y: Scalar) -> Scalar:
        return y / linear(one)

    root = jax.lax.custom_root(lambda q: theory.q_map_and_slope(q)[0] - q, bracket.q, solve, divide)
    ends = {Status.UNBOUNDED: jnp.inf, Status.VANISHES: 0.0, Status.MARGINAL: 1.0}
    for code, end in ends.items():
        root = jnp.where(status == code, jnp.asarray(end, dtype), root)
    return root, status


def solve_c(theory: MeanField, law: Correlated, q: Scalar, chi_1: Scalar) -> Scalar:
    """The stable c* in [0, 1]."""
    dtype = q.dtype
    eps = jnp.finfo(dtype).eps

    def gap(c: Scalar) -> tuple[Scalar, Scalar]:
        value, slope = law.value_and_slope(c)
        scale = theory.weight_std**2
        return (scale * value + theory.bias_std**2) / q - c, scale * slope - 1

    # Without dropout c = 1 is a fixed point, and it is the stable one if the slope there is < 1.
    is_one = (theory.keep_probability == 1) & (chi_1 <= 1)

    def is_going(carry: tuple[Scalar, Flag, Int[Array, ""]]) -> Flag:
        _, is_done, count = carry
        return ~is_done & (count < MAX_NEWTON)

    def step(carry):
        c, _, count = carry
        value, slope = gap(c)
        # slope >= 0: past the minimum by rounding, near a double root at 1.
        new = jnp.where(slope < 0, c - value / jnp.where(slope < 0, slope, -1), c)
        new = jnp.clip(new, 0, 1)
        is_done = (value <= eps) | (jnp.abs(new - c) <= eps) | (slope >= 0)
        return jnp.where(value <= 0, c, new), is_done, count + 1

    def solve(_: Callable[[Scalar], Scalar], start: Scalar) -> Scalar:
        begin = (start, is_one, jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(is_going, step, begin)[0]

    def divide(linear: Callable[[Scalar], Scalar], y: Scalar) -> Scalar:
        return y / linear(jnp.ones((), dtype))

    zero = jnp.zeros((), dtype)
    root = jax.lax.custom_root(lambda c: gap(c)[0], zero, solve, divide)
    return jnp.where(is_one, 1, root)

"""Layers without a nonlinearity: Dense, Dropout, LayerNorm, Identity.

Dense, parameterisation "ntk":       z = weight_std / sqrt(n) W x + bias_std b,  W, b ~ N(0, 1),
Dense, parameterisation "standard":  z = W x + b,  W ~ N(0, weight_std^2 / n), b ~ N(0, bias_std^2),

with n inputs. Both have the same nngp, K' = sw^2 K + sb^2. The tangent kernels differ, since the
gradient is with respect to other parameters:

    ntk:       Theta' = sw^2 Theta + K',
    standard:  Theta' = sw^2 Theta + n K + 1,

so that the standard one grows with the widths, which therefore must be those of the network.

Sources: Jacot, Gabriel & Hongler, NeurIPS 2018; Sohl-Dickstein et al., arXiv 2001.07301 (standard
parameterisation); Huang, Du & Xu, IJCAI 2021 (orthogonal weights have the same infinite kernels).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from bayleaf.errors import bad_argument
from bayleaf.infinite.arcs import root
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.state import KernelState, kept, mix, safe_ratio, two_to
from bayleaf.types import Key, Scalar


class Dense(Layer):
    """A fully connected layer.

    Args:
        width: the number of units.
        weight_std: sw, see the head of the module.
        bias_std: sb; None is no bias at all. With the "standard" parameterisation 0 is a bias that
            starts at zero and is trained.
        parameterization: "ntk" or "standard".
        start: "gaussian", or "orthogonal" for weights that are random isometries (rows or columns
            orthonormal, whichever are fewer) scaled so that each has the Gaussian's variance. The
            kernels are the same.

    On images and sequences it acts on the channels, at each position alike.
    """

    weight_std: Scalar
    bias_std: Scalar | None
    width: int = eqx.field(static=True)
    parameterization: str = eqx.field(static=True)
    start: str = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        *,
        weight_std: ArrayLike = 1.0,
        bias_std: ArrayLike | None = None,
        parameterization: str = "ntk",
        start: str = "gaussian",
    ):
        self.width = positive_int(width, "width")
        self.weight_std = deviation(weight_std, "weight_std")
        self.bias_std = None if bias_std is None else deviation(bias_std, "bias_std")
        self.parameterization = one_of(parameterization, "parameterization", ("ntk", "standard"))
        self.start = one_of(start, "start", ("gaussian", "orthogonal"))

    def init(self, key: Key, input_shape: Any) -> dict[str, Array]:
        """``weight [inputs, width]`` and, unless there is none, ``bias [width]``."""
        num_inputs = example_shape(input_shape)[-1]
        key_weight, key_bias = jax.random.split(key)
        dtype = self.weight_std.dtype
        is_ntk = self.parameterization == "ntk"
        weight = draw_weight(key_weight, (num_inputs, self.width), dtype, self.start)
        params = {"weight": weight if is_ntk else weight * self.weight_std / num_inputs**0.5}
        if self.bias_std is not None:
            bias = jax.random.normal(key_bias, (self.width,), dtype)
            params["bias"] = bias if is_ntk else bias * self.bias_std
        return params

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """``x @ weight + bias``, with the scales of the parameterisation."""
        weight, bias = params["weight"], params.get("bias")
        if x.shape[-1] != weight.shape[0]:
            raise bad_argument("x", f"{x.shape[-1]} features", f"{weight.shape[0]}")
        is_ntk = self.parameterization == "ntk"
        scale = self.weight_std / weight.shape[0] ** 0.5 if is_ntk else 1.0
        z = scale * (x @ weight)
        if bias is None:
            return z
        bias = self.bias_std * bias if is_ntk else bias
        return z + bias.reshape((1,) * (z.ndim - 1) + bias.shape)

    def output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """The width in place of the number of inputs."""
        return (*example_shape(input_shape)[:-1], self.width)

    def propagate(self, state: Any) -> KernelState:
        """K' = sw^2 K + sb^2, and Theta' by the head of the module."""
        before = one_state(state, self)
        after = linear(before, self.weight_std, self.bias_std)
        new = after.ntk + after.scaled_nngp
        if self.parameterization == "standard":
            gradient = before.shape[-1] * before.scaled_nngp
            if self.bias_std is not None:
                half1, half2 = _inverse_roots(before)
                gradient = gradient + before.side1(half1) * before.side2(half2)
            new = after.ntk + gradient
        shape = (*before.shape[:-1], self.width)
        return after.evolve(ntk=new, shape=shape, is_gaussian=True, is_fresh=True).normalised()


class Dropout(Layer):
    """Keeps each unit with ``keep_probability``, independently, scaled by its inverse; else 0.

    Masks are drawn for each input on its own, so that only the variances change: v' = v / keep. An
    input paired with itself (``x2=None``, on the diagonal) has one mask, an equal input in another
    row has another.
    """

    keep_probability: Scalar

    def __init__(self, keep_probability: ArrayLike):
        self.keep_probability = share(keep_probability, "keep_probability")

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """``x`` with dropped units when there is a key."""
        if key is None:
            return x
        keep = jnp.asarray(self.keep_probability, x.dtype)
        return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0)

    def propagate(self, state: Any) -> KernelState:
        """1 - rho' = 1 - keep + keep (1 - rho), but for an input with itself."""
        state = one_state(state, self)
        keep = jnp.asarray(self.keep_probability, state.var1.dtype)
        same = state.is_same()
        ntk = state.ntk if same is None else jnp.where(same, state.ntk / keep, state.ntk)
        return state.with_correlation(
            1 - keep + keep * state.one_minus,
            1 - keep + keep * state.one_plus,
            ntk=ntk,
            var1=state.var1 / keep,
            var2=state.var2 / keep,
            is_gaussian=False,
        )


class LayerNorm(Layer):
    """Subtracts the mean over the units and divides by their standard deviation.

    No scale and no shift are learned. In the limit the mean over the units of a layer with weights
    is zero, so that K' = K / sqrt(v_a v_b); after an activation it is not, and that is refused.
    """

    epsilon: float = eqx.field(static=True, default=1e-12)

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """Normalised over the last axis."""
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + jnp.asarray(self.epsilon, x.dtype))

    def propagate(self, state: Any) -> KernelState:
        """All variances become 1; correlations stay."""
        state = one_state(state, self)
        if not state.is_gaussian:
            raise bad_argument(
                "LayerNorm",
                "units that are not Gaussian with mean zero",
                "a place straight after a layer with weights",
                "Put it between Dense and the activation.",
            )
        size = state.side1(root(state.var1)) * state.side2(root(state.var2))
        return state.evolve(
            ntk=safe_ratio(state.ntk, size),
            var1=jnp.where(state.var1 > 0, 1, 0).astype(state.var1.dtype),
            var2=jnp.where(state.var2 > 0, 1, 0).astype(state.var2.dtype),
            exponent1=jnp.zeros_like(state.exponent1),
            exponent2=jnp.zeros_like(state.exponent2),
        )


class Identity(Layer):
    """Nothing; the short way of a residual block."""

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Any:
        """``x``."""
        return x

    def propagate(self, state: Any) -> Any:
        """``state``."""
        return state


def draw_weight(key: Key, shape: tuple[int, ...], dtype: Any, start: str) -> Array:
    """A weight whose entries have variance 1, the last axis the outputs."""
    if start == "gaussian":
        return jax.random.normal(key, shape, dtype)
    num_outputs = shape[-1]
    num_inputs = 1
    for axis in shape[:-1]:
        num_inputs *= axis
    # Orthonormal rows or columns have entries of variance 1 / max; a unit needs variance 1 in all.
    scale = max(num_inputs, num_outputs) ** 0.5
    flat = jax.nn.initializers.orthogonal(scale)(key, (num_inputs, num_outputs), dtype)
    return flat.reshape(shape)


def linear(state: KernelState, weight_std: Scalar, bias_std: Scalar | None) -> KernelState:
    """K' = sw^2 K + sb^2 and Theta' = sw^2 Theta, exponents unchanged."""
    sw = jnp.asarray(weight_std, state.var1.dtype)
    if bias_std is None:
        # Correlations do not change, unless there is nothing left to correlate.
        return state.evolve(var1=sw**2 * state.var1, var2=sw**2 * state.var2, ntk=sw**2 * state.ntk)
    sb = jnp.asarray(bias_std, state.var1.dtype)
    half1, half2 = _inverse_roots(state)
    part1, part2 = sw**2 * state.var1, sw**2 * state.var2
    bias1 = jnp.broadcast_to(_column(sb * half1, part1), part1.shape)
    bias2 = jnp.broadcast_to(_column(sb * half2, part2), part2.shape)
    var1, var2 = part1 + bias1**2, part2 + bias2**2
    shares = []
    for part, bias, var, side in (
        (part1, bias1, var1, state.side1),
        (part2, bias2, var2, state.side2),
    ):
        size = root(var)
        shares.append((side(safe_ratio(root(part), size)), side(safe_ratio(bias, size))))
    (signal1, constant1), (signal2, constant2) = kept(shares)
    zero, two = jnp.zeros((), var1.dtype), jnp.full((), 2, var1.dtype)
    minus, plus = mix(
        [(signal1, signal2, state.one_minus, state.one_plus), (constant1, constant2, zero, two)]
    )
    return state.evolve(one_minus=minus, one_plus=plus, var1=var1, var2=var2, ntk=sw**2 * state.ntk)


def _inverse_roots(state: KernelState) -> tuple[Array, Array]:
    """``2^(-exponent / 2)`` of both sides, the factor of a constant on their scale."""
    dtype = state.var1.dtype
    return two_to(-(state.exponent1 // 2), dtype), two_to(-(state.exponent2 // 2), dtype)


def _column(values: Array, like: Array) -> Array:
    return values.reshape((-1, *(1,) * (like.ndim - 1)))


def one_state(state: Any, layer: Layer) -> KernelState:
    """The state before a layer that takes one input."""
    if not isinstance(state, KernelState):
        raise bad_argument(
            type(layer).__name__,
            f"{len(state)} branches",
            "one input",
            "After FanOut use parallel(...), and FanInSum() to join the branches.",
        )
    return state


def example_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one example, checked."""
    shape = tuple(shape) if isinstance(shape, tuple | list) else shape
    if not isinstance(shape, tuple) or not shape or any(not _is_count(s) for s in shape):
        raise bad_argument(
            "input_shape",
            shape,
            "the shape of one example, such as (784,) or (32, 32, 3)",
            "Leave the batch axis out.",
        )
    return shape


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def positive_int(value: Any, name: str) -> int:
    """A number of units."""
    if not _is_count(value):
        raise bad_argument(name, value, "a positive whole number")
    return value


def one_of(value: str, name: str, names: tuple[str, ...]) -> str:
    """A word out of a list."""
    if value not in names:
        raise bad_argument(name, value, f"one of {', '.join(names)}")
    return value


def deviation(value: ArrayLike, name: str) -> Scalar:
    """A standard deviation: one number, not negative."""
    array = jnp.asarray(value)
    array = array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)
    if array.shape != ():
        raise bad_argument(name, f"shape {array.shape}", "one number")
    if not isinstance(array, Tracer) and not 0 <= float(array) < float("inf"):
        raise bad_argument(name, float(array), "a finite number, not negative")
    return array


def share(value: ArrayLike, name: str) -> Scalar:
    """A probability in (0, 1]."""
    array = deviation(value, name)
    if not isinstance(array, Tracer) and not 0 < float(array) <= 1:
        raise bad_argument(name, float(array), "a probability in (0, 1]")
    return array

"""Self-attention over all positions, with many heads.

Each head has queries, keys and values Q, K, V of d units, and f_a = sum_b zeta(scores_ab) V_b goes
through the weights of the output, all in the "ntk" parameterisation. With k(a, b) the covariance of
the inputs, g = query_std key_std and h = value_std weight_std:

``scaling="linear"``, scores = Q K / d with tied queries and keys: scores tend to g k_x(a, b), so
that A = zeta(g k_x) is a number for each pair of positions of one input, whatever zeta is, and

    K'     = h^2 A K A'^T + bias_std^2,     Theta' = h^2 A Theta A'^T + 2 h^2 A K A'^T + bias_std^2.

``scaling="sqrt"``, scores = Q K / sqrt(d): scores stay Gaussian. With zeta the identity

    K'(a, a') = h^2 g^2 k(a, a') s + bias_std^2,     s = sum_bb' k(b, b')^2,
    Theta'    = h^2 g^2 [s (Theta + 4 k) + 2 k sum_bb' k(b, b') Theta(b, b')] + bias_std^2,

and for a softmax no closed form is known: the finite network can be drawn, the kernel is refused.

Source: Hron et al., Infinite attention: NNGP and NTK for deep attention networks, ICML 2020.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from bayleaf.errors import bad_argument
from bayleaf.infinite.dense import deviation, example_shape, one_of, one_state, positive_int
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.spatial_pool import the_list, with_covariance
from bayleaf.infinite.state import KernelState
from bayleaf.types import Key, Scalar

MECHANISMS = ("softmax", "identity", "relu", "abs")
HIGHEST = jax.lax.Precision.HIGHEST


class SelfAttention(Layer):
    """Attention of all positions to all positions of ``[n, *space, channel]``.

    Args:
        width: the number of channels that come out.
        num_heads: the number of heads.
        head_width: d, the width of queries, keys and values; None is ``width // num_heads``.
        mechanism: zeta, "softmax", "identity", "relu" or "abs".
        scaling: "linear" for scores / d with tied queries and keys, "sqrt" for scores / sqrt(d).
        query_std: the deviation of the weights of queries; ``key_std``, ``value_std`` likewise.
        weight_std: that of the weights of the output.
        bias_std: that of its bias; None is no bias.

    The kernels are the limit of many heads, each of them wide.
    """

    query_std: Scalar
    key_std: Scalar
    value_std: Scalar
    weight_std: Scalar
    bias_std: Scalar | None
    width: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    head_width: int = eqx.field(static=True)
    mechanism: str = eqx.field(static=True)
    scaling: str = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        num_heads: int = 1,
        *,
        head_width: int | None = None,
        mechanism: Literal["softmax", "identity", "relu", "abs"] = "softmax",
        scaling: Literal["linear", "sqrt"] = "linear",
        query_std: ArrayLike = 1.0,
        key_std: ArrayLike = 1.0,
        value_std: ArrayLike = 1.0,
        weight_std: ArrayLike = 1.0,
        bias_std: ArrayLike | None = None,
    ):
        self.width = positive_int(width, "width")
        self.num_heads = positive_int(num_heads, "num_heads")
        head_width = max(width // num_heads, 1) if head_width is None else head_width
        self.head_width = positive_int(head_width, "head_width")
        self.mechanism = one_of(mechanism, "mechanism", MECHANISMS)
        self.scaling = one_of(scaling, "scaling", ("linear", "sqrt"))
        self.query_std = deviation(query_std, "query_std")
        self.key_std = deviation(key_std, "key_std")
        self.value_std = deviation(value_std, "value_std")
        self.weight_std = deviation(weight_std, "weight_std")
        self.bias_std = None if bias_std is None else deviation(bias_std, "bias_std")

    @property
    def mixes_positions(self) -> bool:
        """True."""
        return True

    def init(self, key: Key, input_shape: Any) -> dict[str, Array]:
        """``query``, ``key``, ``value`` ``[head, channel, d]``, ``weight [head, d, width]``.

        With linear scaling there is no ``query``: queries and keys share their weights. ``bias
        [width]`` is there unless there is none.
        """
        self.output_shape(input_shape)
        channels, dtype = input_shape[-1], self.weight_std.dtype
        keys = jax.random.split(key, 5)
        shape = (self.num_heads, channels, self.head_width)
        params = {
            "key": jax.random.normal(keys[0], shape, dtype),
            "value": jax.random.normal(keys[1], shape, dtype),
            "weight": jax.random.normal(keys[2], (*shape[::2], self.width), dtype),
        }
        if self.scaling == "sqrt":
            params["query"] = jax.random.normal(keys[3], shape, dtype)
        if self.bias_std is not None:
            params["bias"] = jax.random.normal(keys[4], (self.width,), dtype)
        return params

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """Attention of each head, and its output."""
        shape = self.output_shape(x.shape[1:])
        rows = x.reshape(x.shape[0], -1, x.shape[-1]) / x.shape[-1] ** 0.5

        def project(weight: Array) -> Array:
            return jnp.einsum("npc,hcd->nhpd", rows, weight)

        keys = project(params["key"])
        queries = project(params["query"]) if self.scaling == "sqrt" else keys
        power = 0.5 if self.scaling == "sqrt" else 1
        scores = jnp.einsum("nhad,nhbd->nhab", queries, keys) / self.head_width**power
        attention = self.attend(self.query_std * self.key_std * scores)
        heads = jnp.einsum("nhab,nhbd->nahd", attention, project(params["value"]))
        scale = self.value_std * self.weight_std / (self.num_heads * self.head_width) ** 0.5
        z = scale * jnp.einsum("nahd,hdw->naw", heads, params["weight"])
        if self.bias_std is not None:
            z = z + (self.bias_std * params["bias"]).reshape(1, 1, -1)
        return z.reshape(x.shape[0], *shape)

    def output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """The same positions, ``width`` channels."""
        shape = example_shape(input_shape)
        if len(shape) == 1:
            raise bad_argument(
                "SelfAttention",
                f"an example of shape {shape}",
                "axes of positions before the channels",
                "Sequences are [n, position, channels].",
            )
        return (*shape[:-1], self.width)

    def attend(self, scores: Array) -> Array:
        """Zeta of scores, the last axis what is attended to."""
        match self.mechanism:
            case "softmax":
                return jax.nn.softmax(scores, axis=-1)
            case "relu":
                return jnp.maximum(scores, 0)
            case "abs":
                return jnp.abs(scores)
            case _:
                return scores

    def propagate(self, state: KernelState) -> KernelState:
        """The formulas of the module's head."""
        state = one_state(state, self)
        shape = self.output_shape(state.shape)
        if self.scaling == "sqrt" and self.mechanism != "identity":
            raise bad_argument(
                "SelfAttention",
                f"mechanism={self.mechanism!r} with scaling='sqrt'",
                "a mechanism whose kernel is known",
                "Use scaling='linear', or mechanism='identity'.",
            )
        # Products of several covariances know no common scale: they are formed in plain numbers.
        full = state.one_minus.shape
        square = (full[0], math.prod(shape[:-1]), math.prod(shape[:-1]))
        nngp, ntk = state.nngp.reshape(square), state.full_ntk.reshape(square)
        maps = self._linear if self.scaling == "linear" else self._identity
        new_nngp, new_ntk = maps(state, nngp, ntk)
        if self.bias_std is not None:
            variance = jnp.asarray(self.bias_std, nngp.dtype) ** 2
            new_nngp, new_ntk = new_nngp + variance, new_ntk + variance
        after = state.evolve(
            ntk=new_ntk.reshape(full),
            exponent1=jnp.zeros_like(state.exponent1),
            exponent2=jnp.zeros_like(state.exponent2),
            shape=shape,
            is_gaussian=True,
            is_fresh=True,
        )
        return with_covariance(after, new_nngp.reshape(full)).normalised()

    def _linear(self, state: KernelState, nngp: Array, ntk: Array) -> tuple[Array, Array]:
        listing = the_list(state)
        gain = jnp.asarray(self.query_std * self.key_std, nngp.dtype)
        attention = self.attend(gain * nngp[: listing.num_inputs])
        first, second = attention[listing.left], attention[listing.right]
        scale = jnp.asarray(self.value_std * self.weight_std, nngp.dtype) ** 2

        def weigh(pairs: Array) -> Array:
            half = jnp.einsum("kab,kbc->kac", first, pairs, precision=HIGHEST)
            return scale * jnp.einsum("kac,kdc->kad", half, second, precision=HIGHEST)

        new_nngp = weigh(nngp)
        return new_nngp, weigh(ntk) + 2 * new_nngp

    def _identity(self, state: KernelState, nngp: Array, ntk: Array) -> tuple[Array, Array]:
        gains = self.query_std * self.key_std * self.value_std * self.weight_std
        scale = jnp.asarray(gains, nngp.dtype) ** 2
        square = scale * jnp.sum(nngp**2, axis=(1, 2), keepdims=True)
        product = scale * jnp.sum(nngp * ntk, axis=(1, 2), keepdims=True)
        return square * nngp, square * (ntk + 4 * nngp) + 2 * product * nngp

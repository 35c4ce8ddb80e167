"""Convolutions: Conv, in one or more dimensions.

With w places d in a window and c channels,

    z(p) = weight_std / sqrt(w c) sum_d W_d x(p + d) + bias_std b       (parameterisation "ntk"),

each weight an independent standard normal. At positions p of input a and q of input b

    K'(p, q) = weight_std^2 / w sum_d K(p + d, q + d) + bias_std^2,

and Theta' as after a Dense layer on windows. Both windows move together, so that convolutions up to
a Flatten need K at equal positions only; averages over positions need all pairs of them.

The sums are made one axis after the other, in the form of `mix`: no difference of near numbers.
``start="delta_orthogonal"`` draws a random isometry in the middle of the window, zeros elsewhere.
Then K'(p, q) = weight_std^2 K(p, q) + bias_std^2: nothing is averaged, and deep networks keep what
tells inputs apart. The zeros are trained like the rest, so that the gradient of the weights still
averages over windows.

Sources: Novak et al., Bayesian deep convolutional networks with many channels are Gaussian
processes, ICLR 2019; Arora et al., On exact computation with an infinitely wide neural net, NeurIPS
2019 (tangent kernel); Xiao et al., Dynamical isometry and a mean field theory of CNNs, ICML 2018
(delta-orthogonal start).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from bayleaf.errors import bad_argument
from bayleaf.infinite.arcs import root
from bayleaf.infinite.dense import Dense, draw_weight, linear, one_of, one_state
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.spatial_windows import (
    Padding,
    Window,
    checked_padding,
    checked_strides,
    checked_window,
    pair_axes,
    places,
    sum_of,
    windows,
)
from bayleaf.infinite.state import KernelState, Pairs, kept, mix, safe_ratio, two_to
from bayleaf.types import Key, Scalar


class Conv(Layer):
    """A convolution over ``[n, *space, channel]``.

    Args:
        width: the number of channels that come out.
        window: its size along each axis of positions, such as (3, 3).
        strides: its steps, one number or one for each axis.
        padding: what stands beyond the border: "SAME" zeros, "CIRCULAR" the other end of the image,
            "VALID" nothing, so that only whole windows count.
        weight_std: see the head of the module.
        bias_std: likewise; None is no bias at all.
        parameterization: "ntk" or "standard", as in `Dense`.
        start: "gaussian", or "delta_orthogonal", which has other kernels.
    """

    weight_std: Scalar
    bias_std: Scalar | None
    width: int = eqx.field(static=True)
    window: tuple[int, ...] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: str = eqx.field(static=True)
    parameterization: Literal["ntk", "standard"] = eqx.field(static=True)
    start: str = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        window: tuple[int, ...],
        *,
        strides: int | tuple[int, ...] = 1,
        padding: Padding = "SAME",
        weight_std: ArrayLike = 1.0,
        bias_std: ArrayLike | None = None,
        parameterization: Literal["ntk", "standard"] = "ntk",
        start: Literal["gaussian", "delta_orthogonal"] = "gaussian",
    ):
        dense = Dense(
            width, weight_std=weight_std, bias_std=bias_std, parameterization=parameterization
        )
        self.width, self.parameterization = dense.width, parameterization
        self.weight_std, self.bias_std = dense.weight_std, dense.bias_std
        self.window = checked_window(window)
        self.strides = checked_strides(strides, self.window)
        self.padding = checked_padding(padding)
        self.start = one_of(start, "start", ("gaussian", "delta_orthogonal"))
        if self.start == "delta_orthogonal" and any(size % 2 == 0 for size in self.window):
            raise bad_argument("window", self.window, "odd sizes, which have a middle")

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window along each axis of positions."""
        return windows(self.window, self.strides, self.padding)

    @property
    def on_windows(self) -> Dense:
        """The same weights, as a layer on what a window holds."""
        return Dense(
            self.width,
            weight_std=self.weight_std,
            bias_std=self.bias_std,
            parameterization=self.parameterization,
        )

    def init(self, key: Key, input_shape: Any) -> dict[str, Array]:
        """``weight [*window, channels, width]`` and, unless there is none, ``bias [width]``."""
        self.output_shape(input_shape)
        size, channels = math.prod(self.window), input_shape[-1]
        params = self.on_windows.init(key, (size * channels,))
        if self.start == "delta_orthogonal":
            # All of the window's variance is in its middle.
            unit = draw_weight(key, (channels, self.width), params["weight"].dtype, "orthogonal")
            if self.parameterization == "standard":
                unit = unit * self.weight_std / (size * channels) ** 0.5
            weight = jnp.zeros((size, channels, self.width), unit.dtype)
            params["weight"] = weight.at[size // 2].set(size**0.5 * unit)
        params["weight"] = params["weight"].reshape(*self.window, channels, self.width)
        return params

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """The convolution, with the scales of the parameterisation."""
        x = jnp.asarray(x)
        self.output_shape(x.shape[1:])
        weight, bias = params["weight"], params.get("bias")
        is_ntk = self.parameterization == "ntk"
        for axis, window in enumerate(self.windows):
            x = window.padded(x, (1 + axis,))
        letters = "DHW"[-len(self.window) :] if len(self.window) <= 3 else None
        if letters is None:
            raise bad_argument("window", self.window, "at most 3 axes in a finite network")
        dimensions = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        z = jax.lax.conv_general_dilated(
            x, weight.astype(x.dtype), self.strides, "VALID", dimension_numbers=dimensions
        )
        if is_ntk:
            z = self.weight_std / math.prod(weight.shape[:-1]) ** 0.5 * z
        if bias is None:
            return z
        bias = self.bias_std * bias if is_ntk else bias
        return z + bias.reshape((1,) * (z.ndim - 1) + bias.shape)

    def output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """The numbers of windows, and the width."""
        return (*places("Conv", input_shape, self.windows), self.width)

    def propagate(self, state: KernelState) -> KernelState:
        """Means over windows, and then as `Dense`."""
        state = one_state(state, self)
        shape = self.output_shape(state.shape)
        channels = math.prod(self.window) * state.shape[-1]
        averaged = window_mean(state, self.windows)
        if self.start == "gaussian":
            before = averaged.evolve(shape=(*shape[:-1], channels))
            return self.on_windows.propagate(before)
        # The signal passes through the middle; the gradient of the weights sees whole windows.
        middle = window_middle(state, self.windows).evolve(shape=shape)
        through = linear(middle, self.weight_std, self.bias_std).normalised()
        nothing = averaged.evolve(shape=(channels,), ntk=jnp.zeros_like(averaged.ntk))
        gradient = self.on_windows.propagate(nothing)
        ntk = through.ntk + _on_scale(gradient, through)
        return through.evolve(ntk=ntk, is_gaussian=True, is_fresh=True)


def _on_scale(state: KernelState, other: KernelState) -> Pairs:
    """Theta of ``state``, divided by the powers of two of ``other``."""
    half1 = two_to((state.exponent1 - other.exponent1) // 2, state.ntk.dtype)
    half2 = two_to((state.exponent2 - other.exponent2) // 2, state.ntk.dtype)
    return state.ntk * other.side1(half1) * other.side2(half2)


def window_mean(state: KernelState, all_windows: tuple[Window, ...]) -> KernelState:
    """K and Theta averaged over windows that move together; zeros beyond the border count."""
    # Both sides at once, which halves what has to be compiled.
    var, split, shares = jnp.concatenate([state.var1, state.var2]), state.var1.shape[0], []
    for axis, window in enumerate(all_windows):
        parts = window.pieces(var, 1 + axis)
        total = sum_of(parts)
        shares.append([safe_ratio(root(part), root(total)) for part in parts])
        var = total
    var, shares = kept((var, shares))
    for axis, window in enumerate(all_windows):
        state = _mean_along(state, axis, window, shares[axis], split)
    size = math.prod(window.size for window in all_windows)
    state = state.evolve(var1=var[:split] / size, var2=var[split:] / size, ntk=state.ntk / size)
    is_zero = (state.side1(state.var1) == 0) | (state.side2(state.var2) == 0)
    # Where nothing is left on one side the shares add up to 0 and not to 1.
    return state.with_correlation(
        jnp.where(is_zero, 1, state.one_minus), jnp.where(is_zero, 1, state.one_plus)
    )


def _mean_along(
    state: KernelState, axis: int, window: Window, shares: list[Array], split: int
) -> KernelState:
    """1 -+ rho of the sum over windows along one axis, and the sum of Theta; not the variances.

    Args:
        state: the state.
        axis: which axis of positions.
        window: the window along it.
        shares: for each place in the window the root of its share of the variance, of both sides.
        split: how many inputs side 1 has.
    """
    axes = pair_axes(state, axis)
    # Else XLA would compute what comes before once for each place in the window, at each layer.
    pairs = kept((state.one_minus, state.one_plus, state.ntk))
    minus, plus, ntk = (window.pieces(x, *axes) for x in pairs)
    sides = [(state.side1(share[:split]), state.side2(share[split:])) for share in shares]
    parts = [(*side, m, p) for side, m, p in zip(sides, minus, plus, strict=True)]
    one_minus, one_plus = mix(parts)
    return state.evolve(one_minus=one_minus, one_plus=one_plus, ntk=sum_of(ntk))


def window_middle(state: KernelState, all_windows: tuple[Window, ...]) -> KernelState:
    """What stands in the middle of windows that move together."""
    for axis, window in enumerate(all_windows):
        axes = pair_axes(state, axis)
        middle = window.size // 2
        state = state.evolve(
            var1=window.pieces(state.var1, 1 + axis)[middle],
            var2=window.pieces(state.var2, 1 + axis)[middle],
            one_minus=window.pieces(state.one_minus, *axes)[middle],
            one_plus=window.pieces(state.one_plus, *axes)[middle],
            ntk=window.pieces(state.ntk, *axes)[middle],
        )
    return state

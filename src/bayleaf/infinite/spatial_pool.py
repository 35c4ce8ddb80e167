"""From positions to fewer or none: Flatten, AvgPool, SumPool, GlobalAvgPool, GlobalSumPool.

    Flatten         K' = mean over p of K(p, p)                  equal positions only
    GlobalAvgPool   K' = mean over p and q of K(p, q)            all pairs of positions
    AvgPool         K'(P, Q) = mean over p in P, q in Q of K(p, q)

and Theta' likewise. Averages need the covariances of all pairs of positions, (height x width)^2 for
each pair of images, and for each image with itself as well: the variance of an average is the mean
of those. A maximum has no kernel in closed form, see `MaxPool`.

Source: Novak et al., Bayesian deep convolutional networks with many channels are Gaussian
processes, ICLR 2019.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.infinite.arcs import root
from bayleaf.infinite.dense import example_shape, one_state
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
from bayleaf.infinite.state import KernelState, Listing, Pairs, kept, safe_ratio
from bayleaf.types import Key


class Flatten(Layer):
    """All positions and channels as the features of one vector; vectors stay what they are."""

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """``[n, features]``."""
        return x.reshape(x.shape[0], -1)

    def output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """The number of features."""
        return (math.prod(example_shape(input_shape)),)

    def propagate(self, state: KernelState) -> KernelState:
        """Means over equal positions, in the form of `mix`."""
        state = one_state(state, self)
        if not state.num_space:
            return state
        state = _equal_positions(state)
        (total1, share1), (total2, share2) = kept((_shares(state.var1), _shares(state.var2)))
        first, second = state.side1(share1), state.side2(share2)
        apart, both = 0.5 * (first - second) ** 2, first * second
        space = tuple(range(-state.num_space, 0))
        minus = jnp.sum(apart + both * state.one_minus, axis=space)
        plus = jnp.sum(apart + both * state.one_plus, axis=space)
        size = math.prod(state.shape[:-1])
        # Units at different positions have different variances: an activation cannot follow.
        flat = state.evolve(
            one_minus=minus,
            one_plus=plus,
            var1=total1 / size,
            var2=total2 / size,
            ntk=jnp.mean(state.ntk, axis=space),
            shape=(math.prod(state.shape),),
            is_gaussian=False,
        )
        is_zero = (flat.side1(total1) == 0) | (flat.side2(total2) == 0)
        return in_grid(
            flat.with_correlation(jnp.where(is_zero, 1, minus), jnp.where(is_zero, 1, plus))
        )


class AvgPool(Layer):
    """The average over windows.

    Args:
        window: its size along each axis of positions, such as (2, 2).
        strides: its steps; None for the size of the window, so that windows do not overlap.
        padding: what stands beyond the border, as in `Conv`. The zeros of "SAME" count as values.
    """

    window: tuple[int, ...] = eqx.field(static=True)
    strides: tuple[int, ...] = eqx.field(static=True)
    padding: str = eqx.field(static=True)

    def __init__(
        self,
        window: tuple[int, ...],
        *,
        strides: int | tuple[int, ...] | None = None,
        padding: Padding = "VALID",
    ):
        self.window = checked_window(window)
        self.strides = checked_strides(self.window if strides is None else strides, self.window)
        self.padding = checked_padding(padding)

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window along each axis of positions."""
        return windows(self.window, self.strides, self.padding)

    @property
    def divisor(self) -> int:
        """What the sum over a window is divided by."""
        return math.prod(self.window)

    @property
    def mixes_positions(self) -> bool:
        """True."""
        return True

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """Sums over windows, divided."""
        x = jnp.asarray(x)
        self.output_shape(x.shape[1:])
        for axis, window in enumerate(self.windows):
            x = sum_of(window.pieces(x, 1 + axis))
        return x / self.divisor

    def output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """The numbers of windows, and the channels."""
        name = type(self).__name__
        space = places(name, input_shape, self.windows)
        for length, window in zip(input_shape, self.windows, strict=False):
            if window.padding == "VALID" and (length - window.size) % window.stride:
                raise bad_argument(
                    name,
                    f"windows of {window.size} in steps of {window.stride} on {length} positions",
                    "windows that reach the border exactly",
                    "Choose a size that divides the image, or padding='SAME'.",
                )
        return (*space, input_shape[-1])

    def propagate(self, state: KernelState) -> KernelState:
        """Sums of K and Theta over both windows, one axis after the other."""
        state = one_state(state, self)
        shape = self.output_shape(state.shape)
        covariance, ntk = state.scaled_nngp, state.ntk
        for axis, window in enumerate(self.windows):
            for side in pair_axes(state, axis):
                covariance = sum_of(window.pieces(covariance, side))
                ntk = sum_of(window.pieces(ntk, side))
        scale = 1 / self.divisor**2
        after = state.evolve(shape=shape, ntk=scale * ntk)
        return with_covariance(after, scale * covariance).normalised()


class SumPool(AvgPool):
    """The sum over windows, with the arguments of `AvgPool`."""

    @property
    def divisor(self) -> int:
        """1."""
        return 1


class GlobalAvgPool(Layer):
    """The average over all positions."""

    @property
    def mixes_positions(self) -> bool:
        """True."""
        return True

    def divisor(self, space: tuple[int, ...]) -> int:
        """What the sum over all positions is divided by."""
        return math.prod(space)

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Array:
        """``[n, channel]``."""
        self.output_shape(x.shape[1:])
        return jnp.sum(x, axis=tuple(range(1, x.ndim - 1))) / self.divisor(x.shape[1:-1])

    def output_shape(self, input_shape: Any) -> tuple[int, ...]:
        """The number of channels."""
        shape = example_shape(input_shape)
        if len(shape) == 1:
            raise bad_argument(
                type(self).__name__,
                f"an example of shape {shape}",
                "axes of positions before the channels",
                "Images are [n, height, width, channels], sequences [n, position, channels].",
            )
        return shape[-1:]

    def propagate(self, state: KernelState) -> KernelState:
        """Sums of K and Theta over all pairs of positions."""
        state = one_state(state, self)
        shape = self.output_shape(state.shape)
        positions = tuple(range(-2 * state.num_space, 0))
        scale = 1 / self.divisor(state.shape[:-1]) ** 2
        covariance = scale * jnp.sum(state.scaled_nngp, axis=positions)
        ntk = scale * jnp.sum(state.ntk, axis=positions)
        after = state.evolve(shape=shape, ntk=ntk, is_full=False)
        return in_grid(with_covariance(after, covariance)).normalised()


class GlobalSumPool(GlobalAvgPool):
    """The sum over all positions."""

    def divisor(self, space: tuple[int, ...]) -> int:
        """1."""
        return 1


def MaxPool(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused: the largest of correlated Gaussians has no covariance in closed form.

    Raises:
        BayleafError: always, with what to use instead.
    """
    raise bad_argument(
        "MaxPool",
        "a maximum over positions",
        "a layer whose kernel is known",
        "Use AvgPool(window), or strides in Conv.",
    )


def BatchNorm(*args: Any, **kwargs: Any) -> NoReturn:
    """Refused: normalising over a batch makes each kernel entry depend on all other inputs.

    Raises:
        BayleafError: always, with what to use instead.
    """
    raise bad_argument(
        "BatchNorm",
        "statistics of a batch",
        "a layer that takes each input for itself",
        "Use LayerNorm() straight after a layer with weights.",
    )


def with_covariance(state: KernelState, covariance: Pairs) -> KernelState:
    """A listed state with these covariances, on its scale, whose variances are among them.

    From 2 s1 s2 (1 - rho) = v1 + v2 - 2 K - (s1 - s2)^2: exactly 0 for equal inputs, whose sums are
    equal to the last bit.
    """
    listing = the_list(state)
    selves = covariance[: listing.num_inputs]
    if state.is_full:
        space = selves.shape[1 : 1 + (selves.ndim - 1) // 2]
        square = selves.reshape(selves.shape[0], math.prod(space), math.prod(space))
        selves = jnp.diagonal(square, axis1=1, axis2=2).reshape(-1, *space)
    selves = jnp.maximum(selves, 0)
    var1, var2 = kept((selves[listing.left], selves[listing.right]))
    after = state.evolve(var1=var1, var2=var2)
    v1, v2 = after.side1(var1), after.side2(var2)
    s1, s2 = after.side1(root(var1)), after.side2(root(var2))
    whole, size = v1 + v2 - (s1 - s2) ** 2, 2 * (s1 * s2)
    minus, plus = (
        jnp.where(size == 0, 1, safe_ratio(jnp.maximum(difference, 0), size))
        for difference in (whole - 2 * covariance, whole + 2 * covariance)
    )
    return after.with_correlation(minus, plus)


def the_list(state: KernelState) -> Listing:
    """What a state lists that holds all pairs of positions."""
    if state.listing is None:
        raise bad_argument(
            "state",
            "the covariances at equal positions",
            "those of all pairs of positions",
            "Make it by net.state(x1, x2).",
        )
    return state.listing


def in_grid(state: KernelState) -> KernelState:
    """The pairs of the matrix of kernels, out of a list without positions."""
    listing = state.listing
    if listing is None:
        return state
    own1, own2 = listing.own1, listing.own2
    ids = state.id1, state.id2
    return state.evolve(
        one_minus=state.one_minus[listing.place],
        one_plus=state.one_plus[listing.place],
        ntk=state.ntk[listing.place],
        var1=state.var1[own1],
        var2=state.var2[own2],
        exponent1=state.exponent1[own1],
        exponent2=state.exponent2[own2],
        id1=None if ids[0] is None else ids[0][own1],
        id2=None if ids[1] is None else ids[1][own2],
        is_full=False,
        listing=None,
    )


def _equal_positions(state: KernelState) -> KernelState:
    if not state.is_full:
        return state
    space = state.var1.shape[1:]

    def diagonal(pairs: Pairs) -> Pairs:
        square = pairs.reshape(-1, math.prod(space), math.prod(space))
        return jnp.diagonal(square, axis1=1, axis2=2).reshape(-1, *space)

    return state.evolve(
        one_minus=diagonal(state.one_minus),
        one_plus=diagonal(state.one_plus),
        ntk=diagonal(state.ntk),
        is_full=False,
    )


def _shares(var: Array) -> tuple[Array, Array]:
    """The sum of variances over positions, and the root of each one's share of it."""
    total = jnp.sum(var.reshape(var.shape[0], -1), axis=1)
    return total, safe_ratio(root(var), root(total).reshape(-1, *(1,) * (var.ndim - 1)))

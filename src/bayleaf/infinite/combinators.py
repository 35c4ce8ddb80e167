"""How layers make a network: in series, side by side, and as branches that are added.

    residual = serial(FanOut(2), parallel(serial(Relu(), Dense(512)), Identity()), FanInSum())

The sum of branches has K = K_1 + K_2 and Theta = Theta_1 + Theta_2, if the branches are independent
with mean zero given what they share. So each but one has to end in a layer with weights of its own;
what has not is refused, since its kernel would be another one.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from bayleaf.errors import bad_argument
from bayleaf.infinite.arcs import root
from bayleaf.infinite.dense import one_state, positive_int
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.state import KernelState, mix, safe_ratio, two_to
from bayleaf.types import Key

MOST_FUSED = 12  # layers


class Serial(Layer):
    """One layer after the other."""

    layers: tuple[Layer, ...]

    def init(self, key: Key, input_shape: Any) -> tuple[Any, ...]:
        """A tuple of the parameters of each layer."""
        params = []
        for layer, layer_key in zip(self.layers, _split(key, self.layers), strict=True):
            params.append(layer.init(layer_key, input_shape))
            input_shape = layer.output_shape(input_shape)
        return tuple(params)

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Any:
        """Each layer on the outputs of the one before."""
        keys = _split(key, self.layers)
        for layer, own, layer_key in zip(self.layers, params, keys, strict=True):
            x = layer.apply(own, x, layer_key)
        return x

    def output_shape(self, input_shape: Any) -> Any:
        """The shape after the last layer."""
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def propagate(self, state: Any) -> Any:
        """Each layer on the state after the one before."""
        for i, layer in enumerate(self.layers):
            # One fused loop over pairs is best, up to where its compile time explodes.
            if i % MOST_FUSED == MOST_FUSED - 1 and isinstance(state, KernelState):
                state = state.stored()
            state = layer.propagate(state)
        return state

    @property
    def mixes_positions(self) -> bool:
        """Whether any layer does."""
        return any(layer.mixes_positions for layer in self.layers)


class Parallel(Layer):
    """One layer for each branch."""

    layers: tuple[Layer, ...]

    def init(self, key: Key, input_shape: Any) -> tuple[Any, ...]:
        """A tuple of the parameters of each branch."""
        shapes = self._branches(input_shape)
        triples = zip(self.layers, _split(key, self.layers), shapes, strict=True)
        return tuple(layer.init(layer_key, shape) for layer, layer_key, shape in triples)

    def apply(self, params: Any, x: Any, key: Key | None = None) -> tuple[Any, ...]:
        """Each layer on its branch."""
        parts = zip(self.layers, params, self._branches(x), _split(key, self.layers), strict=True)
        return tuple(layer.apply(own, part, layer_key) for layer, own, part, layer_key in parts)

    def output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """The shape of each branch."""
        pairs = zip(self.layers, self._branches(input_shape), strict=True)
        return tuple(layer.output_shape(shape) for layer, shape in pairs)

    def propagate(self, state: Any) -> tuple[Any, ...]:
        """Each layer on the state of its branch."""
        pairs = zip(self.layers, self._branches(state), strict=True)
        return tuple(layer.propagate(branch) for layer, branch in pairs)

    @property
    def mixes_positions(self) -> bool:
        """Whether any layer does."""
        return any(layer.mixes_positions for layer in self.layers)

    def _branches(self, parts: Any) -> Any:
        if not isinstance(parts, tuple) or len(parts) != len(self.layers):
            number = len(parts) if isinstance(parts, tuple) else 1
            raise bad_argument(
                "parallel",
                f"{number} branches",
                f"{len(self.layers)}, one for each layer",
                f"Put FanOut({len(self.layers)}) before it.",
            )
        return parts


class FanOut(Layer):
    """The same for each of ``num`` branches."""

    num: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        positive_int(self.num, "num")

    def apply(self, params: Any, x: Any, key: Key | None = None) -> tuple[Any, ...]:
        """``num`` times ``x``."""
        return (x,) * self.num

    def output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """``num`` times the shape."""
        return (input_shape,) * self.num

    def propagate(self, state: Any) -> tuple[Any, ...]:
        """``num`` times the state, from here on shared."""
        return (one_state(state, self).evolve(is_fresh=False),) * self.num


class FanInSum(Layer):
    """The sum of all branches."""

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Any:
        """The sum."""
        return sum(x[1:], start=x[0])

    def output_shape(self, input_shape: Any) -> Any:
        """The shape that all branches have."""
        if len(set(input_shape)) != 1:
            raise bad_argument("FanInSum", f"shapes {input_shape}", "branches of the same shape")
        return input_shape[0]

    def propagate(self, state: Any) -> KernelState:
        """The sums of both kernels."""
        if not isinstance(state, tuple):
            raise bad_argument("FanInSum", "one branch", "several, after FanOut and parallel")
        if sum(not branch.is_fresh for branch in state) > 1:
            raise bad_argument(
                "FanInSum",
                "two branches that share what they add",
                "at most one branch that does not end in a layer with weights of its own",
                "End the branches with Dense(width).",
            )
        shapes = {branch.shape for branch in state}
        # A width is a mere number for kernels, but the finite network could not be built.
        if len(shapes) != 1:
            raise bad_argument("FanInSum", f"shapes {shapes}", "branches of the same shape")
        total = state[0]
        for branch in state[1:]:
            total = add(total, branch)
        return (
            total.evolve(
                is_gaussian=all(branch.is_gaussian for branch in state),
                is_fresh=all(branch.is_fresh for branch in state),
            )
            .normalised()
            .stored()
        )


def add(a: KernelState, b: KernelState) -> KernelState:
    """The moments of the sum of two independent fields with mean zero."""
    exponent1 = jnp.maximum(a.exponent1, b.exponent1)
    exponent2 = jnp.maximum(a.exponent2, b.exponent2)
    a, b = _at(a, exponent1, exponent2), _at(b, exponent1, exponent2)
    var1, var2 = a.var1 + b.var1, a.var2 + b.var2
    parts = []
    for part in (a, b):
        share1 = a.side1(safe_ratio(root(part.var1), root(var1)))
        share2 = a.side2(safe_ratio(root(part.var2), root(var2)))
        parts.append((share1, share2, part.one_minus, part.one_plus))
    minus, plus = mix(parts)
    # Where both are zero on one side the shares add up to 0 and not to 1.
    is_zero = (a.side1(var1) == 0) | (a.side2(var2) == 0)
    return a.with_correlation(
        jnp.where(is_zero, 1, minus),
        jnp.where(is_zero, 1, plus),
        ntk=a.ntk + b.ntk,
        var1=var1,
        var2=var2,
        error=jnp.maximum(a.error, b.error),
    )


def _at(state: KernelState, exponent1: Array, exponent2: Array) -> KernelState:
    """The same moments with these exponents, which are not smaller than its own."""
    dtype = state.var1.dtype
    half1 = two_to((state.exponent1 - exponent1) // 2, dtype)
    half2 = two_to((state.exponent2 - exponent2) // 2, dtype)
    column1 = half1.reshape((-1, *(1,) * state.num_space))
    column2 = half2.reshape((-1, *(1,) * state.num_space))
    return state.evolve(
        var1=state.var1 * column1 * column1,
        var2=state.var2 * column2 * column2,
        ntk=state.ntk * (state.side1(half1) * state.side2(half2)),
        exponent1=exponent1,
        exponent2=exponent2,
    )


def serial(*layers: Any) -> Serial:
    """The layers one after the other, a network."""
    return Serial(_checked(layers, "serial"))


def parallel(*layers: Any) -> Parallel:
    """The layers side by side, one for each branch."""
    return Parallel(_checked(layers, "parallel"))


def _checked(layers: tuple[Any, ...], name: str) -> tuple[Layer, ...]:
    for layer in layers:
        if not isinstance(layer, Layer):
            hint = "Write Relu() with brackets, and Elementwise(fn) for a function of your own."
            raise bad_argument(name, layer, "layers of bayleaf.infinite", hint)
    return layers


def _split(key: Key | None, layers: tuple[Layer, ...]) -> list[Any]:
    if key is None:
        return [None] * len(layers)
    return list(jax.random.split(key, max(len(layers), 1)))

"""What every layer can do, alone or in a network: be drawn, be applied, and become infinitely wide.

A network is a layer made of layers. The same object is the finite network (``init``, ``apply``) and
the infinite one (``kernel``), so that the two cannot differ:

    net = serial(Dense(512, weight_std=1.5), Relu(), Dense(1))
    params = net.init(jax.random.key(0), (784,))
    net.apply(params, x)              # [n, 1]
    net.kernel(x, get="ntk")          # [n, n]

A new layer is a subclass with four methods: ``init``, ``apply``, ``output_shape`` and
``propagate``, which maps the `KernelState` before it to the one after it.
"""

from __future__ import annotations

import collections
import functools
import math
import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from bayleaf.errors import BayleafError, bad_argument, warn
from bayleaf.infinite.arcs import root
from bayleaf.infinite.inputs import Directions, directions, input_state
from bayleaf.infinite.state import KernelState, safe_ratio
from bayleaf.infinite.tiles import by_tiles, tile_entries
from bayleaf.trees import is_traced
from bayleaf.types import Flag, Key, Scalar

NAMES = ("nngp", "ntk", "correlation", "relative_ntk")
TOLERATED_ERROR = 1e-5


class Layer(eqx.Module):
    """A layer, or a network of layers."""

    def init(self, key: Key, input_shape: Any) -> Any:
        """Parameters drawn from the prior.

        Args:
            key: a typed key.
            input_shape: the shape of one example, without the batch axis.
        """
        return ()

    def apply(self, params: Any, x: Any, key: Key | None = None) -> Any:
        """The outputs for a batch of inputs, first axis the examples.

        Args:
            params: what ``init`` returned.
            x: the inputs.
            key: randomness of dropout; without it nothing is dropped.
        """
        raise NotImplementedError(type(self).__name__)

    def output_shape(self, input_shape: Any) -> Any:
        """The shape of one output for an example of shape ``input_shape``."""
        return input_shape

    def propagate(self, state: Any) -> Any:
        """The moments after this layer from those before it."""
        raise NotImplementedError(type(self).__name__)

    @property
    def mixes_positions(self) -> bool:
        """Whether covariances between different positions are needed before this layer."""
        return False

    def state(self, x1: ArrayLike, x2: ArrayLike | None = None) -> KernelState:
        """The `KernelState` of the outputs, for whoever wants more than the two kernels."""
        a, b, id1, id2 = checked_inputs(x1, x2)
        other = None if x2 is None else directions(b)
        return output_state(self, directions(a), other, id1, id2)

    def kernel(
        self,
        x1: ArrayLike,
        x2: ArrayLike | None = None,
        get: str | tuple[str, ...] = ("nngp", "ntk"),
    ) -> Any:
        """The kernels of the network when all widths go to infinity.

        Args:
            x1: inputs, ``[n1, ...]``.
            x2: inputs, ``[n2, ...]``; None means ``x1`` with itself, with the exact diagonal. Only
                then is the same dropout mask used on both sides of the diagonal.
            get: ``"nngp"`` is the covariance of the outputs over the prior of the parameters,
                ``"ntk"`` the tangent kernel, ``"correlation"`` the nngp divided by
                sqrt(variance_1 variance_2), ``"relative_ntk"`` the ntk divided by the same.

        Returns:
            A matrix ``[n1, n2]`` for one name, a named tuple of them for several.

        Raises:
            BayleafError: inputs that are not finite or do not fit, layers in an order that has no
                kernel, or a kernel too large for the floating-point numbers.
        """
        a, b, id1, id2 = checked_inputs(x1, x2)
        names = checked_names(get)
        check_size(self, a, b, len(names))
        values, report = evaluate(self, a, None if x2 is None else b, id1, id2, names)
        if not is_traced(report):
            report.judge(names)
        return values[0] if isinstance(get, str) else named_tuple(names)(*values)

    def diagonal(self, x: ArrayLike, get: str | tuple[str, ...] = "nngp") -> Any:
        """The kernels of each input with itself, ``[n]``, without the matrix."""
        x, _, _, _ = checked_inputs(x, None)
        names = checked_names(get)
        values = evaluate_diagonal(self, x, names)
        return values[0] if isinstance(get, str) else named_tuple(names)(*values)


class Report(eqx.Module):
    """What can be wrong with a kernel, found while it was computed."""

    inputs_are_finite: Flag
    outputs_are_finite: Flag
    error: Scalar

    def judge(self, names: tuple[str, ...]) -> None:
        """Raise or warn by name."""
        if not bool(self.inputs_are_finite):
            raise bad_argument("x1, x2", "NaN or infinity", "finite inputs")
        if not bool(self.outputs_are_finite):
            raise BayleafError(
                f"{' and '.join(names)}: larger than the floating-point numbers. Ask for "
                "get='correlation', use float64, or a smaller weight_std."
            )
        if float(self.error) > TOLERATED_ERROR:
            warn(
                f"The series of an activation leaves out up to {float(self.error):.1g} "
                "of the kernel. Try a larger num_terms, inputs of smaller norm, or a closed form."
            )


def output_state(
    net: Layer, x1: Directions, x2: Directions | None, id1: Array | None, id2: Array | None
) -> Any:
    """The state after all layers, or a tuple of them; without ``x2`` that of ``x1`` with itself."""
    return net.propagate(input_state(x1, x2, id1, id2, is_full=net.mixes_positions))


@eqx.filter_jit
def evaluate(
    net: Layer,
    x1: Array,
    x2: Array | None,
    id1: Array | None,
    id2: Array | None,
    names: tuple[str, ...],
) -> tuple[list[Array], Report]:
    """The kernels by name, and what may be wrong with them."""

    def kernels(a: Directions, b: Directions | None, label1: Any, label2: Any) -> Any:
        state = final_state(net, a, b, label1, label2)
        largest = jnp.maximum(jnp.max(state.q1, initial=0), jnp.max(state.q2, initial=0))
        return [named_kernel(state, name) for name in names], (largest, state.error)

    entries = tile_entries(x1, net.mixes_positions)
    units = directions(x1), None if x2 is None else directions(x2)
    values, (largest, error) = by_tiles(kernels, *units, id1, id2, entries)
    finite_inputs = jnp.all(jnp.isfinite(x1))
    if x2 is not None:
        finite_inputs = finite_inputs & jnp.all(jnp.isfinite(x2))
    is_relative = all(name in ("correlation", "relative_ntk") for name in names)
    finite_outputs = jnp.isfinite(largest) | is_relative
    if "ntk" in names:
        # The tangent kernel can end before the variances do: in the chaotic phase.
        finite_outputs = finite_outputs & jnp.isfinite(jnp.max(values[names.index("ntk")]))
    return values, Report(finite_inputs, finite_outputs, error)


def final_state(
    net: Layer, x1: Directions, x2: Directions | None, id1: Array | None, id2: Array | None
) -> KernelState:
    """The state after all layers of a network with one output, without positions."""
    state = output_state(net, x1, x2, id1, id2)
    if not isinstance(state, KernelState):
        raise bad_argument("net", "several outputs", "one output", "End with FanInSum().")
    if state.num_space:
        raise bad_argument(
            "net",
            f"an output with positions, {state.shape}",
            "one covariance for each pair of inputs",
            "End with Flatten() or GlobalAvgPool(), or use net.state(x1, x2).",
        )
    return state


@eqx.filter_jit
def evaluate_diagonal(net: Layer, x: Array, names: tuple[str, ...]) -> list[Array]:
    """The kernels of each input with itself."""
    label = jnp.zeros(1, jnp.int32)

    def one(point: Array) -> list[Array]:
        state = final_state(net, directions(point[None]), None, label, label)
        return [named_kernel(state, name).reshape(()) for name in names]

    return jax.vmap(one)(x)


def named_kernel(state: KernelState, name: str) -> Array:
    """One of `NAMES` from the state."""
    match name:
        case "nngp":
            return state.nngp
        case "ntk":
            return state.full_ntk
        case "correlation":
            return state.rho
        case _:
            size = state.side1(root(state.var1)) * state.side2(root(state.var2))
            return safe_ratio(state.ntk, size)


def checked_names(get: str | tuple[str, ...]) -> tuple[str, ...]:
    """``get`` as a tuple of known names."""
    names = (get,) if isinstance(get, str) else tuple(get)
    if not names or any(name not in NAMES for name in names):
        raise bad_argument("get", repr(get), f"one or several of {', '.join(NAMES)}")
    return names


@functools.cache
def named_tuple(names: tuple[str, ...]) -> Any:
    """The class of a result with these fields."""
    return collections.namedtuple("Kernels", names)


def check_size(
    net: Layer, x1: Array | jax.ShapeDtypeStruct, x2: Array | jax.ShapeDtypeStruct, num_names: int
) -> None:
    """Refuse what the memory of this machine cannot hold, before it tries."""
    positions = math.prod(x1.shape[1:-1]) ** (2 if net.mixes_positions else 1)
    pairs = x1.shape[0] * x2.shape[0]
    in_a_tile = min(tile_entries(x1, net.mixes_positions), pairs)
    # The tiles, the matrix that they are joined to, and what one tile has on its way.
    needed = 4.0 * (num_names * pairs + 2 * in_a_tile * positions) * x1.dtype.itemsize
    if needed > host_memory():
        raise bad_argument(
            "x1, x2",
            f"{x1.shape[0]} and {x2.shape[0]} inputs, which take {needed / 1e9:.3g} GB",
            f"at most the {host_memory() / 1e9:.3g} GB of this machine",
            "Use bl.infinite.kernel_matrix(net, x1, x2), which works in tiles and can write to a "
            "file.",
        )


def host_memory() -> float:
    """Bytes of main memory; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def checked_inputs(
    x1: ArrayLike, x2: ArrayLike | None
) -> tuple[Array, Array, Array | None, Array | None]:
    """Both batches in one floating-point type, and labels where they are the same batch."""
    a = _floating(x1, "x1")
    if x2 is None:
        label = jnp.arange(a.shape[0], dtype=jnp.int32)
        return a, a, label, label
    b = _floating(x2, "x2")
    if a.shape[1:] != b.shape[1:]:
        raise bad_argument("x2", f"shape {b.shape}", f"examples like those of x1, {a.shape}")
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype), None, None


def _floating(x: ArrayLike, name: str) -> Array:
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
        if x.dtype.kind not in "biufV":
            raise bad_argument(name, f"an array of {x.dtype}", "an array of numbers")
    array = jnp.asarray(x)
    if array.ndim < 2 or array.size == 0:
        raise bad_argument(
            name,
            f"shape {array.shape}",
            "one row for each example, [n, features] or [n, height, width, channels]",
            "For one example write x[None], for numbers on a line x[:, None].",
        )
    if array.dtype not in (jnp.float32, jnp.float64):
        # Half precision would lose what the recursion takes care to keep.
        array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return array

"""The infinite network of an Equinox module: layer by layer, or an error that names the layer.

    net = from_module(eqx.nn.MLP(784, 10, 512, 2, key=key))
    net.kernel(x, get="ntk")

Only the architecture is read; the values of the weights are not, except their sizes. Without other
instructions the prior is the one from which Equinox draws, U(-1 / sqrt(n), 1 / sqrt(n)) for n
inputs, whose variance is 1 / (3 n), in the standard parameterisation in which Equinox trains: the
tangent kernel then is that of the module at its own widths.

Equinox's images are [channel, height, width], those of the network that is returned are
[height, width, channel].

It refuses what has no kernel or none that is known: attention, recurrent cells, batch
normalisation, maximum pooling, learned scales of LayerNorm, shared or grouped weights, and
functions of which it cannot know what they do to more than one number.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.infinite.closed_forms import Cos, Erf, Exp, Gelu, Sin
from bayleaf.infinite.combinators import serial
from bayleaf.infinite.dense import Dense, Dropout, LayerNorm
from bayleaf.infinite.layer import Layer
from bayleaf.infinite.piecewise import Abs, LeakyRelu, Relu, Sign
from bayleaf.infinite.series import Elementwise
from bayleaf.infinite.spatial import Conv
from bayleaf.infinite.spatial_pool import AvgPool, Flatten, GlobalAvgPool
from bayleaf.infinite.spatial_windows import Padding

ACTIVATIONS: dict[Any, Callable[[], Layer]] = {
    jax.nn.relu: Relu,
    jax.nn.leaky_relu: LeakyRelu,
    jnp.abs: Abs,
    jax.lax.erf: Erf,
    jax.scipy.special.erf: Erf,
    jnp.sin: Sin,
    jnp.cos: Cos,
    jnp.exp: Exp,
    jnp.sign: Sign,
}
RESHAPING = (jnp.ravel,)


def from_module(
    module: Any,
    *,
    weight_std: float | None = None,
    bias_std: float | None = None,
    parameterization: str = "standard",
) -> Layer:
    """The network of `bayleaf.infinite` that an Equinox module is a finite version of.

    Args:
        module: `eqx.nn.MLP`, `eqx.nn.Sequential` or one of the layers Linear, Conv1d to Conv3d,
            Lambda of an elementwise function, Dropout, LayerNorm without learned scales,
            AvgPool2d, AdaptiveAvgPool2d of size 1, Identity.
        weight_std: sw of every layer; None is Equinox's 1 / sqrt(3).
        bias_std: sb of every layer that has a bias; None is Equinox's 1 / sqrt(3 n).
        parameterization: "standard" as Equinox trains, or "ntk".

    Raises:
        BayleafError: a layer that has no counterpart, by its name and place.
    """
    laws = Laws(weight_std, bias_std, parameterization)
    layers = read(module, "module", laws)
    return layers[0] if len(layers) == 1 else serial(*layers)


class Laws(eqx.Module):
    """From which law weights and biases come."""

    weight_std: float | None
    bias_std: float | None
    parameterization: str = eqx.field(static=True)

    def of(self, num_inputs: int, use_bias: bool) -> dict[str, Any]:
        """The keywords of a layer with so many inputs to a unit."""
        weight_std = 3**-0.5 if self.weight_std is None else self.weight_std
        bias_std = (3 * num_inputs) ** -0.5 if self.bias_std is None else self.bias_std
        return {
            "weight_std": weight_std,
            "bias_std": bias_std if use_bias else None,
            "parameterization": self.parameterization,
        }


def read(module: Any, place: str, laws: Laws) -> list[Layer]:
    """The layers of a module, at ``place``."""
    match module:
        case eqx.nn.MLP():
            return read_mlp(module, place, laws)
        case eqx.nn.Sequential():
            parts = [
                read(layer, f"{place}.layers[{i}]", laws) for i, layer in enumerate(module.layers)
            ]
            return [layer for part in parts for layer in part]
        case eqx.nn.Linear():
            return [read_linear(module, place, laws)]
        case eqx.nn.Conv():
            return [read_convolution(module, place, laws)]
        case eqx.nn.Lambda():
            return read_function(module.fn, f"{place}.fn")
        case eqx.nn.Dropout():
            return [] if module.inference else [Dropout(1 - module.p)]
        case eqx.nn.LayerNorm():
            return [read_layer_norm(module, place)]
        case eqx.nn.Identity():
            return []
        case eqx.nn.AdaptivePool() | eqx.nn.Pool():
            return [read_pooling(module, place)]
        case _ if callable(module) and not isinstance(module, eqx.Module):
            return read_function(module, place)
    raise refusal(module, place)


def refusal(module: Any, place: str, why: str = "") -> Exception:
    """The error for what has no counterpart."""
    got = getattr(type(module), "__name__", str(type(module))) + (f", {why}" if why else "")
    return bad_argument(
        place,
        got,
        "a layer that has an infinite counterpart",
        "Compose the network from bayleaf.infinite by hand, or use empirical_ntk.",
    )


def read_mlp(module: eqx.nn.MLP, place: str, laws: Laws) -> list[Layer]:
    """Linear and activation in turns."""
    layers: list[Layer] = []
    for number, linear in enumerate(module.layers):
        layers.append(read_linear(linear, f"{place}.layers[{number}]", laws))
        is_last = number == len(module.layers) - 1
        if not is_last:
            layers += read_function(module.activation, f"{place}.activation")
    # Equinox's default, the identity, is a function like any other and is recognised by what it is.
    return layers + read_function(module.final_activation, f"{place}.final_activation")


def read_linear(module: eqx.nn.Linear, place: str, laws: Laws) -> Dense:
    """A Dense layer of the same width."""
    if "scalar" in (module.in_features, module.out_features):
        raise refusal(module, place, 'with "scalar" in place of a size')
    width, num_inputs = module.weight.shape
    return Dense(width, **laws.of(num_inputs, module.use_bias))


def read_layer_norm(module: eqx.nn.LayerNorm, place: str) -> LayerNorm:
    """One without learned scale and shift."""
    if module.use_weight or module.use_bias:
        raise refusal(module, place, "with a learned scale or shift (use_weight, use_bias)")
    return LayerNorm(module.eps)


def read_function(function: Any, place: str) -> list[Layer]:
    """The layer of an elementwise function; none, for the identity."""
    if isinstance(function, eqx.Module):
        return read(function, place, Laws(None, None, "standard"))
    if any(function is known for known in RESHAPING):
        return [Flatten()]
    for known, make in ACTIVATIONS.items():
        if function is known:
            return [make()]
    is_partial = isinstance(function, functools.partial) and not function.args
    # JAX's gelu is an approximation by tanh unless it is asked not to be.
    exact = {"approximate": False}
    if is_partial and function.func is jax.nn.gelu and function.keywords == exact:
        return [Gelu()]
    if is_identity(function):
        return []
    if not is_elementwise(function):
        raise refusal(function, place, "a function that is not elementwise")
    return [Elementwise(function)]


def is_identity(function: Any) -> bool:
    """Whether the jaxpr of the function returns its argument."""
    try:
        jaxpr = jax.make_jaxpr(function)(jnp.zeros(3)).jaxpr
    except Exception:  # whatever a foreign function raises, it is not the identity
        return False
    return not jaxpr.eqns and jaxpr.outvars == jaxpr.invars


def is_elementwise(function: Any) -> bool:
    """Whether each output depends on its own input, tried on numbers in two orders."""
    x = jnp.linspace(-2.1, 2.3, 7)
    try:
        straight, turned = function(x), function(x[::-1])[::-1]
        alone = jnp.stack([function(x[i : i + 1])[0] for i in range(7)])
    except Exception:
        return False
    if straight.shape != x.shape:
        return False
    tolerance = 100 * float(jnp.finfo(x.dtype).eps)
    pairs = ((straight, turned), (straight, alone))
    return all(bool(jnp.allclose(a, b, rtol=tolerance, atol=tolerance)) for a, b in pairs)


def read_convolution(module: eqx.nn.Conv, place: str, laws: Laws) -> Layer:
    """A convolution with zero padding or without padding."""
    if isinstance(module, eqx.nn.ConvTranspose):
        raise refusal(module, place)
    if module.groups != 1:
        raise refusal(module, place, "with groups")
    if any(dilation != 1 for dilation in module.dilation):
        raise refusal(module, place, "with dilation")
    mode = str(module.padding_mode).upper()
    padding = padding_name(module, place, mode)
    num_inputs = module.in_channels
    for size in module.kernel_size:
        num_inputs *= size
    return Conv(
        module.out_channels,
        tuple(module.kernel_size),
        strides=tuple(module.stride),
        padding=padding,
        **laws.of(num_inputs, module.use_bias),
    )


def padding_name(module: eqx.nn.Conv, place: str, mode: str) -> Padding:
    """``VALID``, ``SAME`` or ``CIRCULAR``, whichever the numbers say."""
    padding = module.padding
    if isinstance(padding, str):
        name = padding.upper()
    elif all(tuple(pair) == (0, 0) for pair in padding):
        return "VALID"
    elif all(
        tuple(pair) == ((size - 1) // 2, size // 2)
        for pair, size in zip(padding, module.kernel_size, strict=True)
    ) and all(step == 1 for step in module.stride):
        name = "SAME"
    else:
        raise refusal(module, place, f"with padding {padding} and stride {module.stride}")
    if name == "SAME" and mode == "CIRCULAR":
        return "CIRCULAR"
    if mode not in ("ZEROS", "CIRCULAR"):
        raise refusal(module, place, f"with padding_mode {mode}")
    return cast(Padding, name)  # Conv refuses what is none


def read_pooling(module: Any, place: str) -> Layer:
    """Averages over windows, or over everything."""
    if isinstance(module, eqx.nn.AdaptivePool):
        is_mean = module.operation is jnp.mean
        if not is_mean or any(size != 1 for size in module.target_shape):
            raise refusal(module, place, "which is not an average over all positions")
        return GlobalAvgPool()
    is_average = type(module).__name__.startswith("AvgPool")
    if not is_average or module.use_ceil or any(tuple(p) != (0, 0) for p in module.padding):
        raise refusal(module, place, "which is not an average without padding")
    return AvgPool(tuple(module.kernel_size), strides=tuple(module.stride), padding="VALID")

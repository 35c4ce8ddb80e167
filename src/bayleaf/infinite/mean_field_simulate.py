"""Deep random networks of finite width, to hold against the theory: Gaussian or orthogonal weights.

A few inputs go through ``depth`` layers of one width with dropout masks of their own, and a random
error vector goes back:

    z^(l+1) = W^l (m^l phi(z^l) / rho) + b^l,   d^l = phi'(z^l) m^l / rho (V^l)' d^(l+1).

Told are q_ab^l = z_a^l . z_b^l / width and g_ab^l = d_a^l . d_b^l / width. With V = W (tied) it is
back-propagation; with V an independent copy of W (untied) it is what the theory assumes. For wide
networks q_aa follows the q-map and q_ab the c-map; going back a layer, g_aa is multiplied by
chi_1 and, untied, g_ab by chi_2, once the fixed point is reached.

Orthogonal weights are sw times a Haar-orthogonal matrix: their elements have the Gaussian variance,
and the kernels of wide networks are the same.

The weights of a layer come from its own key, so that none are kept: memory is that of the signals.

Sources: Schoenholz et al., ICLR 2017, section 5; arXiv 1912.09132 (dropout, tied weights);
arXiv 2004.05867 (orthogonal weights).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.infinite.mean_field import MeanField
from bayleaf.types import Key


class Simulation(NamedTuple):
    """Signals forward and back; entry ``l`` belongs to layer l, 0 being the inputs.

    Attributes:
        covariance: q_ab^l.
        gradient: g_ab^l, with mean g_aa = 1 in the last layer.
    """

    covariance: Float[Array, "layer input input"]
    gradient: Float[Array, "layer input input"]

    @property
    def correlation(self) -> Float[Array, "layer input input"]:
        """q_ab / sqrt(q_aa q_bb)."""
        sds = jnp.sqrt(jnp.diagonal(self.covariance, axis1=1, axis2=2))
        return self.covariance / (sds[:, :, None] * sds[:, None, :])


def simulate(
    theory: MeanField,
    covariance: Any,
    *,
    width: int,
    depth: int,
    weights: str = "gaussian",
    tied: bool = True,
    key: Key,
) -> Simulation:
    """One random network, and how signals and gradients change through it.

    Args:
        theory: the settings: activation, sw, sb, rho.
        covariance: q_ab^0 of the inputs, e.g. ``[[1.0, 0.6], [0.6, 1.0]]``; the inputs have
            exactly this covariance.
        width: units per layer.
        depth: number of layers.
        weights: the law of a layer's matrix, "gaussian" or "orthogonal".
        tied: gradients go back through the weights of the network; otherwise through independent
            ones, as mean-field theory assumes.
        key: of everything random.

    Raises:
        BayleafError: fewer units than inputs, or a covariance that is not positive definite.
    """
    dtype = theory.weight_std.dtype
    covariance = jnp.asarray(covariance, dtype)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise bad_argument("covariance", f"shape {covariance.shape}", "a square matrix")
    for name, number, least in (("width", width, covariance.shape[0]), ("depth", depth, 1)):
        if number < least:
            raise bad_argument(name, number, f"at least {least}")
    if weights not in ("gaussian", "orthogonal"):
        raise bad_argument("weights", weights, '"gaussian" or "orthogonal"')
    factor = jnp.linalg.cholesky(covariance)
    if not isinstance(factor, Tracer) and bool(jnp.any(jnp.isnan(factor))):
        raise bad_argument("covariance", "a matrix", "a positive definite one")
    return run(theory, factor, width, depth, weights == "orthogonal", tied, key)


@eqx.filter_jit
def run(
    theory: MeanField,
    factor: Float[Array, "input input"],
    width: int,
    depth: int,
    orthogonal: bool,
    tied: bool,
    key: Key,
) -> Simulation:
    """Forward over the layers, then back."""
    dtype, num_inputs = factor.dtype, factor.shape[0]
    key_start, key_error, key_layers, key_back = jax.random.split(key, 4)
    phi, rho = theory.activation, theory.keep_probability

    def matrix(key: Key) -> Float[Array, "width width"]:
        if orthogonal:
            return theory.weight_std * jax.random.orthogonal(key, width, dtype=dtype)
        scale = theory.weight_std / width**0.5
        return scale * jax.random.normal(key, (width, width), dtype)

    def parts(layer: Array) -> tuple[Key, Array, Array]:
        """The key of the weights, the biases and the masks over rho."""
        key_w, key_b, key_m = jax.random.split(jax.random.fold_in(key_layers, layer), 3)
        bias = theory.bias_std * jax.random.normal(key_b, (1, width), dtype)
        mask = jax.random.bernoulli(key_m, rho, (num_inputs, width)) / rho
        return key_w, bias, mask.astype(dtype)

    def forward(z: Array, layer: Array) -> tuple[Array, Array]:
        key_w, bias, mask = parts(layer)
        return (mask * phi(z)) @ matrix(key_w).T + bias, z

    def backward(error: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        layer, z = at
        key_w, _, mask = parts(layer)
        w = matrix(key_w if tied else jax.random.fold_in(key_back, layer))
        new = phi.derivative(z) * mask * (error @ w)
        return new, error @ error.T / width

    # Orthonormal rows times the factor: the inputs have their covariance exactly.
    rows = jnp.linalg.qr(jax.random.normal(key_start, (width, num_inputs), dtype))[0].T
    start = width**0.5 * factor @ rows
    layers = jnp.arange(depth)
    end, signals = jax.lax.scan(forward, start, layers)
    error = jax.random.normal(key_error, (1, width), dtype)
    error = jnp.tile(error / jnp.sqrt(jnp.mean(error**2)), (num_inputs, 1))
    first, gradient = jax.lax.scan(backward, error, (layers, signals), reverse=True)
    signals = jnp.concatenate([signals, end[None]])
    return Simulation(
        jnp.einsum("lai,lbi->lab", signals, signals) / width,
        jnp.concatenate([(first @ first.T / width)[None], gradient]),
    )

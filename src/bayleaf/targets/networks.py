"""Bayesian neural networks: weights with a prior, a likelihood, data in mini-batches.

The parameters are the network's inexact arrays, as a pytree of the same structure; everything else
of it (activations, integer arrays) stays behind in the target. `combine` puts the two together
again, and `predict` does so for all draws.

Each weight has the prior N(0, prior_scale^2) unless a log prior is given. Chains start at the
network's own weights plus N(0, 0.1^2): uniform(-1, 1) would saturate a wide layer. With ``init``,
a function of a key, each chain gets a fresh network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from bayleaf.constraints import Constraints, positive
from bayleaf.errors import bad_argument
from bayleaf.targets import starts
from bayleaf.targets.densities import Posterior, num_examples
from bayleaf.targets.likelihoods import LearntNoise
from bayleaf.trees import Frozen, as_arrays, frozen_function
from bayleaf.types import Key, Position, Scalar

JITTER = 0.1


class EquinoxNetwork(eqx.Module):
    """What an Equinox module is besides its inexact arrays. It maps one example to one output."""

    rest: Frozen

    def combine(self, weights: Position) -> Callable[[Array], Array]:
        """The callable module with these weights."""
        return eqx.combine(weights, self.rest.thaw())

    def outputs(self, weights: Position, x: Array) -> Array:
        """The outputs for a batch of examples."""
        return jax.vmap(self.combine(weights))(x)


class ApplyNetwork(eqx.Module):
    """A function ``apply(params, x)`` of a whole batch, as Flax and Haiku have it."""

    apply: Frozen

    def combine(self, weights: Position) -> Callable[[Array], Array]:
        """The function of a batch with these parameters."""
        return partial(self.apply.thaw(), weights)

    def outputs(self, weights: Position, x: Array) -> Array:
        """The outputs for a batch of examples."""
        return self.apply(weights, x)


class NetworkLikelihood(eqx.Module):
    """Log-likelihood of each example of a batch (x, y)."""

    network: EquinoxNetwork | ApplyNetwork
    likelihood: Any

    def __call__(self, params: Position, batch: tuple[Array, Array]) -> Float[Array, "batch"]:
        """``likelihood(network(x), y)``, with the noise where it is learnt."""
        x, y = batch
        if isinstance(self.likelihood, LearntNoise):
            outputs = self.network.outputs(params["network"], x)
            return self.likelihood(outputs, y, params["noise"])
        return self.likelihood(self.network.outputs(params, x), y)


class NetworkPrior(eqx.Module):
    """Log prior of the weights, and of the noise where it is learnt."""

    weights: Any
    likelihood: Any

    def __call__(self, params: Position) -> Scalar:
        """The sum of both."""
        if isinstance(self.likelihood, LearntNoise):
            return self.weights(params["network"]) + self.likelihood.log_prior(params["noise"])
        return self.weights(params)


class NormalWeights(eqx.Module):
    """Independent N(0, scale^2) weights."""

    scale: Array

    def __call__(self, weights: Position) -> Scalar:
        """The log density, normalised."""
        leaves = jax.tree.leaves(weights)
        size = sum(leaf.size for leaf in leaves)
        scale = self.scale.astype(jnp.result_type(*leaves))
        squares = sum(jnp.sum(jnp.square(w / scale)) for w in leaves)
        return -0.5 * squares - size * (jnp.log(scale) + 0.5 * math.log(2 * math.pi))


class NearWeights(eqx.Module):
    """Starting weights: those given, or those of a fresh network, plus N(0, 0.1^2)."""

    weights: Position
    fresh: Any
    learns_noise: bool = eqx.field(static=True)

    def __call__(self, key: Key) -> Position:
        """One draw of the parameters."""
        if self.fresh is None:
            leaves, treedef = jax.tree.flatten(self.weights)
            keys = jax.random.split(key, len(leaves))
            weights = jax.tree.unflatten(
                treedef,
                [
                    w + JITTER * jax.random.normal(k, w.shape, w.dtype)
                    for k, w in zip(keys, leaves, strict=True)
                ],
            )
        else:
            weights = eqx.filter(self.fresh(key), eqx.is_inexact_array)
        dtype = jnp.result_type(*jax.tree.leaves(weights))
        noise = jnp.exp(JITTER * jax.random.normal(jax.random.fold_in(key, 1), (), dtype))
        return {"network": weights, "noise": noise} if self.learns_noise else weights


def from_equinox(module: Any, **options: Any) -> tuple[Posterior, starts.Drawn]:
    """The posterior of an Equinox module's weights, and where chains start."""
    weights, rest = eqx.partition(module, eqx.is_inexact_array)
    return _assemble(EquinoxNetwork(Frozen(rest, "module")), weights, **options)


def from_network(apply: Any, params: Any, **options: Any) -> tuple[Posterior, starts.Drawn]:
    """The posterior of the parameters of ``apply(params, x)``, and where chains start."""
    function = frozen_function(apply, "apply")
    return _assemble(ApplyNetwork(function), as_arrays(params, "params"), **options)


def combine(target: Any, params: Position) -> Callable[[Array], Array]:
    """The callable network with (constrained) parameters, for instance one draw of them.

    An Equinox module comes back as a module, of one example; an ``apply`` as a function of a batch.
    """
    return _network(target).combine(_weights(params, target))


def predict(
    target: Any, draws: Position, x: ArrayLike, *, num_leading: int = 2, batch_size: int = 64
) -> Float[Array, "..."]:
    """The network's outputs for a batch of examples under every draw.

    Args:
        target: made by ``Target.from_equinox`` or ``Target.from_network``.
        draws: as in ``Run.draws``.
        x: the examples.
        num_leading: leading axes of the draws: 2 for chain and draw, 0 for a single draw.
        batch_size: draws that are worked on at once, which bounds the memory.

    Returns:
        Outputs with the leading axes of the draws, then the axis of examples.
    """
    draws = as_arrays(draws, "draws")
    leading = jax.tree.leaves(draws)[0].shape[:num_leading]
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[num_leading:]), draws)
    outputs = _predict(_network(target), _weights(flat, target), jnp.asarray(x), batch_size)
    return outputs.reshape(*leading, *outputs.shape[1:])


@partial(jax.jit, static_argnums=3)
def _predict(network: Any, weights: Position, x: Array, batch_size: int) -> Array:
    return jax.lax.map(lambda w: network.outputs(w, x), weights, batch_size=batch_size)


def _assemble(
    network: EquinoxNetwork | ApplyNetwork,
    weights: Position,
    *,
    likelihood: Any,
    data: Any,
    log_prior: Callable[[Any], Any] | None,
    prior_scale: ArrayLike,
    init: Callable[[Key], Any] | None,
) -> tuple[Posterior, starts.Drawn]:
    if not jax.tree.leaves(weights):
        raise bad_argument("network", "no floating-point arrays", "weights to infer")
    if not (isinstance(data, tuple) and len(data) == 2):
        raise bad_argument("data", f"a {type(data).__name__}", "a pair (x, y)")
    if not np.all(np.asarray(prior_scale) > 0):
        raise bad_argument("prior_scale", prior_scale, "a number > 0")
    if not callable(likelihood):
        raise bad_argument("likelihood", likelihood, "a function of (outputs, labels)")
    data = as_arrays(data, "data")
    num_examples(data)
    learns_noise = isinstance(likelihood, LearntNoise)
    prior = log_prior if log_prior is not None else NormalWeights(jnp.asarray(prior_scale, float))
    posterior = Posterior(
        Constraints({"noise": positive} if learns_noise else None),
        frozen_function(NetworkPrior(prior, likelihood), "log_prior"),
        frozen_function(NetworkLikelihood(network, likelihood), "likelihood"),
        data,
        jnp.ones(()),
    )
    near = NearWeights(weights, init, learns_noise)
    return posterior, starts.Drawn(frozen_function(near, "init"))


def _network(target: Any) -> EquinoxNetwork | ApplyNetwork:
    function = getattr(target.model, "likelihood", None)
    likelihood = function.thaw() if isinstance(function, Frozen) else None
    if not isinstance(likelihood, NetworkLikelihood):
        raise bad_argument("target", "no network", "one of from_equinox or from_network")
    return likelihood.network


def _weights(params: Position, target: Any) -> Position:
    likelihood = target.model.likelihood.thaw().likelihood
    return params["network"] if isinstance(likelihood, LearntNoise) else params

"""What the arguments of `fit` may be, and the error for each that cannot be used."""

from __future__ import annotations

import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayleaf.errors import bad_argument, sentence
from bayleaf.gaussian import Gaussian
from bayleaf.mcmc.approach import approach
from bayleaf.run import arguments as shared
from bayleaf.targets import Target, starts
from bayleaf.targets.networks import NetworkPrior, NormalWeights
from bayleaf.trees import leaf_names
from bayleaf.types import Key, LogDensity, Position, Scalar
from bayleaf.variational.guides import GaussianGuide

OBJECTIVES = ("joint", "kl")
MOST_CURVED = 1000
"""Coordinates of which each has its curvature taken; it costs two gradients."""


class Prior(eqx.Module):
    """The prior of a target on its unconstrained space: the log-Jacobian belongs to it."""

    target: Target
    dim: int | None = eqx.field(static=True)

    def log_prob(self, u: Position) -> Scalar:
        """Log density at an unconstrained position."""
        x = self.target.constrain(u)
        return self.target.log_prior(x) + self.target.model.constraints.log_jacobian(u)

    def to_gaussian(self) -> Gaussian | None:
        """The prior of flat vectors where it is Gaussian and known to be."""
        model: Any = self.target.model
        if model.gaussian is not None:
            return model.gaussian
        prior = model.prior.thaw()
        if not (isinstance(prior, NetworkPrior) and isinstance(prior.weights, NormalWeights)):
            return None
        scale = prior.weights.scale
        if self.dim is None or scale.ndim or model.constraints.prefix is not None:
            return None  # a guide of another kind, or the noise is learnt too
        return Gaussian.from_scale(jnp.zeros(self.dim, scale.dtype), scale)


def split(target: Target, guide: Any) -> tuple[Prior, LogDensity]:
    """The prior, and the log likelihood as a function of the unconstrained position."""
    dim = guide.loc.size if isinstance(guide, GaussianGuide) else None
    return Prior(target, dim), lambda u: target.total_log_likelihood(target.constrain(u))


def as_target(target: Any, init: Any, guide: Any) -> Target:
    """The target; a bare log density needs no ``init`` where the guide says where to start."""
    if isinstance(target, Target) or init is not None or not (callable(target) and is_guide(guide)):
        return shared.as_target(target, init)
    return Target(target)


def is_guide(guide: Any) -> bool:
    """Whether it is a guide itself, and not what makes one."""
    has_both = callable(getattr(guide, "sample", None)) and callable(
        getattr(guide, "log_prob", None)
    )
    return has_both and not isinstance(guide, type)


def as_guide(guide: Any, target: Target, init: Any, key: Key, *, climbs: bool) -> Any:
    """The guide, made near the mass of the target where it is given as a function of a position.

    With ``climbs`` a short ascent leads there from the target's start, as for Markov chains: a
    narrow guide has a long way to go.
    """
    position = None
    if target.start is not None or init is not None:
        starts_ = target.initial_positions(key, 1, init)
        position = jax.tree.map(lambda leaf: leaf[0], starts_)
    if not is_guide(guide):
        if not callable(guide):
            raise bad_argument(
                "guide",
                guide,
                "a guide with sample(key) and log_prob(position), or a function that makes one",
                "Try bl.variational.FullRank.",
            )
        if position is None:
            raise bad_argument("init", None, "a starting point, for the target has none")
        guide = _made(guide, target, position, climbs)
        if not is_guide(guide):
            raise bad_argument(
                "guide",
                f"a function that returns a {type(guide).__name__}",
                "one that returns an object with sample(key) and log_prob(position)",
            )
    _check_guide(guide, position, key)
    return guide


def _made(make: Any, target: Target, position: Position, climbs: bool) -> Any:
    """The guide at the position, or near the mass; one of ours with scales that suit it there."""
    if not climbs:
        return make(position)
    kind = getattr(make, "func", make)  # of a functools.partial
    if not (isinstance(kind, type) and issubclass(kind, GaussianGuide)):
        return make(_approached(target, position, False)[0])
    position, scale = _approached(target, position, ravel_pytree(position)[0].size <= MOST_CURVED)
    return make(position, scale=scale)


@eqx.filter_jit
def _approached(target: Target, position: Position, is_curved: bool) -> tuple[Position, Position]:
    """Where a short ascent leads, and the scale of each coordinate there with the others held.

    That scale, (-d^2 log p / du^2)^-1/2, is where mean field ends on a Gaussian. It is never more
    than 1: a guide that is too narrow grows in a few steps, but one that reaches to where the
    log density overflows has no gradient to come back by.
    """
    position = approach(target, position)[0]
    flat, unravel = ravel_pytree(position)
    if not is_curved:
        return position, unravel(jnp.full_like(flat, 0.1))
    gradient = jax.grad(lambda x: target(unravel(x)))

    def curvature(i: Any) -> Any:
        direction = jnp.zeros_like(flat).at[i].set(1)
        return -jax.jvp(gradient, (flat,), (direction,))[1][i]

    curvatures = jax.lax.map(curvature, jnp.arange(flat.size), batch_size=16)
    curvatures = jnp.where(jnp.isfinite(curvatures), curvatures, 100.0)
    return position, unravel(jax.lax.rsqrt(jnp.maximum(curvatures, 1.0)))


def _check_guide(guide: Any, position: Position | None, key: Key) -> None:
    """Refuse guides without parameters, and draws that are not positions of the target."""
    if not jax.tree.leaves(eqx.filter(guide, eqx.is_inexact_array)):
        raise bad_argument(
            "guide",
            f"a {type(guide).__name__} without inexact arrays",
            "parameters to fit",
            "Make it an eqx.Module whose fields are jax arrays.",
        )
    draw = eqx.filter_eval_shape(lambda g, k: g.sample(k), guide, key)
    if position is not None:
        got, expected = _described(draw), _described(position)
        same_tree = jax.tree.structure(draw) == jax.tree.structure(position)
        if not same_tree or got != expected:
            raise bad_argument(
                "guide",
                f"draws with {_listed(got)}",
                f"the target's unconstrained parameters: {_listed(expected)}",
            )
    log_prob = eqx.filter_eval_shape(lambda g, x: g.log_prob(x), guide, draw)
    if getattr(log_prob, "shape", None) != ():
        raise bad_argument(
            "guide",
            f"log_prob with a result of shape {getattr(log_prob, 'shape', None)}",
            "a scalar",
            "Sum over the coordinates.",
        )


def check_objective(objective: str, batch_size: int | None, target: Target) -> None:
    """Refuse an objective, or a batch, for which the target has not the parts."""
    is_split = hasattr(target.model, "log_prior") and hasattr(target.model, "total_log_likelihood")
    if objective == "kl" and not is_split:
        raise bad_argument(
            "objective",
            "'kl' and a target that is one function",
            "a target that knows its prior and its likelihood apart",
            "Use Target.from_likelihood or Target.from_gaussian_prior, or objective='joint'.",
        )
    if batch_size is not None:  # of the right size, and with data to draw from
        eqx.filter_eval_shape(lambda t, k: t.subsample(k, batch_size), target, jax.random.key(0))


def check_settings(
    objective: Any,
    optimizer: Any,
    num_steps: Any,
    num_draws: Any,
    batch_size: Any,
    num_check_draws: Any,
    key: Any,
    checkpoint: Any,
) -> None:
    """Refuse what is no count, no objective, no optimiser, no key."""
    if objective not in OBJECTIVES:
        raise bad_argument("objective", repr(objective), "'joint' or 'kl'")
    parts = (getattr(optimizer, "init", None), getattr(optimizer, "update", None))
    if optimizer is not None and not all(map(callable, parts)):
        raise bad_argument(
            "optimizer", optimizer, "an Optax optimiser", "Try optax.adam(1e-2), or leave it out."
        )
    check_count("num_steps", num_steps, 1)
    check_count("num_draws", num_draws, 1)
    check_count("num_check_draws", num_check_draws, 2)
    if batch_size is not None:
        check_count("batch_size", batch_size, 1)
    check_key(key)
    if not isinstance(checkpoint, str | os.PathLike | None):
        raise bad_argument("checkpoint", checkpoint, "the path of a directory")


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise bad_argument(name, value, f"a whole number, at least {least}")


def check_key(key: Any) -> None:
    """Refuse what is no typed key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape != ():
        got = repr(key) if dtype is None else f"an array of shape {key.shape} and type {dtype}"
        raise bad_argument("key", got, "one typed key", "Use jax.random.key(seed).")


def explain(target: Target, guide: Any, key: Key, first: int) -> str:
    """Why an ascent came to nothing: which parameter is not finite at draws of the guide."""
    draws = jax.vmap(guide.sample)(jax.random.split(key, 20))
    values, gradients = jax.vmap(jax.value_and_grad(target))(draws)
    both = jax.tree.leaves((values, gradients))
    bad = ~np.all([np.isfinite(np.asarray(x)).reshape(20, -1).all(axis=1) for x in both], axis=0)
    at = int(np.argmax(bad))
    draw, gradient = jax.tree.map(lambda leaf: leaf[at], (draws, gradients))
    got = f"NaN or infinity at every step from step {first} on"
    if not bad.any():
        advice = "The target is finite at draws of the guide: look at the guide's log_prob."
        return sentence("elbo", got, "a finite ELBO and gradient", advice)
    parameters = target.constrain(draw)
    culprits = starts._not_finite(gradient) or starts._not_finite(parameters)
    if culprits:
        got += f", not finite in the gradient of {', '.join(culprits)}"
    where = f"At {starts._values(parameters)} the log density is {float(values[at]):.6g}."
    return sentence(
        "elbo",
        got,
        "a finite ELBO and gradient",
        f"{where} Constrain parameters to where the log density is finite: constrain=.",
    )


def _described(tree: Any) -> dict[str, tuple[int, ...]]:
    return dict(zip(leaf_names(tree), map(jnp.shape, jax.tree.leaves(tree)), strict=True))


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items())

"""A NumPyro model as a target: its parameters, its constraints, its density, none written twice.

The log density on the unconstrained space is minus NumPyro's potential energy, and draws carry the
model's deterministic sites. Array arguments of the model are leaves of the target, so a target made
with new data of the same shapes runs in the programs compiled for the old ones; other arguments
(sizes, flags) are static.

Not for discrete latent sites, nor for plates that subsample: the potential of the first has no
gradient, that of the second is another function each time. Both are refused by the site's name.
NumPyro is imported when a model is given, not before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.trees import Frozen
from bayleaf.types import Position, Scalar


class NumPyroModel(eqx.Module):
    """A model with its arguments.

    Attributes:
        inputs: the model, its positional and its keyword arguments.
        latent: the names of the latent sites.
    """

    inputs: Frozen
    latent: tuple[str, ...] = eqx.field(static=True)

    def log_density(self, u: Position) -> Scalar:
        """Minus the potential energy at unconstrained values of the latent sites."""
        return _log_density(self, u)

    def constrain(self, u: Position) -> Position:
        """Values of the latent sites, and of the deterministic ones that follow from them."""
        return _constrain(self, u)

    def unconstrain(self, x: Position) -> Position:
        """From values of the latent sites; others, such as deterministic ones, are left out."""
        return _unconstrain(self, {name: x[name] for name in self.latent})

    def check(self, x: Position, argument: str) -> None:
        """Raise if a latent site has no value."""
        missing = [name for name in self.latent if name not in x]
        if missing:
            raise bad_argument(argument, f"no value for {', '.join(missing)}", "one for each site")

    def log_likelihood(self, x: Position) -> dict[str, Any]:
        """Log-likelihood of each observation, by the name of the observed site."""
        from numpyro.infer import log_likelihood

        model, args, kwargs = self._seeded()
        latent = {name: x[name] for name in self.latent}
        return log_likelihood(model, latent, *args, batch_ndims=0, **kwargs)

    def _seeded(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The model with a fixed key: whatever it draws besides its sites, it draws alike."""
        from numpyro.handlers import seed

        model, args, kwargs = self.inputs.thaw()
        return seed(model, rng_seed=0), args, kwargs


def numpyro_model(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[NumPyroModel, Position]:
    """The model as part of a target, and the point where its unconstrained sites are all zero."""
    inputs = Frozen((model, args, kwargs), "the arguments of the NumPyro model")
    sites = _trace_at_origin(NumPyroModel(inputs, ()))
    for name, site in sites.items():
        _refuse_plate_that_subsamples(name, site)
    latent = {name: site for name, site in sites.items() if _is_latent(site)}
    discrete = [name for name, site in latent.items() if site["fn"].support.is_discrete]
    if discrete:
        raise bad_argument(
            "model",
            f"discrete latent sites: {', '.join(discrete)}",
            "continuous ones",
            "Sum them out, or write the log density for bl.Target and update them by Gibbs.",
        )
    if not latent:
        raise bad_argument("model", "no latent sites", "at least one site to infer")
    origin = {name: site["value"] for name, site in latent.items()}
    return NumPyroModel(inputs, tuple(latent)), origin


def _trace_at_origin(model: NumPyroModel) -> dict[str, Any]:
    """The model's sites with every continuous latent at the image of zero."""
    from numpyro.distributions import biject_to
    from numpyro.handlers import substitute, trace

    def at_origin(site: dict[str, Any]) -> Any:
        if not _is_latent(site) or site["fn"].support.is_discrete:
            return None
        transform = biject_to(site["fn"].support)
        shape = site["kwargs"]["sample_shape"] + transform.inverse_shape(site["fn"].shape())
        return transform(jnp.zeros(shape))

    seeded, args, kwargs = model._seeded()
    return trace(substitute(seeded, substitute_fn=at_origin)).get_trace(*args, **kwargs)


def _is_latent(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _refuse_plate_that_subsamples(name: str, site: dict[str, Any]) -> None:
    if site["type"] != "plate":
        return
    size, subsample_size = site["args"]
    if subsample_size not in (None, size):
        raise bad_argument(
            "model",
            f"plate {name}, which draws {subsample_size} of {size} at random",
            "plates without subsample_size",
            "For mini-batches use Target.from_likelihood.",
        )


# Jitted so that the model's Python body runs once for each type of its arguments.
@jax.jit
def _log_density(model: NumPyroModel, u: Position) -> Scalar:
    from numpyro.infer.util import potential_energy

    return jnp.negative(potential_energy(*model._seeded(), u))


@jax.jit
def _constrain(model: NumPyroModel, u: Position) -> Position:
    from numpyro.infer.util import constrain_fn

    return constrain_fn(*model._seeded(), u, return_deterministic=True)


@jax.jit
def _unconstrain(model: NumPyroModel, x: Position) -> Position:
    from numpyro.infer.util import unconstrain_fn

    return unconstrain_fn(*model._seeded(), x)

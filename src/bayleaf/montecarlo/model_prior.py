"""The prior of a NumPyro model: the model without its observations.

NumPyro calls whatever multiplies the density without being drawn, observations and factors alike,
observed; hiding those leaves the prior, from which the model itself can be run forward.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp

from bayleaf.targets.from_numpyro import NumPyroModel
from bayleaf.types import Key, Position, Scalar


class ModelPrior(eqx.Module):
    """Draws and density of the latent sites of a model.

    Attributes:
        model: the model.
        observed: the names of the sites that are no part of the prior.
    """

    model: NumPyroModel
    observed: tuple[str, ...] = eqx.field(static=True)

    def sample(self, key: Key) -> Position:
        """One draw of every latent site."""
        from numpyro.handlers import seed, trace

        function, args, kwargs = self.model.inputs.thaw()
        sites = trace(seed(function, key)).get_trace(*args, **kwargs)
        return {name: sites[name]["value"] for name in self.model.latent}

    def log_density(self, u: Position) -> Scalar:
        """Log density at unconstrained values of the latent sites, with the log-Jacobian."""
        from numpyro.handlers import block
        from numpyro.infer.util import potential_energy

        seeded, args, kwargs = self.model._seeded()
        # By name: NumPyro's factor for the Jacobian, which it adds itself, is an observed site too.
        latent_only = block(seeded, hide=list(self.observed))
        return jnp.negative(potential_energy(latent_only, args, kwargs, u))


def model_prior(model: NumPyroModel) -> ModelPrior:
    """The prior of a model, run forward once to see its sites."""
    from numpyro.handlers import trace

    seeded, args, kwargs = model._seeded()
    sites = trace(seeded).get_trace(*args, **kwargs)
    observed = [n for n, site in sites.items() if site["type"] == "sample" and site["is_observed"]]
    return ModelPrior(model, tuple(observed))

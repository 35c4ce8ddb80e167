r"""Particle marginal Metropolis-Hastings: exact inference of the parameters of a state-space model.

The likelihood of the parameters is an integral over all paths that nobody can do; the particle
filter estimates it without bias. Metropolis-Hastings with the estimate $\hat L$ in its place,

$$\alpha = \min\Big\{1,\; \frac{\pi_0(\theta^*)\, \hat L(\theta^*)\, q(\theta \mid \theta^*)}
  {\pi_0(\theta)\, \hat L(\theta)\, q(\theta^* \mid \theta)}\Big\},$$

leaves the exact posterior invariant, for any number of particles, provided that the estimate of the
current point is kept as long as the chain stays there. (Estimating it anew in each step looks
fairer, mixes better and is wrong.) A poor estimate that is too high holds the chain for long:
choose ``num_particles`` so that the standard deviation of $\log \hat L$ is about 1.2 to 1.8 where
the posterior has its mass.

    prior = bl.Target(log_prior, init={"phi": 0.5})
    kernel = ParticleMarginalMetropolis(model, observations, num_particles=200)
    run = bl.sample(prior, kernel, key=key)

The target is the prior, with its constraints; the model is run with the constrained parameters.

Source: Andrieu, Doucet & Holenstein, Particle Markov chain Monte Carlo methods, JRSS B 72 (2010),
section 2.4.2; Andrieu & Roberts, Annals of Statistics 37 (2009), for why it is exact. Number of
particles: Doucet et al., Biometrika 102 (2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel, Tuner
from bayleaf.mcmc.proposals import Point, RandomWalk, check_same_kind
from bayleaf.montecarlo.particle_filter import Scheme, log_likelihood
from bayleaf.montecarlo.resampling import systematic
from bayleaf.montecarlo.sequential import check_settings
from bayleaf.montecarlo.state_space import StateSpaceModel, check_model
from bayleaf.trees import as_arrays
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar


class ParticleState(NamedTuple):
    """A point and the one estimate of its likelihood that was made when it was proposed."""

    position: Position
    log_density: Scalar  # of the prior, plus log_likelihood
    log_likelihood: Scalar


class ParticleInfo(NamedTuple):
    """What happened in one transition."""

    acceptance_rate: Scalar
    is_accepted: Flag
    is_nan: Flag
    num_evaluations: Count
    log_likelihood: Scalar  # the estimate at the point where the chain is now


class ParticleMarginalMetropolis(Kernel):
    """Metropolis-Hastings on parameters, with the likelihood from a particle filter.

    Args:
        model: the state-space model; its own ``params`` show what the parameters look like.
        observations: as for `bayleaf.montecarlo.sequential`.
        num_particles: N of each filter.
        proposal: moves the (unconstrained) parameters, as in `bayleaf.mcmc.MetropolisHastings`;
            gradients are not available to it.
        guide: a `GuidedProposal` for the particles; None makes bootstrap filters.
        resampling: one of `bayleaf.montecarlo.resampling`.
        ess_threshold: as for `bayleaf.montecarlo.sequential`.
    """

    model: StateSpaceModel
    observations: Any
    proposal: Any
    scheme: Scheme

    def __init__(
        self,
        model: StateSpaceModel,
        observations: Any,
        *,
        num_particles: int = 200,
        proposal: Any = None,
        guide: Any = None,
        resampling: Callable[..., Any] = systematic,
        ess_threshold: float = 0.5,
    ):
        self.model = model
        self.observations = as_arrays(observations, "observations")
        self.proposal = RandomWalk() if proposal is None else proposal
        self.scheme = Scheme(guide, resampling, jnp.asarray(ess_threshold), num_particles, False)
        key = jax.random.key(0)
        check_settings(num_particles, ess_threshold, key)
        check_model(model, guide, self.observations, key)
        if model.params is None:
            raise bad_argument(
                "model",
                "one without parameters",
                "a model whose functions take the parameters last",
                "Give StateSpaceModel(..., params=...) an example of them.",
            )
        for name in ("propose", "log_proposal"):
            if not hasattr(self.proposal, name) or isinstance(self.proposal, type):
                raise bad_argument(
                    "proposal",
                    proposal,
                    f"an object with the method {name}",
                    "Try bl.mcmc.RandomWalk().",
                )
        if getattr(self.proposal, "needs_gradient", False):
            raise bad_argument(
                "proposal",
                type(self.proposal).__name__,
                "one that needs no gradient: the density is known by noisy estimates only",
                "Try bl.mcmc.RandomWalk().",
            )

    def init(self, log_density: LogDensity, position: Position) -> ParticleState:
        """Estimate the likelihood at the start, with the same noise in every chain.

        Where a chain starts, and with what estimate, does not matter for where it converges to.
        """
        return self._evaluate(log_density, jax.random.key(0), position)

    def step(
        self, log_density: LogDensity, key: Key, state: ParticleState
    ) -> tuple[ParticleState, ParticleInfo]:
        """One transition."""
        key_propose, key_filter, key_accept = jax.random.split(key, 3)
        here = Point(state.position, state.log_density, None)
        proposed = self.proposal.propose(key_propose, here)
        check_same_kind("proposal.propose", proposed, state.position)
        new = self._evaluate(log_density, key_filter, proposed)
        there = Point(new.position, new.log_density, None)

        forward = self.proposal.log_proposal(proposed, here)
        backward = self.proposal.log_proposal(state.position, there)
        log_ratio = new.log_density - state.log_density + backward - forward
        # From a start with all particles dead any live point is accepted; -inf minus -inf stays.
        is_nan = jnp.isnan(new.log_density) | jnp.isnan(state.log_density)
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        is_accepted = jnp.log(jax.random.uniform(key_accept, dtype=log_ratio.dtype)) < log_ratio
        state = jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), new, state)
        info = ParticleInfo(
            acceptance_rate=jnp.exp(jnp.minimum(log_ratio, 0.0)),
            is_accepted=is_accepted,
            is_nan=is_nan,
            num_evaluations=jnp.asarray(1, jnp.int32),
            log_likelihood=state.log_likelihood,
        )
        return state, info

    def refresh(self, log_density: LogDensity, state: Any) -> Any:
        """Refused: inside Gibbs the estimate would belong to other parameters."""
        raise bad_argument(
            "kernel",
            "ParticleMarginalMetropolis as a block of Gibbs",
            "all parameters of the model in one block",
            "Pass it to bl.sample as it is.",
        )

    def tuner(self) -> Tuner | None:
        """What learns the proposal's free parameters, if it has any."""
        make = getattr(self.proposal, "tuner", None)
        return None if make is None else make()

    def _evaluate(self, log_density: LogDensity, key: Key, position: Position) -> ParticleState:
        """Prior density, and the estimate by one run of the filter."""
        constrain = getattr(log_density, "constrain", lambda u: u)
        log_prior = jnp.asarray(log_density(position))
        params = constrain(position)
        check_same_kind("params", params, self.model.params)
        estimate = log_likelihood(
            self.model.with_params(params),
            self.observations,
            key=key,
            num_particles=self.scheme.num_particles,
            proposal=self.scheme.proposal,
            resampling=self.scheme.resampling,
            ess_threshold=self.scheme.ess_threshold,
        )
        # Where the prior is zero the filter may have met parameters that make no sense to it.
        is_possible = log_prior > -jnp.inf
        estimate = jnp.where(is_possible, estimate, jnp.zeros_like(estimate))
        return ParticleState(position, log_prior + estimate.astype(log_prior.dtype), estimate)

r"""`sequential`: sequential importance sampling with resampling, on a state-space model.

    result = sequential(model, observations, key=key, num_particles=1000)

runs the particle filter of `bayleaf.montecarlo.particle_filter`: bootstrap (particles move by the
model's own transition) or, with a ``proposal``, guided. It gives the log of an unbiased estimate of
the likelihood, the filtering distributions $p(x_t \mid y_0, \dots, y_t)$ and, when the history is
kept, draws of whole paths.

When to use it: nonlinear or non-Gaussian models with a state of few dimensions. For linear Gaussian
models a Kalman filter is exact. The number of particles must grow exponentially with the dimension
of what one observation tells; watch ``ess``, and guide the filter where it collapses.

Missing observations: a time at which all numbers of the observation are NaN is passed over, without
a call of the likelihood. An observation with some NaN is handed to ``log_likelihood``, which must
then know what to do with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float

from bayleaf.errors import BayleafError, bad_argument
from bayleaf.montecarlo.particle_filter import History, Scheme, run_filter
from bayleaf.montecarlo.resampling import systematic
from bayleaf.montecarlo.state_space import GuidedProposal, StateSpaceModel, check_model
from bayleaf.montecarlo.weighted import WeightedDraws
from bayleaf.trees import as_arrays
from bayleaf.types import Key

Series = Float[np.ndarray, "time"]


def sequential(
    model: StateSpaceModel,
    observations: Any,
    *,
    key: Key,
    num_particles: int = 1000,
    proposal: GuidedProposal | None = None,
    resampling: Callable[..., Any] = systematic,
    ess_threshold: float = 0.5,
    keep_history: bool = False,
) -> ParticleFilter:
    """Run a particle filter over all observations.

    Args:
        model: the state-space model.
        observations: a pytree of arrays with the leading axis time; NaN where nothing was seen.
        key: the result follows from it alone.
        num_particles: N. The variance of the log-likelihood is proportional to T / N.
        proposal: where particles are drawn; None takes the model's transition (bootstrap filter).
        resampling: one of `bayleaf.montecarlo.resampling`, or a function of the same kind.
        ess_threshold: resample when the effective number of particles falls below this share of N;
            1 resamples at every step, 0 never.
        keep_history: keep the particles of all times, for `ParticleFilter.at` and
            `ParticleFilter.paths`; T N states of memory.

    Raises:
        BayleafError: an argument that cannot be used; or, naming the time step, all particles
            impossible there, or a NaN from the model.
    """
    observations = as_arrays(observations, "observations")
    check_settings(num_particles, ess_threshold, key)
    scheme = Scheme(
        proposal, resampling, ess_threshold, num_particles, True, has_history=keep_history
    )
    population, records = _run(model, observations, key, scheme)
    records = jax.tree.map(np.asarray, records)
    _check_alive(records.increment, num_particles, observations)
    value = float(np.sum(records.increment, dtype=np.float64))
    last = WeightedDraws(population.particles, population.log_weights, log_evidence=value)
    return ParticleFilter(value, records, last)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ParticleFilter:
    """What a particle filter found.

    Attributes:
        log_likelihood: the log of an unbiased estimate of p(y_0, ..., y_T-1). Its own spread is
            seen by running with several keys.
        records: a `particle_filter.Record` with one entry a time; the properties read it.
        last: the particles of the last time, with their weights.
    """

    log_likelihood: float
    records: Any
    last: WeightedDraws

    @property
    def increments(self) -> Series:
        """Log of the estimates of p(y_t | y_0, ..., y_t-1), which add up to the log-likelihood."""
        return self.records.increment

    @property
    def ess(self) -> Series:
        """Effective number of particles at each time, with the observation taken in."""
        return self.records.ess

    @property
    def is_resampled(self) -> Bool[np.ndarray, "time"]:
        """Whether ancestors were drawn on the way to each time."""
        return self.records.is_resampled

    @property
    def mean(self) -> Any:
        """Means of the filtering distributions, a pytree like a state with the leading axis time.

        Their Monte Carlo error is about ``sd / sqrt(ess)``.
        """
        return self.records.mean

    @property
    def sd(self) -> Any:
        """Standard deviations of the filtering distributions."""
        return self.records.sd

    def at(self, time: int) -> WeightedDraws:
        """The filtering distribution of one time; needs the history."""
        history = self._history()
        num_times = len(self.increments)
        if not -num_times <= time < num_times:
            raise bad_argument("time", time, f"from 0 to {num_times - 1}")
        time = time % num_times
        particles = jax.tree.map(lambda leaf: leaf[time], history.particles)
        evidence = float(np.sum(self.increments[: time + 1], dtype=np.float64))
        return WeightedDraws(particles, history.log_weights[time], log_evidence=evidence)

    def paths(self, key: Key, num_draws: int = 100) -> Any:
        """Draws of whole paths given all observations, ``[draw, time, ...]``; needs the history.

        A path is the ancestry of a last particle. Far from the end the paths have few different
        ancestors; how many there are is seen from the draws.
        """
        history = self._history()
        if num_draws < 1:
            raise bad_argument("num_draws", num_draws, "at least 1")
        return jax.tree.map(np.asarray, _trace(history, key, num_draws))

    def _history(self) -> History:
        if self.records.history is None:
            raise bad_argument(
                "history", "none", "that of a filter run with it", "Pass keep_history=True."
            )
        return self.records.history

    def __repr__(self) -> str:
        return (
            f"ParticleFilter({len(self.ess)} times, {self.last.num_draws} particles; log "
            f"likelihood {self.log_likelihood:.6g}, least ESS {self.ess.min():.1f}, resampled "
            f"{int(self.is_resampled.sum())} times)"
        )


@eqx.filter_jit
def _run(model: Any, observations: Any, key: Key, scheme: Scheme) -> Any:
    # When it is compiled, and not in each call: the check costs more than a small filter.
    check_model(model, scheme.proposal, observations, key)
    return run_filter(model, observations, key, scheme)


@eqx.filter_jit
def _trace(history: History, key: Key, num_draws: int) -> Any:
    """Ancestral lines, from the last time to the first."""
    weights = jnp.exp(history.log_weights[-1])
    ends = systematic(key, jnp.asarray(weights), num_draws)

    def back(index: Any, ancestors: Any) -> Any:
        before = ancestors[index]
        return before, before

    _, before = jax.lax.scan(back, ends, jnp.asarray(history.ancestors[1:]), reverse=True)
    index = jnp.concatenate([before, ends[None]])
    take = jax.vmap(lambda leaf, i: jnp.asarray(leaf)[i])
    return jax.tree.map(lambda leaf: jnp.swapaxes(take(leaf, index), 0, 1), history.particles)


def check_settings(num_particles: int, ess_threshold: Any, key: Any) -> None:
    """Refuse settings that cannot run."""
    if not 1 <= num_particles < 2**24:
        raise bad_argument("num_particles", num_particles, "from 1 to 2^24 - 1")
    if not isinstance(ess_threshold, Tracer) and not 0 <= ess_threshold <= 1:
        raise bad_argument("ess_threshold", ess_threshold, "a share from 0 to 1")
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise bad_argument("key", key, "a typed key", "Try key=jax.random.key(0).")


def _check_alive(increments: Series, num_particles: int, observations: Any) -> None:
    """Raise where the filter died, naming the step."""
    bad = np.flatnonzero(~np.isfinite(increments))
    if bad.size == 0:
        return
    step = int(bad[0])
    if any(np.any(np.isinf(leaf[step])) for leaf in jax.tree.leaves(observations)):
        raise bad_argument(
            "observations",
            f"an infinite number at step {step}",
            "numbers, or NaN where nothing was observed",
        )
    if np.isneginf(increments[step]):
        raise BayleafError(
            f"step {step}: all {num_particles} particles are impossible there (log-likelihood "
            "-inf). Use more particles, a guided proposal, or a likelihood that is nowhere zero."
        )
    raise BayleafError(
        f"step {step}: the model gave {increments[step]} as weight of a particle. Look for a "
        "log-likelihood or a transition that divides by zero or takes the logarithm of a negative; "
        "an observation that is NaN in parts must be handled by log_likelihood."
    )

r"""The particle filter as pure functions: what `sequential` and particle Metropolis run.

Particles $x^i$ carry weights $w^i$ whose mean is one. At each time

1. if the effective number of particles is below a threshold, ancestors are drawn with probability
   proportional to $w$, and all weights become one;
2. $x^i_t \sim q_t(\cdot \mid x^i_{t-1}, y_t)$;
3. $w^i \leftarrow w^i\, g_t(y_t \mid x^i_t)\, f_t(x^i_t \mid x^i_{t-1}) / q_t(x^i_t \mid \cdot)$,
   and the factor $\frac1N \sum_i w^i$ by which the mean has changed estimates
   $p(y_t \mid y_0, \dots, y_{t-1})$; the weights are divided by it.

In a bootstrap filter $q = f$ and the ratio is one. The product of the factors is an unbiased
estimate of the likelihood (Del Moral 2004, proposition 7.4.1), whether or not one resamples: the
weights that are carried over see to it. Weights are kept as logarithms relative to 1/N, so that a
fresh weight is exactly 0 and not a rounded -log N.

Gradients. Ancestors are integers and have no derivative. If their weights are simply set to one,
as is common, what is left (the derivative along the paths of the particles) is biased, and the bias
does not vanish with N. Here a resampled weight has the value one and the derivative of its
logarithm before, so that the derivative of the likelihood estimate is an unbiased estimate of the
likelihood's, and that of its logarithm is consistent (Scibior & Wood 2021, section 3). It costs
nothing unless a gradient is asked for. Transitions must be differentiable functions of the
parameters for a fixed key.

Sources: Gordon, Salmond & Smith (1993); Chopin & Papaspiliopoulos, An introduction to sequential
Monte Carlo (2020), chapter 10; Scibior & Wood, Differentiable particle filtering without modifying
the forward pass, arXiv 2106.10314.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.montecarlo.particle_keys import UNROLLED, Keys, particle_keys, unrolled
from bayleaf.montecarlo.resampling import systematic
from bayleaf.montecarlo.state_space import GuidedProposal, StateSpaceModel
from bayleaf.montecarlo.sums import total
from bayleaf.types import Flag, Key, Scalar

LogWeights = Float[Array, "particle"]

MOST_KEPT = 2**22
"""So many numbers of particles are kept until the end, to compute all moments at once."""


class Population(NamedTuple):
    """Weighted particles: the state of the filter."""

    particles: Any
    log_weights: LogWeights  # relative to 1/N: the mean of their exponentials is one
    ess: Scalar


class Record(NamedTuple):
    """What is known of one step; with a leading axis, of all."""

    increment: Scalar  # log of the estimate of p(y_t | y_0, ..., y_t-1)
    ess: Scalar
    is_resampled: Flag  # before the step
    mean: Any  # of the filtering distribution p(x_t | y_0, ..., y_t), a pytree like a state
    sd: Any
    history: History | None


class History(NamedTuple):
    """The whole population of one step, when it is asked for."""

    particles: Any
    log_weights: LogWeights
    ancestors: Any  # their numbers in the population of the step before


class Scheme(eqx.Module):
    """How the filter runs: everything but model, data and key."""

    proposal: GuidedProposal | None = None
    resampling: Callable[..., Any] = eqx.field(static=True, default=systematic)
    ess_threshold: Any = 0.5
    num_particles: int = eqx.field(static=True, default=1000)
    has_moments: bool = eqx.field(static=True, default=True)
    has_history: bool = eqx.field(static=True, default=False)


class _Step(NamedTuple):
    """What changes from step to step beside the population."""

    y: Any
    is_missing: Flag
    t: Int[Array, ""]
    keys: Any  # words of the keys for resampling and for moving


def run_filter(
    model: StateSpaceModel, observations: Any, key: Key, scheme: Scheme
) -> tuple[Population, Record]:
    """The last population, and the records of all steps on a leading axis; pure and traceable."""
    steps = _steps(observations, key)
    first = jax.tree.map(lambda leaf: leaf[0], steps)
    population, increment = _begin(model, scheme, first)
    ancestors = jax.lax.iota(jnp.int32, scheme.num_particles) if scheme.has_history else None
    # Moments of a small population cost more than the rest of its step, unless those of all
    # times are computed in one go; large populations do not fit into memory for that.
    num_numbers = sum(leaf.size for leaf in jax.tree.leaves(population.particles))
    is_deferred = scheme.has_moments and num_numbers * steps.t.size <= MOST_KEPT

    def record(population: Population, increment: Scalar, is_due: Flag, ancestors: Any) -> Record:
        moments = (None, None)
        if scheme.has_moments and not is_deferred:
            moments = _moments(population.log_weights, population.particles)
        history = None
        if scheme.has_history or is_deferred:
            history = History(population.particles, population.log_weights, ancestors)
        return Record(increment, population.ess, is_due, *moments, history)

    def body(population: Population, step: _Step) -> tuple[Population, Record]:
        population, *seen = _advance(model, scheme, population, step)
        return population, record(population, *seen)

    begun = record(population, increment, jnp.zeros((), bool), ancestors)
    rest = jax.tree.map(lambda leaf: leaf[1:], steps)
    population, records = jax.lax.scan(body, population, rest)
    records = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begun, records)
    if is_deferred:
        history = records.history
        mean, sd = jax.vmap(_moments)(history.log_weights, history.particles)
        kept = history if scheme.has_history else None
        records = records._replace(mean=mean, sd=sd, history=kept)
    return population, records


def log_likelihood(
    model: StateSpaceModel,
    observations: Any,
    *,
    key: Key,
    num_particles: int,
    proposal: GuidedProposal | None = None,
    resampling: Callable[..., Any] = systematic,
    ess_threshold: Any = 0.5,
) -> Scalar:
    """The log of an unbiased estimate of the likelihood, for use under jit, vmap and grad.

    It is -inf when all particles became impossible and NaN when the model returned NaN. For equal
    keys it is a continuous function of the parameters only as long as nothing is resampled.
    For the arguments, see `bayleaf.montecarlo.sequential`.
    """
    scheme = Scheme(proposal, resampling, ess_threshold, num_particles, has_moments=False)
    _, records = run_filter(model, observations, key, scheme)
    return total(records.increment)


def _steps(observations: Any, key: Key) -> _Step:
    """The inputs of all steps; where nothing was observed the numbers are 0, not NaN.

    (NaN times zero is NaN: the gradient of a likelihood that is not used would be so too.)
    """
    leaves = jax.tree.leaves(observations)
    num_steps = leaves[0].shape[0]
    is_missing = jnp.ones(num_steps, bool)
    for leaf in leaves:
        is_missing &= jnp.all(jnp.isnan(leaf).reshape(num_steps, -1), axis=1)
    clean = jax.tree.map(lambda y: jax.vmap(_or_zero)(is_missing, y), observations)
    t = jnp.arange(num_steps, dtype=jnp.int32)
    # Three words pairs a step, made at once: a call of the cipher in each step would cost more.
    words = jax.random.bits(unrolled(key), (num_steps, 2, 2), jnp.uint32)
    return _Step(clean, is_missing, t, words)


def _or_zero(is_missing: Flag, y: Array) -> Array:
    return jnp.where(is_missing, jnp.zeros_like(y), y)


def _begin(model: StateSpaceModel, scheme: Scheme, step: _Step) -> tuple[Population, Scalar]:
    """The first population, and the log factor of the likelihood."""
    num_particles, guide = scheme.num_particles, scheme.proposal
    keys = particle_keys(_key(step.keys[1]), num_particles)
    if guide is None or guide.initial_sample is None or guide.initial_log_prob is None:
        particles = jax.vmap(lambda key: model.initial(key, *model.arguments))(keys)
        log_ratio = None
    else:
        sample, log_prob = guide.initial_sample, guide.initial_log_prob
        particles = jax.vmap(lambda key: sample(key, step.y, *model.arguments))(keys)
        log_ratio = jax.vmap(
            lambda x: (
                model.initial_log_prob(x, *model.arguments)  # pyright: ignore[reportOptionalCall]
                - log_prob(x, step.y, *model.arguments)
            )
        )(particles)
    return _weigh(model, particles, None, log_ratio, step)


def _advance(
    model: StateSpaceModel, scheme: Scheme, population: Population, step: _Step
) -> tuple[Population, Scalar, Flag, Any]:
    """One step: the population, the log factor, whether it was resampled, and the ancestors."""
    num_particles = scheme.num_particles
    particles, log_weights, ess = population
    # At a threshold of one always: equal weights have an ESS of N only up to rounding.
    is_due = (ess < scheme.ess_threshold * num_particles) | (scheme.ess_threshold >= 1)

    def resample():
        ancestors = scheme.resampling(_key(step.keys[0]), jnp.exp(log_weights), num_particles)
        kept = jax.tree.map(lambda leaf: leaf[ancestors], particles)
        weights = _renewed(log_weights, ancestors)
        return (kept, weights, ancestors) if scheme.has_history else (kept, weights)

    def keep():
        ancestors = jax.lax.iota(jnp.int32, num_particles)
        return (particles, log_weights, ancestors)[: 3 if scheme.has_history else 2]

    kept, log_weights, *ancestors = jax.lax.cond(is_due, resample, keep)
    keys = particle_keys(_key(step.keys[1]), num_particles)
    moved, log_ratio = _move(model, scheme.proposal, keys, kept, step)
    new, increment = _weigh(model, moved, log_weights, log_ratio, step)
    return new, increment, is_due, ancestors[0] if ancestors else None


def _move(
    model: StateSpaceModel, guide: GuidedProposal | None, keys: Keys, particles: Any, step: _Step
) -> tuple[Any, LogWeights | None]:
    """New particles, and the log of transition density over proposal density."""
    arguments = model.arguments

    def by_transition():
        return jax.vmap(lambda key, x: model.transition(key, x, step.t, *arguments))(
            keys, particles
        )

    if guide is None:
        return by_transition(), None

    def by_guide():
        moved = jax.vmap(lambda key, x: guide.sample(key, x, step.y, step.t, *arguments))(
            keys, particles
        )
        ratio = jax.vmap(
            lambda new, old: (
                model.transition_log_prob(new, old, step.t, *arguments)  # pyright: ignore[reportOptionalCall]
                - guide.log_prob(new, old, step.y, step.t, *arguments)
            )
        )(moved, particles)
        return moved, ratio

    kind = jax.eval_shape(by_guide)[1]
    # Without an observation there is nothing to be guided by.
    return jax.lax.cond(
        step.is_missing, lambda: (by_transition(), jnp.zeros(kind.shape, kind.dtype)), by_guide
    )


def _weigh(
    model: StateSpaceModel,
    particles: Any,
    log_weights: LogWeights | None,
    log_ratio: LogWeights | None,
    step: _Step,
) -> tuple[Population, Scalar]:
    """The population with the observation taken in, and the log factor of the likelihood."""
    log_g = jax.vmap(lambda x: model.log_likelihood(x, step.y, step.t, *model.arguments))(particles)
    log_g = jnp.where(step.is_missing, jnp.zeros_like(log_g), log_g)
    for term in (log_weights, log_ratio):
        log_g = log_g if term is None else log_g + term
    num_particles = log_g.shape[0]
    largest = jax.lax.stop_gradient(jnp.max(log_g))
    # When all are impossible, -inf minus -inf would turn a likelihood of zero into NaN.
    largest = jnp.where(jnp.isneginf(largest), jnp.zeros_like(largest), largest)
    weights = jnp.exp(log_g - largest)
    size = total(weights)
    increment = largest + jnp.log(size / num_particles)
    is_alive = jnp.isfinite(increment)
    log_weights = jnp.where(is_alive, log_g - increment, jnp.zeros_like(log_g))
    # The largest of these weights is one, so that neither sum can vanish or overflow.
    ess = jax.lax.stop_gradient(jnp.square(size) / total(jnp.square(weights)))
    ess = jnp.where(is_alive, ess, jnp.zeros_like(ess))
    return Population(particles, log_weights, ess), increment


def _moments(log_weights: LogWeights, particles: Any) -> tuple[Any, Any]:
    """Weighted means and standard deviations, pytrees like one state."""
    weights = jnp.exp(log_weights) / log_weights.shape[0]
    mean = jax.tree.map(lambda x: _average(weights, x), particles)
    # About the mean, and not as a difference of squares, which float32 would cancel.
    sd = jax.tree.map(
        lambda x, m: jnp.sqrt(_average(weights, jnp.square(x - m[None]))), particles, mean
    )
    return mean, sd


def _average(weights: LogWeights, x: Array) -> Array:
    return total(weights.reshape(-1, *(1 for _ in x.shape[1:])) * x)


@jax.custom_jvp
def _renewed(log_weights: LogWeights, ancestors: Int[Array, "particle"]) -> LogWeights:
    """Log weights after resampling: 0, with the derivative of those that they had before."""
    del ancestors
    return jnp.zeros_like(log_weights)


@_renewed.defjvp
def _renewed_jvp(primals, tangents):
    log_weights, ancestors = primals
    return _renewed(log_weights, ancestors), tangents[0][ancestors]


def _key(words: Array) -> Key:
    return jax.random.wrap_key_data(words, impl=UNROLLED)

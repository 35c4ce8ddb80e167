r"""Waste-free sequential Monte Carlo: one stage of a tempered path, a pure function.

A stage takes $N = M P$ equally weighted particles of one temperature to the next:

1. the temperature rises by $\delta$ (`bayleaf.montecarlo.temperature`); the particles get weights
   $w_n = r(x_n)^\delta$, and $\log \hat Z$ grows by $\log \frac1N \sum_n w_n$;
2. $M$ ancestors are drawn with these weights;
3. each starts a Markov chain at the new temperature. The kernel learns from all $M$ chains during
   ``num_warmup`` steps, then is held fixed for $P$ steps; all $M P$ states are the new particles.

Keeping all states of the chains, and not the last alone, is what makes it waste-free: the noise of
the evidence falls by nearly $P$ for a kernel that mixes. With $P = 1$ it is the classical sampler.

Departures from the paper: the warm-up steps; the ancestors themselves are not among the particles;
ancestors are drawn by systematic resampling.

Source: Dau & Chopin, Waste-free sequential Monte Carlo, JRSS B 84 (2022), algorithm 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayleaf.montecarlo.path import Path
from bayleaf.montecarlo.resampling import systematic
from bayleaf.montecarlo.temperature import log_ess, next_temperature
from bayleaf.run.chunk import recorded
from bayleaf.types import Count, Key, Position, Scalar


class Population(NamedTuple):
    """Particles at one temperature and what the kernel has learnt: all that is needed to go on.

    The particle of step p of chain m has the number ``m P + p``.
    """

    positions: Position
    log_ratio: Float[Array, "particle"]
    temperature: Scalar
    kernel: Any
    tuning: Any
    key: Key
    stage: Count


class Stage(NamedTuple):
    """What one stage left behind.

    Attributes:
        temperature: to which it led.
        log_increment: of the evidence.
        ess: of the particles it began with, under the new temperature.
        log_shares: mean weight of each chain it began with, relative to the mean over all; M of
            them.
        parents: the chain from which each of the M new chains took its ancestor.
        moves: share of the steps, all chains, that ended elsewhere than they began.
        autocorrelation: steps of a chain that are worth one draw, by the spread of the chains'
            means of log r.
        stats: what the kernel recorded: mean rates and flags, sums of counts.
    """

    temperature: Scalar
    log_increment: Scalar
    ess: Scalar
    log_shares: Float[Array, "chain"]
    parents: Int[Array, "chain"]
    moves: Scalar
    autocorrelation: Scalar
    stats: dict[str, Array]


@eqx.filter_jit
def prior_particles(path: Path, key: Key, num_particles: int) -> tuple[Position, Any, Any]:
    """Independent draws of the prior, unconstrained, its log density and log r there."""
    # No stage has this number.
    keys = jax.random.split(jax.random.fold_in(key, np.uint32(0xFFFFFFFF)), num_particles)
    positions = jax.vmap(path.sample)(keys)
    return positions, jax.vmap(path.log_prior)(positions), jax.vmap(path.log_ratio)(positions)


@eqx.filter_jit
def begin(
    path: Path, kernel: Any, positions: Position, log_ratio: Any, key: Key, num_chains: int
) -> Population:
    """The population at temperature 0, with the kernel's first parameters filled in."""
    zero = jnp.zeros((), log_ratio.dtype)
    tuner, tuning = kernel.tuner(), ()
    key_chosen = jax.random.fold_in(key, np.uint32(0xFFFFFFFE))
    if tuner is not None:
        some = next_temperature(zero, log_ratio, jnp.asarray(0.5, log_ratio.dtype))
        density = path.at(some)
        chosen = systematic(key_chosen, jax.nn.softmax(scaled(some, log_ratio)))
        ancestors = jax.tree.map(lambda leaf: leaf[chosen], positions)
        states = jax.vmap(lambda position: kernel.init(density, position))(ancestors)
        chains = jax.tree.map(lambda leaf: leaf[:num_chains], states)
        kernel, tuning = tuner.init(density, kernel, chains)
        kernel, tuning = tuner.resume(density, kernel, tuning, states)
    population = Population(
        positions, log_ratio, zero, kernel, tuning, key, jnp.zeros((), jnp.int32)
    )
    # Weak types would become strong in the first stage, and the program be compiled twice.
    arrays, rest = eqx.partition(population, eqx.is_array)
    arrays = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), arrays)
    return eqx.combine(arrays, rest)


@eqx.filter_jit
def advance(
    path: Path,
    tuner: Any,
    population: Population,
    ess_share: Scalar,
    num_chains: int,
    num_warmup: int,
    num_steps: int,
) -> tuple[Population, Stage]:
    """One stage; its key is ``fold_in(key, number of the stage)``.

    Args:
        path: from the prior to the target.
        tuner: of the kernel, or None.
        population: at a temperature below 1.
        ess_share: rho, of `next_temperature`.
        num_chains: M.
        num_warmup: steps that learn.
        num_steps: P; the population has M P particles.
    """
    log_ratio, old = population.log_ratio, population.temperature
    key_ancestors, key_steps = jax.random.split(
        jax.random.fold_in(population.key, population.stage)
    )
    temperature = next_temperature(old, log_ratio, ess_share)
    log_weights = scaled(temperature - old, log_ratio)
    chosen = systematic(key_ancestors, jax.nn.softmax(log_weights), num_chains)
    ancestors = jax.tree.map(lambda leaf: leaf[chosen], population.positions)

    density = path.at(temperature)
    states = jax.vmap(lambda position: population.kernel.init(density, position))(ancestors)
    kernel, tuning, kept, stats = walk(
        density,
        tuner,
        population.kernel,
        population.tuning,
        states,
        key_steps,
        num_warmup,
        num_steps,
    )
    new_ratio = jax.vmap(path.log_ratio)(kept.position)
    new_ratio = jnp.where(jnp.isnan(new_ratio), -jnp.inf, new_ratio)

    of_chains = log_weights.reshape(num_chains, num_steps)
    log_means = jax.nn.logsumexp(of_chains, axis=1) - jnp.log(jnp.asarray(num_steps, old.dtype))
    size = jnp.asarray(log_weights.size, old.dtype)
    log_increment = jax.nn.logsumexp(log_weights) - jnp.log(size)
    stage = Stage(
        temperature=temperature,
        log_increment=log_increment,
        ess=jnp.exp(log_ess(log_weights)),
        log_shares=log_means - log_increment,
        parents=chosen // num_steps,
        moves=stats.pop("moves"),
        autocorrelation=autocorrelation(new_ratio.reshape(num_chains, num_steps)),
        stats=stats,
    )
    key, number = population.key, population.stage + 1
    return Population(kept.position, new_ratio, temperature, kernel, tuning, key, number), stage


def scaled(rise: Scalar, log_ratio: Float[Array, "particle"]) -> Float[Array, "particle"]:
    """``log r^rise``; -inf where r is zero, also where the rise has underflowed."""
    return jnp.where(log_ratio > -jnp.inf, rise * log_ratio, -jnp.inf)


def walk(
    density: Any,
    tuner: Any,
    kernel: Any,
    tuning: Any,
    states: Any,
    key: Key,
    num_warmup: int,
    num_steps: int,
) -> tuple[Any, Any, Any, dict[str, Array]]:
    """All chains by some steps, in the first of which the kernel learns.

    Returns:
        The kernel and its tuning, ready for the next stage; the states of the steps after the
        warm-up, chain by chain; and what happened in these.
    """
    arrays, rest = eqx.partition(kernel, eqx.is_array)
    num_warmup = 0 if tuner is None else num_warmup

    def learn(arrays: Any, tuning: Any, states: Any, infos: Any, step: Count) -> tuple[Any, Any]:
        kernel = eqx.combine(arrays, rest)
        noted = tuner.observe(tuning, states, infos, step)  # type: ignore[union-attr]
        kernel, noted = tuner.update(  # type: ignore[union-attr]
            kernel, noted, states, infos, step, num_warmup
        )
        return eqx.filter(kernel, eqx.is_array), noted

    # One loop for both kinds of steps: a second one would compile the kernel a second time.
    def body(carry: Any, at: tuple[Key, Count]) -> tuple[Any, Any]:
        arrays, tuning, states = carry
        key, step = at
        new, infos = step_all(density, eqx.combine(arrays, rest), states, key)
        if num_warmup:
            arrays, tuning = jax.lax.cond(
                step < num_warmup, learn, lambda *same: same[:2], arrays, tuning, new, infos, step
            )
        stats = {name: gathered(name, leaf) for name, leaf in recorded(new, infos).items()}
        stats["moves"] = jnp.mean(has_moved(states.position, new.position))
        return (arrays, tuning, new), (new, stats)

    total = num_warmup + num_steps
    steps = jax.random.split(key, total), jnp.arange(total, dtype=jnp.int32)
    (arrays, tuning, _), kept = jax.lax.scan(body, (arrays, tuning, states), steps)
    kept, stats = jax.tree.map(lambda leaf: leaf[num_warmup:], kept)
    kept = jax.tree.map(by_chain, kept)
    kernel = eqx.combine(arrays, rest)
    if tuner is not None:
        kernel, tuning = tuner.resume(density, kernel, tuning, kept)
    return kernel, tuning, kept, {name: gathered(name, leaf) for name, leaf in stats.items()}


def step_all(density: Any, kernel: Any, states: Any, key: Key) -> tuple[Any, Any]:
    """One step of every chain."""
    keys = jax.random.split(key, jax.tree.leaves(states)[0].shape[0])
    return jax.vmap(lambda key, state: kernel.step(density, key, state))(keys, states)


def gathered(name: str, leaf: Array) -> Array:
    """The sum of a number of evaluations, the mean of anything else."""
    return jnp.sum(leaf) if name.rpartition(".")[2].startswith("num_") else jnp.mean(leaf)


def has_moved(old: Position, new: Position) -> Float[Array, "chain"]:
    """1 for the chains whose position has changed in any coordinate."""
    changed = [
        jnp.any((a != b).reshape(a.shape[0], -1), axis=1)
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    ]
    return jnp.any(jnp.stack(changed), axis=0).astype(float)


def by_chain(leaf: Array) -> Array:
    """``[step, chain, ...]`` as ``[particle, ...]``, the steps of a chain side by side."""
    return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])


def autocorrelation(x: Float[Array, "chain step"]) -> Scalar:
    """P var(chain means) / var(all): 1 for independent draws, P for chains that stay."""
    x = jnp.where(jnp.isfinite(x), x, jnp.min(jnp.where(jnp.isfinite(x), x, jnp.inf)))
    spread = jnp.var(x)
    return jnp.where(spread > 0, x.shape[1] * jnp.var(jnp.mean(x, axis=1)) / spread, 1.0)

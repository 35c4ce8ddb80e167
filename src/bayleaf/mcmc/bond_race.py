r"""A race between rules for bonds, in warm-up; the winner makes the recorded draws.

Which bonds mix best depends on the data (`bayleaf.mcmc.generalised_swendsen_wang`), by factors of
five either way. The first third of the warm-up takes one of the rules at random for each sweep;
then they take turns, in blocks of a few sweeps of all chains, and after each round the worst of
those that still run falls out (successive halving). The measure is that of `bayleaf.mcmc.mixing`:
effective draws per cost of the statistic that has fewest, from the jumps within blocks. It uses no
clock, so a run is the same each time. The winner does not change any more when draws are recorded,
so that they come from one Markov chain; if the warm-up was too short for each rule to run, all go
on to be taken at random, which is as exact.

Source: Jamieson & Talwalkar (2016), AISTATS 51, for successive halving.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Tuner
from bayleaf.mcmc.mixing import (
    Moments,
    Watch,
    least_effective,
    no_moments,
    noted,
    of_sweep,
    sweep_cost,
    values_of,
    watch,
)
from bayleaf.partitions.bonds import Decoupled, frozen_bonds, probabilities
from bayleaf.partitions.model import PartitionModel
from bayleaf.trees import frozen_function
from bayleaf.types import Count, Key, LogDensity, Scalar

BLOCK = 8
"""Sweeps of one rule before it is the next one's turn."""

TIE = 0.15
"""Of a rate, less than what a race can tell apart; then the rule that is named first wins."""

AUTO = (0.0, 0.25, 0.5, 1.0)
"""The strengths between which ``bonds="auto"`` finds the best and no ``bonds`` leaves chance to
choose, from Gibbs sampling to Swendsen and Wang."""


class Raced(eqx.Module):
    """The best of several rules, which warm-up finds; before that one at random for each sweep.

    Args:
        rules: each as the argument ``bonds`` of `bayleaf.mcmc.GeneralisedSwendsenWang`; None are
            ``Decoupled`` of the strengths 0, 0.25, 0.5 and 1. Of rules that come out within 15 %
            of the best the first wins, so the most robust one should be named first.

    Attributes:
        winner: the number of the rule that was found to be the best; -1 for none.

    Raises:
        BayleafError: fewer than two rules, or one that cannot be used.
    """

    rules: tuple[Any, ...]
    winner: Int[Array, ""]

    def __init__(self, rules: Any = None) -> None:
        if rules is None:
            rules = [Decoupled(delta) for delta in AUTO]
        if not isinstance(rules, list | tuple) or len(rules) < 2:
            raise bad_argument("rules", str(rules), "a list of two rules or more")
        self.rules = tuple(frozen_bonds(rule) for rule in rules)
        self.winner = jnp.asarray(-1, jnp.int32)

    def __call__(self, key: Key, model: PartitionModel) -> Float[Array, "..."]:
        """The probabilities of one sweep."""
        key_rule, key_bonds = jax.random.split(key)

        def own(rule: Any) -> Any:
            return lambda: probabilities(rule, key_bonds, model)

        # One number where all rules have one: a short sweep is 15 % longer with one for each edge.
        shape = jnp.broadcast_shapes(*(jax.eval_shape(own(rule)).shape for rule in self.rules))

        def branch(rule: Any) -> Any:
            return lambda: jnp.broadcast_to(own(rule)(), shape)

        branches = [branch(rule) for rule in self.rules]
        # Two steps: an index that chance may decide would make `vmap` compute all rules for ever.
        return jax.lax.cond(
            self.winner < 0,
            lambda: jax.lax.switch(jax.random.randint(key_rule, (), 0, len(branches)), branches),
            lambda: jax.lax.switch(self.winner, branches),
        )

    def tuner(self) -> Tuner:
        """What holds the race."""
        return RaceTuner()


class Racing(NamedTuple):
    """The state of the race: who runs, best first, and what is known of each."""

    watched: Watch
    order: Int[Array, "rule"]
    num_running: Count
    moments: Moments  # with a leading axis of rules


class RaceTuner(Tuner):
    """Finds the winner of a `Raced` rule."""

    def init(self, log_density: LogDensity, kernel: Any, states: Any) -> tuple[Any, Racing]:
        """All run, and nothing is known."""
        del log_density
        num, seen = len(raced(kernel).rules), watch(states)
        empty = jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), no_moments(seen))
        order, running = jnp.arange(num, dtype=jnp.int32), jnp.asarray(num, jnp.int32)
        return with_winner(kernel, jnp.asarray(-1, jnp.int32)), Racing(seen, order, running, empty)

    def update(
        self, kernel: Any, tuning: Racing, states: Any, infos: Any, step: Any, num_warmup: Any
    ) -> tuple[Any, Racing]:
        """Note a sweep; at the end of a block let the next rule run, or tell the winner."""
        start = jnp.maximum(num_warmup // 3, 1)
        place = step - start
        tuning = recorded(tuning, raced(kernel).winner, states, infos, place)
        is_last = step + 1 >= num_warmup
        is_end = is_last | (((place + 1) % BLOCK == 0) & (place + 1 >= 0))

        def turn(tuning: Racing) -> tuple[Count, Racing]:
            share = (place + 1) / jnp.maximum(num_warmup - start, 1)
            tuning = fewer(tuning, share)
            following = tuning.order[((place + 1) // BLOCK) % tuning.num_running]
            return jnp.where(is_last, best(tuning), following), tuning

        def keep(tuning: Racing) -> tuple[Count, Racing]:
            return raced(kernel).winner, tuning

        winner, tuning = jax.lax.cond(is_end, turn, keep, tuning)
        return with_winner(kernel, winner), tuning


def raced(kernel: Any) -> Raced:
    """The rule of a kernel."""
    return kernel.bonds.thaw()


def with_winner(kernel: Any, winner: Count) -> Any:
    """The kernel with another winner, or rule whose turn it is."""
    return with_bonds(kernel, eqx.tree_at(lambda rule: rule.winner, raced(kernel), winner))


def with_bonds(kernel: Any, rule: Any) -> Any:
    """The kernel with another rule of the same structure."""
    return eqx.tree_at(lambda k: k.bonds, kernel, frozen_function(rule, "bonds"))


def recorded(racing: Racing, rule: Count, states: Any, infos: Any, place: Count) -> Racing:
    """What is known, with the sweep at a place of the race; before it (< 0) nothing is counted."""
    values = values_of(racing.watched, states, infos)
    seen = of_sweep(racing.watched, values, sweep_cost(states, infos), place % BLOCK)
    moments = jax.tree.map(
        lambda old, new: old.at[rule].add(jnp.where(place >= 0, new, 0)), racing.moments, seen
    )
    return racing._replace(watched=noted(racing.watched, values, place == -1), moments=moments)


def fewer(racing: Racing, share: Scalar) -> Racing:
    """Those who still run after a share of the race: half as many in each of its equal rounds."""
    field = racing.order.shape[0]
    rounds = (field - 1).bit_length()
    wanted = -(-field // 2 ** jnp.floor(share * rounds + 1e-6).astype(jnp.int32))
    wanted = jnp.clip(wanted, 2, racing.num_running)
    value = jax.vmap(least_effective)(racing.moments)[racing.order]
    rank = jnp.where(jnp.arange(field) < racing.num_running, -value, 1)
    order = jnp.where(wanted < racing.num_running, racing.order[jnp.argsort(rank)], racing.order)
    return racing._replace(order=order, num_running=wanted)


def best(racing: Racing) -> Count:
    """The winner; -1 if a rule has not run for long enough to be known."""
    value = jax.vmap(least_effective)(racing.moments)
    is_running = jnp.arange(value.size) < racing.num_running
    value_running = jnp.where(
        jnp.zeros_like(is_running).at[racing.order].set(is_running), value, -1
    )
    first = jnp.argmax(value_running >= (1 - TIE) * jnp.max(value_running))
    return jnp.where(jnp.all(value > 0), first, -1).astype(jnp.int32)

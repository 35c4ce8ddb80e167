r"""Bonds from a small neural network, which warm-up trains to mix.

The network moves the log odds of a rule that is known to be sensible,

$$\mathrm{logit}\, q_e = \mathrm{logit}\, q^0_e + f_\phi(x_e), \qquad q_e \le 0.95,$$

by what is known of an edge without labels (`edge_features`). Its last layer begins at zero, so the
first $q_e$ are those of $q^0$, by default `Contrast`. Whatever the network says, the posterior is
left invariant, for $q_e$ does not look at the labels; there is nothing to correct.

What is learnt is how far a sweep moves for its cost (`bayleaf.mcmc.mixing.jump_rate`), never where
the edges of an image are: bonds that follow true edges perfectly mix badly. Sweeps in machine code
have no gradient, and a few of them tell the rate with much noise; so the weights are searched by
separable natural evolution strategies, which use only the ranks of mirrored trials. The last third
of the warm-up lets the trained network and $q^0$ take turns, and keeps the better one. Recorded
draws come from fixed probabilities.

A trained network is ``run.kernel.bonds.thaw().network``. For other data of the same kind,
``LearnedBonds(network)(key, model)`` are probabilities to be given as they are.

Training improves on the rule that it starts from; it has not beaten the best single strength, which
``bonds="auto"`` finds, by more than the noise (``benchmarks/learned_bonds.py``).

Sources: Barbu & Zhu (2005), IEEE Transactions on Pattern Analysis and Machine Intelligence 27, for
bonds that learn from data; Wierstra et al. (2014), Journal of Machine Learning Research 15, section
3 and algorithm 6, for the search.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument
from bayleaf.mcmc.bond_race import BLOCK, with_bonds
from bayleaf.mcmc.kernel import Tuner
from bayleaf.mcmc.mixing import (
    Moments,
    Watch,
    jump_rate,
    least_effective,
    no_moments,
    noted,
    of_sweep,
    sweep_cost,
    values_of,
    watch,
)
from bayleaf.partitions.arguments import whole
from bayleaf.partitions.bonds import Contrast, contrasts, frozen_bonds, probabilities
from bayleaf.partitions.model import PartitionModel, as_partition_model
from bayleaf.types import Count, Key, LogDensity, Scalar

NUM_FEATURES = 6
LARGEST = 0.95
"""Of a bond's probability: an edge that hardly ever opens is hardly ever thought over."""

TRIAL = 4
"""Sweeps of one trial."""

SPREAD = 0.5
"""Of the weights, in the first trials."""


def edge_features(model: PartitionModel) -> Float[Array, "edge feature"]:
    """What is known of an edge without labels, in numbers of order one.

    The coupling; the contrast D of `bayleaf.partitions.bonds`; the log Bayes factor of both sites
    together against each alone; the number of neighbours; and how the two sites differ from all
    their neighbours, the less and the more different one.
    """
    ends, num_sites = model.graph.edges, model.graph.num_sites
    first, second = ends[:, 0], ends[:, 1]
    statistics, gap = model.statistics, contrasts(model)
    one = jnp.ones(num_sites, jnp.int32)
    alone = model.log_marginals(one, statistics)
    both = model.log_marginals(one[first] + 1, statistics[first] + statistics[second])
    degree = jnp.zeros(num_sites, gap.dtype).at[ends.ravel()].add(1)
    around = jnp.zeros(num_sites, gap.dtype).at[first].add(gap).at[second].add(gap)
    around = jnp.log1p(around / jnp.maximum(degree, 1))
    columns = [
        jnp.arcsinh(jnp.broadcast_to(model.coupling, gap.shape)),
        jnp.log1p(gap),
        jnp.arcsinh(both - alone[first] - alone[second]),
        jnp.log1p(degree[first] + degree[second]) - 2,
        jnp.minimum(around[first], around[second]),
        jnp.maximum(around[first], around[second]),
    ]
    return jnp.stack(columns, axis=1).astype(model.coupling.dtype)


class BondNetwork(eqx.Module):
    """One hidden layer; what it adds to the log odds is zero at first.

    Args:
        width: of the hidden layer.
        key: of its weights.
    """

    hidden: eqx.nn.Linear
    out: eqx.nn.Linear

    def __init__(self, width: int = 4, *, key: Key) -> None:
        self.hidden = eqx.nn.Linear(NUM_FEATURES, whole(width, "width"), key=key)
        out = eqx.nn.Linear(width, "scalar", key=key)
        self.out = jax.tree.map(jnp.zeros_like, out)

    def __call__(self, features: Float[Array, "edge feature"]) -> Float[Array, "edge"]:
        """What is added to the log odds of each edge."""
        return jax.vmap(lambda x: self.out(jnp.tanh(self.hidden(x))))(features)


class LearnedBonds(eqx.Module):
    """Bonds of a network that warm-up trains, to be given to `GeneralisedSwendsenWang`.

    Args:
        network: from features of edges, [edge, 6], to what is added to the log odds of their bonds,
            [edge]: a `BondNetwork`, an earlier one that is to be trained further, or any Equinox
            module of that form. None makes a small one.
        start: the rule whose log odds are moved; None is `Contrast()`.

    Raises:
        BayleafError: a network that cannot be called, a start that is no rule.
    """

    network: Any
    start: Any
    fixed: Float[Array, "edge"] | None  # the probabilities for the model at hand, once warm

    def __init__(self, network: Any = None, *, start: Any = None) -> None:
        if network is None:
            network = BondNetwork(key=jax.random.key(0))
        if not callable(network):
            raise bad_argument("network", network, "a function of features of edges")
        self.network = network
        self.start = frozen_bonds(Contrast() if start is None else start)
        self.fixed = None

    def __call__(self, key: Key, model: PartitionModel) -> Float[Array, "edge"]:
        """The probabilities."""
        if self.fixed is not None:
            return self.fixed
        return moved(first_bonds(self.start, key, model), self.network(edge_features(model)))

    def tuner(self) -> Tuner:
        """What trains the network."""
        return BondTuner()


def first_bonds(start: Any, key: Key, model: PartitionModel) -> Float[Array, "edge"]:
    """The probabilities of the rule that the network begins with."""
    q = probabilities(start, key, model)
    return jnp.minimum(jnp.broadcast_to(q, (model.graph.num_edges,)), LARGEST)


def moved(q: Float[Array, "edge"], log_odds: Float[Array, "edge"]) -> Float[Array, "edge"]:
    """Probabilities with something added to their log odds; what is impossible stays so."""
    # The other way round, q e^f / (1 - q + q e^f), is infinity over infinity for a large f.
    shrunk = jnp.exp(-jnp.maximum(log_odds, -80.0).astype(q.dtype))
    return jnp.where(q > 0, jnp.minimum(q / (q + (1 - q) * shrunk), LARGEST), 0)


class Learning(NamedTuple):
    """The state of the search: a normal cloud of weights, and how its trials went."""

    watched: Watch
    features: Float[Array, "edge feature"]
    first: Float[Array, "edge"]
    began: Float[Array, "weight"]
    mean: Float[Array, "weight"]
    spread: Float[Array, "weight"]
    worth: Float[Array, "trial"]
    overall: Moments
    trial: Moments
    duel: Moments  # with a leading axis of two: the start, the network


class BondTuner(Tuner):
    """Trains the network of `LearnedBonds`."""

    def init(self, log_density: LogDensity, kernel: Any, states: Any) -> tuple[Any, Learning]:
        """The cloud around the given weights."""
        rule, model = kernel.bonds.thaw(), as_partition_model(log_density)
        features = edge_features(model)
        first = first_bonds(rule.start, jax.random.key(0), model)
        seen = watch(states)
        weights = ravel_pytree(eqx.filter(rule.network, eqx.is_inexact_array))[0]
        weights = weights.astype(features.dtype)
        empty = no_moments(seen)
        duel = jax.tree.map(lambda x: jnp.stack([x, x]), empty)
        spread = jnp.full_like(weights, SPREAD)
        worth = jnp.zeros(num_trials(weights.size), features.dtype)
        learning = Learning(
            seen, features, first, weights, weights, spread, worth, empty, empty, duel
        )
        return with_weights(kernel, learning, weights), learning

    def update(
        self, kernel: Any, tuning: Learning, states: Any, infos: Any, step: Any, num_warmup: Any
    ) -> tuple[Any, Learning]:
        """Note a sweep; after a trial, or a turn of the duel, go on to the next one."""
        start, end = jnp.maximum(num_warmup // 5, 1), jnp.maximum(2 * num_warmup // 3, 1)
        is_search = (step >= start) & (step < end)
        place = step - jnp.where(step < end, start, end)
        tuning = recorded(tuning, states, infos, step - start, step - end)
        following = step + 1
        turn = (following - end) // BLOCK
        is_duel, is_last = following >= end, following >= num_warmup
        is_over = is_search & ((place + 1) % TRIAL == 0)
        number = (following - start) // TRIAL  # of the next trial
        generation, chosen = number // tuning.worth.size, number % tuning.worth.size

        def go_on(tuning: Learning) -> tuple[Any, Learning]:
            previous = (number - 1) % tuning.worth.size
            worth = tuning.worth.at[previous].set(jump_rate(tuning.trial, tuning.overall))
            tuning = tuning._replace(worth=jnp.where(is_over, worth, tuning.worth))
            is_full = is_over & (previous == tuning.worth.size - 1)
            after = learnt(tuning, generation - 1)
            tuning = jax.tree.map(lambda new, old: jnp.where(is_full, new, old), after, tuning)
            trial = tuning.mean + tuning.spread * trials(tuning, generation)[chosen]
            rival = jnp.where(turn % 2 == 0, tuning.mean, tuning.began)
            weights = jnp.where(is_last, winner(tuning), jnp.where(is_duel, rival, trial))
            changed = with_weights(kernel, tuning, weights)
            return eqx.filter(changed, eqx.is_array), tuning

        is_turn = is_over | (following == start) | (is_duel & ((following - end) % BLOCK == 0))
        arrays, rest = eqx.partition(kernel, eqx.is_array)
        arrays, tuning = jax.lax.cond(
            is_turn | is_last, go_on, lambda tuning: (arrays, tuning), tuning
        )
        return eqx.combine(arrays, rest), tuning


def num_trials(num_weights: int) -> int:
    """Trials of a generation, an even number."""
    return 2 * (2 + int(1.5 * num_weights).bit_length())


def trials(learning: Learning, generation: Count) -> Float[Array, "trial weight"]:
    """Standard normal, each with its mirror image; the same in each run."""
    key = jax.random.fold_in(jax.random.key(0), generation)
    half = learning.worth.size // 2
    noise = jax.random.normal(key, (half, learning.mean.size), learning.mean.dtype)
    return jnp.stack([noise, -noise], axis=1).reshape(2 * half, -1)


def learnt(learning: Learning, generation: Count) -> Learning:
    """The cloud after a generation (Wierstra et al., algorithm 6)."""
    num, dim = learning.worth.size, learning.mean.size
    noise = trials(learning, generation)
    worth = jnp.nan_to_num(learning.worth, nan=-jnp.inf)
    rank = jnp.argsort(jnp.argsort(-worth)) + 1
    utility = jnp.maximum(0, jnp.log(num / 2 + 1) - jnp.log(rank.astype(noise.dtype)))
    utility = (utility / jnp.sum(utility) - 1 / num)[:, None]
    rate = (3 + jnp.log(dim)) / (5 * jnp.sqrt(dim))
    return learning._replace(
        mean=learning.mean + learning.spread * jnp.sum(utility * noise, axis=0),
        spread=learning.spread * jnp.exp(rate / 2 * jnp.sum(utility * (noise**2 - 1), axis=0)),
    )


def recorded(
    learning: Learning, states: Any, infos: Any, since_start: Count, since_end: Count
) -> Learning:
    """With a sweep noted in the trial, or in the duel."""
    seen = learning.watched
    values, cost = values_of(seen, states, infos), sweep_cost(states, infos)
    is_search, is_duel = (since_start >= 0) & (since_end < 0), since_end >= 0
    age = since_start % TRIAL
    one = of_sweep(seen, values, cost, age)
    kept = jax.tree.map(lambda old: jnp.where(age == 0, 0, old), learning.trial)
    number = 1 - (since_end // BLOCK) % 2  # the network goes first
    two = of_sweep(seen, values, cost, since_end % BLOCK)
    return learning._replace(
        watched=noted(seen, values, since_start == -1),
        trial=jax.tree.map(jnp.add, kept, one),
        overall=added(learning.overall, one, is_search),
        duel=jax.tree.map(
            lambda old, new: old.at[number].add(jnp.where(is_duel, new, 0)), learning.duel, two
        ),
    )


def added(total: Moments, more: Moments, counts: Any) -> Moments:
    """The sums with more, if it counts."""
    return jax.tree.map(lambda a, b: a + jnp.where(counts, b, 0), total, more)


def winner(learning: Learning) -> Float[Array, "weight"]:
    """The weights that mixed better in the duel; those of the start unless both are known."""
    value: Scalar = jax.vmap(least_effective)(learning.duel)
    is_better = (value[1] > value[0]) & (value[0] > 0)
    return jnp.where(is_better, learning.mean, learning.began)


def with_weights(kernel: Any, learning: Learning, weights: Float[Array, "weight"]) -> Any:
    """The kernel whose network has these weights, and their probabilities."""
    rule = kernel.bonds.thaw()
    arrays, rest = eqx.partition(rule.network, eqx.is_inexact_array)
    network = eqx.combine(ravel_pytree(arrays)[1](weights), rest)
    fixed = moved(learning.first, network(learning.features))
    rule = eqx.tree_at(lambda r: r.network, rule, network)
    rule = eqx.tree_at(lambda r: r.fixed, rule, fixed, is_leaf=lambda x: x is None)
    return with_bonds(kernel, rule)

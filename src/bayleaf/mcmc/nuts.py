"""The no-U-turn sampler: Hamiltonian Monte Carlo that finds its own trajectory length.

The trajectory doubles, forward or backward in time at random, until it turns back on itself:

    (x_right - x_left) . p_left <= 0   or   (x_right - x_left) . p_right <= 0,

for the whole trajectory or any of its balanced sub-trees. The next draw is picked from all of its
points in proportion to exp(-H), by progressive sampling that favours the newer half.

The default choice for a continuous target with gradients. The recursion of the paper is unrolled
into one loop, a leapfrog step an iteration, so that chains side by side wait for each other once a
draw and not once a doubling. A sub-tree that ends at leaf n (counted from 0 in the order of
creation) begins at the leaf whose trailing one-bits are cleared, so that only one point per level
must be remembered.

Source: Hoffman & Gelman, The No-U-Turn Sampler (2014), eq. 9 and algorithm 3; multinomial weights
and divergences: Betancourt (2017), appendix A.3.1 and A.4; iterative form: Phan et al. (2019).
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float, Int, UInt32

from bayleaf.errors import bad_argument
from bayleaf.mcmc.adaptation import HamiltonianTuner
from bayleaf.mcmc.approach import approach
from bayleaf.mcmc.hamiltonian import (
    MAX_ENERGY_ERROR,
    Front,
    HamiltonianState,
    Leaf,
    depart,
    flat_value_and_grad,
    initial_state,
    is_broken,
    leapfrog,
)
from bayleaf.mcmc.hmc import check_hamiltonian_settings, configured
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.loops import packed_while_loop
from bayleaf.mcmc.metric import Metric
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar


class NUTSInfo(NamedTuple):
    """What happened in one transition."""

    acceptance_rate: Scalar
    is_divergent: Flag
    is_nan: Flag
    num_gradients: Count
    tree_depth: Count
    energy: Scalar


class Proposal(NamedTuple):
    """A point picked from a set of leaves, and the log of their total weight exp(H0 - H)."""

    offset: Float[Array, "dim"]
    log_density: Scalar
    gradient: Float[Array, "dim"]
    energy: Scalar
    log_weight: Scalar


class Memory(NamedTuple):
    """First point of the open sub-tree of each level."""

    offset: Float[Array, "level dim"]
    momentum: Float[Array, "level dim"]


class Tree(NamedTuple):
    """A growing trajectory; ``fronts`` holds its left and right end."""

    fronts: Front
    memory: Memory
    subtree: Proposal
    whole: Proposal
    depth: Count
    leaf: Count
    num_leaves: Count
    sum_acceptance: Scalar
    is_done: Flag
    is_divergent: Flag
    is_nan: Flag


class NUTS(Kernel):
    """The no-U-turn sampler.

    Args:
        step_size: eps; None learns it in warm-up.
        metric: M; None learns M^-1 in warm-up.
        target_acceptance: the mean acceptance rate that warm-up steers the step size to. Raise it
            towards 0.99 when a run reports divergences.
        max_depth: the trajectory has at most 2 ** max_depth - 1 leapfrog steps.

    Raises:
        BayleafError: max_depth outside 1 .. 20, step_size <= 0, target_acceptance outside (0, 1).
    """

    step_size: ArrayLike | None = None
    metric: Metric | None = None
    target_acceptance: float = eqx.field(static=True, default=0.92)
    max_depth: int = eqx.field(static=True, default=10)

    def __check_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not isinstance(self.max_depth, int) or not 1 <= self.max_depth <= 20:
            raise bad_argument("max_depth", self.max_depth, "a whole number from 1 to 20")
        check_hamiltonian_settings(self.step_size, self.target_acceptance)

    def init(self, log_density: LogDensity, position: Position) -> HamiltonianState:
        """Evaluate log density and gradient at ``position``."""
        return initial_state(log_density, position)

    def step(
        self, log_density: LogDensity, key: Key, state: HamiltonianState
    ) -> tuple[HamiltonianState, NUTSInfo]:
        """One transition."""
        value_and_grad, unravel = flat_value_and_grad(log_density, state.position)
        x, gradient = ravel_pytree(state.position)[0], ravel_pytree(state.gradient)[0]
        metric, eps = configured(self, x)
        momentum = metric.momentum(jax.random.normal(key, x.shape, x.dtype))
        seed = seeds(key)

        tree, energy = sapling(momentum, state.log_density, gradient, metric, eps, self.max_depth)

        def grow(tree: Tree) -> Tree:
            side = (seed.direction >> tree.depth.astype(jnp.uint32)) & 1
            signed = jnp.where(side == 1, eps, -eps)
            front = jax.tree.map(lambda ends: jnp.where(side == 1, ends[1], ends[0]), tree.fronts)
            front, leaf = leapfrog(value_and_grad, x, metric, front, signed)
            tree = add_leaf(tree, front, leaf, energy, side, seed.leaf)
            return close_subtree(tree, self.max_depth, seed.subtree)

        tree = packed_while_loop(lambda tree: ~tree.is_done, grow, tree)
        chosen = tree.whole
        new = HamiltonianState(
            unravel(x + chosen.offset), chosen.log_density, unravel(chosen.gradient)
        )
        info = NUTSInfo(
            acceptance_rate=tree.sum_acceptance / tree.num_leaves,
            is_divergent=tree.is_divergent,
            is_nan=tree.is_nan,
            num_gradients=tree.num_leaves,
            tree_depth=tree.depth,
            energy=chosen.energy,
        )
        return new, info

    def approach(self, log_density: LogDensity, position: Position) -> tuple[Position, Count]:
        """Climb to the mass of the posterior first; trajectories are bad at it."""
        return approach(log_density, position)

    @property
    def needs_gradient(self) -> bool:
        """Leapfrog steps follow the gradient."""
        return True

    def tuner(self) -> HamiltonianTuner | None:
        """Step size and metric are learnt where they are not given."""
        return HamiltonianTuner.for_kernel(self)


def sapling(
    momentum: Float[Array, "dim"],
    log_density: Scalar,
    gradient: Float[Array, "dim"],
    metric: Metric,
    eps: Scalar,
    max_depth: int,
) -> tuple[Tree, Scalar]:
    """The trajectory of one point, and its energy."""
    left, _ = depart(momentum, gradient, metric, -eps)
    right, kinetic = depart(momentum, gradient, metric, eps)
    energy = kinetic - log_density
    zero = jnp.zeros_like(energy)
    start = Proposal(right.offset, log_density, gradient, energy, zero)
    tree = Tree(
        fronts=jax.tree.map(lambda a, b: jnp.stack([a, b]), left, right),
        memory=Memory(*[jnp.zeros((max_depth, *momentum.shape), momentum.dtype)] * 2),
        subtree=start._replace(log_weight=zero - jnp.inf),
        whole=start,
        depth=jnp.zeros((), jnp.int32),
        leaf=jnp.zeros((), jnp.int32),
        num_leaves=jnp.zeros((), jnp.int32),
        sum_acceptance=zero,
        is_done=jnp.zeros((), bool),
        is_divergent=jnp.zeros((), bool),
        is_nan=jnp.zeros((), bool),
    )
    return tree, energy


def add_leaf(
    tree: Tree,
    front: Front,
    leaf: Leaf,
    initial_energy: Scalar,
    side: UInt32[Array, ""],
    seed: UInt32[Array, ""],
) -> Tree:
    """Put the newest point into the open sub-tree and look for U-turns that end there."""
    is_nan = is_broken(leaf)
    log_weight = jnp.where(is_nan, -jnp.inf, initial_energy - leaf.energy)
    log_weight = jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)
    is_divergent = ~(log_weight >= -MAX_ENERGY_ERROR)

    old = tree.subtree
    total = jnp.logaddexp(old.log_weight, log_weight)
    is_chosen = uniform(seed, tree.num_leaves) < jnp.exp(log_weight - total)
    point = Proposal(front.offset, leaf.log_density, leaf.gradient, leaf.energy, total)
    subtree = jax.tree.map(lambda a, b: jnp.where(is_chosen, a, b), point, old)
    subtree = subtree._replace(log_weight=total)

    direction = jnp.where(side == 1, 1.0, -1.0).astype(front.offset.dtype)
    memory, is_turning = turn_back(tree.memory, front, direction, tree.leaf)
    is_end = jnp.arange(2, dtype=jnp.uint32) == side
    fronts = jax.tree.map(
        lambda ends, f: jnp.where(is_end[:, None], f[None], ends), tree.fronts, front
    )
    return tree._replace(
        fronts=fronts,
        memory=memory,
        subtree=subtree,
        leaf=tree.leaf + 1,
        num_leaves=tree.num_leaves + 1,
        sum_acceptance=tree.sum_acceptance + jnp.exp(jnp.minimum(log_weight, 0)),
        is_done=is_divergent | is_turning,
        is_divergent=is_divergent,
        is_nan=tree.is_nan | is_nan,
    )


def turn_back(memory: Memory, front: Front, direction: Scalar, leaf: Count) -> tuple[Memory, Flag]:
    """Remember an even leaf; at an odd one, check the balanced sub-trees that it completes."""
    # The sub-trees that leaf n completes have 2, 4, ... leaves, as many as n has trailing ones.
    level = jax.lax.population_count(leaf >> 1)
    num_complete = jax.lax.population_count(leaf & ~(leaf + 1))
    levels = jnp.arange(memory.offset.shape[0])
    is_even = (leaf & 1) == 0
    is_here = ((levels == level) & is_even)[:, None]
    memory = Memory(
        jnp.where(is_here, front.offset[None], memory.offset),
        jnp.where(is_here, front.momentum[None], memory.momentum),
    )
    span = direction * (front.offset[None] - memory.offset)
    is_checked = (levels > level - num_complete) & (levels <= level) & ~is_even
    is_turning = (jnp.sum(span * memory.momentum, axis=1) <= 0) | (span @ front.momentum <= 0)
    return memory, jnp.any(is_checked & is_turning)


def close_subtree(tree: Tree, max_depth: int, seed: UInt32[Array, ""]) -> Tree:
    """Join a complete sub-tree to the trajectory; decide whether to double it once more."""
    is_complete = (tree.leaf == (1 << tree.depth)) & ~tree.is_done
    log_ratio = tree.subtree.log_weight - tree.whole.log_weight
    is_chosen = is_complete & (uniform(seed, tree.depth) < jnp.exp(jnp.minimum(log_ratio, 0)))
    whole = jax.tree.map(lambda a, b: jnp.where(is_chosen, a, b), tree.subtree, tree.whole)
    total = jnp.logaddexp(tree.whole.log_weight, tree.subtree.log_weight)
    span = tree.fronts.offset[1] - tree.fronts.offset[0]
    is_turning = jnp.any(tree.fronts.momentum @ span <= 0)
    depth = tree.depth + is_complete
    return tree._replace(
        whole=whole._replace(log_weight=jnp.where(is_complete, total, tree.whole.log_weight)),
        subtree=tree.subtree._replace(
            log_weight=jnp.where(is_complete, -jnp.inf, tree.subtree.log_weight)
        ),
        depth=depth,
        leaf=jnp.where(is_complete, 0, tree.leaf),
        is_done=tree.is_done | (is_complete & (is_turning | (depth >= max_depth))),
    )


class Seeds(NamedTuple):
    """What the choices of one transition follow from."""

    direction: UInt32[Array, ""]
    leaf: UInt32[Array, ""]
    subtree: UInt32[Array, ""]


def seeds(key: Key) -> Seeds:
    """Three words hashed from the key itself.

    The cipher takes its time: a call costs as much as two leapfrog steps of a small model. It makes
    the momentum; the choices in the tree follow from the key's own words, which no draw repeats.
    """
    first, second = jax.random.key_data(key).ravel()[-2:]
    return Seeds(
        direction=scramble(first ^ scramble(second + jnp.uint32(1))),
        leaf=scramble(second ^ scramble(first + jnp.uint32(2))),
        subtree=scramble(first ^ scramble(second + jnp.uint32(3))),
    )


def uniform(seed: UInt32[Array, ""], index: Int[Array, ""]) -> Float[Array, ""]:
    """A uniform number on (0, 1) for each index."""
    bits = scramble(seed ^ (index.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))) >> 9
    # 23 bits and a half fit a float32 exactly: more could round up to 1, and without the half a 0
    # would choose a leaf however small its weight.
    return (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


def scramble(x: UInt32[Array, ""]) -> UInt32[Array, ""]:
    """A 32-bit hash (Wellons, lowbias32): each input bit flips each output bit half of the time."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)

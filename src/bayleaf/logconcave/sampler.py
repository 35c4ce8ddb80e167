r"""Draws from a density through its hull: one inside a program, or many for a batch of targets.

A proposal picks a piece of the hull by its mass, then a place in it by inverse CDF. With $u$
uniform it is accepted when $\log u \le \varphi(x) - \text{hull}(x)$. Hull and squeeze are equal at
the knots and part linearly, by $g t$ at distance $t$, and $\exp(-g t) \ge 1 - g t$: so $u + g t \le
1$ accepts without evaluating the density, nor a logarithm.

Exactness. `fill` gives every slot its own sequence of proposals, and the slot keeps the first that
is accepted. The hull is fixed before. Hence a slot's value has the density f whatever the others
do, and slots are independent. That slots are proposed for in blocks, and that those not yet
accepted are gathered in packs, changes when a slot is served, never what it may keep. (Taking
what a block has accepted when some number is reached is where a bias could come in; there is no
such step.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from bayleaf.logconcave.hull import Hull, scalar, tolerance
from bayleaf.logconcave.trouble import EXHAUSTED, FINE, NAN, NOT_CONCAVE, Trouble, noted
from bayleaf.types import Count, Flag, Key, Scalar

NUM_WORDS = 3  # random 32-bit words of one proposal
BLOCK = 2  # proposals that `draw` evaluates at a time
MAX_BLOCKS = 100
MAX_PACKS = 3000
AUDIT = 64  # of so many draws of a target one is evaluated though the squeeze would accept it
LEAST_PACK = 64  # slots that are served together, at least


class Table(NamedTuple):
    """The pieces of hulls in a row, 2^m to a target: a piece is found by m comparisons.

    ``boundary`` is the share of the mass up to and with the piece, ``before`` that without it.
    """

    boundary: Array
    before: Array
    mass: Array
    x: Array
    side: Array
    value: Array
    rate: Array
    width: Array
    gap: Array
    start: Array
    step: Array
    fill: Array


class Proposal(NamedTuple):
    """A point below the hull: abscissa, hull there, distance to the squeeze, uniform height."""

    x: Array
    hull: Array
    gap: Array
    slope: Array
    height: Array


def tabulate(hull: Hull) -> Table:
    """The pieces of one hull, from left to right."""
    num = hull.log_mass.size
    padding = (0, 2 ** (num - 1).bit_length() - num)
    mass = jnp.exp(hull.log_mass - hull.log_total).reshape(-1)
    boundary = jnp.cumsum(mass)
    before = jnp.concatenate([jnp.zeros_like(boundary[:1]), boundary[:-1]])
    mass = boundary - before
    # No uniform number may land behind the last piece that has mass.
    boundary = jnp.where(boundary >= boundary[-1], 2, boundary)
    side = jnp.broadcast_to(jnp.array([-1, 1], mass.dtype), hull.rate.shape)

    def flat(leaf: Array) -> Array:
        return jnp.pad(leaf.reshape(-1), padding)

    return Table(
        jnp.pad(boundary, padding, constant_values=2),
        flat(before),
        flat(jnp.where(mass > 0, mass, 1)),
        flat(jnp.repeat(hull.x, 2)),
        flat(side),
        flat(jnp.repeat(hull.value, 2)),
        flat(hull.rate),
        flat(hull.width),
        flat(hull.gap),
        flat(hull.start),
        flat(hull.step),
        flat(hull.fill),
    )


def propose(
    table: Table, base: Int[Array, "*slot"] | int, size: int, words: UInt32[Array, "3 *slot"]
) -> Proposal:
    """One proposal a slot.

    Args:
        table: the pieces, those of all targets one after the other.
        base: where in the table the slot's target begins.
        size: pieces of a target, a power of 2.
        words: random bits.
    """
    dtype = table.x.dtype
    is_fine = dtype == jnp.float64
    share = unit(words[0], dtype, words[1] if is_fine else None)
    height = unit(words[2], dtype)
    piece = jnp.zeros(share.shape, jnp.int32) + base
    stride = size // 2
    while stride:
        piece = piece + stride * (table.boundary[piece + stride - 1] <= share)
        stride //= 2
    if is_fine:  # what the choice of the piece has left of 52 bits is uniform in it
        place = jnp.clip((share - table.before[piece]) / table.mass[piece], 0, 1 - 2.0**-52)
    else:
        place = unit(words[1], dtype)
    step = table.step[piece]
    # Outwards in both cases, or a rate of zero that rounding makes positive would mirror the draw.
    place = jnp.where(step < 0, 1 - place, place)
    fall = -jnp.log1p(-table.fill[piece] * place)
    distance = table.start[piece] + step * fall
    distance = jnp.clip(distance, 0, table.width[piece])
    return Proposal(
        table.x[piece] + table.side[piece] * distance,
        table.value[piece] + table.rate[piece] * distance,
        table.gap[piece] * distance,
        table.rate[piece],
        height,
    )


def unit(word: Array, dtype: Any, more: Array | None = None) -> Array:
    """A uniform number in the open interval (0, 1), as fine as ``dtype`` and the words allow."""
    if dtype == jnp.float64:
        if more is None:
            return (word.astype(dtype) + 0.5) * 2.0**-32
        high, low = (word >> 6).astype(dtype), (more >> 6).astype(dtype)
        return (high * 2.0**26 + low + 0.5) * 2.0**-52
    return (((word >> 9).astype(jnp.float32) + 0.5) * 2.0**-23).astype(dtype)


def judge(proposal: Proposal, value: Array) -> tuple[Array, Array]:
    """Which proposals are accepted, and what their values say against the density."""
    is_accepted = jnp.log(proposal.height) <= value - proposal.hull  # NaN compares as False
    slack = tolerance(
        proposal.x, jnp.maximum(jnp.abs(proposal.hull), jnp.abs(value)), proposal.slope
    )
    is_above = value - proposal.hull > slack
    # Beyond the outer knots the squeeze is at minus infinity, and inf is not below it.
    is_below = (proposal.hull - value - slack > proposal.gap) & (value > -jnp.inf)
    code = jnp.where(is_above | is_below, NOT_CONCAVE, FINE)
    return is_accepted, jnp.where(jnp.isnan(value), NAN, code)


class Draw(NamedTuple):
    """One draw and the log density there."""

    x: Scalar
    value: Scalar
    num_evaluations: Count
    trouble: Trouble


def draw(log_density: Callable[[Any], Any], hull: Hull, key: Key, trouble: Trouble) -> Draw:
    """One exact draw; pure and traceable. With trouble, or when it meets some, the peak."""
    table = tabulate(hull)
    size = table.x.size
    evaluate = jax.vmap(lambda x: scalar(log_density, x))
    peak = jnp.argmax(hull.value)

    def is_going(carry: tuple[Any, ...]) -> Flag:
        done, block, _, _, trouble = carry
        return ~done & (block < MAX_BLOCKS) & (trouble.code == FINE)

    def attempt(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        _, block, _, _, trouble = carry
        words = jax.random.bits(jax.random.fold_in(key, block), (NUM_WORDS, BLOCK), jnp.uint32)
        proposal = propose(table, 0, size, words)
        value = evaluate(proposal.x)
        is_accepted, code = judge(proposal, value)
        bad = jnp.argmax(code > 0)
        trouble = noted(trouble, code[bad], proposal.x[bad])
        first = jnp.argmax(is_accepted)
        return jnp.any(is_accepted), block + 1, proposal.x[first], value[first], trouble

    start = (jnp.zeros((), bool), jnp.zeros((), jnp.int32), hull.x[peak], hull.value[peak], trouble)
    done, num_blocks, x, value, trouble = jax.lax.while_loop(is_going, attempt, start)
    trouble = noted(trouble, jnp.where(done, FINE, EXHAUSTED), hull.x[peak])
    is_good = trouble.code == FINE
    x = jnp.where(is_good, x, hull.x[peak])
    value = jnp.where(is_good, value, hull.value[peak])
    return Draw(x, value, BLOCK * num_blocks, trouble)


class Filled(NamedTuple):
    """Draws ``[slot, target]``; where hulls need not enclose, log density minus hull there."""

    draws: Array
    excess: Array | None
    num_proposals: Count
    num_evaluations: Count
    trouble: Trouble


class _Slots(NamedTuple):
    """Where each slot stands: its proposal, as the words that make it, whether it is pending."""

    words: UInt32[Array, "3 slot"]
    x: Array
    is_open: Array
    excess: Array | None


class _Progress(NamedTuple):
    slots: _Slots
    num_packs: Count
    num_proposals: Count
    num_evaluations: Count
    code: Int[Array, "target"]
    where: Array


def fill(
    evaluate: Callable[[Array, Array], Array],
    hulls: Hull,
    key: Key,
    num_slots: int,
    *,
    is_enclosed: bool = True,
) -> Filled:
    """``num_slots`` exact draws of each target.

    Args:
        evaluate: ``evaluate(target, x)``, the log densities of targets (by number) at points.
        hulls: with a leading target axis.
        key: all randomness follows from it.
        num_slots: draws of each target.
        is_enclosed: whether the hulls must enclose their densities. If so the squeeze is used and
            densities that leave their hulls are reported; if not every draw is evaluated, and the
            draws have the density min(f, hull).
    """
    num_targets = hulls.x.shape[0]
    table = jax.vmap(tabulate)(hulls)
    size = table.x.shape[1]
    table = Table(*(leaf.reshape(-1) for leaf in table))
    num = num_targets * num_slots
    height = min(AUDIT, max(1, num // LEAST_PACK))
    pack = -(-num // height)  # slot i stands in column i % pack: a pack is the columns' first ones
    numbers = jnp.arange(pack * height, dtype=jnp.int32)
    ranks = height - jnp.arange(height, dtype=jnp.int32)[:, None]
    of_slot = numbers % num_targets

    words = jax.random.bits(jax.random.fold_in(key, 0), (NUM_WORDS, pack * height), jnp.uint32)
    first = propose(table, of_slot * size, size, words)
    num_audited = num_targets * -(-num_slots // AUDIT) if is_enclosed else num
    is_open = ((first.height + first.gap > 1) | (numbers < num_audited)) & (numbers < num)
    # Few slots are ever looked at again: words that make a proposal anew are less to write down for
    # all of them than the proposal itself.
    excess = None if is_enclosed else jnp.zeros_like(first.x)
    slots = _Slots(words, first.x, is_open, excess)

    def is_going(progress: _Progress) -> Flag:
        is_fine = ~jnp.any(progress.code > 0)
        return jnp.any(progress.slots.is_open) & (progress.num_packs < MAX_PACKS) & is_fine

    def serve(progress: _Progress) -> _Progress:
        slots = progress.slots
        # The rank of each column's first open slot, 0 where none is; XLA's argmax is slower.
        rank = jnp.max(jnp.where(slots.is_open.reshape(height, pack), ranks, 0), axis=0)
        is_real = rank > 0
        at = (height - jnp.maximum(rank, 1)) * pack + numbers[:pack]
        target = of_slot[at]
        words = slots.words[:, at]
        pending = propose(table, target * size, size, words)
        value = evaluate(target, pending.x)
        is_accepted, code = judge(pending, value)
        if not is_enclosed:
            code = jnp.where(code == NAN, NAN, FINE)
        code = jnp.where(is_real, code, FINE)
        fresh_words = jax.random.bits(
            jax.random.fold_in(key, progress.num_packs + 1), (NUM_WORDS, pack), jnp.uint32
        )
        fresh = propose(table, target * size, size, fresh_words)
        is_squeezed = (fresh.height + fresh.gap <= 1) & is_enclosed
        new = _Slots(
            jnp.where(is_accepted, words, fresh_words),
            jnp.where(is_accepted, pending.x, fresh.x),
            ~is_accepted & ~is_squeezed,
            None if is_enclosed else jnp.where(is_accepted, value - pending.hull, 0),
        )
        place = jnp.where(is_real, at, pack * height)
        slots = jax.tree.map(
            lambda old, leaf: old.at[..., place].set(leaf, mode="drop"), slots, new
        )
        bad = jnp.where(code > 0, target, num_targets)
        num_real = jnp.sum(is_real, dtype=jnp.int32)
        return _Progress(
            slots,
            progress.num_packs + 1,
            progress.num_proposals + jnp.sum(is_real & ~is_accepted, dtype=jnp.int32),
            progress.num_evaluations + num_real,
            progress.code.at[bad].max(code, mode="drop"),
            progress.where.at[bad].set(pending.x, mode="drop"),
        )

    none = jnp.zeros((), jnp.int32)
    start = _Progress(
        slots,
        none,
        jnp.asarray(num, jnp.int32),
        none,
        jnp.zeros(num_targets, jnp.int32),
        jnp.zeros(num_targets, hulls.x.dtype),
    )
    end = jax.lax.while_loop(is_going, serve, start)
    slots = end.slots
    is_open = jnp.any(slots.is_open[:num].reshape(num_slots, num_targets), axis=0)
    peaks = jnp.take_along_axis(hulls.x, jnp.argmax(hulls.value, axis=1)[:, None], axis=1)[:, 0]
    # A target that is not done though no other one has failed has used up its packs.
    is_exhausted = is_open & ~jnp.any(end.code > 0)
    trouble = Trouble(
        jnp.where(is_exhausted, EXHAUSTED, end.code), jnp.where(is_exhausted, peaks, end.where)
    )
    return Filled(
        slots.x[:num].reshape(num_slots, num_targets),
        None if slots.excess is None else slots.excess[:num].reshape(num_slots, num_targets),
        end.num_proposals,
        end.num_evaluations,
        trouble,
    )

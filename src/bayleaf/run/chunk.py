"""The one compiled program of a run: advance all chains by some steps.

A run is a loop over this program. It is compiled for a *capacity*, the most steps that one call can
take; how many it takes is an argument. So the same program serves warm-up and sampling, the first
chunk and the last, a run that is extended and one that is resumed.

The key of a step is ``fold_in(fold_in(key, chain), step)`` with the chain's number among all chains
and the step's number since the start. Neither the division into chunks nor the layout of the chains
over devices changes any stream of random numbers.

Chains run side by side under `vmap` on a device, and in parts of equal size on the devices of a
mesh. What warm-up learns it learns from all chains: on a mesh their states are gathered, in the
order of the chains, so that every device learns the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, UInt8

from bayleaf.trees import leaf_names
from bayleaf.types import Count, Key, LogDensity, Position

CAPACITY = 512
"""Steps of a chunk, at most."""

CHUNK_BYTES = 64e6
"""Device memory for the draws of a chunk: wide models have smaller chunks."""


class Progression(NamedTuple):
    """All that is needed to go on: what is saved and restored."""

    kernel: Any
    tuning: Any
    states: Any
    key: Key
    step: Count


class Begun(NamedTuple):
    """Where the chains were put, constrained, and the gradients spent before the first step."""

    starts: Position
    num_gradients: Any


class Chunk(NamedTuple):
    """What some steps left behind; leading axes step and chain, ``capacity`` steps long."""

    draws: Position
    stats: dict[str, Any]


@eqx.filter_jit
def begin(target: Any, kernel: Any, positions: Position, key: Key) -> tuple[Progression, Begun]:
    """Evaluate the starts, or where they lead, and fill in the kernel's first parameters."""
    # Chain c was started with fold_in(key, c). No chain has this number.
    key = jax.random.fold_in(key, np.uint32(0xFFFFFFFF))
    starts = jax.vmap(target.constrain)(positions)
    tuner, tuning = kernel.tuner(), ()
    spent = jnp.zeros(jax.tree.leaves(positions)[0].shape[0], int)
    if tuner is not None:
        positions, spent = jax.vmap(lambda position: kernel.approach(target, position))(positions)
    states = jax.vmap(lambda position: kernel.init(target, position))(positions)
    if tuner is not None:
        kernel, tuning = tuner.init(target, kernel, states)
    # Weak types would become strong in the first step, and the program be compiled twice.
    first = Progression(kernel, tuning, states, key, jnp.zeros((), jnp.int32))
    arrays, rest = eqx.partition(first, eqx.is_array)
    arrays = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), arrays)
    return eqx.combine(arrays, rest), Begun(starts, spent)


@eqx.filter_jit
def advance(
    target: LogDensity,
    tuner: Any,
    progression: Progression,
    num_steps: Count,
    num_warmup: Count,
    capacity: int,
    mesh: Mesh | None,
) -> tuple[Progression, Chunk]:
    """Take ``num_steps`` steps, at most ``capacity``.

    Args:
        target: called on unconstrained positions; its ``constrain`` makes the draws.
        tuner: of the kernel, or None.
        progression: where the chains stand.
        num_steps: how many steps to take.
        num_warmup: steps before this number learn.
        capacity: length of the chunk that is returned; what lies beyond num_steps means nothing.
        mesh: devices to spread the chains over; None is a single device.
    """
    if mesh is None:
        return _advance(target, tuner, progression, num_steps, num_warmup, capacity, _alone)
    axes = mesh.axis_names
    arrays, rest = eqx.partition((target, tuner, progression), eqx.is_array)

    def part(arrays: Any, num_steps: Count, num_warmup: Count) -> tuple[Any, Chunk]:
        target, tuner, progression = eqx.combine(arrays, rest)
        progression, chunk = _advance(
            target, tuner, progression, num_steps, num_warmup, capacity, _Layout(axes)
        )
        return eqx.filter(progression, eqx.is_array), chunk

    by_chain, shared = PartitionSpec(axes), PartitionSpec()
    parts: Any = shared, shared, by_chain, shared, shared
    specs = (shared, shared, Progression(*parts))
    arrays, chunk = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(specs, shared, shared),
        out_specs=(specs[2], PartitionSpec(None, axes)),
        check_vma=False,
    )(arrays, num_steps, num_warmup)
    return eqx.combine(arrays, rest[2]), chunk


class _Layout(NamedTuple):
    """How the chains of one device lie among all chains."""

    axes: tuple[str, ...] = ()

    def numbers(self, num_here: int) -> Any:
        """The numbers, among all chains, of the chains here."""
        first = jax.lax.axis_index(self.axes) * num_here if self.axes else 0
        return first + jnp.arange(num_here)

    def gather(self, tree: Any, is_wanted: Any) -> Any:
        """The same tree for all chains, in order; zeros, and no waiting, when it is not wanted."""
        if not self.axes:
            return tree

        def collect(tree: Any) -> Any:
            # All leaves as bytes in one message: each message costs a round trip.
            leaves, structure = jax.tree.flatten(tree)
            rows = [_as_bytes(leaf) for leaf in leaves]
            ends = np.cumsum([row.shape[1] for row in rows])[:-1]
            message = jax.lax.all_gather(jnp.concatenate(rows, 1), self.axes, tiled=True)
            parts = zip(jnp.split(message, ends, 1), leaves, strict=True)
            return jax.tree.unflatten(structure, [_from_bytes(*part) for part in parts])

        shapes = jax.eval_shape(collect, tree)
        nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.cond(is_wanted, collect, lambda _: nothing, tree)


_alone = _Layout()


def _advance(
    target: Any,
    tuner: Any,
    progression: Progression,
    num_steps: Count,
    num_warmup: Count,
    capacity: int,
    layout: _Layout,
) -> tuple[Progression, Chunk]:
    arrays, rest = eqx.partition(progression.kernel, eqx.is_array)
    numbers = layout.numbers(jax.tree.leaves(progression.states)[0].shape[0])
    chain_keys = jax.vmap(lambda number: jax.random.fold_in(progression.key, number))(numbers)
    # Made at once: a call of the cipher in each step would cost as much as two gradients.
    steps = progression.step + jnp.arange(capacity)
    keys = jax.vmap(lambda step: jax.vmap(lambda key: jax.random.fold_in(key, step))(chain_keys))(
        steps
    )

    def one_step(arrays: Any, states: Any, keys: Any) -> tuple[Any, Any]:
        kernel = eqx.combine(arrays, rest)
        return jax.vmap(lambda key, state: kernel.step(target, key, state))(keys, states)

    def learn(arrays: Any, tuning: Any, states: Any, infos: Any, step: Count) -> tuple[Any, Any]:
        all_states, all_infos = layout.gather((states, infos), step < num_warmup)
        tuning = tuner.observe(tuning, all_states, all_infos, step)

        def update(arrays: Any, tuning: Any) -> tuple[Any, Any]:
            kernel = eqx.combine(arrays, rest)
            kernel, tuning = tuner.update(kernel, tuning, all_states, all_infos, step, num_warmup)
            return eqx.filter(kernel, eqx.is_array), tuning

        return jax.lax.cond(step < num_warmup, update, lambda *same: same, arrays, tuning)

    def body(i: Count, carry: Any) -> Any:
        arrays, tuning, states, kept = carry
        step = progression.step + i
        states, infos = one_step(arrays, states, keys[i])
        if tuner is not None:
            arrays, tuning = learn(arrays, tuning, states, infos, step)
        new = (states.position, recorded(states, infos))
        kept = jax.tree.map(lambda all_, one: all_.at[i].set(one), kept, new)
        return arrays, tuning, states, kept

    shapes = jax.eval_shape(lambda: _kept(*one_step(arrays, progression.states, keys[0])))
    kept = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)
    carry = (arrays, progression.tuning, progression.states, kept)
    arrays, tuning, states, (positions, stats) = jax.lax.fori_loop(0, num_steps, body, carry)
    draws = jax.vmap(jax.vmap(target.constrain))(positions)
    step = progression.step + num_steps
    kernel = eqx.combine(arrays, rest)
    return Progression(kernel, tuning, states, progression.key, step), Chunk(draws, stats)


def _as_bytes(leaf: Array) -> UInt8[Array, "chain byte"]:
    whole = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    return jax.lax.bitcast_convert_type(whole, jnp.uint8).reshape(leaf.shape[0], -1)


def _from_bytes(row: UInt8[Array, "chain byte"], like: Array) -> Array:
    """The inverse of `_as_bytes` for the type and the shape, but for the chains, of ``like``."""
    shape, size = (row.shape[0], *like.shape[1:]), like.dtype.itemsize
    if like.dtype == bool:
        return row.reshape(shape).astype(bool)
    row = row.reshape(shape if size == 1 else (*shape, size))
    return jax.lax.bitcast_convert_type(row, like.dtype)


def _kept(states: Any, infos: Any) -> tuple[Any, Any]:
    return states.position, recorded(states, infos)


def recorded(states: Any, infos: Any) -> dict[str, Any]:
    """One number a chain for each scalar of the kernel's info, by name, and the log density.

    Arrays in an info (trajectories, momenta) are not recorded: they would be as large as the draws.
    """
    names, leaves = leaf_names(infos), jax.tree.leaves(infos)
    stats = {name: leaf for name, leaf in zip(names, leaves, strict=True) if leaf.ndim == 1}
    for field in ("log_density", "logdensity"):  # ours, and BlackJAX's
        if hasattr(states, field):
            stats["log_density"] = getattr(states, field)
    return stats


def capacity_for(positions: Position) -> int:
    """How many steps of all chains' draws fit into the memory meant for them."""
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(positions))
    return int(np.clip(CHUNK_BYTES // max(num_bytes, 1), 1, CAPACITY))


def place(progression: Progression, mesh: Mesh) -> Progression:
    """The progression with the chains spread over the mesh and the rest on every device."""

    def put(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: _put(leaf, sharding) if eqx.is_array(leaf) else leaf, tree)

    shared = PartitionSpec()
    return Progression(
        kernel=put(progression.kernel, shared),
        tuning=put(progression.tuning, shared),
        states=put(progression.states, PartitionSpec(mesh.axis_names)),
        key=put(progression.key, shared),
        step=put(progression.step, shared),
    )


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    """A global array of which every process holds the parts of its own devices."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def by_chain(leaf: np.ndarray, num_steps: int) -> np.ndarray:
    """``[step, chain, ...]`` to ``[chain, draw, ...]``, without what lies beyond the steps taken.

    A copy: a view would keep the whole chunk alive.
    """
    return np.swapaxes(leaf[:num_steps], 0, 1).copy()

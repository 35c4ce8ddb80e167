"""Keys for particles: the Threefry cipher, written out so that it fuses into the model.

On CPUs JAX runs the rounds of its cipher as a loop over whole arrays, which for the few numbers
that a particle draws costs several times what the model costs, and a split key for each particle
doubles it. Here the rounds are unrolled, so that XLA makes one pass of cipher, transition and
likelihood; and particle i of a step with key (a, b) has the key (a, b xor i). The rounds are 13,
the fewest that the cipher's authors found to pass every test of BigCrush, and not the 20 of
``jax.random``, which take a tenth of a filter's time more. A model splits, folds in and draws as
usual; only the bits are others.

Source: Salmon, Moraes, Dror & Shaw, Parallel random numbers: as easy as 1, 2, 3 (2011), section 4
and table 2.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
from jax.extend.random import define_prng_impl
from jaxtyping import Array, UInt32

from bayleaf.types import Key

NUM_ROUNDS = 13
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA

Words = UInt32[Array, "..."]
Keys = jaxtyping.Key[Array, "particle"]


def threefry(
    key: tuple[Words, Words], counter: tuple[Words, Words], num_rounds: int = NUM_ROUNDS
) -> tuple[Words, Words]:
    """Threefry-2x32, element by element."""
    schedule = (*key, key[0] ^ key[1] ^ jnp.uint32(PARITY))
    x, y = counter[0] + key[0], counter[1] + key[1]
    for i in range(num_rounds):
        distance = ROTATIONS[i % len(ROTATIONS)]
        x = x + y
        y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        group, place = divmod(i + 1, 4)
        if place == 0:
            x = x + schedule[group % 3]
            y = y + schedule[(group + 1) % 3] + jnp.uint32(group)
    return x, y


def _blocks(key: Words, shape: tuple[int, ...]) -> tuple[Words, Words]:
    """One block of the cipher for each number of this shape, counted in C order."""
    low = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    words = jax.lax.broadcast(key[0], shape), jax.lax.broadcast(key[1], shape)
    return threefry(words, (jnp.zeros_like(low), low))


def _random_bits(key: Words, bit_width: int, shape: tuple[int, ...]) -> Array:
    high, low = _blocks(key, shape)
    if bit_width == 64:
        return (high.astype(jnp.uint64) << jnp.uint64(32)) | low.astype(jnp.uint64)
    bits = high ^ low
    return bits if bit_width == 32 else bits.astype(f"uint{bit_width}")


def _split(key: Words, shape: tuple[int, ...]) -> Words:
    return jnp.stack(_blocks(key, shape), axis=-1)


def _fold_in(key: Words, data: Any) -> Words:
    number = jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack(threefry((key[0], key[1]), (jnp.zeros_like(number), number)))


def _seed(seed: Array) -> Words:
    return jax.random.key_data(jax.random.wrap_key_data(seed, impl="threefry2x32"))


UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="bayleaf_threefry2x32",
    tag="bly",
)


def unrolled(key: Key) -> Key:
    """A key of the unrolled cipher that follows from any key."""
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl=UNROLLED)


def particle_keys(key: Key, num_particles: int) -> Keys:
    """One key for each particle, from an unrolled key."""
    first, second = jax.random.key_data(key)
    number = jax.lax.iota(jnp.uint32, num_particles)
    words = jnp.stack([jax.lax.broadcast(first, number.shape), second ^ number], axis=-1)
    return jax.random.wrap_key_data(words, impl=UNROLLED)

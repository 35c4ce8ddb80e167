"""Random bits in machine code: xoshiro256++, and 64 biased coins at once.

A generator is an array of four words, seeded from the words of a JAX key, so that the key of a
sweep decides its draws. Overlap of two streams is out of the question: they are as far apart as
random places among 2^256.

Sources: Blackman & Vigna (2021), ACM Transactions on Mathematical Software 47; Lemire (2019), ACM
Transactions on Modeling and Computer Simulation 29, for whole numbers without bias.
"""

# ruff: noqa: D103

from __future__ import annotations

import numpy as np

from bayleaf.partitions.machine.ffi import machine_code

U64 = np.uint64
ALL = U64(0xFFFFFFFFFFFFFFFF)
GOLDEN = U64(0x9E3779B97F4A7C15)


@machine_code
def mixed(x):
    """The finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> U64(30))) * U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> U64(27))) * U64(0x94D049BB133111EB)
    return x ^ (x >> U64(31))


@machine_code
def generator(words):
    """The state of a generator, seeded from the words of a key."""
    seed = U64(0)
    for word in words:
        seed = mixed(seed ^ U64(word)) + GOLDEN
    state = np.empty(4, np.uint64)
    for i in range(4):
        seed += GOLDEN
        state[i] = mixed(seed)
    return state


@machine_code
def turned(x, k):
    return (x << U64(k)) | (x >> U64(64 - k))


@machine_code
def word(rng):
    """64 random bits."""
    a, b, c, d = rng[0], rng[1], rng[2], rng[3]
    out = turned(a + d, 23) + a
    shifted = b << U64(17)
    c ^= a
    d ^= b
    rng[1] = b ^ c
    rng[0] = a ^ d
    rng[2] = c ^ shifted
    rng[3] = turned(d, 45)
    return out


@machine_code
def uniform(rng):
    """A number in [0, 1) with 53 random bits."""
    return (word(rng) >> U64(11)) * 2.0**-53


@machine_code
def below(rng, limit):
    """A whole number in [0, limit), without bias; the limit is below 2^31."""
    limit = U64(limit)
    product = (word(rng) >> U64(32)) * limit
    low = product & U64(0xFFFFFFFF)
    if low < limit:
        smallest = (U64(0x100000000) - limit) % limit
        while low < smallest:
            product = (word(rng) >> U64(32)) * limit
            low = product & U64(0xFFFFFFFF)
    return np.int64(product >> U64(32))


@machine_code
def digits_of(probability):
    """The first 53 binary digits of a probability in a word; ALL stands for one."""
    digits = U64(probability * 2.0**53)
    return ALL if digits >= U64(1) << U64(53) else digits << U64(11)


@machine_code
def bernoulli(rng, digits):
    """64 independent bits, each one with the probability whose binary digits are given.

    Bit i of a random word is compared with the first binary digit of the probability, that of the
    next word with the second, and so on, until they differ: all 64 are decided after about 7 words.
    """
    if digits == ALL:
        return ALL
    result, undecided, digit = U64(0), ALL, U64(1) << U64(63)
    while undecided != U64(0) and (digits & (digit | (digit - U64(1)))) != U64(0):
        random = word(rng)
        if digits & digit:  # a random 0 where the probability has a 1: the number is below it
            result |= undecided & ~random
            undecided &= random
        else:
            undecided &= ~random
        digit >>= U64(1)
    return result

"""Sums over many particles: fast on CPUs, and safe in float32.

A plain sum of $10^5$ numbers in float32 drifts by up to $10^5$ roundings of a large accumulator,
the same way at each step of a filter: over a thousand steps its log-likelihood is off by more than
its own standard error. Added up in blocks the depth of the additions, and with it the error, is
some tens of roundings.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Shaped

BLOCK = 8
LANES = 64


def running_sum(x: Shaped[Array, "n"]) -> Shaped[Array, "n"]:
    """All partial sums: in blocks of eight, and over the blocks by the same function.

    Four times as fast as ``jnp.cumsum`` on CPUs, and exact for integers.
    """
    size = x.shape[0]
    num_blocks = -(-size // BLOCK)
    blocks = jnp.pad(x, (0, num_blocks * BLOCK - size)).reshape(num_blocks, BLOCK)
    columns = [blocks[:, 0]]
    for i in range(1, BLOCK):
        columns.append(columns[-1] + blocks[:, i])
    if num_blocks > 1:
        before = running_sum(columns[-1]) - columns[-1]
        columns = [column + before for column in columns]
    return jnp.stack(columns, axis=1).reshape(-1)[:size]


def total(x: Shaped[Array, "n *rest"]) -> Shaped[Array, "*rest"]:
    """The sum over the first axis, level by level."""
    while x.shape[0] > 4 * LANES:
        num_rows = max(2, min(LANES, x.shape[0] // LANES))
        width = -(-x.shape[0] // num_rows)
        padding = [(0, num_rows * width - x.shape[0]), *((0, 0) for _ in x.shape[1:])]
        x = jnp.pad(x, padding).reshape(num_rows, width, *x.shape[1:])
        x = jnp.sum(x, axis=0, dtype=x.dtype)
    return jnp.sum(x, axis=0, dtype=x.dtype)

"""Large kernels, tile by tile, so that what one layer leaves the next finds in the cache.

A layer passes several times over arrays with an entry for each pair of inputs and, in networks on
images, each position. From main memory each pass takes longer than the arithmetic; tiles of a
fraction of the matrix make convolutional networks about three times faster on CPUs, and bound the
memory where positions mix. Of a symmetric matrix the lower half of the tiles is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bayleaf.infinite.state import kept

CACHED = 2**19  # bytes of one array of a tile: a few of them fit a core's cache
VECTORS = 2**18  # pairs of a tile for vectors; smaller ones would spoil the matrix product
HELD = 2**26  # bytes where all pairs of positions are held, which no cache does

Kernels = Callable[[Any, Any, Any, Any], tuple[list[Array], Any]]


def tile_entries(x: Array | jax.ShapeDtypeStruct, mixes_positions: bool) -> int:
    """How many pairs of inputs a tile may have."""
    if x.ndim == 2:
        return VECTORS
    positions = math.prod(x.shape[1:-1])
    if mixes_positions:
        return max(HELD // (positions**2 * x.dtype.itemsize), 1)
    return max(CACHED // (positions * x.dtype.itemsize), 1)


def by_tiles(
    kernels: Kernels,
    x1: Any,
    x2: Any,
    id1: Int[Array, "n1"] | None,
    id2: Int[Array, "n2"] | None,
    entries: int,
) -> tuple[list[Array], Any]:
    """``kernels(x1, x2, id1, id2)``, computed in tiles of at most ``entries`` pairs.

    Args:
        kernels: returns matrices ``[n1, n2]``, and numbers of which the largest counts.
        x1: the inputs of side 1, arrays whose first axis is theirs.
        x2: the inputs of side 2; None is ``x1`` again.
        id1: their labels, not negative.
        id2: likewise.
        entries: at least 1.
    """
    n1, n2 = _count(x1), _count(x1 if x2 is None else x2)
    if n1 * n2 <= entries:
        return kernels(x1, x2, id1, id2)
    side = math.isqrt(entries)
    num2 = -(-n2 // max(side, entries // n1)) if x2 is not None else -(-n1 // side)
    num1 = num2 if x2 is None else -(-n1 // max(entries // -(-n2 // num2), 1))
    rows1, ids1 = _cut(x1, id1, num1, -1)
    rows2, ids2 = _cut(x1 if x2 is None else x2, id2, num2, -1 - n1)
    every = np.tril_indices(num1) if x2 is None else np.indices((num1, num2)).reshape(2, -1)
    first, second = every

    def tile(pair: tuple[Array, Array]) -> Any:
        i, j = pair
        labels = (None, None) if ids1 is None or ids2 is None else (ids1[i], ids2[j])
        # XLA computes what it fuses with the write into the list of tiles on one core.
        return kept(kernels(_at(i, rows1), _at(j, rows2), *labels))

    tiles, numbers = jax.lax.map(tile, (jnp.asarray(first), jnp.asarray(second)))
    place = np.zeros((num1, num2), np.int32)
    place[first, second] = np.arange(first.size)
    if x2 is None:
        place[second, first] = np.arange(first.size)
    mirrored = np.arange(num1)[:, None] < np.arange(num2) if x2 is None else None
    joined = [_joined(values, place, mirrored)[:n1, :n2] for values in tiles]
    return joined, jax.tree.map(lambda x: jnp.max(x, axis=0), numbers)


def _count(x: Any) -> int:
    return jax.tree.leaves(x)[0].shape[0]


def _at(i: Array, rows: Any) -> Any:
    return jax.tree.map(lambda x: x[i], rows)


def _cut(x: Any, labels: Array | None, num: int, first_label: int) -> tuple[Any, Array | None]:
    """``[num, size, ...]``, filled up with copies of the first row under labels of their own."""
    size = -(-_count(x) // num)
    missing = num * size - _count(x)

    def cut(x: Array) -> Array:
        if missing:
            x = jnp.concatenate([x, jnp.broadcast_to(x[:1], (missing, *x.shape[1:]))])
        return x.reshape(num, size, *x.shape[1:])

    rows = jax.tree.map(cut, x)
    if labels is None:
        return rows, None
    extra = first_label - jnp.arange(missing, dtype=labels.dtype)
    return rows, jnp.concatenate([labels, extra]).reshape(num, size)


def _joined(values: Array, place: np.ndarray, mirrored: np.ndarray | None) -> Array:
    """The matrix from its tiles ``[tile, rows, columns]``."""
    grid = values[place]
    if mirrored is not None:
        grid = jnp.where(mirrored[..., None, None], jnp.swapaxes(grid, 2, 3), grid)
    return jnp.swapaxes(grid, 1, 2).reshape(grid.shape[0] * grid.shape[2], -1)

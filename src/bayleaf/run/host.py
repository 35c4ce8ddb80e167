"""Between the devices and the host, and between several hosts."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def to_host(tree: Any) -> Any:
    """NumPy arrays; of an array spread over several processes, all of it. Keys stay keys."""

    def fetch(leaf: Any) -> Any:
        if _is_key(leaf):
            return leaf
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.asarray(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def agreed(number: int | float) -> int:
    """The same whole number in every process: that of the first one, whose clock counts."""
    if jax.process_count() == 1:
        return int(number)
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def is_first_process() -> bool:
    """Whether this process writes files and shows progress."""
    return jax.process_index() == 0


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)

"""Names for the scalars inside a pytree: ``beta[2]``, ``layers[0].weight[1,2]``.

A report that says which parameter is in trouble needs a name for every number. The name of a leaf
is its path in the tree (`bayleaf.trees.leaf_names`); the name of a scalar adds its index in the
leaf. A tree that is a single bare array is called ``x``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bayleaf.errors import bad_argument
from bayleaf.trees import leaf_names


def scalar_names(tree: Any, num_leading: int = 0) -> list[str]:
    """One name for each number in the tree, leaf by leaf, in C order.

    Args:
        tree: any pytree of arrays.
        num_leading: leading axes that are not part of a parameter (2 for chain and draw).
    """
    names = []
    for name, leaf in zip(leaf_names(tree), jax.tree.leaves(tree), strict=True):
        shape = np.shape(leaf)[num_leading:]
        names += [name + _subscript(index) for index in np.ndindex(*shape)]
    return names


def flat_draws(draws: Any) -> Float[np.ndarray, "chain draw scalar"]:
    """All draws as one float64 array whose last axis follows `scalar_names`."""
    leaves = [np.asarray(leaf, dtype=np.float64) for leaf in jax.tree.leaves(draws)]
    if not leaves:
        return np.zeros((0, 0, 0))
    flat = [leaf.reshape(*leaf.shape[:2], math.prod(leaf.shape[2:])) for leaf in leaves]
    return np.concatenate(flat, axis=-1)


def select_scalars(tree: Any, wanted: Sequence[str] | None, num_leading: int = 0) -> list[int]:
    """Positions in `scalar_names` of the wanted parameters and scalars, in the order asked for.

    Args:
        tree: any pytree of arrays.
        wanted: names of leaves (all their scalars), of branches, or of single scalars; None is all.
        num_leading: leading axes that are not part of a parameter.
    """
    names = scalar_names(tree, num_leading)
    if wanted is None:
        return list(range(len(names)))
    positions: dict[int, None] = {}
    for want in [wanted] if isinstance(wanted, str) else wanted:
        found = [i for i, name in enumerate(names) if _is_or_is_in(name, want)]
        if not found:
            near = difflib.get_close_matches(want, [*leaf_names(tree), *names], n=3, cutoff=0.3)
            expected = f"a parameter of the run, such as {listing(near or names)}"
            raise bad_argument("var_names", repr(want), expected)
        positions |= dict.fromkeys(found)
    return list(positions)


def _is_or_is_in(name: str, want: str) -> bool:
    return name == want or (name.startswith(want) and name[len(want)] in ".[")


def listing(names: Sequence[str], most: int = 3) -> str:
    """``a, b, c and 4 more``: a list that stays readable in a message."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _subscript(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]" if index else ""

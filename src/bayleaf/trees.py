"""Small facts about pytrees: how a leaf is called, and what of a tree can be or is traced.

`leaf_names` turns tree paths into the names that a user would write (``sigma``,
``layers[0].weight``); every report about a parameter uses it. `Frozen` makes any callable or tree
a pytree whose leaves are exactly its arrays: the rest (functions, sizes, strings) becomes static
metadata that is compared by value, so that two objects with the same functions and other arrays
share one compiled program.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer

from bayleaf.errors import bad_argument

# The kinds of NumPy dtypes that JAX can hold; V stands for bfloat16 and its like.
_NUMERIC = "biufcV"


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as a user would write it: ``layers[0].weight``; a bare array is ``x``."""
    name = ""
    for entry in path:
        match entry:
            case jtu.GetAttrKey(name=attribute):
                name += f".{attribute}"
            case jtu.DictKey(key=str() as key):
                name += f".{key}"
            case jtu.SequenceKey(idx=index):
                name += f"[{index}]"
            case other:
                name += f"[{getattr(other, 'key', other)!r}]"
    return name[1:] if name.startswith(".") else "x" + name


def leaf_names(tree: Any) -> list[str]:
    """The name of each leaf, in the order of ``jax.tree.leaves``; no name occurs twice."""
    # {"a": {"b": 1}, "a.b": 2} gives the same path twice, and a dict keyed by name would lose one.
    seen: Counter[str] = Counter()
    names = []
    for path, _ in jtu.tree_leaves_with_path(tree):
        name = path_name(path)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def is_traced(tree: Any) -> bool:
    """Whether some leaf has no value yet, inside a function that JAX transforms."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def as_arrays(tree: Any, argument: str) -> Any:
    """The tree with each leaf a JAX array; a leaf that is not a number is refused by name."""

    def convert(path: tuple[Any, ...], leaf: Any) -> Any:
        if isinstance(leaf, jax.Array):
            return leaf
        array = np.asarray(leaf)
        if array.dtype.kind not in _NUMERIC:
            raise bad_argument(
                f"{argument}, leaf {path_name(path)}",
                leaf,
                "a number or an array",
                "Close over what is not numeric, or leave it out.",
            )
        return jnp.asarray(leaf)

    return jtu.tree_map_with_path(convert, tree)


class Frozen(eqx.Module):
    """Any tree as a pytree of its arrays; what is not an array is static and must be hashable."""

    arrays: tuple[Any, ...]
    treedef: Any = eqx.field(static=True)
    static: tuple[Any, ...] = eqx.field(static=True)

    def __init__(self, tree: Any, argument: str):
        leaves, self.treedef = jtu.tree_flatten(tree)
        traced = [_is_array(leaf) for leaf in leaves]
        self.arrays = tuple(
            jnp.asarray(x) if t else None for x, t in zip(leaves, traced, strict=True)
        )
        self.static = tuple(None if t else x for x, t in zip(leaves, traced, strict=True))
        try:
            hash((self.static, self.treedef))
        except TypeError as error:
            raise bad_argument(
                argument,
                f"something that cannot be hashed ({error})",
                "functions, numbers, strings and arrays",
                "Pass arrays as arrays and close over the rest.",
            ) from error

    def thaw(self) -> Any:
        """The tree as it was."""
        pairs = zip(self.arrays, self.static, strict=True)
        return jtu.tree_unflatten(self.treedef, [s if a is None else a for a, s in pairs])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tree, which then is a function or a callable module."""
        return self.thaw()(*args, **kwargs)


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in _NUMERIC
    return isinstance(leaf, jax.Array)


def frozen_function(function: Any, argument: str) -> Frozen:
    """`Frozen` of a callable; anything else is refused by name."""
    if not callable(function):
        raise bad_argument(argument, function, "a function", "Pass the function, not its value.")
    return Frozen(function, argument)

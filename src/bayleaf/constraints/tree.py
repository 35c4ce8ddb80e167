"""One constraint for each leaf of a tree of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu

from bayleaf.constraints.base import Constraint
from bayleaf.constraints.elementwise import Real
from bayleaf.errors import bad_argument
from bayleaf.trees import path_name
from bayleaf.types import Scalar


class Constraints(eqx.Module):
    """Constraints as a prefix of the tree of parameters, applied leaf by leaf.

    ``prefix`` is a single constraint (for every leaf), None (all real), or a tree of those with
    the structure of the parameters' upper levels. Dictionaries may leave out real parameters:
    ``{"sigma": positive}``.
    """

    prefix: Any = None

    def constrain(self, u: Any) -> Any:
        """The parameters that the unconstrained tree ``u`` stands for."""
        return self._map("constrain", u)

    def unconstrain(self, x: Any) -> Any:
        """The unconstrained tree with ``constrain(u) == x``."""
        return self._map("unconstrain", x)

    def log_jacobian(self, u: Any) -> Scalar | float:
        """``log |det dx/du|`` of the whole tree; exactly 0.0 when every parameter is real."""
        parts = [c.log_jacobian(leaf) for _, c, leaf in self._pairs(u) if not isinstance(c, Real)]
        return sum(parts, 0.0)

    def check(self, x: Any, argument: str = "init") -> None:
        """Raise, by the name of the parameter, if any is outside its constraint."""
        for name, constraint, leaf in self._pairs(x):
            label = f"{argument}, parameter {name}"
            if not isinstance(constraint, Real) and not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise bad_argument(
                    label, f"{leaf.dtype} numbers", "floating-point numbers", "Write 1.0, not 1."
                )
            constraint.unconstrained_shape(leaf.shape)
            constraint.check(leaf, label)

    def _map(self, verb: str, tree: Any) -> Any:
        leaves = [getattr(constraint, verb)(leaf) for _, constraint, leaf in self._pairs(tree)]
        return jax.tree.unflatten(jax.tree.structure(tree), leaves)

    def _pairs(self, tree: Any) -> Iterator[tuple[str, Constraint, Any]]:
        """Name, constraint and value of each leaf, in the order of ``jax.tree.leaves``."""
        constraints = list(_broadcast(self.prefix, tree, ()))
        leaves = jtu.tree_leaves_with_path(tree)
        for constraint, (path, leaf) in zip(constraints, leaves, strict=True):
            yield path_name(path), constraint, leaf


def _broadcast(prefix: Any, tree: Any, path: tuple[Any, ...]) -> Iterator[Constraint]:
    """One constraint a leaf: descend as far as the prefix does, then repeat what is there."""
    if prefix is None or isinstance(prefix, Constraint):
        yield from [prefix or Real()] * len(jax.tree.leaves(tree))
        return
    prefixes, children = _children(prefix), _children(tree)
    unknown = [path_name((*path, key)) for key in prefixes if key not in children]
    if not prefixes or unknown:
        raise bad_argument(
            "constrain",
            f"an entry for {', '.join(unknown)}" if unknown else repr(prefix),
            f"constraints for {', '.join(path_name((*path, key)) for key in children) or 'x'}",
            "Use bayleaf.constraints, in a tree shaped like the parameters.",
        )
    for key, child in children.items():
        yield from _broadcast(prefixes.get(key), child, (*path, key))


def _children(tree: Any) -> dict[Any, Any]:
    """The nodes directly below the root, by key; empty for a leaf."""
    pairs = jtu.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    return {path[0]: child for path, child in pairs if path}

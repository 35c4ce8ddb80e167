"""How far training has moved a network and its tangent kernel.

    kernel:   |Theta(p1) - Theta(p0)| / |Theta(p0)|     (Frobenius norm, over the inputs given)
    weights:  |w1 - w0| / |w0|  for each array of the parameters

In the regime of the tangent kernel, at width n, the kernel changes like 1 / n and the weights of
hidden layers like 1 / sqrt(n), whether the start is Gaussian or orthogonal: an orthogonal start
has the same limit and does not make the kernel any steadier.

Source: Huang, Du & Xu, IJCAI 2021, arXiv 2004.05867, figure 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.infinite.empirical import empirical_ntk
from bayleaf.trees import leaf_names
from bayleaf.types import Scalar


class Drift(NamedTuple):
    """Relative changes; ``weights`` by the name of the array."""

    kernel: Scalar
    weights: dict[str, Scalar]


def ntk_drift(f: Callable[[Any, Any], Any], start: Any, end: Any, x: Any, **options: Any) -> Drift:
    """The change of the tangent kernel on ``x``, and of each array of the parameters.

    Args:
        f: as in `empirical_ntk`.
        start: parameters before training.
        end: parameters after it, of the same structure.
        x: inputs, [n, ...].
        **options: passed on to `empirical_ntk`.

    Raises:
        BayleafError: the parameters differ in structure.
    """
    before, after = (eqx.filter(tree, eqx.is_inexact_array) for tree in (start, end))
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise bad_argument("end", "another structure", "that of start")
    kernels = [empirical_ntk(f, params, x, **options) for params in (start, end)]
    changes = jax.tree.map(relative_change, before, after)
    weights = dict(zip(leaf_names(before), jax.tree.leaves(changes), strict=True))
    return Drift(relative_change(*kernels), weights)


def relative_change(before: Any, after: Any) -> Scalar:
    """|after - before| / |before|; infinite for what was zero and has moved, as biases do."""
    return jnp.linalg.norm(jnp.ravel(after - before)) / jnp.linalg.norm(jnp.ravel(before))

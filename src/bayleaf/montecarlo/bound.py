r"""The bound that rejection sampling needs, found by optimisation.

$\log M = \sup_x \log p(x) - \log q(x)$: the best of many draws of the proposal q are the starts of
a Newton search each (`bayleaf.laplace`). A maximum that all of them miss stays unknown, so a bound
that was found so is an estimate, and says that it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayleaf.errors import bad_argument
from bayleaf.laplace import find_mode
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Key, Position

NUM_POINTS, NUM_CLIMBS = 4096, 16
MARGIN = 0.01
"""Added to the log of the largest ratio found: one proposal in a hundred, for what was missed."""

FAR = 1e3
"""A climb that ends so many times farther out than any draw is on its way to infinity."""


class LogBound(NamedTuple):
    """An estimate of sup log p - log q.

    Attributes:
        log_bound: the largest log ratio found, and the margin.
        margin: what was added.
        position: where the largest ratio was found.
        num_agreeing: climbs that ended at the largest ratio (within the margin), out of
            ``num_climbs``.
        num_climbs: climbs in all.
    """

    log_bound: float
    margin: float
    position: Position
    num_agreeing: int
    num_climbs: int


def find_log_bound(
    log_density: Any, proposal: Any, *, key: Key, margin: float = MARGIN
) -> LogBound:
    """Search for the largest ratio of a density to its proposal.

    Args:
        log_density: log p, up to a constant.
        proposal: q, with ``sample(key)`` and ``log_prob(x)``; its draws are real.
        key: a typed key, for the starting points.
        margin: is added to the logarithm of the largest ratio found.

    Raises:
        BayleafError: the ratio is NaN, nowhere positive, or grows without end.
    """
    function = frozen_function(log_density, "log_density")
    ratios, ends, positions, spread = jax.device_get(
        _climb(function, Frozen(proposal, "proposal"), key)
    )
    if np.isnan(ratios).any():
        raise bad_argument(
            "log_density", "NaN at a draw of the proposal", "a number, or -inf where p is zero"
        )
    best = int(np.argmax(ends))
    if not np.isfinite(ends[best]):
        raise bad_argument(
            "log_bound",
            f"a largest log ratio of {ends[best]} at the draws of the proposal",
            "a proposal that covers the density",
        )
    position = jax.tree.map(lambda leaf: leaf[best], positions)
    flat = np.abs(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(position)]))
    if np.any(flat > FAR * spread):
        raise bad_argument(
            "proposal",
            f"a ratio log p - log q that still grows at {_shown(position)}",
            "a proposal with tails at least as heavy as the density's",
            "Without a finite bound there is no rejection sampler.",
        )
    agreeing = int(np.sum(ends >= ends[best] - margin))
    return LogBound(float(ends[best]) + margin, margin, position, agreeing, len(ends))


@eqx.filter_jit
def _climb(log_density: Frozen, proposal: Frozen, key: Key) -> Any:
    """Ratios at the draws; where the climbs from the best of them end; the draws' largest size."""
    q = proposal.thaw()
    draws = jax.vmap(q.sample)(jax.random.split(key, NUM_POINTS))
    one = jax.tree.map(lambda leaf: leaf[0], draws)
    _, unravel = ravel_pytree(one)
    flat = jax.vmap(lambda x: ravel_pytree(x)[0])(draws)

    def ratio(x: Any) -> Any:
        position = unravel(x)
        return jnp.asarray(log_density(position) - q.log_prob(position), x.dtype).reshape(())

    ratios = jax.vmap(ratio)(flat)
    start = jnp.argsort(-jnp.nan_to_num(ratios, nan=-jnp.inf))[:NUM_CLIMBS]
    modes = jax.vmap(lambda x: find_mode(ratio, x))(flat[start])
    is_better = modes.log_density >= ratios[start]  # NaN is not
    ends = jnp.where(is_better, modes.log_density, ratios[start])
    positions = jnp.where(is_better[:, None], modes.position, flat[start])
    return ratios, ends, jax.vmap(unravel)(positions), jnp.max(jnp.abs(flat), axis=0)


def _shown(position: Position) -> str:
    from bayleaf.trees import leaf_names

    values = [
        np.array2string(np.asarray(leaf), precision=6, threshold=8)
        for leaf in jax.tree.leaves(position)
    ]
    return ", ".join(f"{n} = {v}" for n, v in zip(leaf_names(position), values, strict=True))

r"""Adaptive rejection Metropolis: densities of one variable that need not be log-concave.

The hull $h$ through knots of such a density $f$ may fail to enclose it. Rejection from $h$ then has
the density proportional to $\min(f, h)$, and a Metropolis step with these independent proposals
repairs the rest: from $x$ to the proposal $x^*$ with probability

$$\min\Big\{1, \frac{f(x^*)\,\min(f(x), h(x))}{f(x)\,\min(f(x^*), h(x^*))}\Big\}
  = \min\Big\{1, \frac{w(x^*)}{w(x)}\Big\}, \qquad w = \max(1, f / h).$$

Where $h \ge f$ everywhere all proposals are accepted. Draws are a Markov chain; how often it moves
is reported. A mode far from all knots is never proposed, and nothing will tell: give ``init``
points that cover the places where the density may be.

Departs from the paper: the hull is laid before the first draw, through the starting points and
through what the search for a mode and the refinement add, and never changes. The paper lays a new
one at each draw, which must not depend on the chain's position (its section 4); a fixed one cannot.

Source: Gilks, Best & Tan, Applied Statistics 44 (1995), eqs. 3-5.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayleaf.logconcave.fit import Fit
from bayleaf.logconcave.problem import Problem, problem
from bayleaf.logconcave.pseudo import fit_pseudo_hull
from bayleaf.logconcave.trouble import raise_trouble
from bayleaf.montecarlo.adaptive_rejection import blocks
from bayleaf.montecarlo.independent import ChainDraws
from bayleaf.types import Key

NUM_BURN_IN = 100
"""Steps before the first draw: the chain begins at a proposal, whose density is min(f, h)."""


def adaptive_rejection_metropolis(
    log_density: Any,
    *,
    key: Any,
    num_draws: Any,
    support: Any = (-np.inf, np.inf),
    init: Any = None,
    args: Any = None,
) -> ChainDraws:
    """A Markov chain of draws of one density of one variable, or of many.

    Args:
        log_density: ``log_density(x)`` of a scalar, or ``log_density(x, args)`` when ``args`` are
            given; up to a constant. No derivative is taken.
        key: a typed key.
        num_draws: draws of each target.
        support: as for `adaptive_rejection`.
        init: knots, ``[knot]`` for all targets or ``[target, knot]``; they should cover all modes.
            Without them the grid of `adaptive_rejection` is used.
        args: as for `adaptive_rejection`.

    Returns:
        Draws ``[draw]``, or ``[draw, target]`` when ``args`` are given; ``metropolis_rate`` tells
        how often the chains moved.

    Raises:
        BayleafError: the density cannot be normalised, is NaN or nowhere positive; an argument is
            unusable.
    """
    work = problem(log_density, key, num_draws, support, init, args)
    fits = pseudo_fitted(work)
    raise_trouble(jax.device_get(fits.trouble), "log_density", args is not None)
    key_proposals, key_chain = jax.random.split(key)
    proposed, excess, num_proposals, num_evaluations = blocks(
        work, fits.hull, key_proposals, num_draws + NUM_BURN_IN, is_enclosed=False
    )
    chosen, rate = chain(key_chain, jnp.asarray(excess))
    chosen = np.asarray(chosen)[NUM_BURN_IN:]
    draws = np.take_along_axis(proposed, chosen, axis=0)
    return ChainDraws(
        draws=draws if args is not None else draws[:, 0],
        acceptance_rate=proposed.size / num_proposals,
        num_proposals=num_proposals,
        num_evaluations=num_evaluations,
        metropolis_rate=float(rate),
    )


@eqx.filter_jit
def pseudo_fitted(work: Problem) -> Fit:
    """The hulls of all targets; they need not enclose their densities."""

    def one(points: Any, low: Any, high: Any, args: Any) -> Fit:
        return fit_pseudo_hull(work.bound(args), points, low, high)

    return jax.vmap(one)(work.points, work.low, work.high, work.args)


@jax.jit
def chain(key: Key, excess: Array) -> tuple[Array, Array]:
    """Which proposal each step of the chains stands at, ``[draw, target]``, and how often it moves.

    Args:
        key: for the acceptance of all steps.
        excess: log f - log h at the proposals, ``[draw, target]``.
    """
    log_weight = jnp.maximum(excess, 0)
    log_height = jnp.log1p(-jax.random.uniform(key, excess.shape, excess.dtype))

    def step(carry: Any, given: Any) -> Any:
        at, weight = carry
        i, proposed, height = given
        is_accepted = height <= proposed - weight
        at = jnp.where(is_accepted, i, at)
        weight = jnp.where(is_accepted, proposed, weight)
        return (at, weight), (at, is_accepted)

    index = jnp.arange(excess.shape[0])
    start = (jnp.zeros(excess.shape[1], index.dtype), log_weight[0])
    _, (at, is_accepted) = jax.lax.scan(step, start, (index, log_weight, log_height))
    return at, jnp.mean(is_accepted, dtype=excess.dtype)

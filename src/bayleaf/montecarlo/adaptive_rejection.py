r"""Adaptive rejection sampling: exact draws from log-concave densities of one variable.

With $\log f$ concave, lines through a few points of it enclose it from above (see
`bayleaf.logconcave.hull`). Their exponential, a piecewise-exponential hull, is easily drawn from,
and

    x ~ hull,  u ~ U(0, 1):   accept x when  log u <= log f(x) - log hull(x)

is rejection sampling with an acceptance rate of 0.9 to 0.999. Use it for one-dimensional densities
without a sampler of their own, for ten thousand of them at once, or for the full conditionals of a
Gibbs sampler (`bayleaf.mcmc.AdaptiveRejection`). The density may be known up to a constant. It must
be log-concave: mixtures, Student's t and densities with a pole are refused by name, and
`adaptive_rejection_metropolis` takes those.

Departs from the paper: the hull is refined before drawing and then fixed (see
`bayleaf.logconcave.fit`), because blocks of draws, and batches of targets, then take the same
steps.

Sources: Gilks & Wild, Applied Statistics 41 (1992); Gilks, Bayesian Statistics 4 (1992), for the
hull without derivatives; Leydold, Janka & Hörmann (2002), for the refinement that is not random.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from bayleaf.logconcave.fit import Fit, fit_hull
from bayleaf.logconcave.hull import Hull, HullMethod, TangentHull
from bayleaf.logconcave.problem import Problem, problem
from bayleaf.logconcave.sampler import Filled, fill
from bayleaf.logconcave.trouble import raise_trouble
from bayleaf.montecarlo.independent import IndependentDraws
from bayleaf.types import Key

BLOCK_SIZE = 2**18
"""Draws made by one call of the compiled program, all targets together."""


def adaptive_rejection(
    log_density: Any,
    *,
    key: Any,
    num_draws: Any,
    support: Any = (-np.inf, np.inf),
    init: Any = None,
    args: Any = None,
    hull: HullMethod | None = None,
) -> IndependentDraws:
    """Exact, independent draws of one log-concave density, or of many.

    Args:
        log_density: ``log_density(x)`` of a scalar, or ``log_density(x, args)`` when ``args`` are
            given; up to a constant, written in jax.numpy, differentiable unless ``hull`` does
            without.
        key: a typed key.
        num_draws: draws of each target.
        support: the ends of the interval on which the density is positive; each a number, or one
            number for each target. The density is never evaluated at them.
        init: points at which to look first, ``[knot]`` for all targets or ``[target, knot]``.
            Without it the search starts from a grid over many scales, and finds nearly everything.
        args: a pytree of arrays with a leading axis, one entry for each target.
        hull: `TangentHull` (the default) or `SecantHull`, which needs no derivative.

    Returns:
        Draws ``[draw]``, or ``[draw, target]`` when ``args`` are given.

    Raises:
        NotLogConcaveError: the density is not log-concave; says where, and for which target.
        BayleafError: it cannot be normalised, is NaN or nowhere positive; an argument is unusable.

    Examples:
        >>> import jax, jax.numpy as jnp, bayleaf as bl
        >>> gamma = lambda x, shape: (shape - 1) * jnp.log(x) - x
        >>> found = bl.montecarlo.adaptive_rejection(
        ...     gamma, args=jnp.array([2.0, 5.0]), support=(0, jnp.inf),
        ...     key=jax.random.key(0), num_draws=1000,
        ... )
        >>> found.draws.shape
        (1000, 2)
    """
    method = TangentHull() if hull is None else hull
    work = problem(log_density, key, num_draws, support, init, args)
    fits = fitted(work, method, doublings(num_draws))
    raise_trouble(jax.device_get(fits.trouble), "log_density", args is not None)
    draws, _, num_proposals, num_evaluations = blocks(work, fits.hull, key, num_draws)
    return IndependentDraws(
        draws=draws if args is not None else draws[:, 0],
        acceptance_rate=draws.size / num_proposals,
        num_proposals=num_proposals,
        num_evaluations=num_evaluations,
    )


def doublings(num_draws: int) -> int:
    """How often the hull is refined: 15 knots for a few draws, 63 for very many."""
    return 2 + sum(num_draws > limit for limit in (200, 20_000))


@eqx.filter_jit
def fitted(work: Problem, method: HullMethod, num_doublings: int) -> Fit:
    """The hulls of all targets."""

    def one(points: Any, low: Any, high: Any, args: Any) -> Fit:
        return fit_hull(method, work.bound(args), points, low, high, num_doublings)

    return jax.vmap(one)(work.points, work.low, work.high, work.args)


@eqx.filter_jit
def filled(work: Problem, hulls: Hull, key: Key, num_slots: int, is_enclosed: bool) -> Filled:
    """One block of draws of all targets."""
    return fill(work.evaluate, hulls, key, num_slots, is_enclosed=is_enclosed)


def blocks(
    work: Problem, hulls: Hull, key: Key, num_draws: int, *, is_enclosed: bool = True
) -> tuple[Float[np.ndarray, "draw target"], Float[np.ndarray, "draw target"] | None, int, int]:
    """Draws, excesses (None for hulls that enclose), proposals and evaluations, block by block."""
    num_targets = work.low.shape[0]
    # A power of two, so that other numbers of draws find the program compiled.
    most = max(1, BLOCK_SIZE // num_targets)
    size = min(1 << (num_draws - 1).bit_length(), 1 << (most.bit_length() - 1))
    count = -(-num_draws // size)
    waiting: list[Filled] = []
    parts: list[tuple[Any, ...]] = []
    num_proposals = num_evaluations = 0
    for block in range(count + 1):
        if block < count:  # the next block is under way while the last one is looked at
            block_key = jax.random.fold_in(key, block)
            waiting.append(filled(work, hulls, block_key, size, is_enclosed))
        if block > 0:
            done = waiting.pop(0)
            raise_trouble(jax.device_get(done.trouble), "log_density", work.args is not None)
            leaves = (done.draws,) if is_enclosed else (done.draws, done.excess)
            parts.append(tuple(np.asarray(leaf) for leaf in leaves))
            num_proposals += int(done.num_proposals)
            num_evaluations += int(done.num_evaluations)
    draws, *rest = (np.concatenate(column)[:num_draws] for column in zip(*parts, strict=True))
    # Proposals of slots that were not asked for do not count.
    share = num_draws / (size * count)
    num_proposals = max(draws.size, round(num_proposals * share))
    return draws, (None if is_enclosed else rest[0]), num_proposals, num_evaluations

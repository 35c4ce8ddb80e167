r"""Rejection sampling: exact draws from p by draws from q, when p is bounded by M q.

    x ~ q,  u ~ U(0, 1):   accept x when  log u <= log p(x) - log q(x) - log M

Both densities may lack a constant, which M then makes up for. A share $Z / M$ of the proposals is
accepted, where $Z = \int p$ (for a normalised q), so the normalising constant is learnt on the way.
Use it in few dimensions, with a proposal close to the target and with heavier tails; in many
dimensions M grows exponentially, and nearly everything is rejected.

The bound must hold everywhere: where p > M q the draws would lack just the mass that sticks out. So
every proposal is checked, and a violation is an error. Without ``log_bound`` one is searched for by
optimisation (`find_log_bound`); draws are then exact if the search has found the largest ratio, and
the result says that the bound is an estimate.

Source: von Neumann, Various techniques used in connection with random digits (1951).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayleaf.errors import BayleafError, bad_argument
from bayleaf.logconcave.problem import check_count, check_key
from bayleaf.montecarlo.bound import _shown, find_log_bound
from bayleaf.montecarlo.independent import IndependentDraws
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Flag, Key, Position, Scalar

BLOCK_SIZE = 2**14


def rejection(
    log_density: Any,
    proposal: Any,
    log_bound: Any = None,
    *,
    key: Any,
    num_draws: Any,
    max_proposals: Any = 10**8,
) -> IndependentDraws:
    """Exact, independent draws from a density that a multiple of the proposal encloses.

    Args:
        log_density: log p, up to a constant, of whatever the proposal draws; any pytree.
        proposal: q, with ``sample(key)`` and ``log_prob(x)``: a `bayleaf.Gaussian`, a NumPyro
            distribution, an object of your own.
        log_bound: log M, at least log p - log q everywhere. None searches for it.
        key: a typed key.
        num_draws: how many draws to return.
        max_proposals: gives up when more than these would be needed.

    Returns:
        The draws, the acceptance rate, and ``log_normalizer``, the estimate
        ``log M + log(acceptance rate)`` of the log of p's integral, with its standard error.

    Raises:
        BayleafError: the bound is violated (says where, and by how much); the log density is NaN;
            hardly anything is accepted; an argument is unusable.

    Examples:
        >>> import jax, jax.numpy as jnp, bayleaf as bl
        >>> found = bl.montecarlo.rejection(
        ...     lambda x: -0.5 * jnp.sum(x**2) - jnp.sum(jnp.abs(x)),
        ...     bl.Gaussian([0.0, 0.0], jnp.eye(2)),
        ...     log_bound=jnp.log(2 * jnp.pi),
        ...     key=jax.random.key(0), num_draws=1000,
        ... )
        >>> found.draws.shape
        (1000, 2)
    """
    function = frozen_function(log_density, "log_density")
    _check_proposal(proposal)
    check_key(key)
    check_count("num_draws", num_draws)
    check_count("max_proposals", max_proposals)
    key_bound, key_draws = jax.random.split(key)
    is_estimated = log_bound is None
    if is_estimated:
        log_bound = find_log_bound(log_density, proposal, key=key_bound).log_bound
    log_bound = _checked_bound(log_bound)

    frozen = Frozen(proposal, "proposal")
    kept, num_accepted, num_proposals, block = [], 0, 0, 0
    # Accepted proposals, in their order, are independent draws of p whatever the others were; so
    # the first num_draws of them are too, and it does not matter where a block ends.
    while num_accepted < num_draws:
        found = propose(function, frozen, jax.random.fold_in(key_draws, block), log_bound)
        found = jax.device_get(found)
        _check_block(found, log_bound, is_estimated)
        kept.append(jax.tree.map(lambda leaf: leaf[found.is_accepted], found.draws))  # noqa: B023
        num_accepted += int(found.is_accepted.sum())
        num_proposals += found.is_accepted.size
        block += 1
        # Ten more than were seen: by chance none is seen of ten once in 20,000 times.
        if num_accepted < num_draws and num_proposals * num_draws > max_proposals * (
            num_accepted + 10
        ):
            raise bad_argument(
                "max_proposals",
                f"{num_accepted} of {num_proposals} proposals accepted, so that {num_draws} draws "
                f"would need more than {max_proposals}",
                "a higher acceptance rate",
                "Take a proposal closer to the density, or a smaller log_bound that still holds.",
            )
    draws = jax.tree.map(lambda *parts: np.concatenate(parts)[:num_draws], *kept)
    rate = num_accepted / num_proposals
    return IndependentDraws(
        draws=draws,
        acceptance_rate=rate,
        num_proposals=num_proposals,
        num_evaluations=num_proposals,
        log_normalizer=log_bound + math.log(rate),
        log_normalizer_error=math.sqrt((1 - rate) / num_accepted),
        log_bound=log_bound,
        is_bound_estimated=is_estimated,
    )


class Block(NamedTuple):
    """Proposals, which of them are accepted, and the first of those that must not be."""

    draws: Position
    is_accepted: Array
    is_nan: Flag
    excess: Scalar
    worst: Position
    num_violations: Count


@eqx.filter_jit
def propose(log_density: Frozen, proposal: Frozen, key: Key, log_bound: Any) -> Block:
    """A block of proposals."""
    q = proposal.thaw()
    key_draws, key_heights = jax.random.split(key)
    draws = jax.vmap(q.sample)(jax.random.split(key_draws, BLOCK_SIZE))
    log_p, log_q = jax.vmap(lambda x: (log_density(x), q.log_prob(x)))(draws)
    log_p, log_q = (jnp.asarray(v).reshape(BLOCK_SIZE) for v in (log_p, log_q))
    dtype = jnp.result_type(log_p, log_q)
    ratio = (log_p - log_q).astype(dtype) - jnp.asarray(log_bound, dtype)
    u = jax.random.uniform(key_heights, (BLOCK_SIZE,), dtype)
    is_accepted = jnp.log1p(-u) <= ratio  # 1 - u is never 0; NaN compares as False
    slack = 8 * jnp.finfo(dtype).eps ** (2 / 3) * (1 + jnp.abs(log_p) + jnp.abs(log_q))
    is_violation = ratio > slack
    worst = jnp.argmax(jnp.where(is_violation, ratio, -jnp.inf))
    is_nan = jnp.isnan(ratio)
    at = jnp.where(jnp.any(is_nan), jnp.argmax(is_nan), worst)
    return Block(
        draws,
        is_accepted,
        jnp.any(is_nan),
        ratio[at],
        jax.tree.map(lambda leaf: leaf[at], draws),
        jnp.sum(is_violation),
    )


def _check_block(found: Block, log_bound: float, is_estimated: bool) -> None:
    """Raise what the block's values say against the bound or the density."""
    if found.is_nan:
        raise BayleafError(
            f"log_density: got NaN for log p - log q at {_shown(found.worst)}, expected a number, "
            "or -inf where p is zero."
        )
    if found.num_violations:
        excess = float(found.excess)
        origin = "found by optimisation" if is_estimated else f"{log_bound:.6g}"
        raise bad_argument(
            "log_bound",
            f"{origin}, but log p - log q is {log_bound + excess:.6g} (larger by {excess:.3g}) at "
            f"{_shown(found.worst)}, and the bound is violated at {int(found.num_violations)} of "
            f"{BLOCK_SIZE} proposals",
            "a bound that holds everywhere",
            "Give a larger log_bound, or a proposal with heavier tails.",
        )


def _check_proposal(proposal: Any) -> None:
    for method in ("sample", "log_prob"):
        if not callable(getattr(proposal, method, None)) or isinstance(proposal, type):
            raise bad_argument(
                "proposal",
                proposal,
                "an object with sample(key) and log_prob(x)",
                "Try bl.Gaussian(mean, covariance).",
            )


def _checked_bound(log_bound: Any) -> float:
    try:
        value = float(log_bound)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise bad_argument("log_bound", log_bound, "a finite number, or None to search for one")
    return value

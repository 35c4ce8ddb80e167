r"""Metropolis-Hastings: propose, then accept or stay.

$$x^* \sim q(\cdot \mid x), \qquad
  \alpha = \min\Big\{1,\; \frac{\pi(x^*)\, q(x \mid x^*)}{\pi(x)\, q(x^* \mid x)}\Big\}.$$

The move is accepted with probability $\alpha$, computed in logarithms; otherwise the chain stays
where it is. It leaves $\pi$ invariant for any proposal whose reverse is possible. Use it for
densities without gradients, for discrete positions (with a proposal of your own), as a block of
`Gibbs`, and to learn from; with gradients and more than a few dimensions `NUTS` is better.

Source: Metropolis et al. (1953); Hastings (1970), equation 8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel, Tuner
from bayleaf.mcmc.proposals import (
    Independence,
    Langevin,
    Point,
    Proposal,
    RandomWalk,
    check_same_kind,
)
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar

__all__ = [
    "Independence",
    "Langevin",
    "MetropolisHastings",
    "MetropolisInfo",
    "Point",
    "Proposal",
    "RandomWalk",
]


class MetropolisInfo(NamedTuple):
    """What happened in one transition."""

    acceptance_rate: Scalar
    is_accepted: Flag
    is_nan: Flag
    num_evaluations: Count
    num_gradients: Count


class MetropolisHastings(Kernel):
    """Metropolis-Hastings with any proposal.

    Args:
        proposal: `RandomWalk`, `Independence`, `Langevin`, or any object with ``propose(key,
            point)`` and ``log_proposal(proposed, point)``; see `Proposal`. It may set
            ``needs_gradient = True`` to find ``point.gradient`` filled in, and offer ``tuner()``.
    """

    proposal: Any = RandomWalk()

    def __check_init__(self) -> None:
        """Refuse what cannot propose."""
        if isinstance(self.proposal, type):
            raise bad_argument(
                "proposal",
                self.proposal.__name__,
                "an object, not the class",
                f"Mind the brackets: {self.proposal.__name__}().",
            )
        missing = [n for n in ("propose", "log_proposal") if not hasattr(self.proposal, n)]
        if missing:
            raise bad_argument(
                "proposal",
                self.proposal,
                f"an object with the method {missing[0]}",
                "Try bl.mcmc.RandomWalk().",
            )

    def init(self, log_density: LogDensity, position: Position) -> Point:
        """Evaluate what the proposal needs to know at ``position``."""
        if not getattr(self.proposal, "needs_gradient", False):
            return Point(position, jnp.asarray(log_density(position)), None)
        value, gradient = jax.value_and_grad(log_density)(position)
        return Point(position, value, gradient)

    def step(self, log_density: LogDensity, key: Key, state: Point) -> tuple[Point, MetropolisInfo]:
        """One transition."""
        key_propose, key_accept = jax.random.split(key)
        proposed = self.proposal.propose(key_propose, state)
        check_same_kind("proposal.propose", proposed, state.position)
        new = self.init(log_density, proposed)

        forward = self.proposal.log_proposal(new.position, state)
        backward = self.proposal.log_proposal(state.position, new)
        log_ratio = new.log_density - state.log_density + backward - forward
        # Zero density at the new point is a plain rejection, whatever its gradient; any other NaN
        # is trouble to report. -inf minus -inf (both points impossible) is a rejection too.
        is_nan = jnp.isnan(state.log_density) | (
            jnp.isnan(log_ratio) & (new.log_density != -jnp.inf)
        )
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)

        is_accepted = jnp.log(jax.random.uniform(key_accept, dtype=log_ratio.dtype)) < log_ratio
        info = MetropolisInfo(
            acceptance_rate=jnp.exp(jnp.minimum(log_ratio, 0.0)),
            is_accepted=is_accepted,
            is_nan=is_nan,
            num_evaluations=jnp.asarray(1, jnp.int32),
            num_gradients=jnp.asarray(new.gradient is not None, jnp.int32),
        )
        return jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), new, state), info

    def tuner(self) -> Tuner | None:
        """What learns the proposal's free parameters, if it has any."""
        make = getattr(self.proposal, "tuner", None)
        return None if make is None else make()

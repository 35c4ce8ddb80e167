r"""Adaptive rejection as a Gibbs kernel: every coordinate drawn exactly from its full conditional.

For $i = 1, \dots, d$ in turn, $x_i \sim \pi(x_i \mid x_{-i})$ through a piecewise-exponential hull
of the conditional (`bayleaf.logconcave`). Nothing is rejected, nothing is tuned, and no conditional
has to be derived. All that is asked is that every conditional is log-concave, as in generalised
linear models with log-concave priors. Use it where the conditionals are cheap and the coordinates
not too dependent; like any Gibbs sampler it takes small steps along a narrow ridge.

A conditional that turns out not to be log-concave is not sampled: the coordinate stays where it is
and ``is_log_concave`` is False, so that the run ends with a warning.

The hull may depend on where the coordinate was: given the hull, a draw by rejection has the
conditional's law, whatever the hull is.

Sources: Gilks & Wild, Applied Statistics 41 (1992), section 3; Dellaportas & Smith (1993).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bayleaf.errors import bad_argument
from bayleaf.logconcave.fit import fit_hull
from bayleaf.logconcave.hull import HullMethod, TangentHull
from bayleaf.logconcave.sampler import draw
from bayleaf.logconcave.search import between
from bayleaf.logconcave.trouble import FINE, NAN
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.proposals import ravel_real
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar, Vector

NUM_DOUBLINGS = 1  # 7 knots: of a hull for one draw, more cost more than they save
NUM_PROBES = 1


class AdaptiveRejectionState(NamedTuple):
    """A position, its log density, and how wide each conditional was when last drawn from."""

    position: Position
    log_density: Scalar
    width: Vector


class AdaptiveRejectionInfo(NamedTuple):
    """What happened in one sweep.

    ``is_log_concave``: False when a conditional was found not to be, or could not be drawn from,
    and its coordinate stayed.
    """

    is_nan: Flag
    is_log_concave: Flag
    num_evaluations: Count


class AdaptiveRejection(Kernel):
    """Gibbs sampling by adaptive rejection, coordinate by coordinate.

    Args:
        support: ends (low, high) of the intervals on which the conditionals live, each one number
            for all or one for each number of the raveled position. The real line by default, which
            is right for the unconstrained positions of a `bayleaf.Target`.
        hull: `TangentHull` (the default) or `SecantHull`, which takes no derivative.
    """

    support: tuple[Any, Any]
    hull: HullMethod

    def __init__(
        self,
        support: tuple[Any, Any] = (-np.inf, np.inf),
        hull: HullMethod | None = None,
    ) -> None:
        try:
            low, high = support
        except (TypeError, ValueError):
            raise bad_argument("support", support, "two ends (low, high)") from None
        self.support = (low, high)
        self.hull = TangentHull() if hull is None else hull

    def __check_init__(self) -> None:
        """Refuse a support that holds nothing."""
        low, high = self.support
        if isinstance(low, Tracer) or isinstance(high, Tracer):
            return
        if not np.all(np.asarray(low) < np.asarray(high)):
            raise bad_argument("support", self.support, "two ends low < high")

    def init(self, log_density: LogDensity, position: Position) -> AdaptiveRejectionState:
        """Evaluate the log density at ``position``; widths begin at 1."""
        x, _ = ravel_real(position, "AdaptiveRejection")
        return AdaptiveRejectionState(
            position, jnp.asarray(log_density(position)), jnp.ones_like(x)
        )

    def refresh(self, log_density: LogDensity, state: Any) -> AdaptiveRejectionState:
        """The log density anew; the widths are kept."""
        return state._replace(log_density=jnp.asarray(log_density(state.position)))

    def step(
        self, log_density: LogDensity, key: Key, state: AdaptiveRejectionState
    ) -> tuple[AdaptiveRejectionState, AdaptiveRejectionInfo]:
        """Draw every coordinate once."""
        x, unravel = ravel_real(state.position, "AdaptiveRejection")
        low, high = (jnp.broadcast_to(jnp.asarray(end, x.dtype), x.shape) for end in self.support)

        def update(carry: tuple[Any, Any], given: tuple[Any, ...]) -> tuple[Any, Any]:
            (x, value), (i, key, width, low, high) = carry, given

            def conditional(t: Scalar) -> Any:
                return log_density(unravel(x.at[i].set(t)))

            points = first_points(x[i], width, low, high)
            fit = fit_hull(self.hull, conditional, points, low, high, NUM_DOUBLINGS, NUM_PROBES)
            drawn = draw(conditional, fit.hull, key, fit.trouble)
            is_good = drawn.trouble.code == FINE
            x = x.at[i].set(jnp.where(is_good, drawn.x, x[i]))
            value = jnp.where(is_good, jnp.asarray(drawn.value, value.dtype), value)
            width = jnp.where(is_good & (fit.spread > 0), fit.spread, width)
            is_nan = drawn.trouble.code == NAN
            count = fit.num_evaluations + drawn.num_evaluations
            return (x, value), (width, is_nan, is_good | is_nan, count)

        given = (jnp.arange(x.size), jax.random.split(key, x.size), state.width, low, high)
        (x, value), (width, is_nan, is_good, count) = jax.lax.scan(
            update, (x, state.log_density), given
        )
        info = AdaptiveRejectionInfo(
            jnp.any(is_nan), jnp.all(is_good), jnp.sum(count).astype(jnp.int32)
        )
        return AdaptiveRejectionState(unravel(x), value, width), info

    @property
    def needs_gradient(self) -> bool:
        """Tangents must be finite where a chain starts."""
        return isinstance(self.hull, TangentHull)


def first_points(x: Scalar, width: Scalar, low: Scalar, high: Scalar) -> Vector:
    """The coordinate and a point on each side of it, at most half-way to the ends."""
    return jnp.stack(
        [
            jnp.maximum(x - width, between(low, x, 0.5)),
            x,
            jnp.minimum(x + width, between(high, x, 0.5)),
        ]
    )

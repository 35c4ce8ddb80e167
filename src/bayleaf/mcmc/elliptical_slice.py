"""Elliptical slice sampling, plain and generalised: no step size, no gradient, no rejection.

For a target proportional to N(x; m, S) L(x), draw nu ~ N(0, S) and move on the ellipse

    x(theta) = m + (x - m) cos theta + nu sin theta,

along which N(.; m, S) is invariant. The angle is drawn from a bracket that shrinks towards
theta = 0 until L(x(theta)) > u L(x): a slice sampler on the circle.

- Plain (Murray, Adams & MacKay 2010, figure 2): N(m, S) is the prior and L the likelihood. Good
  for weak data. Informative data make the prior's ellipses miss: many shrinks, tiny angles.
- Generalised (Nishihara, Murray & Adams 2014, algorithm 1): N(m, S) is any reference close to the
  posterior and L = target / reference. Exact for every reference; with `laplace_reference`,
  nearly every first angle is accepted and successive draws are nearly independent.

Use it for Gaussian-process models and any other posterior that a Gaussian resembles. A reference
with tails much lighter than the target's is still exact and can be slow: see `StudentReference`.

Cost. log N along the ellipse is quadratic in (cos theta, sin theta), so its coefficients are
computed once per step: O(N^2) per step for nu, and only the likelihood itself per shrink. With a
`TiltedPrior` (what `laplace_reference` makes for a Gaussian prior) the prior's inverse cancels,

    log L(x) = log likelihood(x) - g'(x - m) + (x - m)' W (x - m) / 2,

the likelihood divided by its own second-order expansion at the mode. No system is ever solved.

Sources: Murray, Adams & MacKay, AISTATS 2010; Nishihara, Murray & Adams, JMLR 15 (2014).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.reference import (
    PriorPart,
    Reference,
    ReferenceTuner,
    StudentReference,
    TiltedPrior,
    as_reference,
    needed_prior,
    prior_part,
    select,
    untilted,
)
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar, Vector

MAX_EVALUATIONS = 100
"""Bound of the shrink loop. After this many the bracket is narrower than round-off: a healthy
target never gets near it, and one that is NaN everywhere stops here."""


class EllipticalSliceState(NamedTuple):
    """A position and the part of the log density that is evaluated on the ellipse.

    With a prior part that is the log likelihood, else the log density.
    """

    position: Position
    log_factor: Scalar


class EllipticalSliceInfo(NamedTuple):
    """What happened in one transition; ``angle`` is the accepted theta in (-2 pi, 2 pi).

    ``is_accepted`` is False only when the shrink loop hit its bound and the chain stayed.
    """

    is_accepted: Flag
    is_nan: Flag
    num_evaluations: Count
    angle: Scalar


class EllipticalSlice(Kernel):
    """Elliptical slice sampling, generalised when a reference is given.

    Args:
        reference: a `bayleaf.Gaussian`, what `laplace_reference` returns, or a
            `bayleaf.mcmc.reference.StudentReference`. None is learnt in warm-up: the Laplace
            reference, then for targets without a Gaussian prior part the moments of the chains.
            Stepped by hand, None means the prior, which the target must then have.
    """

    reference: Reference | None

    def __init__(self, reference: Any = None) -> None:
        self.reference = as_reference(reference)

    def init(self, log_density: LogDensity, position: Position) -> EllipticalSliceState:
        """Evaluate the factor at ``position``."""
        prior = prior_part(log_density, position)
        log_factor = factor(self.reference, log_density, position, prior)
        return EllipticalSliceState(position, log_factor(ravel_pytree(position)[0]))

    def step(
        self, log_density: LogDensity, key: Key, state: EllipticalSliceState
    ) -> tuple[EllipticalSliceState, EllipticalSliceInfo]:
        """One transition."""
        x, unravel = ravel_pytree(state.position)
        part = needed_prior if isinstance(self.reference, TiltedPrior) else prior_part
        prior = part(log_density, state.position)
        log_factor = factor(self.reference, log_density, state.position, prior)
        reference = configured(self.reference, prior)
        key_ellipse, key_height, key_angle = jax.random.split(key, 3)

        ellipse = reference.ellipse(key_ellipse, x, prior)

        def log_tilt(angle: Scalar) -> Scalar:
            return reference.log_tilt(*ellipse.forms(angle))

        height = state.log_factor - log_tilt(jnp.zeros((), x.dtype))
        height = height + jnp.log(jax.random.uniform(key_height, dtype=x.dtype))
        # From a point of NaN or zero density any point of positive density is a way out.
        height = jnp.where(jnp.isnan(height), -jnp.inf, height)

        def evaluate(angle: Scalar) -> tuple[Flag, Scalar]:
            value = log_factor(ellipse.at(angle))
            return value - log_tilt(angle) > height, value  # NaN compares as False: outside

        found = shrink(key_angle, evaluate, x.dtype)
        new = EllipticalSliceState(unravel(ellipse.at(found.angle)), found.value)
        state = select(found.is_inside, new, state)
        angle = jnp.where(found.is_inside, found.angle, 0)
        return state, EllipticalSliceInfo(found.is_inside, found.is_nan, found.count, angle)

    def tuner(self) -> ReferenceTuner | None:
        """The reference is learnt where it is not given."""
        return ReferenceTuner() if self.reference is None else None


class Bracket(NamedTuple):
    """The shrinking bracket, and what was found at ``angle``, the last point tried."""

    low: Scalar
    high: Scalar
    angle: Scalar
    value: Scalar
    is_inside: Flag
    is_nan: Flag
    count: Count


def shrink(key: Key, evaluate: Callable[[Scalar], tuple[Flag, Scalar]], dtype: Any) -> Bracket:
    """Try angles uniform on a bracket around 0 that shrinks to each one that is outside."""

    def is_going(bracket: Bracket) -> Flag:
        return ~bracket.is_inside & (bracket.count < MAX_EVALUATIONS)

    def attempt(bracket: Bracket) -> Bracket:
        low, high = bracket.low, bracket.high
        share = jax.random.uniform(jax.random.fold_in(key, bracket.count), dtype=dtype)
        angle = low + share * (high - low)
        is_inside, value = evaluate(angle)
        return Bracket(
            jnp.where(angle < 0, angle, low),
            jnp.where(angle < 0, high, angle),
            angle,
            value,
            is_inside,
            bracket.is_nan | jnp.isnan(value),
            bracket.count + 1,
        )

    turn = jnp.asarray(2 * jnp.pi, dtype)
    high = turn * jax.random.uniform(jax.random.fold_in(key, MAX_EVALUATIONS), dtype=dtype)
    zero, no = jnp.zeros((), dtype), jnp.zeros((), bool)
    start = Bracket(high - turn, high, zero, zero, no, no, jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(is_going, attempt, start)


def factor(
    reference: Reference | None,
    log_density: LogDensity,
    position: Position,
    prior: PriorPart | None,
) -> Callable[[Vector], Scalar]:
    """The part of the log density that is evaluated on the ellipse, of a flat vector."""
    if prior is not None and not isinstance(reference, StudentReference):
        return prior.log_likelihood
    _, unravel = ravel_pytree(position)
    return lambda x: log_density(unravel(x))


def configured(reference: Reference | None, prior: PriorPart | None) -> Reference:
    """The reference, or the prior in its place, or the error that says how to get one."""
    if reference is not None:
        return reference
    if prior is None:
        raise bad_argument(
            "reference",
            None,
            "a Gaussian when the kernel is stepped by hand on a target without a Gaussian prior",
            "Use Target.from_gaussian_prior, laplace_reference(target, position), or bl.sample "
            "with num_warmup > 0.",
        )
    return untilted(prior.gaussian)

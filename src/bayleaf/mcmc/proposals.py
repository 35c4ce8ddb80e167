r"""Proposals for `MetropolisHastings`, and how their scales are learnt.

A proposal is any object with two methods (see `Proposal`): ``propose`` draws $x^*$ from
$q(x^* \mid x)$, ``log_proposal`` evaluates $\log q(x^* \mid x)$. Positions may be any pytree,
discrete ones too: a proposal of your own decides how they move. Three ready ones:

- `RandomWalk`: $x^* = x + L z$. Needs nothing but the density; slow past some twenty dimensions.
- `Independence`: $x^* \sim q$ wherever the chain is. Good only when $q$ is close to the target and
  has heavier tails.
- `Langevin` (MALA): $x^* = x + \tfrac{\epsilon^2}{2} D \nabla\log\pi(x) + \epsilon D^{1/2} z$. One
  gradient a step; mixes in $O(d^{1/3})$ steps where the random walk needs $O(d)$.

Sources: Roberts & Rosenthal, Optimal scaling for various Metropolis-Hastings algorithms (2001):
acceptance rates 0.234 (0.44 in one dimension) and 0.574, random walk steps of $2.38^2/d$ times the
covariance. Haario et al. (2001): the covariance learnt on the way. Roberts & Tweedie (1996): MALA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Tuner
from bayleaf.mcmc.moments import Moments, covariance_factor, moments_init, moments_update
from bayleaf.mcmc.step_size import DualAveraging, dual_averaging_init, dual_averaging_update
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Key, LogDensity, Position, Scalar, Vector

FIRST_WINDOW = 25  # warm-up steps before the covariance is used for the first time
WINDOW_GROWTH = 1.5
LAST_SHAPE = 0.9  # share of warm-up after which the covariance rests and only the step is learnt


class Point(NamedTuple):
    """What a proposal may know of a position."""

    position: Position
    log_density: Scalar
    gradient: Position | None  # None unless the proposal sets ``needs_gradient``


@runtime_checkable
class Proposal(Protocol):
    """What `MetropolisHastings` asks of a proposal."""

    def propose(self, key: Key, point: Point) -> Position:
        """Draw x* from q(x* | x), x being ``point.position``."""
        ...

    def log_proposal(self, proposed: Position, point: Point) -> Any:
        """``log q(proposed | point)``; terms that are symmetric in the two may be left out."""
        ...


class RandomWalk(eqx.Module):
    """Symmetric Gaussian steps ``x* = x + L z``.

    Args:
        scale: L: one standard deviation for all, one for each number of the raveled position, or a
            matrix (a Cholesky factor of the step's covariance). None learns the covariance of the
            target and the factor in front of it in warm-up.
    """

    scale: ArrayLike | None = None

    def __check_init__(self) -> None:
        """Refuse a scale that is no number, vector or square matrix."""
        shape = jnp.shape(self.scale) if self.scale is not None else ()
        if len(shape) > 2 or (len(shape) == 2 and shape[0] != shape[1]):
            raise bad_argument("scale", f"shape {shape}", "a number, a vector or a square matrix")
        check_positive("scale", self.scale if len(shape) < 2 else None)

    @classmethod
    def from_covariance(cls, covariance: Any) -> RandomWalk:
        """Steps with this covariance, an array ``[dim, dim]``."""
        return cls(factor_of(covariance))

    def propose(self, key: Key, point: Point) -> Position:
        """``x + L z``."""
        x, unravel = ravel_real(point.position, "RandomWalk")
        scale = fitted(self.scale, "scale", x)
        z = jax.random.normal(key, x.shape, x.dtype)
        return unravel(x + (scale @ z if scale.ndim == 2 else scale * z))

    def log_proposal(self, proposed: Position, point: Point) -> float:
        """Symmetric: nothing to correct."""
        return 0.0

    def tuner(self) -> ProposalTuner | None:
        """The scale is learnt unless it is given."""
        return ProposalTuner(self) if self.scale is None else None

    def target_acceptance(self, dim: int) -> float:
        """Optimal for Gaussian targets (Roberts & Rosenthal 2001, sections 2 and 5)."""
        return 0.44 if dim == 1 else 0.234

    def first_step(self, dim: int) -> float:
        """2.38 / sqrt(d), to multiply a factor of the target's covariance."""
        return 2.38 / dim**0.5

    def shape(self, moments: Moments, num_chains: int) -> Float[Array, "dim dim"]:
        """A factor of the covariance of the target."""
        return covariance_factor(moments, num_chains)

    def first_shape(self, x: Vector) -> Float[Array, "dim dim"]:
        """The shape before anything is known."""
        return jnp.eye(x.size, dtype=x.dtype)

    def tuned(self, step_size: Scalar, shape: Float[Array, "dim dim"]) -> RandomWalk:
        """The proposal with what has been learnt."""
        return RandomWalk(step_size * shape)


class Independence(eqx.Module):
    """Draws that do not depend on where the chain is.

    Args:
        sample: ``sample(key) -> position``.
        log_prob: ``log_prob(position)``, its log density up to a constant.
    """

    sample: Frozen
    log_prob: Frozen

    def __init__(
        self, sample: Callable[[Key], Position], log_prob: Callable[[Position], Any]
    ) -> None:
        self.sample = frozen_function(sample, "sample")
        self.log_prob = frozen_function(log_prob, "log_prob")

    @classmethod
    def from_gaussian(cls, mean: Position, covariance: Any) -> Independence:
        """Gaussian draws; ``covariance``, ``[dim, dim]``, is over the raveled ``mean``."""
        center, _ = ravel_real(mean, "Independence.from_gaussian")
        factor = factor_of(jnp.asarray(covariance, center.dtype))
        return cls(Partial(_gaussian_draw, mean, factor), Partial(_gaussian_density, mean, factor))

    def propose(self, key: Key, point: Point) -> Position:
        """A draw from q."""
        return self.sample(key)

    def log_proposal(self, proposed: Position, point: Point) -> Any:
        """``log q(proposed)``."""
        return self.log_prob(proposed)


def _gaussian_draw(mean: Position, factor: Float[Array, "dim dim"], key: Key) -> Position:
    center, unravel = ravel_pytree(mean)
    return unravel(center + factor @ jax.random.normal(key, center.shape, center.dtype))


def _gaussian_density(
    mean: Position, factor: Float[Array, "dim dim"], position: Position
) -> Scalar:
    offset = ravel_pytree(position)[0] - ravel_pytree(mean)[0]
    z = jax.scipy.linalg.solve_triangular(factor, offset, lower=True)
    return -0.5 * z @ z


class Langevin(eqx.Module):
    """The Metropolis-adjusted Langevin algorithm: a step up the gradient, and noise.

    Args:
        step_size: epsilon; None learns it in warm-up.
        scales: square root of the diagonal D, one for each number of the raveled position or one
            for all; None learns the standard deviations of the target in warm-up.
    """

    step_size: ArrayLike | None = None
    scales: ArrayLike | None = None

    needs_gradient = True

    def __check_init__(self) -> None:
        """Refuse steps that are not positive."""
        check_positive("step_size", self.step_size)
        check_positive("scales", self.scales)

    def propose(self, key: Key, point: Point) -> Position:
        """``x + eps^2/2 D grad + eps D^1/2 z``."""
        x, unravel = ravel_real(point.position, "Langevin")
        mean, sd = self._mean_and_sd(x, point)
        return unravel(mean + sd * jax.random.normal(key, x.shape, x.dtype))

    def log_proposal(self, proposed: Position, point: Point) -> Scalar:
        """``log N(proposed; x + eps^2/2 D grad, eps^2 D)``; its normaliser is symmetric."""
        x, _ = ravel_pytree(point.position)
        mean, sd = self._mean_and_sd(x, point)
        return -0.5 * jnp.sum(((ravel_pytree(proposed)[0] - mean) / sd) ** 2)

    def _mean_and_sd(self, x: Vector, point: Point) -> tuple[Vector, Array]:
        sd = fitted(self.step_size, "step_size", x) * fitted(self.scales, "scales", x)
        return x + 0.5 * sd**2 * ravel_pytree(point.gradient)[0], sd

    def tuner(self) -> ProposalTuner | None:
        """Step size and scales are learnt where they are not given."""
        is_given = self.step_size is not None and self.scales is not None
        return None if is_given else ProposalTuner(self)

    def target_acceptance(self, dim: int) -> float:
        """Optimal in high dimension (Roberts & Rosenthal 2001, section 3)."""
        return 0.574

    def first_step(self, dim: int) -> float:
        """1.65 / d^(1/6) standard deviations: optimal for a standard Gaussian."""
        return 1.65 / dim ** (1 / 6)

    def shape(self, moments: Moments, num_chains: int) -> Vector:
        """The standard deviations of the target."""
        return jnp.sqrt(jnp.diagonal(moments.covariance))

    def first_shape(self, x: Vector) -> Vector:
        """The scales before anything is known."""
        return jnp.ones_like(x)

    def tuned(self, step_size: Scalar, shape: Vector) -> Langevin:
        """The proposal with what has been learnt; what was given stays."""
        return Langevin(
            step_size if self.step_size is None else self.step_size,
            shape if self.scales is None else self.scales,
        )


class Tuning(NamedTuple):
    """What warm-up knows: the step size search, the draws' moments and the shape in use."""

    averaging: DualAveraging
    moments: Moments
    shape: Array
    next_window: Count  # the warm-up step at which the shape is renewed


class ProposalTuner(Tuner):
    """Learns the shape of a proposal from all chains, and the step size in front of it.

    The shape is renewed after 25 steps, then each time that warm-up has grown by half, so that the
    early, far too small estimates are soon left behind; after each renewal the search for the step
    size starts again. The last tenth of warm-up changes the step size alone.
    """

    proposal: Any  # as the user gave it: None marks what is to be learnt

    def init(self, log_density: LogDensity, kernel: Any, states: Any) -> tuple[Any, Tuning]:
        """Unit shape, and the step size that suits a standard Gaussian."""
        x = ravel_chains(states.position)
        shape = self.proposal.first_shape(x[0])
        step_size = jnp.asarray(self.proposal.first_step(x.shape[1]), x.dtype)
        tuning = Tuning(
            dual_averaging_init(step_size),
            moments_init(x.shape[1], x.dtype),
            shape,
            jnp.asarray(FIRST_WINDOW, jnp.int32),
        )
        return self._kernel(kernel, step_size, shape), tuning

    def resume(
        self, log_density: LogDensity, kernel: Any, tuning: Tuning, states: Any
    ) -> tuple[Any, Tuning]:
        """The shape of the draws, and the step size that suits a Gaussian of that shape."""
        del log_density
        x = ravel_chains(states.position)
        moments = moments_update(moments_init(x.shape[1], x.dtype), x)
        tuning = self._renew(tuning.averaging, moments, tuning, x.shape[0])
        # The step of a known shape is nearly right: no reason to try ten times as much first.
        tuning = tuning._replace(
            averaging=tuning.averaging._replace(center=tuning.averaging.log_step),
            next_window=jnp.asarray(FIRST_WINDOW, jnp.int32),
        )
        return self._kernel(kernel, jnp.exp(tuning.averaging.log_step), tuning.shape), tuning

    def update(
        self, kernel: Any, tuning: Tuning, states: Any, infos: Any, step: Any, num_warmup: Any
    ) -> tuple[Any, Tuning]:
        """One step of both searches."""
        x = ravel_chains(states.position)
        num_chains, dim = x.shape
        moments = moments_update(tuning.moments, x)
        averaging = dual_averaging_update(
            tuning.averaging,
            jnp.mean(infos.acceptance_rate),
            self.proposal.target_acceptance(dim),
        )
        is_due = (step + 1 >= tuning.next_window) & (step < LAST_SHAPE * num_warmup)
        tuning = jax.lax.cond(
            is_due,
            lambda: self._renew(averaging, moments, tuning, num_chains),
            lambda: tuning._replace(averaging=averaging, moments=moments),
        )
        is_last = step + 1 >= num_warmup
        log_step = jnp.where(is_last, tuning.averaging.log_step_avg, tuning.averaging.log_step)
        return self._kernel(kernel, jnp.exp(log_step), tuning.shape), tuning

    def _renew(
        self, averaging: DualAveraging, moments: Moments, tuning: Tuning, num_chains: int
    ) -> Tuning:
        shape = self.proposal.shape(moments, num_chains)
        # A number that has not moved yet has no variance: a step of size zero would keep it there.
        is_usable = jnp.all(jnp.isfinite(shape)) & jnp.all(jnp.sum(jnp.abs(shape), axis=-1) > 0)
        step_size = jnp.asarray(
            self.proposal.first_step(moments.mean.size), averaging.log_step.dtype
        )
        restarted = dual_averaging_init(step_size)
        return Tuning(
            jax.tree.map(lambda a, b: jnp.where(is_usable, a, b), restarted, averaging),
            moments,
            jnp.where(is_usable, shape, tuning.shape),
            jnp.ceil(WINDOW_GROWTH * tuning.next_window).astype(jnp.int32),
        )

    def _kernel(self, kernel: Any, step_size: Scalar, shape: Array) -> Any:
        return eqx.tree_at(
            lambda k: k.proposal,
            kernel,
            self.proposal.tuned(step_size, shape),
            is_leaf=lambda leaf: leaf is None,
        )


def ravel_real(position: Position, who: str) -> tuple[Vector, Callable[[Vector], Position]]:
    """The position as one vector, refused by name when it is not made of real numbers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(position):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise bad_argument(
                f"position{jax.tree_util.keystr(path)}",
                f"dtype {jnp.result_type(leaf)}",
                f"real numbers, which {who} needs",
                "Write a proposal of your own for discrete numbers, or put them in their own block "
                "of Gibbs.",
            )
    return ravel_pytree(position)


def ravel_chains(positions: Position) -> Float[Array, "chain dim"]:
    """One vector for each chain."""
    return jax.vmap(lambda position: ravel_pytree(position)[0])(positions)


def fitted(value: ArrayLike | None, name: str, x: Vector) -> Array:
    """A parameter in the dtype of ``x``, or the error that says why it does not fit."""
    if value is None:
        raise bad_argument(
            name,
            "None",
            "a value when the kernel is stepped by hand",
            "Give it, or let bl.sample learn it in warm-up (num_warmup > 0).",
        )
    array = jnp.asarray(value, x.dtype)
    if any(size != x.size for size in array.shape):
        raise bad_argument(
            name, f"shape {array.shape}", f"one number, or {x.size}: the size of the position"
        )
    return array


def check_positive(name: str, value: ArrayLike | None) -> None:
    """Refuse numbers that are not positive, where they are known (not traced)."""
    if value is None or isinstance(value, Tracer):
        return
    if not np.all((np.asarray(value) > 0) & np.isfinite(value)):
        raise bad_argument(name, value, "positive numbers, or None to learn them in warm-up")


def check_same_kind(what: str, new: Any, old: Any) -> None:
    """Refuse a draw whose shapes or dtypes are not those of what it replaces."""
    got, expected = (
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)
        for tree in (new, old)
    )
    if got != expected:
        raise bad_argument(what, f"a draw like {got}", f"one like {expected}")


def factor_of(covariance: Any) -> Array:
    """Lower Cholesky factor, or the error that says that there is none."""
    factor = jnp.linalg.cholesky(jnp.asarray(covariance))
    if not isinstance(factor, Tracer) and not np.all(np.isfinite(factor)):
        raise bad_argument(
            "covariance",
            f"a matrix of shape {jnp.shape(covariance)} that is not positive definite",
            "a positive definite covariance",
        )
    return factor

r"""Pathfinder: on the way to the mode, the Gaussian with the largest ELBO.

L-BFGS climbs from a starting point. At each of its iterates x its estimate of the inverse Hessian
makes a Gaussian,

    q(u) = N(u; x + H^-1 g, H^-1),   H^-1 = diag(a) + B C B',

whose ELBO = E_q[log p - log q] is estimated by a few draws; the best one is kept. It costs about as
many gradients as a dozen trajectories of NUTS and no matrix of dim x dim: with a^-1/2 B = Q R (QR),

    u = m + a^1/2 (z + Q (L - I) Q'z),   L L' = I + R C R',   z ~ N(0, I).

Several paths start apart, since each knows one mode. Their Gaussians become one mixture, in which
a path weighs as much as the importance weights of its draws: what ends in a poor place vanishes.

Use it for a first look at a posterior, and to start chains. The mode of a hierarchical model is
often at infinity: the path passes the mass on its way there, and the ELBO tells. With the pairs of
L-BFGS fewer than the parameters the spread is underestimated, often badly: k-hat says so, and
`bl.variational.laplace` or `fit` are better where they can be afforded.

Departures from the paper. The ELBOs of a path share their normal draws z, so that they can be
compared; the winner's is estimated anew. The paper resamples the draws of all paths by importance
(``fit.importance(...).smoothed().resample`` does that); a mixture gives any number of fresh ones.
Its weights are truncated at sqrt(S) times their mean over S draws (Ionides, JCGS 17, 2008).

Source: Zhang, Carpenter, Gelman & Vehtari, Pathfinder, JMLR 23 (2022), algorithms 1, 2, 4 and 5.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayleaf.errors import bad_argument, warn
from bayleaf.linalg import solve_lower
from bayleaf.run import arguments
from bayleaf.run.diagnostics import Finding
from bayleaf.run.host import to_host
from bayleaf.run.names import listing
from bayleaf.targets import Target
from bayleaf.trees import leaf_names
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar, Vector
from bayleaf.variational.contradictions import gap
from bayleaf.variational.laplace import check_counts
from bayleaf.variational.lbfgs import Ascent, advance, begin
from bayleaf.variational.results import Fit, assess

LOG_TWO_PI = math.log(2 * math.pi)


class PathGaussian(eqx.Module):
    """N(mean, A A') with A = diag(scale) (I + Q (L - I) Q'), Q = ``basis``, L = ``factor``."""

    mean: Vector
    scale: Vector
    basis: Float[Array, "dim rank"]
    factor: Float[Array, "rank rank"]

    def unwhiten(self, z: Vector) -> Vector:
        """``mean + A z``: a draw when ``z`` is standard normal."""
        inside = self.basis.T @ z
        return self.mean + self.scale * (z + self.basis @ (self.factor @ inside - inside))

    def whiten(self, x: Vector) -> Vector:
        """``A^-1 (x - mean)``."""
        y = (x - self.mean) / self.scale
        inside = self.basis.T @ y
        return y + self.basis @ (solve_lower(self.factor, inside) - inside)

    def log_prob(self, x: Vector) -> Scalar:
        """Log density at ``x``."""
        z = self.whiten(x)
        return self.log_height - 0.5 * jnp.dot(z, z)

    @property
    def log_height(self) -> Scalar:
        """Log density at the mean."""
        log_det = jnp.sum(jnp.log(self.scale)) + jnp.sum(jnp.log(jnp.diagonal(self.factor)))
        return -log_det - 0.5 * self.mean.size * LOG_TWO_PI


class PathMixture(eqx.Module):
    """A mixture of the Gaussians of paths, on positions; a guide.

    Attributes:
        gaussians: one for each path, stacked.
        log_weights: of the paths.
        unravel: from flat vectors to positions.
    """

    gaussians: PathGaussian
    log_weights: Float[Array, "path"]
    unravel: Any = eqx.field(static=True)

    def sample(self, key: Key) -> Position:
        """One draw."""
        return self.unravel(self.flat_sample(key))

    def log_prob(self, x: Position) -> Scalar:
        """Log density at ``x``."""
        return self.flat_log_prob(ravel_pytree(x)[0])

    def flat_sample(self, key: Key) -> Vector:
        """One draw as a vector."""
        mean = self.gaussians.mean
        # One call for all: random bits are what is costly to compile. One normal picks the path.
        z = jax.random.normal(key, (mean.shape[1] + 1,), mean.dtype)
        below = jnp.cumsum(jnp.exp(self.log_weights))
        # Below 1, where float32 may round: a last path without weight must not be picked.
        u = jnp.minimum(jax.scipy.stats.norm.cdf(z[0]), 1 - jnp.finfo(mean.dtype).eps)
        path = jnp.sum(below / below[-1] <= u)
        return jax.tree.map(lambda leaf: leaf[path], self.gaussians).unwhiten(z[1:])

    def flat_log_prob(self, x: Vector) -> Scalar:
        """Log density at a vector."""
        each = jax.vmap(lambda gaussian: gaussian.log_prob(x))(self.gaussians)
        return jax.scipy.special.logsumexp(self.log_weights + each)


class PathResult(NamedTuple):
    """The best Gaussian of one path, and the ELBO at each of its steps (NaN after the last)."""

    gaussian: PathGaussian
    elbo: Scalar
    elbos: Float[Array, "step"]
    num_steps: Count
    num_gradients: Count
    end: Vector
    is_converged: Flag


def gaussian_at(at: Ascent) -> PathGaussian:
    """The Gaussian of an iterate; NaN where H^-1 is not positive definite in floating point."""
    scale = jnp.sqrt(at.inverse.diagonal)
    basis, corner = jnp.linalg.qr(at.inverse.outer / scale[:, None])
    inner = corner @ at.inverse.inner @ corner.T
    eye = jnp.eye(inner.shape[0], dtype=inner.dtype)
    factor = jnp.linalg.cholesky(eye + 0.5 * (inner + inner.T))
    return PathGaussian(at.x + at.direction, scale, basis, factor)


def path_approximation(
    log_density: LogDensity,
    start: Vector,
    *,
    key: Key,
    history_size: int = 20,
    max_steps: int = 1000,
    num_elbo_draws: int = 50,
) -> PathResult:
    """One path, from ``start``, for a log density of flat vectors; pure and traceable."""
    noise = jax.random.normal(key, (num_elbo_draws, start.size), start.dtype)
    return _path(log_density, start, noise, history_size, max_steps)


def _path(
    log_density: LogDensity,
    start: Vector,
    noise: Float[Array, "draw dim"],
    history_size: int,
    max_steps: int,
) -> PathResult:
    value_and_grad = jax.value_and_grad(log_density)
    entropy = 0.5 * jnp.mean(jnp.sum(noise**2, axis=1))
    # The promise is made by H^-1 itself, which knows nothing yet of a long flat ridge and promises
    # a millionth of what is there: only a tiny one may end the ascent.
    eps = jnp.finfo(start.dtype).eps
    enough = 4 * eps

    def elbo(gaussian: PathGaussian) -> Scalar:
        draws = jax.vmap(gaussian.unwhiten)(noise)
        value = jnp.mean(jax.vmap(log_density)(draws)) + entropy - gaussian.log_height
        return jnp.where(jnp.isnan(value), -jnp.inf, value)

    def is_going(carry: Any) -> Flag:
        at, _, _, elbos, number = carry
        is_far = (number == 0) | (at.promise > enough)
        return ~at.is_stuck & is_far & (number < elbos.size)

    def step(carry: Any) -> Any:
        at, best, best_elbo, elbos, number = carry
        at = advance(value_and_grad, at)
        gaussian = gaussian_at(at)
        has_seen = jnp.any(at.inverse.outer != 0)  # curvature; else H^-1 is only a guess
        new = jnp.where(has_seen & ~at.is_stuck, elbo(gaussian), -jnp.inf)
        best = jax.tree.map(lambda a, b: jnp.where(new > best_elbo, a, b), gaussian, best)
        return at, best, jnp.maximum(new, best_elbo), elbos.at[number].set(new), number + 1

    at = begin(value_and_grad, start, history_size)
    shapes = jax.eval_shape(gaussian_at, at)
    nothing = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)
    none = jnp.full(max_steps, jnp.nan, start.dtype)
    lowest = jnp.full((), -jnp.inf, start.dtype)
    carry = (at, nothing, lowest, none, jnp.zeros((), jnp.int32))
    at, best, best_elbo, elbos, number = jax.lax.while_loop(is_going, step, carry)
    # A last step that cannot be told from round-off ends a path as well as a small promise.
    is_converged = (at.promise <= enough) | (at.is_stuck & (at.promise <= jnp.sqrt(eps)))
    return PathResult(best, best_elbo, elbos, number, at.num_gradients, at.x, is_converged)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PathfinderFit(Fit):
    """A `Fit` whose guide is the mixture of the paths' Gaussians.

    Attributes:
        path_elbos: the ELBO of each path's Gaussian; -inf for a path that failed.
        path_weights: what each path weighs in the mixture.
        num_gradients: gradients of each path.
    """

    path_elbos: Any = None
    path_weights: Any = None
    num_gradients: Any = None

    def __repr__(self) -> str:
        return (
            f"PathfinderFit({self.path_elbos.size} paths to {listing(leaf_names(self.draws), 6)}; "
            f"ELBO {self.elbo:.4g} +- {self.elbo_error:.2g}, pareto_k {self.pareto_k:.2f})"
        )


def pathfinder(
    target: Target | LogDensity,
    *,
    key: Key | None = None,
    num_paths: int = 4,
    history_size: int = 20,
    max_steps: int = 1000,
    num_elbo_draws: int = 50,
    num_check_draws: int = 1000,
    init: Any = None,
) -> PathfinderFit:
    """The best Gaussians on the ways to the mode, mixed by importance.

    Args:
        target: a `Target`, or a log density of any pytree when ``init`` is given.
        key: a typed key, ``jax.random.key(seed)``; None is that of seed 0.
        num_paths: starting points; each finds one mode at most.
        history_size: J, the pairs that L-BFGS remembers. The paper has 6; more cost memory
            (some 8 J dim numbers a path) and make better Gaussians.
        max_steps: of each path.
        num_elbo_draws: by which the ELBO is estimated at each step.
        num_check_draws: fresh draws by which the paths are weighted, and as many by which the
            mixture is judged.
        init: where the paths start, as for `bayleaf.sample`: around a point, or at draws of a
            function of a key.

    Returns:
        The fit. Its ``history`` is the ELBO along the path that weighs most; larger is better.

    Raises:
        BayleafError: no path saw a concave piece of the log density (it is flat, linear, or rises
            without end), or an argument cannot be used.
        NonFiniteLogDensityError: the log density or its gradient is not finite at the start.

    Warns:
        SamplingWarning: k-hat of the weights target / guide is above 0.7; the ELBO is more than 0.5
            below the log evidence; paths that came to no mode; the log density is NaN at draws.
    """
    key = jax.random.key(0) if key is None else key
    arguments.check_settings(1, 0, 1, key, None, None)
    check_counts(
        num_paths=num_paths,
        history_size=history_size,
        max_steps=max_steps,
        num_elbo_draws=num_elbo_draws,
        num_check_draws=num_check_draws,
    )
    target = arguments.as_target(target, init)
    key_start, key_paths, key_check = (jax.random.fold_in(key, i) for i in range(3))
    starts = target.initial_positions(key_start, num_paths, init)
    noise = _noise(key_paths, starts, num_elbo_draws + -(-num_check_draws // num_paths))
    guide, paths = _fit(target, starts, noise, history_size, max_steps, num_elbo_draws)
    paths, log_weights = to_host((paths._replace(gaussian=None), guide.log_weights))
    weights = np.exp(log_weights)
    findings = check(target, guide, paths)
    best = int(np.argmax(weights))
    judged = assess(
        target,
        guide,
        key=key_check,
        num_draws=num_check_draws,
        findings=findings,
        history=paths.elbos[best, : paths.num_steps[best]],
    )
    fields = {field.name: getattr(judged, field.name) for field in dataclasses.fields(judged)}
    known = {"path_elbos": paths.elbo, "path_weights": weights}
    fields["findings"] = [*judged.findings, *gap(judged)]
    fit = PathfinderFit(**fields, **known, num_gradients=paths.num_gradients)
    for finding in fit.findings:
        warn(finding.message)
    return fit


def _noise(key: Key, starts: Position, num_draws: int) -> Float[Array, "path draw dim"]:
    """All normal draws of a call, by a program that is compiled once for all targets."""
    leaves = jax.tree.leaves(starts)
    num_paths = leaves[0].shape[0]
    shape = (num_paths, num_draws, sum(leaf.size for leaf in leaves) // num_paths)
    return jax.random.normal(key, shape, jnp.result_type(*leaves))


@eqx.filter_jit
def _fit(
    target: Target,
    starts: Position,
    noise: Float[Array, "path draw dim"],
    history_size: int,
    max_steps: int,
    num_elbo_draws: int,
) -> tuple[PathMixture, PathResult]:
    """All paths, and their mixture; the noise beyond ``num_elbo_draws`` serves to weigh them."""
    flat = jax.vmap(lambda position: ravel_pytree(position)[0])(starts)
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], starts))[1]

    def log_density(x: Vector) -> Scalar:
        return target(unravel(x))

    def one(start: Vector, noise: Float[Array, "draw dim"]) -> PathResult:
        return _path(log_density, start, noise, history_size, max_steps)

    paths = jax.vmap(one)(flat, noise[:, :num_elbo_draws])
    paths = paths._replace(gaussian=_mended(paths))
    log_weights = weigh(log_density, paths, noise[:, num_elbo_draws:])
    return PathMixture(paths.gaussian, log_weights, unravel), paths


def weigh(
    log_density: LogDensity, paths: PathResult, noise: Float[Array, "path draw dim"]
) -> Float[Array, "path"]:
    """Log weights of stacked paths: the shares of the importance weights of their draws.

    Draws of all paths, made from the standard normal ``noise``, are weighted against the mixture of
    equal parts. A path that failed weighs nothing.
    """
    num_paths, num_draws, dim = noise.shape
    is_good = paths.elbo > -jnp.inf
    uniform = jnp.where(is_good, 0, -jnp.inf) - jnp.log(jnp.sum(is_good))
    draws = jax.vmap(lambda g, z: jax.vmap(g.unwhiten)(z))(paths.gaussian, noise)
    draws = draws.reshape(-1, dim)
    log_q = jax.vmap(PathMixture(paths.gaussian, uniform, None).flat_log_prob)(draws)
    log_p = jax.lax.map(log_density, draws, batch_size=min(100, num_draws))
    log_w = log_p - log_q
    log_w = jnp.where(jnp.isnan(log_w), -jnp.inf, log_w)
    # Of failed paths nothing counts; of the others no draw counts more than sqrt(S) average ones.
    log_w = jnp.where(jnp.repeat(is_good, num_draws), log_w, -jnp.inf)
    log_size = jnp.log(jnp.sum(is_good) * num_draws)
    log_mean = jax.scipy.special.logsumexp(log_w) - log_size
    log_w = jnp.minimum(log_w, log_mean + 0.5 * log_size)
    shares = jax.scipy.special.logsumexp(log_w.reshape(num_paths, -1), axis=1)
    return jnp.where(jnp.any(jnp.isfinite(shares)), jax.nn.log_softmax(shares), uniform)


def _mended(paths: PathResult) -> PathGaussian:
    """The Gaussians; in place of a failed path's NaN, which would spread, a standard normal."""

    def mend(gaussian: PathGaussian, is_good: Flag) -> PathGaussian:
        zeros, rank = jnp.zeros_like(gaussian.mean), gaussian.factor.shape[0]
        eye, basis = jnp.eye(rank, dtype=zeros.dtype), jnp.zeros_like(gaussian.basis)
        plain = PathGaussian(zeros, zeros + 1, basis, eye)
        return jax.tree.map(lambda a, b: jnp.where(is_good, a, b), gaussian, plain)

    return jax.vmap(mend)(paths.gaussian, paths.elbo > -jnp.inf)


def check(target: Target, guide: PathMixture, paths: PathResult) -> list[Finding]:
    """Raise when no path found a Gaussian; say which ones came to no mode."""
    from bayleaf.targets.starts import _values

    is_good = np.asarray(paths.elbo) > -np.inf
    ends = [target.constrain(guide.unravel(jnp.asarray(end))) for end in paths.end]
    if not is_good.any():
        raise bad_argument(
            "target",
            f"no Gaussian on any of {is_good.size} paths (the first ended at {_values(ends[0])})",
            "a log density that falls off around some point",
            "It is flat, or rises without end, or is NaN wherever a Gaussian could stand: give "
            "each parameter a proper prior, check the sign of the log density, and constrain "
            "parameters to where it is finite (constrain=).",
        )
    lost = np.flatnonzero(~np.asarray(paths.is_converged))
    if not lost.size:
        return []
    return [
        Finding(
            "no_mode",
            f"pathfinder: {lost.size} of {is_good.size} paths came to no mode (path {lost[0]} "
            f"ended at {_values(ends[lost[0]])}). The density may have none, as where a scale may "
            "vanish, or be improper. The best Gaussian on the way is kept; look at pareto_k.",
        )
    ]

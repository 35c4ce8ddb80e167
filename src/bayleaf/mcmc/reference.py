"""Gaussian references for elliptical slice sampling, and how to find a good one.

A reference is a distribution of which the sampler draws ellipses. The closer to the target, the
fewer evaluations a step takes and the less its draws depend on each other; a poor one costs time
and nothing else. Each reference knows two things: the ellipse through a point, and its own log
density along that ellipse, which is a function of

    l(theta) = g'(x - m),   q(theta) = (x - m)' W (x - m)   at x(theta).

- `TiltedPrior`: prior x exp(l - q / 2). The prior cancels from target / reference, so neither the
  prior's inverse nor its determinant is ever needed. `laplace_reference` makes one.
- `GaussianReference`: any N(m, S); W = S^-1, g = 0. On a target with a Gaussian prior N(m0, K) it
  is a tilted prior too, W = S^-1 - K^-1 and g = K^-1 (m - m0), by solves once per step.
- `StudentReference`: a scale mixture of Gaussians, for targets with heavy tails.

Source: Nishihara, Murray & Adams, JMLR 15 (2014), section 2 and algorithm 2 (Student-t).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument, warn
from bayleaf.gaussian import Gaussian
from bayleaf.laplace import covariance_factor, find_mode, find_prior_mode
from bayleaf.mcmc.kernel import Tuner
from bayleaf.mcmc.moments import Moments, moments_init, moments_update
from bayleaf.mcmc.moments import covariance_factor as chains_factor
from bayleaf.types import Flag, Key, LogDensity, Matrix, Position, Scalar, Vector


class PriorPart(NamedTuple):
    """The Gaussian prior of a target, and its log likelihood as a function of the flat vector."""

    gaussian: Gaussian
    log_likelihood: Callable[[Vector], Scalar]


class Ellipse(NamedTuple):
    """x(theta) = center + along cos theta + across sin theta, and l and q along it.

    ``linear`` holds the coefficients of (c, s) in l, ``quadratic`` those of (c^2, 2 c s, s^2) in q.
    """

    center: Vector
    along: Vector
    across: Vector
    linear: Float[Array, "2"]
    quadratic: Float[Array, "3"]

    def at(self, angle: Scalar) -> Vector:
        """The point x(theta)."""
        return self.center + self.along * jnp.cos(angle) + self.across * jnp.sin(angle)

    def forms(self, angle: Scalar) -> tuple[Scalar, Scalar]:
        """l(theta) and q(theta)."""
        c, s = jnp.cos(angle), jnp.sin(angle)
        quadratic = jnp.dot(self.quadratic, jnp.stack([c * c, 2 * c * s, s * s]))
        return jnp.dot(self.linear, jnp.stack([c, s])), quadratic


class TiltedPrior(eqx.Module):
    """A Gaussian prior times exp(g'(x - m) - (x - m)' W (x - m) / 2): itself a Gaussian N(m, A A').

    Args:
        mean: m, of the product.
        factor: A, any square root of the covariance of the product; a diagonal one as a vector.
        slope: g.
        curvature: W; a diagonal one as a vector.
    """

    mean: Vector
    factor: Vector | Matrix
    slope: Vector
    curvature: Vector | Matrix

    def ellipse(self, key: Key, x: Vector, prior: PriorPart | None) -> Ellipse:
        """A random ellipse through ``x``."""
        del prior
        along = x - self.mean
        across = times(self.factor, jax.random.normal(key, x.shape, x.dtype))
        bent, bent_across = times(self.curvature, along), times(self.curvature, across)
        quadratic = [jnp.dot(along, bent), jnp.dot(across, bent), jnp.dot(across, bent_across)]
        linear = [jnp.dot(self.slope, along), jnp.dot(self.slope, across)]
        return Ellipse(self.mean, along, across, jnp.stack(linear), jnp.stack(quadratic))

    def log_tilt(self, linear: Scalar, quadratic: Scalar) -> Scalar:
        """Log reference, without the log prior."""
        return linear - 0.5 * quadratic


class GaussianReference(eqx.Module):
    """Any Gaussian, for a target of any form."""

    gaussian: Gaussian

    def ellipse(self, key: Key, x: Vector, prior: PriorPart | None) -> Ellipse:
        """A random ellipse through ``x``."""
        mean = self.gaussian.mean
        noise = jax.random.normal(key, x.shape, x.dtype)
        across = times(self.gaussian.factor, noise)
        quadratic = squares(self.gaussian.whiten(x), noise)
        linear = jnp.zeros(2, x.dtype)
        if prior is not None:
            whiten = prior.gaussian.whiten
            d = whiten(mean)  # L^-1 (m - m0); the other two are differences of such terms
            u, v = whiten(x) - d, whiten(across + prior.gaussian.mean)
            quadratic = quadratic - squares(u, v)
            linear = jnp.stack([jnp.dot(d, u), jnp.dot(d, v)])
        return Ellipse(mean, x - mean, across, linear, quadratic)

    def log_tilt(self, linear: Scalar, quadratic: Scalar) -> Scalar:
        """Log reference, without the log prior if there is one, up to a constant."""
        return linear - 0.5 * quadratic


class StudentReference(eqx.Module):
    """Multivariate Student-t for targets with heavy tails.

    t_f(m, S) is N(m, r S) with r ~ Inverse-Gamma(f/2, f/2). Given x, r has the law
    Inverse-Gamma((f + dim)/2, (f + q)/2); an elliptical step with covariance r S and the log
    target divided by log t_f leaves the target invariant.

    Args:
        gaussian: N(m, S).
        freedom: f > 0; about that of the target's tails or less.
    """

    gaussian: Gaussian
    freedom: ArrayLike = 4.0

    def ellipse(self, key: Key, x: Vector, prior: PriorPart | None) -> Ellipse:
        """A random ellipse through ``x``, its size drawn from the conditional law of r."""
        del prior
        key_noise, key_size = jax.random.split(key)
        base = GaussianReference(self.gaussian).ellipse(key_noise, x, None)
        freedom = jnp.asarray(self.freedom, x.dtype)
        gamma = jax.random.gamma(key_size, 0.5 * (freedom + x.size), dtype=x.dtype)
        root = jnp.sqrt(0.5 * (freedom + base.quadratic[0]) / gamma)
        return base._replace(
            across=root * base.across,
            quadratic=base.quadratic * jnp.stack([jnp.ones_like(root), root, root**2]),
        )

    def log_tilt(self, linear: Scalar, quadratic: Scalar) -> Scalar:
        """Log reference, up to a constant."""
        del linear
        freedom = jnp.asarray(self.freedom, quadratic.dtype)
        return -0.5 * (freedom + self.gaussian.dim) * jnp.log1p(quadratic / freedom)


Reference = TiltedPrior | GaussianReference | StudentReference


def squares(u: Vector, v: Vector) -> Float[Array, "3"]:
    """|u|^2, u'v, |v|^2."""
    return jnp.stack([jnp.dot(u, u), jnp.dot(u, v), jnp.dot(v, v)])


def times(matrix: Vector | Matrix, x: Vector) -> Vector:
    """A product with a matrix, a diagonal one being a vector."""
    return matrix * x if matrix.ndim == 1 else matrix @ x


def prior_part(log_density: LogDensity, position: Position) -> PriorPart | None:
    """The Gaussian prior part of a target, None when it has none."""
    prior = getattr(log_density, "prior", None)
    if not isinstance(prior, Gaussian):
        return None
    x, unravel = ravel_pytree(position)
    prior = jax.tree.map(lambda leaf: leaf.astype(x.dtype), prior)

    def log_likelihood(y: Vector) -> Scalar:
        return log_density.total_log_likelihood(unravel(y)).astype(y.dtype)

    return PriorPart(prior, log_likelihood)


def needed_prior(log_density: LogDensity, position: Position) -> PriorPart:
    """The Gaussian prior part of a target, or the error that says how to get one."""
    prior = prior_part(log_density, position)
    if prior is None:
        raise bad_argument(
            "reference",
            "a tilted prior",
            "a target made by Target.from_gaussian_prior, whose prior was tilted",
            "Give a bayleaf.Gaussian as reference instead.",
        )
    return prior


def as_reference(reference: Any) -> Reference | None:
    """A `bayleaf.Gaussian` as `GaussianReference`; references and None as they are."""
    if isinstance(reference, Gaussian):
        return GaussianReference(reference)
    if reference is None or isinstance(reference, Reference):
        return reference
    raise bad_argument(
        "reference", reference, "a bayleaf.Gaussian, a reference of bayleaf.mcmc, or None"
    )


def untilted(gaussian: Gaussian) -> TiltedPrior:
    """The prior itself as reference: plain elliptical slice sampling."""
    zeros = jnp.zeros_like(gaussian.mean)
    return TiltedPrior(gaussian.mean, gaussian.factor, zeros, zeros)


def laplace_reference(
    log_density: LogDensity, position: Position | None = None
) -> TiltedPrior | Gaussian:
    """The Gaussian at the mode of a target, by Newton's method; pass it to `EllipticalSlice`.

    Args:
        log_density: a target. With a Gaussian prior part (``Target.from_gaussian_prior``) the
            search starts at the prior mean and the result is a `TiltedPrior`.
        position: where the search starts; needed without a prior part, ignored with one.

    Raises:
        BayleafError: a start is needed and not given.

    Warns:
        SamplingWarning: the search did not converge. The reference is still valid, and slow.
    """
    if position is None:
        prior = getattr(log_density, "prior", None)
        if not isinstance(prior, Gaussian):
            raise bad_argument("position", None, "where the search for the mode starts")
        position = prior.mean
    if prior_part(log_density, position) is None:
        reference, is_converged = eqx.filter_jit(fit_at_mode)(log_density, position)
    else:
        diagonal = is_factorised(log_density, position)
        reference, is_converged = eqx.filter_jit(tilt)(log_density, position, diagonal)
    if not is_converged:
        warn(
            "laplace_reference: Newton's method did not converge to a maximum. Sampling stays "
            "exact but may be slow; start it elsewhere, or check the log density for NaN and "
            "for a mode at infinity."
        )
    return reference


def tilt(log_density: LogDensity, position: Position, diagonal: bool) -> tuple[TiltedPrior, Flag]:
    """The prior tilted by the likelihood's expansion at the mode; the prior when there is none."""
    prior = needed_prior(log_density, position)
    mean, scale = prior.gaussian.mean, prior.gaussian.factor
    scale = jnp.diag(scale) if scale.ndim == 1 else scale
    mode = find_prior_mode(prior.log_likelihood, mean, scale, diagonal)
    found = TiltedPrior(mode.position, mode.factor, mode.slope, mode.curvature)
    zeros = jnp.zeros_like(mean)
    plain = TiltedPrior(mean, scale, zeros, zeros if diagonal else jnp.zeros_like(scale))
    return select(all_finite(found), found, plain), mode.is_converged


def fit_at_mode(log_density: LogDensity, position: Position) -> tuple[Gaussian, Flag]:
    """N(mode, H^-1); a unit normal at ``position`` when the search ends nowhere."""
    x, unravel = ravel_pytree(position)
    mode = find_mode(lambda y: log_density(unravel(y)), x)
    found = Gaussian.from_cholesky(mode.position, covariance_factor(mode.cholesky))
    plain = Gaussian.from_cholesky(x, jnp.eye(x.size, dtype=x.dtype))
    return select(all_finite(found), found, plain), mode.is_converged & (mode.shift == 0)


def is_factorised(log_density: LogDensity, position: Position) -> bool:
    """Whether the log likelihood is a sum over coordinates: a Hessian H that is diagonal.

    Then H v / v does not depend on v. Two random v see any other H with probability one; a miss
    by round-off would cost speed and no exactness. Needs concrete values.
    """
    first, second = np.asarray(hessian_ratios(log_density, position))
    tolerance = 100 * np.finfo(first.dtype).eps * np.max(np.abs(first), initial=0)
    return bool(np.max(np.abs(first - second), initial=0) <= tolerance)


@eqx.filter_jit
def hessian_ratios(log_density: LogDensity, position: Position) -> Float[Array, "2 dim"]:
    """H v / v for two random v, with H the Hessian of the log likelihood near the prior mean."""
    gaussian, log_likelihood = needed_prior(log_density, position)
    key_x, key_v = jax.random.split(jax.random.key(0))
    dim, dtype = gaussian.dim, gaussian.mean.dtype
    x = gaussian.mean + 0.1 * jax.random.normal(key_x, (dim,), dtype)
    rows = jax.random.uniform(key_v, (2, dim), dtype, 1, 2)
    return jax.vmap(lambda v: jax.jvp(jax.grad(log_likelihood), (x,), (v,))[1] / v)(rows)


def all_finite(tree: Any) -> Flag:
    """Whether every number of a pytree is finite."""
    return jnp.all(jnp.isfinite(ravel_pytree(tree)[0]))


def select(condition: Flag, yes: Any, no: Any) -> Any:
    """``yes`` or ``no``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


class ReferenceTuner(Tuner):
    """Learns the reference of an elliptical slice kernel.

    At the start: Newton's method. For a target with a Gaussian prior part that is all. For others
    the mean and covariance of the chains replace it after 1/4, 1/2 and the whole of the warm-up:
    they see skewness and tails, and a mode at which there is no mass.
    """

    def init(self, log_density: LogDensity, kernel: Any, states: Any) -> tuple[Any, Moments | None]:
        """The kernel with the Laplace reference."""
        rows = jax.vmap(lambda p: ravel_pytree(p)[0])(states.position)
        first = jax.tree.map(lambda leaf: leaf[0], states.position)
        if prior_part(log_density, first) is not None:
            reference, _ = tilt(log_density, first, diagonal=False)
            return type(kernel)(reference), None
        center = ravel_pytree(first)[1](jnp.mean(rows, axis=0))
        gaussian, _ = fit_at_mode(log_density, center)
        return type(kernel)(gaussian), moments_init(rows.shape[1], rows.dtype)

    def update(
        self,
        kernel: Any,
        tuning: Moments | None,
        states: Any,
        infos: Any,
        step: Any,
        num_warmup: Any,
    ) -> tuple[Any, Moments | None]:
        """Add one draw of each chain; renew the reference when its time has come."""
        del infos
        if tuning is None:
            return kernel, tuning
        rows = jax.vmap(lambda p: ravel_pytree(p)[0])(states.position)
        num_chains, dim = rows.shape
        tuning = moments_update(tuning, rows)
        ends = jnp.stack([num_warmup // 4, num_warmup // 2, num_warmup - 1])
        # Fewer draws than a few per dimension make a covariance worse than the mode's.
        is_time = jnp.any(step == ends) & (tuning.num_steps * num_chains >= 5 * dim)

        def renewed() -> Gaussian:
            return Gaussian.from_cholesky(tuning.mean, chains_factor(tuning, num_chains))

        gaussian = kernel.reference.gaussian
        fresh = jax.lax.cond(is_time, renewed, lambda: gaussian)
        return type(kernel)(select(all_finite(fresh), fresh, gaussian)), tuning

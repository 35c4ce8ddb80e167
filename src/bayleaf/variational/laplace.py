r"""Laplace's approximation: the Gaussian at the mode, as wide as the curvature there says.

    q(u) = N(u; m, H^-1),   m = argmax log p(u),   H = -grad grad log p(m),

on the unconstrained space of the target, log-Jacobians included. The same expansion gives the
evidence,

    log Z ~ log p(m) + (d / 2) log(2 pi) - (1 / 2) log det H,

which counts only for a target that is prior times likelihood with all constants.

Use it when data are many for the number of parameters: the errors of means in standard deviations
fall as n^(-1/2) and that of log Z as 1/n. It costs a few Hessians, a thousandth of a sampler. It
knows one mode, no skewness and no tails, and where a scale parameter may vanish (hierarchical
models) the mode is not where the mass is; k-hat of the weights target / q says so, and
`Fit.importance` repairs what is not too far off. Which parameterisation the Gaussian lives in
matters: a positive parameter is fitted on its log scale. The dense Hessian bounds the dimension.

Source: MacKay, Information Theory, Inference, and Learning Algorithms (2003), chapter 27, eq. 27.6;
Tierney & Kadane, JASA 81 (1986), for the orders of the errors.
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

from bayleaf.errors import BayleafError, bad_argument, warn
from bayleaf.gaussian import Gaussian
from bayleaf.laplace import covariance_factor, find_mode
from bayleaf.run import arguments
from bayleaf.run.host import to_host
from bayleaf.run.names import listing, scalar_names
from bayleaf.targets import Target
from bayleaf.trees import leaf_names
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar, Vector
from bayleaf.variational.contradictions import expansion
from bayleaf.variational.guides import FullRank
from bayleaf.variational.results import Fit, assess

MOST_PARAMETERS = 5000
"""The Hessian of more would take over 200 MB in float64, and minutes to factorise."""


class LaplaceApproximation(NamedTuple):
    """N(mode, H^-1) and whether it is one.

    ``gradient`` is that of the log density at the mode. ``shift`` was added to the diagonal of H to
    make it positive definite. ``pivot`` is the smallest share of a coordinate's curvature that the
    coordinates before it leave over, 1 for a diagonal H and 0 for a singular one.
    """

    gaussian: Gaussian
    log_density: Scalar
    gradient: Vector
    log_evidence: Scalar
    shift: Scalar
    pivot: Scalar
    num_steps: Count
    is_converged: Flag


def laplace_approximation(log_density: LogDensity, start: Vector) -> LaplaceApproximation:
    """The approximation of the log density of a flat vector; pure and traceable.

    Nothing is raised: look at ``is_converged``, at ``shift`` (0 at a maximum) and at ``pivot``.
    """
    mode = find_mode(log_density, start)
    factor = covariance_factor(mode.cholesky)
    squares = jnp.square(mode.cholesky)
    log_evidence = (
        mode.log_density
        + 0.5 * start.size * math.log(2 * math.pi)
        - jnp.sum(jnp.log(jnp.diagonal(mode.cholesky)))
    )
    return LaplaceApproximation(
        Gaussian.from_cholesky(mode.position, factor),
        mode.log_density,
        jax.grad(log_density)(mode.position),
        log_evidence,
        mode.shift,
        jnp.min(jnp.diagonal(squares) / jnp.sum(squares, axis=1)),
        mode.num_steps,
        mode.is_converged,
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LaplaceFit(Fit):
    """A `Fit` whose guide is N(mode, H^-1).

    Attributes:
        mode: the parameters at the mode of the unconstrained density, in the model's own space.
        log_evidence: Laplace's approximation of log Z.
    """

    mode: Any = None
    log_evidence: float = float("nan")

    @property
    def gaussian(self) -> Gaussian:
        """The guide as a Gaussian of flat unconstrained vectors."""
        return self.guide.to_gaussian()

    def __repr__(self) -> str:
        return (
            f"LaplaceFit({listing(leaf_names(self.draws), 6)}; log evidence "
            f"{self.log_evidence:.4g}, pareto_k {self.pareto_k:.2f})"
        )


def laplace(
    target: Target | LogDensity,
    *,
    init: Any = None,
    key: Key | None = None,
    num_check_draws: int = 1000,
) -> LaplaceFit:
    """The Gaussian at the mode of a target.

    Args:
        target: a `Target`, or a log density of any pytree when ``init`` is given.
        init: where Newton's search starts, in place of the target's own start: a point, which is
            taken as it is, or a function of a key.
        key: of the draws that judge the fit, and of ``init``; None is ``jax.random.key(0)``.
        num_check_draws: how many such draws.

    Returns:
        The fit, with the ``mode`` and the ``log_evidence``.

    Raises:
        BayleafError: there is no maximum where the search ended (a saddle, a flat direction, or a
            density that rises without end), the start is missing, or parameters are too many.
        NonFiniteLogDensityError: the log density or its gradient is not finite at the start.

    Warns:
        SamplingWarning: k-hat of the weights target / guide is above 0.7, or the log density is NaN
            at draws of the guide.

    Examples:
        >>> import jax.numpy as jnp, bayleaf as bl
        >>> positive = bl.constraints.positive  # below: a Gamma(9, 3) density of the rate
        >>> def log_density(rate):
        ...     return 8 * jnp.log(rate) - 3 * rate
        >>> fit = bl.variational.laplace(bl.Target(log_density, init=1.0, constrain=positive))
        >>> print(f"{fit.mode:.4f}")  # 9 / 3: the mode on the log scale, where the Jacobian counts
        3.0000
    """
    check_counts(num_check_draws=num_check_draws)
    arguments.check_settings(1, 0, 1, _key(key), None, None)
    target = arguments.as_target(target, init)
    starts = target.initial_positions(_key(key), 1, init, jitter=False)
    position = jax.tree.map(lambda leaf: leaf[0], starts)
    check_size(position)
    guide, mode, found = _fit(target, position)
    mode, found = to_host((mode, found))
    check(target, guide, found)
    check_key = jax.random.fold_in(_key(key), 1)  # the start has used the key itself
    judged = assess(target, guide, key=check_key, num_draws=num_check_draws)
    fields = {field.name: getattr(judged, field.name) for field in dataclasses.fields(judged)}
    fields["findings"] = [*judged.findings, *expansion(judged, float(found.log_evidence))]
    fit = LaplaceFit(**fields, mode=mode, log_evidence=float(found.log_evidence))
    for finding in fit.findings:
        warn(finding.message)
    return fit


@eqx.filter_jit
def _fit(target: Target, position: Position) -> tuple[FullRank, Position, LaplaceApproximation]:
    """The guide, the mode in the model's own space, and what the search says of itself."""
    start, unravel = ravel_pytree(position)
    found = laplace_approximation(lambda u: target(unravel(u)), start)
    mean, factor = found.gaussian.mean, found.gaussian.factor
    parts = (mean, jnp.log(jnp.diagonal(factor)), jnp.tril(factor, -1))
    guide = eqx.tree_at(lambda g: (g.loc, g.log_scale, g.lower), FullRank(position), parts)
    return guide, target.constrain(unravel(mean)), found


def _key(key: Key | None) -> Key:
    return jax.random.key(0) if key is None else key


def check_counts(**counts: int) -> None:
    """Refuse, by name, what is no count."""
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
            raise bad_argument(name, count, "a whole number, at least 1")


def check_size(position: Position) -> None:
    """Refuse what a dense Hessian cannot hold."""
    dim = sum(leaf.size for leaf in jax.tree.leaves(position))
    if dim > MOST_PARAMETERS:
        raise bad_argument(
            "target",
            f"{dim} parameters",
            f"at most {MOST_PARAMETERS}, since the Hessian is a dense matrix",
            "Try bl.variational.pathfinder, or bl.variational.fit with a LowRank guide.",
        )


def check(target: Target, guide: FullRank, found: LaplaceApproximation) -> None:
    """Raise, by name, unless the search ended at a maximum with curvature in every direction."""
    dim, eps = found.gradient.size, np.finfo(found.gradient.dtype).eps
    is_maximum = found.shift == 0 and found.pivot > 10 * dim * eps
    if found.is_converged and is_maximum:
        return
    position = guide.unravel(guide.loc)
    names = scalar_names(position)
    values, vectors, scales = _curvature(target, position)
    if not np.isfinite(values).all():
        raise _no_mode(target, position, "a Hessian with NaN or infinite entries")
    # In units in which each coordinate alone has curvature 1 or -1.
    gradient = np.abs(np.asarray(found.gradient, np.float64) / scales)
    if gradient.max() > 0.01:
        rising = [names[i] for i in np.argsort(-gradient) if gradient[i] > 0.1 * gradient.max()]
        got = f"no mode: the log density {found.log_density:.6g} still rises in {listing(rising)}"
        raise _no_mode(target, position, f"{got} after {int(found.num_steps)} Newton steps")
    tolerance = 10 * dim * eps
    if values[0] > tolerance:  # a maximum after all, and only the last digits did not settle
        return
    without = vectors[:, values <= max(values[0], tolerance)]
    share = np.linalg.norm(without, axis=1)
    along = [names[i] for i in np.argsort(-share) if share[i] > 0.3 * share.max()]
    if values[0] < -max(tolerance, np.sqrt(eps)):
        got = f"a saddle: the log density curves upwards along {listing(along)}"
    else:
        got = f"a flat direction: the log density does not fall off along {listing(along)}"
    raise _no_mode(target, position, got)


def _no_mode(target: Target, position: Position, got: str) -> BayleafError:
    from bayleaf.targets.starts import _values

    where = _values(target.constrain(position))
    return bad_argument(
        "target",
        got,
        "a maximum with a positive definite -Hessian",
        f"The search ended at {where}. Start elsewhere (init=), give each parameter a proper "
        "prior, and check the sign of the log density. A scale that may vanish has no mode: write "
        "the model non-centred, or use bl.variational.fit.",
    )


def _curvature(target: Target, position: Position) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, the smallest first, and vectors of -Hessian in units of its diagonal."""
    start, unravel = ravel_pytree(position)
    hessian = np.asarray(-jax.hessian(lambda u: target(unravel(u)))(start), np.float64)
    if not np.isfinite(hessian).all():
        return np.full(1, np.nan), np.eye(1), np.ones(1)
    scales = np.sqrt(np.abs(np.diagonal(hessian)))
    scales = np.where(scales > 0, scales, scales.max() or 1.0)
    values, vectors = np.linalg.eigh(hessian / np.outer(scales, scales))
    return values, vectors, scales

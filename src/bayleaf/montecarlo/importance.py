r"""Importance sampling: draw from a proposal, and weigh each draw by how much the target wants it.

$$x_n \sim q, \qquad w_n = \frac{p(x_n)}{q(x_n)}, \qquad
  E\Big[\frac1N \sum_n w_n\Big] = Z = \int p(x)\, dx.$$

The draws are independent and the evidence comes for free. Use it in few dimensions, or where a
good approximation of the posterior exists (a Laplace or variational fit). The proposal must have
heavier tails than the target: with lighter ones the weights have no variance, which the Pareto
$\hat k$ of the result tells and a warning reports.

For a `bayleaf.Target` the proposal lives on the unconstrained space, where the target's density has
its log-Jacobian; the draws that come back are constrained.

Source: Owen, Monte Carlo theory, methods and examples (2013), chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from bayleaf.errors import bad_argument, warn
from bayleaf.montecarlo.particle_keys import unrolled
from bayleaf.montecarlo.weighted import WeightedDraws
from bayleaf.montecarlo.weighting import evidence, pareto_smoothed
from bayleaf.targets import Target
from bayleaf.trees import Frozen, frozen_function
from bayleaf.types import Count, Key, LogDensity

MOST_DIMENSIONS = 50
"""In more, the test density of `normaliser` would meet almost none of the draws."""

Values = Float[np.ndarray, "draw"]


def importance(
    target: Target | LogDensity,
    proposal: Any,
    *,
    key: Key,
    num_draws: int = 10_000,
    batch_size: int = 1024,
) -> WeightedDraws:
    """Weighted draws and the evidence of a target.

    Args:
        target: a `Target`, or a log density of whatever the proposal draws. Constants that it
            leaves out are missing from the evidence.
        proposal: a `bayleaf.types.Distribution`: ``sample(key)`` is one draw, ``log_prob(x)`` its
            normalised log density; on the unconstrained space for a `Target`. `bayleaf.Gaussian`
            is one.
        key: the draws follow from it alone.
        num_draws: how many.
        batch_size: so many are evaluated at once. It decides the memory and changes no draw.

    Returns:
        The draws on the host, in the model's own space.

    Raises:
        BayleafError: an argument that cannot be used, a density that is NaN or infinite at a draw,
            a target that is zero at all of them.

    Warns:
        SamplingWarning: k-hat above 0.7, or a proposal whose density does not integrate to one.
    """
    _check(target, proposal, num_draws, batch_size, key)
    density = target if isinstance(target, Target) else frozen_function(target, "target")
    frozen = Frozen(proposal, "proposal")
    _check_shapes(density, frozen, key)
    parts = [
        _batch(density, frozen, key, jnp.asarray(start, jnp.int32), batch_size)
        for start in range(0, num_draws, batch_size)
    ]
    draws, points, log_p, log_q = jax.tree.map(
        lambda *leaves: np.concatenate([np.asarray(x) for x in leaves])[:num_draws], *parts
    )
    _check_values(log_p, "target", can_be_zero=True)
    _check_values(log_q, "proposal.log_prob", can_be_zero=False)
    result = WeightedDraws(draws, log_p - log_q)
    _check_normaliser(points, log_q)
    for finding in result.findings:
        warn(finding.message)
    return result


@eqx.filter_jit
def _batch(density: Any, proposal: Frozen, key: Key, start: Count, size: int) -> Any:
    """Draws number ``start`` to ``start + size``; each has a key of its own."""
    q = proposal.thaw()
    root = unrolled(key)
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(start + jnp.arange(size))
    u = jax.vmap(q.sample)(keys)
    log_q = jax.vmap(q.log_prob)(u)
    log_p = jax.vmap(density)(u)
    draws = jax.vmap(density.constrain)(u) if isinstance(density, Target) else u
    points = jax.vmap(lambda x: ravel_pytree(x)[0])(u)
    return draws, points, log_p, log_q


def normaliser(points: Float[np.ndarray, "draw dim"], log_q: Values) -> tuple[float, float]:
    r"""Log of the integral of a density that is known at its own draws, and its standard error.

    For any density h, $E_q[h / q] = 1$ when q is normalised, and 1 / C when it is off by a factor
    C. Here h is Gaussian: fitted to the first half of the draws, half as wide, and averaged over
    the second half. NaN where that average has no variance, or no such h exists.
    """
    half = points.shape[0] // 2
    dim = points.shape[1]
    if not 0 < dim <= MOST_DIMENSIONS or half < 10 * dim + 50:
        return np.nan, np.nan
    fitted, others = points[:half].astype(np.float64), points[half:].astype(np.float64)
    covariance = np.atleast_2d(np.cov(fitted.T)) / 4
    factor = np.linalg.cholesky(covariance) if _is_positive(covariance) else None
    if factor is None:
        return np.nan, np.nan
    z = np.linalg.solve(factor, (others - fitted.mean(axis=0)).T)
    log_h = -0.5 * np.sum(z**2, axis=0) - np.sum(np.log(np.diagonal(factor)))
    log_ratio = log_h - 0.5 * dim * np.log(2 * np.pi) - log_q[half:].astype(np.float64)
    if pareto_smoothed(log_ratio)[1] > 0.5:
        return np.nan, np.nan
    value, error = evidence(log_ratio)
    return -value, error


def _is_positive(covariance: Float[np.ndarray, "dim dim"]) -> bool:
    values = np.linalg.eigvalsh(covariance) if np.all(np.isfinite(covariance)) else [0.0]
    return bool(values[0] > 1e-12 * values[-1] > 0)


def _check_normaliser(points: Any, log_q: Values) -> None:
    if points.dtype.kind != "f" or np.any(points != points):
        return
    value, error = normaliser(points, log_q)
    # Ten standard errors, and a tenth: what is smaller does not matter beside other errors.
    if abs(value) > max(10 * error, 0.1):
        warn(
            f"proposal: exp(log_prob) integrates to {np.exp(value):.3g} over its own draws, not to "
            "1: log_prob lacks its normalising constant, or belongs to another distribution than "
            "sample. The log evidence is off by as much; means are so only in the second case."
        )


def _check(target: Any, proposal: Any, num_draws: int, batch_size: int, key: Any) -> None:
    if not callable(target):
        raise bad_argument("target", target, "a bayleaf Target, or a log density")
    missing = [name for name in ("sample", "log_prob") if not hasattr(proposal, name)]
    if missing or isinstance(proposal, type):
        raise bad_argument(
            "proposal",
            proposal,
            f"an object with the method {(missing or ['sample'])[0]}",
            "Try bl.Gaussian(mean, covariance).",
        )
    for name, value in (("num_draws", num_draws), ("batch_size", batch_size)):
        if value < 1:
            raise bad_argument(name, value, "at least 1")
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        raise bad_argument("key", key, "a typed key", "Try key=jax.random.key(0).")


def _check_shapes(density: Callable[..., Any], proposal: Frozen, key: Key) -> None:
    """One draw has one density, under the proposal and under the target."""
    q = proposal.thaw()
    x = jax.eval_shape(q.sample, key)
    for name, function in (("proposal.log_prob", q.log_prob), ("target", density)):
        got = jax.eval_shape(function, x)
        if getattr(got, "shape", None) != ():
            raise bad_argument(
                name,
                f"{got} for one draw {x}",
                "one number",
                "Sum over the coordinates; sample(key) must give a single draw.",
            )


def _check_values(values: Values, name: str, *, can_be_zero: bool) -> None:
    is_bad = np.isnan(values) | np.isposinf(values)
    if not can_be_zero:
        is_bad |= np.isneginf(values)
    if is_bad.any():
        first = int(np.argmax(is_bad))
        raise bad_argument(
            name,
            f"{values[first]} at {int(is_bad.sum())} of {values.size} draws of the proposal "
            f"(first: draw {first})",
            "finite numbers" + (", or -inf where the target is zero" if can_be_zero else ""),
            "Look for a division by zero or the logarithm of a negative number.",
        )

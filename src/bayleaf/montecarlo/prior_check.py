"""What can be wrong with the start of a path, seen in the particles that were drawn there."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from bayleaf.errors import NonFiniteLogDensityError, bad_argument, sentence
from bayleaf.run.diagnostics import Finding
from bayleaf.run.names import listing
from bayleaf.trees import leaf_names

Values = Float[np.ndarray, "particle"]

SURE = 6.0
"""Standard errors by which the integral of a prior must miss 1 before it is reported."""


def check_particles(path: Any, positions: Any, log_prior: Values, log_ratio: Values) -> None:
    """Refuse a prior that its own draws contradict, and a target without a start.

    Raises:
        BayleafError: draws of the prior that are not finite, or lie outside of its support.
        NonFiniteLogDensityError: the target is NaN or +inf at some draws, or -inf at all.
    """
    leaves = zip(leaf_names(positions), jax.tree.leaves(positions), strict=True)
    bad = [name for name, leaf in leaves if not np.all(np.isfinite(leaf))]
    if bad:
        raise bad_argument(
            "prior",
            f"draws that are not finite, or lie outside of the constraint, in {listing(bad)}",
            "draws inside the constraints of the target",
        )
    if not np.all(np.isfinite(log_prior)):
        share = np.mean(~np.isfinite(log_prior))
        raise bad_argument(
            "prior",
            f"a log_prob that is not finite at {share:.0%} of its own draws",
            "a normalised log density that is finite wherever sample goes",
        )
    size = log_ratio.size
    broken = np.isnan(log_ratio) | (log_ratio == np.inf)
    if broken.any():
        worst = int(np.argmax(broken))
        raise NonFiniteLogDensityError(
            sentence(
                "target",
                f"log density {log_ratio[worst]} at {broken.sum()} of {size} draws of the prior",
                "a finite log density, or -inf where it is zero",
                f"One of them is {_shown(path, positions, worst)}. Look for NaN in the data, for "
                "the log or root of a negative number, 0/0 and inf - inf.",
            )
        )
    if not np.any(log_ratio > -np.inf):
        raise NonFiniteLogDensityError(
            sentence(
                "target",
                f"log density -inf at all of {size} draws of the prior",
                "a positive density at some of them",
                f"One of them is {_shown(path, positions, 0)}. The prior and the support of the "
                "target do not meet, or num_particles is too small.",
            )
        )


def normalisation_finding(positions: Any, log_prior: Values) -> tuple[Finding, ...]:
    """A finding when the prior's density does not integrate to 1; there is none in doubt.

    For a normalised q whose support lies within that of p, E_p[q / p] = 1. q is a Gaussian fitted
    to the draws around a typical one, narrower than they lie; half of the draws fit it, the other
    half estimate the mean. In many dimensions the estimate is too noisy to tell.
    """
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(positions)]
    x = np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
    log_p = np.asarray(log_prior, np.float64)
    num, dim = x.shape
    half = num // 2
    if half < 8 * dim:
        return ()
    spread = np.ptp(np.quantile(x, [0.25, 0.75], axis=0), axis=0)
    z = (x - np.median(x, axis=0)) / np.where(spread > 0, spread, 1)
    around = z[np.argmax(log_p[:half])]
    near = np.argsort(np.sum((z[:half] - around) ** 2, axis=1))[: max(half // 4, 4 * dim)]
    mean, covariance = z[near].mean(0), np.atleast_2d(np.cov(z[near].T)) / 2
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return ()
    white = np.linalg.solve(factor, (z[half:] - mean).T)
    scale = np.sum(np.log(np.diagonal(factor))) + np.sum(np.log(np.where(spread > 0, spread, 1)))
    log_q = -0.5 * np.sum(white**2, axis=0) - scale - 0.5 * dim * np.log(2 * np.pi)
    log_w = log_q - log_p[half:]
    shift = log_w.max()
    w = np.exp(log_w - shift)
    error = w.std(ddof=1) / np.sqrt(w.size) / w.mean()
    log_integral = -(np.log(w.mean()) + shift)
    if not error < 0.1 or abs(log_integral) < SURE * error + 0.02:
        return ()
    return (
        Finding(
            "prior",
            f"prior: exp(log_prob) integrates to about {np.exp(log_integral):.3g} and not to 1, so "
            f"log_evidence is off by {-log_integral:.3g}, or sample draws from something else. "
            "Normalise log_prob.",
        ),
    )


def _shown(path: Any, positions: Any, index: int) -> str:
    """One draw, in the space of the parameters."""
    x = path.target.constrain(jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[index]), positions))
    pairs = zip(leaf_names(x), jax.tree.leaves(x), strict=True)
    shown = [
        f"{name} = {np.array2string(np.asarray(leaf), precision=4, threshold=6, edgeitems=2)}"
        for name, leaf in pairs
    ]
    return listing([part.replace("\n", "") for part in shown], 4)

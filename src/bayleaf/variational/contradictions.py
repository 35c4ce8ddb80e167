"""What weighted draws say against a fit whose k-hat is harmless.

K-hat judges the tails of the weights. A guide beside the mass, or too wide for it, may have light
ones; the evidence and the means that the weights give then contradict those of the guide.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from bayleaf.run.diagnostics import Finding
from bayleaf.run.names import listing, scalar_names
from bayleaf.variational.results import Fit

LARGEST_GAP = 0.5
"""KL(q || p), in nats, that is warned of: what means one standard deviation apart cost."""


def gap(fit: Fit) -> list[Finding]:
    """Say that the guide is far from the target, though k-hat may not be large yet.

    The log evidence less the ELBO is KL(q || p). Between Gaussians of one covariance it is d^2 / 2
    for means d standard deviations apart, so that 0.5 is a whole one. Weights of few draws estimate
    an evidence that is rather too low: what they tell is a lower bound.
    """
    if not np.any(fit.log_weights > -np.inf):
        return []
    weighted = fit.weighted
    short = weighted.log_evidence - fit.elbo
    error = math.hypot(weighted.log_evidence_error, fit.elbo_error)
    if not LARGEST_GAP + 4 * error < short < math.inf:  # infinite: told as impossible draws
        return []
    return [
        Finding(
            "gap",
            f"elbo: {fit.elbo:.4g} is {short:.1f} below the log evidence of the weighted draws, "
            f"{weighted.log_evidence:.4g} +- {weighted.log_evidence_error:.2g}: the guide may be "
            f"off by a standard deviation and more. Use fit.weighted ({fit.log_weights.size} draws "
            f"count for {weighted.ess:.0f}), or sample: bl.sample(target, init=fit.draw).",
        )
    ]


def expansion(fit: Fit, log_evidence: float) -> list[Finding]:
    """Where importance sampling contradicts the expansion, though k-hat may be small.

    A Gaussian that is too wide, or off the mass, has harmless weights.
    """
    if not np.any(fit.log_weights > -np.inf):
        return []
    weighted, findings = fit.weighted, []
    gap = weighted.log_evidence - log_evidence
    if abs(gap) > 0.5 + 4 * weighted.log_evidence_error:
        findings.append(
            Finding(
                "evidence",
                f"log_evidence: Laplace's is {log_evidence:.4g}, importance sampling's "
                f"{weighted.log_evidence:.4g} +- {weighted.log_evidence_error:.2g}: the density "
                "is not like a Gaussian around the mode. Use fit.weighted, or sample: "
                "bl.sample(target, init=fit.draw).",
            )
        )
    mean, other, sd = (_flat(x) for x in (_mean(fit.draws), weighted.mean(), weighted.sd()))
    shift = np.abs(mean - other) / np.where(sd > 0, sd, 1)
    if weighted.ess > 30 and shift.max() > 1:
        names = scalar_names(weighted.mean())
        worst = [names[i] for i in np.argsort(-shift) if shift[i] > 1]
        findings.append(
            Finding(
                "mean",
                f"mean: that of the guide is {shift.max():.1f} standard deviations from that of "
                f"the weighted draws in {listing(worst)}: the mode is not where the mass is. Use "
                "fit.weighted, or sample: bl.sample(target, init=fit.draw).",
            )
        )
    return findings


def _mean(draws: Any) -> Any:
    return jax.tree.map(lambda leaf: np.mean(leaf, axis=0, dtype=np.float64), draws)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

"""Whether an ascent of the ELBO has arrived: what its history says, in words.

The steps are cut into tenths. An ELBO that is still higher in the last two than in the two before
has not settled; one that is lower than it was in an earlier tenth has been lost again. Both are
judged against the standard errors of the tenths' means, and against a tenth of a nat: the ELBO is
short of the evidence by the divergence KL(q || p), and less than that is of no consequence.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from bayleaf.run.diagnostics import Finding

TENTHS = 10
LEAST = 0.1
"""Nats."""
ERRORS = 5
"""Standard errors of the difference; a settled ascent is suspected once in a million fits."""


def findings(
    history: Float[np.ndarray, "step"], is_lost: Bool[np.ndarray, "step"]
) -> list[Finding]:
    """What is wrong with an ascent, the gravest first."""
    found = []
    if is_lost.any():
        found.append(
            Finding(
                "not_finite",
                f"elbo: it or its gradient was NaN or infinite at {is_lost.sum()} of "
                f"{is_lost.size} steps, first at step {np.argmax(is_lost)}. These steps were not "
                "taken. Look for a log or sqrt of negative numbers, constrain the parameter, or "
                "use a smaller step size.",
            )
        )
    good = np.asarray(history[~is_lost], np.float64)
    if good.size >= 2 * TENTHS:
        found += _drift(good)
    return found


def _drift(good: Float[np.ndarray, "step"]) -> list[Finding]:
    parts = np.array_split(good, TENTHS)
    means = np.array([part.mean() for part in parts])
    # From differences of successive steps: a tenth that rises steeply is not a noisy one.
    squares = [np.mean(np.square(np.diff(part))) / 2 for part in parts]
    errors = np.sqrt(np.array(squares) / [part.size for part in parts])
    best = int(np.argmax(means))
    fall = means[best] - means[-1]
    before, now = means[-4:-2].mean(), means[-2:].mean()
    error_of_rise = np.linalg.norm(errors[-4:]) / 2
    if fall > max(LEAST, ERRORS * np.hypot(errors[best], errors[-1])):
        return [
            Finding(
                "diverging",
                f"elbo: diverging: it fell from {means[best]:.4g} to {means[-1]:.4g} after the "
                f"first {(best + 1) * TENTHS} % of the steps. Use a smaller step size, or more "
                "draws a step.",
            )
        ]
    if now - before > max(LEAST, ERRORS * error_of_rise):
        return [
            Finding(
                "not_settled",
                f"elbo: not settled: it rose from {before:.4g} to {now:.4g} in the last fifth "
                "of the steps. Go on with fit.extend(num_steps). If it never settles, the "
                "target has no finite integral.",
            )
        ]
    return []

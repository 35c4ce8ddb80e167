"""The arithmetic of weights, on the host and in float64: what `WeightedDraws` is computed from."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from bayleaf.errors import bad_argument

FEWEST_DRAWS = 25
"""With fewer positive weights the tail has fewer than five, and no shape can be fitted to it."""

Weights = Float[np.ndarray, "draw"]


def normalised(log_weights: Any) -> Weights:
    """exp(log_weights), scaled to sum to one."""
    log_weights = np.asarray(log_weights, np.float64)
    weights = np.exp(log_weights - np.max(log_weights))
    return weights / np.sum(weights)


def evidence(log_weights: Any) -> tuple[float, float]:
    """Log of the mean weight, and its standard error (NaN for a single draw)."""
    log_weights = np.asarray(log_weights, np.float64)
    largest, size = np.max(log_weights), log_weights.size
    value = largest + np.log(np.mean(np.exp(log_weights - largest)))
    # As a sum of squares, not as N / ESS - 1: nearly equal weights would cancel to noise.
    spread = np.sum(np.square(normalised(log_weights) - 1 / size))
    return float(value), float(np.sqrt(spread * size / (size - 1))) if size > 1 else np.nan


def pareto_smoothed(log_weights: Any) -> tuple[Weights, float]:
    """Log weights with a smoothed tail on the same scale, and k-hat; see `WeightedDraws.pareto_k`.

    The fit is ArviZ's (`arviz_stats`). Draws of weight zero are no part of the tail.
    """
    from arviz_stats.base import array_stats

    log_weights = np.asarray(log_weights, np.float64)
    is_positive = log_weights > -np.inf
    values = log_weights[is_positive]
    if values.size < FEWEST_DRAWS:
        return log_weights, np.nan if log_weights.size < FEWEST_DRAWS else np.inf
    # Rounding makes equal weights differ by an ulp: that is no tail.
    tail = np.sort(values)[-tail_size(values.size) - 1 :]
    if tail[-1] - tail[0] <= 1e-12 * max(1.0, abs(tail[-1])):
        return log_weights, -np.inf
    largest = np.max(values)
    with np.errstate(divide="ignore", invalid="ignore"):  # a tail of two values or fewer
        smooth, k = array_stats.psislw(largest - values)
    # It returns them normalised to sum to one; body and tail keep their ratio, so the body, which
    # is left as it was, tells by how much.
    lowest = np.argmin(values)
    smoothed = log_weights.copy()
    smoothed[is_positive] = smooth + (values[lowest] - smooth[lowest])
    return smoothed, float(k)


def tail_size(num_draws: int) -> int:
    """M = min(N / 5, 3 sqrt(N)) (Vehtari et al. 2024, equation 12)."""
    return int(min(num_draws / 5, 3 * num_draws**0.5))


def check_log_weights(log_weights: Any, name: str) -> None:
    """Refuse weights from which nothing can be computed, by name."""
    if log_weights.ndim != 1 or log_weights.size == 0:
        raise bad_argument(name, f"shape {log_weights.shape}", "one number for each draw")
    if log_weights.dtype.kind not in "fiu":
        raise bad_argument(name, f"dtype {log_weights.dtype}", "real numbers")
    for what, is_bad in (("NaN", np.isnan(log_weights)), ("+inf", np.isposinf(log_weights))):
        if is_bad.any():
            raise bad_argument(
                name,
                f"{what} in {int(is_bad.sum())} of {is_bad.size} draws (first: draw "
                f"{int(np.argmax(is_bad))})",
                "finite numbers, or -inf where a draw is impossible",
                "Look for a density that divides by zero or takes the logarithm of a negative.",
            )
    if np.all(np.isneginf(log_weights)):
        raise bad_argument(
            name,
            f"-inf in all {log_weights.size} draws",
            "a positive weight somewhere",
            "The proposal does not reach where the target has mass.",
        )


def mean(weights: Weights, x: Any) -> Any:
    """Weighted mean over the first axis."""
    return np.einsum("i,i...->...", weights, np.asarray(x, np.float64))


def centred(weights: Weights, x: Any) -> Any:
    """What is left without the weighted mean."""
    x = np.asarray(x, np.float64)
    return x - mean(weights, x)


def sd(weights: Weights, x: Any) -> Any:
    """Weighted standard deviation over the first axis."""
    return np.sqrt(mean(weights, np.square(centred(weights, x))))


def standard_error(weights: Weights, x: Any) -> Any:
    """Standard error of the weighted mean of independent draws."""
    gap = centred(weights, x)
    return np.sqrt(np.einsum("i,i...->...", np.square(weights), np.square(gap)))


def effective(weights: Weights, x: Any) -> Any:
    """(sd / standard error)^2: how many independent draws would know the mean of x as well."""
    error = standard_error(weights, x)
    known = error > 0  # a constant has no error
    return np.where(known, np.square(sd(weights, x) / np.where(known, error, 1)), weights.size)


def quantile(weights: Weights, x: Any, probability: float) -> Any:
    """The smallest value whose cumulative weight reaches the probability, along the first axis."""
    x = np.asarray(x)
    flat = x.reshape(x.shape[0], -1)
    order = np.argsort(flat, axis=0, kind="stable")
    cumulative = np.cumsum(weights[order], axis=0)
    # The last sum may fall short of one by rounding.
    reached = cumulative >= min(probability, 1 - 1e-12) * cumulative[-1]
    positive = cumulative > 0  # the quantile 0 is the smallest draw that is possible
    row = np.argmax(reached & positive, axis=0)
    picked = order[row, np.arange(flat.shape[1])]
    return flat[picked, np.arange(flat.shape[1])].reshape(x.shape[1:])

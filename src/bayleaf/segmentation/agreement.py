"""Whether chains that started apart tell the same: what they disagree on, in words.

Three questions: R-hat of the log density and of the number of neighbours that lie in one segment
(Vehtari et al. 2021), both functions of the partition and of nothing else; and for each border the
shares of draws in which it separates, chain by chain, of which the largest differences count.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayleaf.partitions.coclustering import coclustering
from bayleaf.run.results import Run

WORST_RHAT = 1.1
WIDE_GAP, MANY = 0.5, 0.05  # a border is in dispute; so many of them are worth a warning


def disagreements(run: Run, edges: np.ndarray, max_segments: int) -> tuple[str, ...]:
    """What makes the uncertainty unreliable; nothing, if nothing was seen."""
    found = []
    disputed = disputed_share(run.draws, edges)
    rhats = {
        "the log posterior": rhat(run.stats["log_density"]),
        "the number of like neighbours": rhat(num_like(run.draws, edges)),
    }
    high = {name: value for name, value in rhats.items() if value > WORST_RHAT}
    if disputed > MANY or (high and disputed > 0):
        worst = ", ".join(f"R-hat of {name} is {value:.2f}" for name, value in high.items())
        found.append(
            f"The chains disagree: {disputed:.0%} of the borders between super-pixels separate in "
            f"one chain and not in another{'; ' + worst if worst else ''}. There are several "
            "segmentations between which chains do not move, and the draws do not say which of "
            "them is more probable. Try a larger num_warmup, a larger beta, or fewer super-pixels; "
            "compare segmentation.chain_labels(0) with those of other chains."
        )
    most = int(np.max(run.stats["num_clusters"]))
    if most >= max_segments and max_segments < run.draws.shape[-1]:
        found.append(
            f"There were draws of {most} segments, which is max_segments. Raise it, or beta."
        )
    if np.any(run.stats["is_nan"]):
        found.append("The likelihood or the prior was NaN for some segments that were considered.")
    return tuple(found)


def rhat(series: np.ndarray) -> float:
    """R-hat of a series [chain, draw]; 1 of a constant, and of one chain or too few draws."""
    values = np.asarray(series, float)
    if len(values) < 2 or values.shape[1] < 4 or np.ptp(values) < 1e-6 * (1 + np.abs(values).max()):
        return 1.0
    if np.all(np.ptp(values, axis=1) == 0):
        return float("inf")  # each chain stands still, and elsewhere
    from arviz_stats.base import array_stats

    result: Any = array_stats.rhat(values, chain_axis=0, draw_axis=1)
    return float(result)


def num_like(draws: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many neighbours lie in one segment, [chain, draw]."""
    return np.stack([(z[:, edges[:, 0]] == z[:, edges[:, 1]]).sum(axis=1) for z in draws])


def disputed_share(draws: np.ndarray, edges: np.ndarray) -> float:
    """The share of borders on which two chains differ by more than a half."""
    if len(edges) == 0 or len(draws) < 2:
        return 0.0
    together = np.stack([coclustering(z, edges) for z in draws])
    return float(np.mean(np.ptp(together, axis=0) > WIDE_GAP))

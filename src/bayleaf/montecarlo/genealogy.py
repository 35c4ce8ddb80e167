r"""The standard error of the log evidence, from one run and its genealogy.

Stage $n$ multiplies the evidence by the mean of $G_n(m)$, the mean weight of chain $m = 1 .. M$.
To first order the error of $\log \hat Z$ is the sum over all stages and chains of

$$g_n(m) = \frac{1}{M} \Big( \frac{G_n(m)}{\bar G_n} - 1 \Big).$$

Chains that come from one chain $\lambda$ generations earlier depend on each other; chains without
such a common ancestor hardly do. So with $a$ running over the chains of the earlier generation and
$S_n(a)$ the sum of $g_n$ over the descendants of $a$ in generation $n$,

$$\mathrm{se}^2 = \frac{M}{M - 1} \sum_{|n - k| \le \lambda} \sum_a S_n(a) S_k(a).$$

$\lambda = 0$ adds up the variances between the chains of each stage, as Dau & Chopin (2022, section
4.2) do; it holds for kernels that forget the ancestor within a stage. $\lambda$ as large as the run
is the estimator of Chan & Lai (2013) and Lee & Whiteley (2018), consistent for any kernel and noisy
once few ancestors are left. In between is the compromise of Olsson & Douc (2019).

Sources: the papers named; Lee & Whiteley in Biometrika 105, Olsson & Douc in Bernoulli 25.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

LAG = 2
"""Generations in which descendants of a chain are taken to depend on each other."""


def evidence_error(
    log_shares: Float[np.ndarray, "stage chain"],
    parents: Int[np.ndarray, "stage chain"],
    lag: int = LAG,
) -> float:
    """Standard error of the sum of the log increments.

    Args:
        log_shares: log of G over its mean; row n belongs to generation n.
        parents: row n tells of which chain of generation n each of generation n + 1 descends.
        lag: lambda.
    """
    num_stages, num_chains = log_shares.shape
    g = (np.exp(np.asarray(log_shares, np.float64)) - 1) / num_chains
    total = 0.0
    for last in range(num_stages):
        first = max(last - lag, 0)
        # Which chain of generation ``first`` each chain of the generation at hand descends from.
        ancestor = np.arange(num_chains)
        sums = [_sums(g[first], ancestor)]
        for generation in range(first, last):
            ancestor = ancestor[parents[generation]]
            sums.append(_sums(g[generation + 1], ancestor))
        total += sums[-1] @ sums[-1] + 2 * sum(sums[-1] @ earlier for earlier in sums[:-1])
    # The cross terms may be negative; fewer than the first generation's own variance is not said.
    floor = np.sum(np.square(g))
    return float(np.sqrt(max(total, 0.5 * floor) * num_chains / max(num_chains - 1, 1)))


def _sums(
    values: Float[np.ndarray, "chain"], groups: Int[np.ndarray, "chain"]
) -> Float[np.ndarray, "chain"]:
    """The sum over each group."""
    return np.bincount(groups, weights=values, minlength=values.size)

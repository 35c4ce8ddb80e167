r"""Dual averaging: learns a step size whose acceptance rate has a given mean.

Hoffman & Gelman (2014), section 3.2.1, equations 6 and 7.  With $\alpha_m$ the acceptance rate of
step $m$, $\delta$ the target and $\mu$ the point towards which the logarithm of the step shrinks,

$$\bar H_m = \Big(1 - \tfrac{1}{m + t_0}\Big) \bar H_{m-1} + \tfrac{\delta - \alpha_m}{m + t_0},
\quad \log\epsilon_m = \mu - \tfrac{\sqrt m}{\gamma} \bar H_m,
\quad \log\bar\epsilon_m = m^{-\kappa} \log\epsilon_m + (1 - m^{-\kappa}) \log\bar\epsilon_{m-1}.$$

Warm-up moves with $\epsilon_m$, sampling with the average $\bar\epsilon$. Any kernel whose
acceptance rate falls as one positive number grows can use it, not HMC alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from bayleaf.types import Count, Scalar

GAMMA = 0.05
OFFSET = 10.0  # t_0: damps the first, wildest steps
KAPPA = 0.75


class DualAveraging(NamedTuple):
    """Where the search stands."""

    log_step: Scalar  # log eps_m: what warm-up moves with
    log_step_avg: Scalar  # log of the averaged step: what sampling will use
    error_sum: Scalar  # H-bar: running mean of (target - acceptance rate)
    count: Count  # m
    center: Scalar  # mu


def dual_averaging_init(step_size: Any) -> DualAveraging:
    """Start (or restart) the search at ``step_size``.

    The centre is ``log(10 * step_size)``, as in the paper: it is cheaper to try steps that are too
    large than steps that are too small.
    """
    step_size = jnp.asarray(step_size)
    log_step = jnp.log(step_size)
    return DualAveraging(
        log_step=log_step,
        log_step_avg=log_step,
        error_sum=jnp.zeros_like(log_step),
        count=jnp.zeros((), jnp.int32),
        center=jnp.log(10.0 * step_size),
    )


def dual_averaging_update(
    state: DualAveraging, acceptance_rate: Scalar, target: float
) -> DualAveraging:
    """One update from the (mean) acceptance rate of a step taken with ``exp(state.log_step)``."""
    dtype = state.log_step.dtype
    # One NaN would stay in the running mean for good; a step that met NaN was a step too far.
    rate = jnp.nan_to_num(acceptance_rate, nan=0.0).astype(dtype)
    count = state.count + 1
    m = count.astype(dtype)
    share = 1.0 / (m + OFFSET)
    error_sum = (1.0 - share) * state.error_sum + share * (target - rate)
    log_step = state.center - jnp.sqrt(m) / GAMMA * error_sum
    weight = m**-KAPPA
    log_step_avg = weight * log_step + (1.0 - weight) * state.log_step_avg
    return DualAveraging(log_step, log_step_avg, error_sum, count, state.center)

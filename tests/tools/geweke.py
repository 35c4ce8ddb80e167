"""Geweke's joint-distribution test: is a kernel right for a model, with no reference draws?

Geweke (2004), "Getting it right". Two ways to simulate the joint law p(theta, y) of parameters and
data must agree: the marginal-conditional simulator draws theta from the prior and y given theta;
the successive-conditional one alternates a step of the kernel on p(theta | y) with a fresh y given
theta. A kernel that leaves any posterior wrong makes the second drift away from the first.

We run the second for a few sweeps from very many independent exact starts (Gandy & Scott, 2021)
and not for one long chain: the ends are then independent draws, the test is exact, and there is no
autocorrelation to estimate. A false alarm has probability 1e-6 in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import stats

from tests.tools.statistics import FALSE_ALARM, assert_same


def geweke_test(
    kernel: Any,
    *,
    prior: Callable[[Any], Any],
    simulate: Callable[[Any, Any], Any],
    log_joint: Callable[[Any, Any], Any],
    key: Any,
    num_chains: int = 20_000,
    num_sweeps: int = 5,
    num_steps: int = 1,
    false_alarm: float = FALSE_ALARM,
) -> None:
    """Fail when ``kernel`` does not leave the posterior of the model invariant.

    Args:
        kernel: a `bayleaf.mcmc` kernel, fully configured.
        prior: ``prior(key) -> theta``, any pytree.
        simulate: ``simulate(key, theta) -> y``.
        log_joint: ``log_joint(theta, y)``, up to a constant.
        key: the randomness of the whole test.
        num_chains: independent starts.
        num_sweeps: how often data are simulated anew.
        num_steps: kernel steps between two simulations.
        false_alarm: probability that a correct kernel fails.
    """

    def chain(key: Any) -> Any:
        key_prior, key_data, key_sweeps = jax.random.split(key, 3)
        theta = prior(key_prior)
        y = simulate(key_data, theta)
        state = kernel.init(lambda t: log_joint(t, y), theta)

        def sweep(carry: Any, key: Any) -> Any:
            state, y = carry

            def log_density(theta: Any) -> Any:
                return log_joint(theta, y)

            key_steps, key_data = jax.random.split(key)
            state = kernel.refresh(log_density, state)
            for step_key in jax.random.split(key_steps, num_steps):
                state, _ = kernel.step(log_density, step_key, state)
            return (state, simulate(key_data, state.position)), None

        (state, y_end), _ = jax.lax.scan(
            sweep, (state, y), jax.random.split(key_sweeps, num_sweeps)
        )
        return state.position, y_end

    def exact(key: Any) -> Any:
        key_prior, key_data = jax.random.split(key)
        theta = prior(key_prior)
        return theta, simulate(key_data, theta)

    key_chains, key_exact = jax.random.split(key)
    ends = jax.jit(jax.vmap(chain))(jax.random.split(key_chains, num_chains))
    draws = jax.jit(jax.vmap(exact))(jax.random.split(key_exact, num_chains))
    # Half of the false alarms to moments (cross moments see wrong dependence), half to the shapes.
    assert_same(_moments(ends), _moments(draws), iid=True, false_alarm=false_alarm / 2)
    _assert_same_margins(_columns(ends[0]), _columns(draws[0]), false_alarm / 2)


def _columns(tree: Any) -> np.ndarray:
    """Every number of a batched pytree as a column ``[chain, number]``."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def _moments(ends: Any) -> dict[str, np.ndarray]:
    theta, y = ends
    theta, y = _columns(theta), _columns(y)
    return {
        "theta": theta,
        "theta^2": theta**2,
        "y": y,
        "theta y": (theta[:, :, None] * y[:, None, :]).reshape(theta.shape[0], -1),
    }


def _assert_same_margins(ends: np.ndarray, draws: np.ndarray, false_alarm: float) -> None:
    num_columns = ends.shape[1]
    for i in range(num_columns):
        result = stats.ks_2samp(ends[:, i], draws[:, i], method="asymp")
        assert result.pvalue >= false_alarm / num_columns, (
            f"theta number {i}: its law after the kernel is not its prior; Kolmogorov-Smirnov "
            f"distance {result.statistic:.4f}, p = {result.pvalue:.2g}"
        )

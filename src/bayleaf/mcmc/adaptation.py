"""Warm-up of Hamiltonian kernels: step size and metric, learnt from all chains together.

The step size follows the chains' mean acceptance rate by dual averaging. The metric minimises the
Fisher divergence over the most recent draws (`bayleaf.mcmc.fisher`) and is renewed at the ends of
windows that grow geometrically: the first renewals are early, because a poor metric costs long
trajectories, and each looks back over its own window and the one before, so that draws of the
transient are forgotten. The last tenth of the warm-up keeps the metric and settles the step size.

Pooling the chains is what makes a short warm-up possible: four chains know a covariance after a
quarter of the steps, and see where they disagree.

Source: windows, Seyboldt, Carlson & Carpenter (2026), section 4; step size, Hoffman & Gelman
(2014), section 3.2.1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayleaf.mcmc.fisher import fisher_dense, fisher_diagonal, fisher_low_rank
from bayleaf.mcmc.kernel import Tuner
from bayleaf.mcmc.metric import Dense, LowRank, Metric
from bayleaf.mcmc.step_size import DualAveraging, dual_averaging_init, dual_averaging_update
from bayleaf.types import Count, LogDensity

FIRST_WINDOW = 8
"""Steps before the metric is first renewed."""

WINDOW_GROWTH = 1.5

SETTLING_SHARE = 0.15
"""Share of the warm-up, at its end, that keeps the metric."""

DENSE_LIMIT = 200
"""Largest dimension with a dense metric: beyond it an eigen-decomposition is no longer cheap."""

MAX_RANK = 32
SHRINKAGE = 1e-3
"""Pseudo-draws of a unit sphere mixed into each covariance."""


class History(NamedTuple):
    """The most recent draws and scores of warm-up, overwritten in a circle."""

    draws: Float[Array, "slot chain dim"]
    scores: Float[Array, "slot chain dim"]


class Tuning(NamedTuple):
    """What warm-up knows."""

    search: DualAveraging
    history: History
    previous_window: Count  # first step of the window before this one
    window: Count  # first step of this window
    next_window: Count


class HamiltonianTuner(Tuner):
    """Learns ``step_size`` and ``metric`` of an HMC or NUTS kernel, those that are not given."""

    learns_step_size: bool
    learns_metric: bool
    target_acceptance: float

    @classmethod
    def for_kernel(cls, kernel: Any) -> HamiltonianTuner | None:
        """The tuner of what the kernel leaves open; None when it leaves nothing open."""
        tuner = cls(kernel.step_size is None, kernel.metric is None, kernel.target_acceptance)
        return tuner if tuner.learns_step_size or tuner.learns_metric else None

    def init(self, log_density: LogDensity, kernel: Any, states: Any) -> tuple[Any, Tuning]:
        """A diagonal first metric from the chains' starts, and a step size of the usual order."""
        del log_density
        draws, scores = rows(states.position), rows(states.gradient)
        num_chains, dim = draws.shape
        dtype = draws.dtype
        if self.learns_metric:
            kernel = dataclasses.replace(kernel, metric=first_metric(draws, scores))
        if self.learns_step_size:
            kernel = dataclasses.replace(kernel, step_size=jnp.asarray(dim**-0.25, dtype))
        slots = num_slots(num_chains, dim)
        empty = jnp.zeros((slots, num_chains, dim), dtype)
        zero = jnp.zeros((), jnp.int32)
        search = dual_averaging_init(jnp.asarray(kernel.step_size, dtype))
        return kernel, Tuning(search, History(empty, empty), zero, zero, zero + FIRST_WINDOW)

    def resume(
        self, log_density: LogDensity, kernel: Any, tuning: Tuning, states: Any
    ) -> tuple[Any, Tuning]:
        """The metric from the draws and their scores; the search goes on from the old step size."""
        del log_density
        draws, scores = rows(states.position), rows(states.gradient)
        if self.learns_metric:
            kernel = dataclasses.replace(kernel, metric=sample_metric(draws, scores))
        search = dual_averaging_init(jnp.asarray(kernel.step_size, draws.dtype))
        # The old step is nearly right: no reason to try ten times as much first.
        search = search._replace(center=search.log_step)
        zero = jnp.zeros((), jnp.int32)
        return kernel, Tuning(search, tuning.history, zero, zero, zero + FIRST_WINDOW)

    def observe(self, tuning: Tuning, states: Any, infos: Any, step: Any) -> Tuning:
        """Remember the draws and scores, in place of the oldest."""
        del infos
        if not self.learns_metric:
            return tuning
        slot = step % tuning.history.draws.shape[0]
        history = History(
            tuning.history.draws.at[slot].set(rows(states.position)),
            tuning.history.scores.at[slot].set(rows(states.gradient)),
        )
        return tuning._replace(history=history)

    def update(
        self, kernel: Any, tuning: Tuning, states: Any, infos: Any, step: Any, num_warmup: Any
    ) -> tuple[Any, Tuning]:
        """Learn from one step of all chains."""
        is_last = step + 1 >= num_warmup
        if self.learns_metric:
            kernel, tuning = self._update_metric(kernel, tuning, step, num_warmup)
        if self.learns_step_size:
            rate = jnp.mean(jnp.nan_to_num(infos.acceptance_rate))
            search = dual_averaging_update(tuning.search, rate, self.target_acceptance)
            log_step = jnp.where(is_last, search.log_step_avg, search.log_step)
            kernel = dataclasses.replace(kernel, step_size=jnp.exp(log_step))
            tuning = tuning._replace(search=search)
        return kernel, tuning

    def _update_metric(
        self, kernel: Any, tuning: Tuning, step: Any, num_warmup: Any
    ) -> tuple[Any, Tuning]:
        step = jnp.asarray(step, jnp.int32)
        settling = jnp.asarray(num_warmup, jnp.int32) - jnp.ceil(
            SETTLING_SHARE * num_warmup
        ).astype(jnp.int32)
        is_renewal = (step + 1 == tuning.next_window) & (step + 1 <= settling)

        def renew(operand: tuple[Metric, Tuning]) -> tuple[Metric, Tuning]:
            _, tuning = operand
            metric = history_metric(tuning.history, tuning.previous_window, step)
            length = jnp.ceil(WINDOW_GROWTH * (tuning.next_window - tuning.window)).astype(
                jnp.int32
            )
            following = step + 1 + length
            # A window that would leave less than its own length before the end takes it all.
            following = jnp.where(following + length > settling, settling, following)
            return metric, tuning._replace(
                search=restart(tuning.search),
                previous_window=tuning.window,
                window=tuning.next_window,
                next_window=following,
            )

        metric, tuning = jax.lax.cond(is_renewal, renew, lambda o: o, (kernel.metric, tuning))
        return dataclasses.replace(kernel, metric=metric), tuning


def rows(tree: Any) -> Float[Array, "chain dim"]:
    """One raveled row a chain."""
    return jax.vmap(lambda t: ravel_pytree(t)[0])(tree)


def num_slots(num_chains: int, dim: int) -> int:
    """How many steps of history to keep: the metric's cost, rows^2 dim, stays about a second."""
    num_rows = min(max((2e9 / dim) ** 0.5, 16), 1024)
    return max(int(num_rows) // num_chains, 2)


def history_metric(history: History, first: Any, last: Any) -> Metric:
    """The metric from the steps ``first .. last``, as far back as the history reaches."""
    slots, num_chains, dim = history.draws.shape
    age = (last - jnp.arange(slots)) % slots
    is_used = jnp.repeat(age <= last - first, num_chains)
    draws, scores = (leaf.reshape(-1, dim) for leaf in history)
    if dim <= DENSE_LIMIT:
        return fisher_dense(draws, scores, is_used, SHRINKAGE)
    return fisher_low_rank(draws, scores, is_used, SHRINKAGE, min(MAX_RANK, draws.shape[0]))


def sample_metric(draws: Float[Array, "chain dim"], scores: Float[Array, "chain dim"]) -> Metric:
    """The metric from one draw of each chain, in the form of `first_metric`."""
    num_chains, dim = draws.shape
    is_used = jnp.ones(num_chains, bool)
    if dim <= DENSE_LIMIT:
        return fisher_dense(draws, scores, is_used, SHRINKAGE)
    rank = min(MAX_RANK, num_slots(num_chains, dim) * num_chains)
    return fisher_low_rank(draws, scores, is_used, SHRINKAGE, rank)


def first_metric(draws: Float[Array, "chain dim"], scores: Float[Array, "chain dim"]) -> Metric:
    """The diagonal metric of the starting points, in the form that warm-up will refine."""
    num_chains, dim = draws.shape
    diagonal = fisher_diagonal(draws, scores, jnp.ones(num_chains, bool)).inverse_mass
    if dim <= DENSE_LIMIT:
        return Dense(jnp.diag(diagonal), jnp.diag(1 / jnp.sqrt(diagonal)))
    rank = min(MAX_RANK, num_slots(num_chains, dim) * num_chains)
    return LowRank(
        jnp.sqrt(diagonal), jnp.eye(dim, rank, dtype=draws.dtype), jnp.ones(rank, draws.dtype)
    )


def restart(search: DualAveraging) -> DualAveraging:
    """Search again from the present step: under a new metric the old errors mean nothing."""
    return dual_averaging_init(jnp.exp(search.log_step))

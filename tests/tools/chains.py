"""The least code that runs a kernel: for tests of kernels, which should not need the runner."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def run_chains(kernel: Any, log_density: Any, positions: Any, *, key: Any, num_draws: int) -> Any:
    """Positions and infos ``[chain, draw, ...]`` from stacked starts, kernel fully configured."""

    def chain(position: Any, key: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(log_density, key, state)
            return state, (state.position, info)

        keys = jax.random.split(key, num_draws)
        return jax.lax.scan(step, kernel.init(log_density, position), keys)[1]

    num_chains = jax.tree.leaves(positions)[0].shape[0]
    return eqx.filter_jit(jax.vmap(chain))(positions, jax.random.split(key, num_chains))


def end_positions(
    kernel: Any, log_density: Any, positions: Any, *, key: Any, num_steps: int
) -> Any:
    """Where each stacked start is after ``num_steps``: independent draws."""
    draws, _ = run_chains(kernel, log_density, positions, key=key, num_draws=num_steps)
    return jax.tree.map(lambda leaf: leaf[:, -1], draws)


def warm_up(
    kernel: Any, log_density: Any, positions: Any, *, key: Any, num_warmup: int
) -> tuple[Any, Any]:
    """The tuned kernel and the positions at the end of warm-up."""
    tuner = kernel.tuner()
    states = jax.vmap(lambda position: kernel.init(log_density, position))(positions)
    kernel, tuning = tuner.init(log_density, kernel, states)
    arrays, static = eqx.partition(kernel, eqx.is_array)
    num_chains = jax.tree.leaves(positions)[0].shape[0]

    def step(carry: Any, i: Any) -> Any:
        arrays, states, tuning = carry
        kernel = eqx.combine(arrays, static)
        keys = jax.random.split(jax.random.fold_in(key, i), num_chains)
        states, infos = jax.vmap(lambda k, s: kernel.step(log_density, k, s))(keys, states)
        tuning = tuner.observe(tuning, states, infos, i)
        kernel, tuning = tuner.update(kernel, tuning, states, infos, i, num_warmup)
        return (eqx.partition(kernel, eqx.is_array)[0], states, tuning), None

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(num_warmup))[0])
    arrays, states, _ = scan((arrays, states, tuning))
    return eqx.combine(arrays, static), states.position

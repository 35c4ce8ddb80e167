"""Hamiltonian Monte Carlo with a fixed step size and number of leapfrog steps.

    p ~ N(0, M);  (x*, p*) = L leapfrog steps from (x, p);  accept with min(1, exp(H - H*))

Use it when the trajectory length is known or the steps must all cost the same (many chains on an
accelerator, Gibbs blocks). Where it is not known, `NUTS` finds it. By default the number of steps
is drawn anew for every transition, uniform on 1 .. num_steps: a fixed length can resonate with a
period of the target and then never mixes.

Source: Duane et al. (1987); Neal, MCMC using Hamiltonian dynamics (2011), sections 3.2 (leapfrog,
eq. 5.18 to 5.20), 3.3 (acceptance) and 4.2 (random path lengths). The signs printed in the talk
are wrong: see `bayleaf.mcmc.hamiltonian`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.mcmc.adaptation import HamiltonianTuner
from bayleaf.mcmc.approach import approach
from bayleaf.mcmc.hamiltonian import (
    MAX_ENERGY_ERROR,
    HamiltonianState,
    depart,
    flat_value_and_grad,
    initial_state,
    is_broken,
    leapfrog,
)
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.metric import Diagonal, Metric
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar


class HMCInfo(NamedTuple):
    """What happened in one transition."""

    acceptance_rate: Scalar
    is_accepted: Flag
    is_divergent: Flag
    is_nan: Flag
    num_gradients: Count
    energy: Scalar


class HMC(Kernel):
    """Hamiltonian Monte Carlo.

    Args:
        num_steps: the largest number of leapfrog steps of a transition.
        step_size: eps; None learns it in warm-up.
        metric: M; None learns M^-1 in warm-up (the identity when stepped without warm-up).
        target_acceptance: the mean acceptance rate that warm-up steers the step size to.
            0.65 is optimal for long product targets (Beskos et al. 2013); 0.92 costs little more
            under a good metric, and leaves hardly any divergences.
        is_length_random: draw the number of steps from 1 .. num_steps (the default), or always
            use num_steps.

    Raises:
        BayleafError: num_steps < 1, step_size <= 0 or target_acceptance outside (0, 1).
    """

    num_steps: int = eqx.field(static=True, default=16)
    step_size: ArrayLike | None = None
    metric: Metric | None = None
    target_acceptance: float = eqx.field(static=True, default=0.92)
    is_length_random: bool = eqx.field(static=True, default=True)

    def __check_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not isinstance(self.num_steps, int) or self.num_steps < 1:
            raise bad_argument("num_steps", self.num_steps, "a whole number >= 1")
        check_hamiltonian_settings(self.step_size, self.target_acceptance)

    def init(self, log_density: LogDensity, position: Position) -> HamiltonianState:
        """Evaluate log density and gradient at ``position``."""
        return initial_state(log_density, position)

    def step(
        self, log_density: LogDensity, key: Key, state: HamiltonianState
    ) -> tuple[HamiltonianState, HMCInfo]:
        """One transition."""
        value_and_grad, unravel = flat_value_and_grad(log_density, state.position)
        x, gradient = ravel_pytree(state.position)[0], ravel_pytree(state.gradient)[0]
        metric, eps = configured(self, x)
        key_momentum, key_length, key_accept = jax.random.split(key, 3)

        momentum = metric.momentum(jax.random.normal(key_momentum, x.shape, x.dtype))
        front, kinetic = depart(momentum, gradient, metric, eps)
        energy = kinetic - state.log_density
        length = (
            jax.random.randint(key_length, (), 1, self.num_steps + 1)
            if self.is_length_random
            else jnp.asarray(self.num_steps)
        )

        def is_going(carry):
            count, _, leaf = carry
            # A trajectory that has blown up cannot come back: stop paying for its gradients.
            return (count < length) & (leaf.energy - energy <= MAX_ENERGY_ERROR)

        def advance(carry):
            count, front, _ = carry
            return count + 1, *leapfrog(value_and_grad, x, metric, front, eps)

        first = (jnp.asarray(1), *leapfrog(value_and_grad, x, metric, front, eps))
        count, front, leaf = jax.lax.while_loop(is_going, advance, first)

        is_nan = is_broken(leaf)
        log_ratio = jnp.where(is_nan | (count < length), -jnp.inf, energy - leaf.energy)
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        # Minus an exponential is the logarithm of a uniform number that is never 0: log 0 would
        # accept any proposal, once in 8 million float32 steps.
        is_accepted = -jax.random.exponential(key_accept, dtype=x.dtype) < log_ratio
        new = HamiltonianState(unravel(x + front.offset), leaf.log_density, unravel(leaf.gradient))
        info = HMCInfo(
            acceptance_rate=jnp.exp(jnp.minimum(log_ratio, 0)),
            is_accepted=is_accepted,
            is_divergent=is_nan | ~(leaf.energy - energy <= MAX_ENERGY_ERROR),
            is_nan=is_nan,
            num_gradients=count,
            energy=jnp.where(is_accepted, leaf.energy, energy),
        )
        return jax.tree.map(lambda a, b: jnp.where(is_accepted, a, b), new, state), info

    def approach(self, log_density: LogDensity, position: Position) -> tuple[Position, Count]:
        """Climb to the mass of the posterior first; trajectories are bad at it."""
        return approach(log_density, position)

    @property
    def needs_gradient(self) -> bool:
        """Leapfrog steps follow the gradient."""
        return True

    def tuner(self) -> HamiltonianTuner | None:
        """Step size and metric are learnt where they are not given."""
        return HamiltonianTuner.for_kernel(self)


def check_hamiltonian_settings(step_size: ArrayLike | None, target_acceptance: float) -> None:
    """Refuse a step size that is not positive and an acceptance outside (0, 1)."""
    if isinstance(step_size, (int, float)) and not 0 < step_size < float("inf"):
        raise bad_argument("step_size", step_size, "a positive number, or None to learn it")
    if not 0 < target_acceptance < 1:
        raise bad_argument("target_acceptance", target_acceptance, "a number between 0 and 1")


def configured(kernel: Any, x: Float[Array, "dim"]) -> tuple[Metric, Scalar]:
    """The kernel's metric (the identity where none is set) and its step size."""
    if kernel.step_size is None:
        raise bad_argument(
            "step_size",
            None,
            "a positive number when the kernel is stepped without warm-up",
            "Give it, or let bl.sample learn it (num_warmup > 0).",
        )
    metric = Diagonal(jnp.ones_like(x)) if kernel.metric is None else kernel.metric
    return metric, jnp.asarray(kernel.step_size, x.dtype)

"""Stochastic-gradient samplers: Langevin dynamics (SGLD) and its kinetic form (SGHMC).

Both follow a diffusion whose stationary law is the target and take no accept/reject step, so that
the gradient may come from a mini-batch. With U = -log density (the whole one: prior and all data)
and temperature T,

    SGLD    dx = -grad U dt + sqrt(2 T) dW
    SGHMC   dx = M^-1 p dt,   dp = -grad U dt - gamma p dt + sqrt(2 gamma T M) dW

SGHMC splits its diffusion into parts with exact flows, in the symmetric order B A O A B:

    B  p <- p - (eps/2) grad U(x)                     half a kick
    A  x <- x + (eps/2) M^-1 p                        half a drift
    O  p <- c p + sqrt(T (1 - c^2) M) n,   c = exp(-gamma eps),   n ~ N(0, I)

The closing kick's gradient is kept for the opening kick of the next step: one gradient a step. On a
Gaussian the stationary law of x is exact for every stable step, eps omega < 2; the explicit Euler
step of several libraries (position by the old momentum, momentum by the old position) has no
stationary law at all once eps omega^2 >= gamma.

Use them when an accept/reject test over all data is too dear. They are biased by the step size
otherwise, and by mini-batch noise always: where exact gradients are cheap, `NUTS` is better.

Units. ``step_size`` is the time step eps of the equations above. In SGLD it is therefore the
factor of the gradient; the step size of Welling & Teh, theta + (e/2) grad + N(0, e), is e = 2 eps.
In SGHMC a kick moves x by eps^2 M^-1 grad: `SGHMC.from_sgd` converts a learning rate and a
momentum factor. Losses that are *means* over the data need ``num_data`` there: forgetting the
factor N is the most common fault of published code.

Sources: Welling & Teh, ICML 2011, eq. 4; Chen, Fox & Guestrin, ICML 2014, eq. 9 and 15; Leimkuhler
& Matthews, Applied Mathematics Research eXpress 2013, section 3 (BAOAB).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float

from bayleaf.errors import bad_argument
from bayleaf.mcmc.kernel import Kernel
from bayleaf.mcmc.minibatch import estimate, first_estimate
from bayleaf.types import Count, Flag, Key, LogDensity, Position, Scalar

MAX_DAMPING = 10.0
"""Largest friction * step_size: past it a step keeps less than exp(-10) of the momentum."""


class SGLDState(NamedTuple):
    """A position with the (estimated) log density and gradient there, and the steps taken."""

    position: Position
    log_density: Scalar
    gradient: Position
    count: Count


class SGHMCState(NamedTuple):
    """As `SGLDState`, with the momentum."""

    position: Position
    momentum: Position
    log_density: Scalar
    gradient: Position
    count: Count


class SGLDInfo(NamedTuple):
    """What happened in one step; a step into NaN or zero density is not taken."""

    is_accepted: Flag
    is_divergent: Flag
    is_nan: Flag
    num_gradients: Count
    step_size: Scalar


class SGHMCInfo(NamedTuple):
    """As `SGLDInfo`; ``kinetic_temperature`` is the mean of p^2 / M.

    On a Gaussian it averages to T (1 - (eps omega)^2 / 4), averaged over the frequencies omega.
    Well below T: the step is too large. Above T: mini-batch noise heats the momentum.
    """

    is_accepted: Flag
    is_divergent: Flag
    is_nan: Flag
    num_gradients: Count
    step_size: Scalar
    kinetic_temperature: Scalar


class SGLD(Kernel):
    """Stochastic-gradient Langevin dynamics: x + eps grad + N(0, 2 eps T).

    Args:
        step_size: eps, or a schedule ``step index -> eps`` (any optax schedule). Welling & Teh's
            step size is 2 eps.
        batch_size: examples per gradient; the log density must then have ``subsample``, as
            `bayleaf.Target` has. None uses all data.
        temperature: T; 1 samples the posterior, 0 is gradient descent.

    Raises:
        BayleafError: a step size that is not positive, a negative temperature, a batch size < 1.
    """

    step_size: Any
    batch_size: int | None = eqx.field(default=None, static=True)
    temperature: ArrayLike = 1.0

    def __init__(
        self, step_size: Any, batch_size: int | None = None, temperature: ArrayLike = 1.0
    ) -> None:
        check_settings(step_size, batch_size, temperature)
        self.step_size = _as_leaf(step_size)
        self.batch_size = batch_size
        self.temperature = temperature

    def init(self, log_density: LogDensity, position: Position) -> SGLDState:
        """Evaluate log density and gradient at ``position``."""
        count = jnp.zeros((), jnp.int32)
        value, gradient = first_estimate(log_density, self.batch_size, position, count)
        return SGLDState(position, value, gradient, count)

    def refresh(self, log_density: LogDensity, state: SGLDState) -> SGLDState:
        """Evaluate anew at the same position; the schedule goes on."""
        value, gradient = first_estimate(log_density, self.batch_size, state.position, state.count)
        return state._replace(log_density=value, gradient=gradient)

    def step(
        self, log_density: LogDensity, key: Key, state: SGLDState
    ) -> tuple[SGLDState, SGLDInfo]:
        """One Euler-Maruyama step."""
        x, unravel = ravel_pytree(state.position)
        gradient = ravel_pytree(state.gradient)[0]
        eps = step_size_at(self.step_size, state.count, x.dtype)
        temperature = jnp.asarray(self.temperature, x.dtype)
        key_noise, key_batch = jax.random.split(key)

        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        x = x + eps * gradient + jnp.sqrt(2 * eps * temperature) * noise

        position = unravel(x)
        value, gradient = estimate(log_density, self.batch_size, key_batch, position)
        is_nan, is_divergent = judge(value, gradient)
        is_accepted = ~(is_nan | is_divergent)
        count = state.count + 1
        new = SGLDState(position, value, gradient, count)
        state = select(is_accepted, new, state._replace(count=count))
        return state, SGLDInfo(is_accepted, is_divergent, is_nan, jnp.ones((), jnp.int32), eps)


class SGHMC(Kernel):
    """Stochastic-gradient Hamiltonian Monte Carlo, integrated by the BAOAB splitting.

    Args:
        step_size: eps, or a schedule ``step index -> eps`` (any optax schedule).
        friction: gamma, per unit of time; the momentum is forgotten over 1 / gamma.
        batch_size: examples per gradient; the log density must then have ``subsample``.
        temperature: T; 1 samples the posterior, 0 is gradient descent with momentum.
        inverse_mass: M^-1, diagonal: a number, or a pytree shaped like the position. The posterior
            variances are a good choice. None is 1.

    Raises:
        BayleafError: a step size that is not positive, a friction that is negative, a product of
            the two above 10 (nearly always a mistake of units: see `from_sgd`), a negative
            temperature, a batch size < 1, an inverse mass that is not positive.
    """

    step_size: Any
    friction: ArrayLike
    batch_size: int | None = eqx.field(static=True)
    temperature: ArrayLike
    inverse_mass: Any

    def __init__(
        self,
        step_size: Any,
        friction: ArrayLike = 1.0,
        batch_size: int | None = None,
        temperature: ArrayLike = 1.0,
        inverse_mass: Any = None,
    ) -> None:
        check_settings(step_size, batch_size, temperature)
        _check_friction(step_size, friction)
        _check_inverse_mass(inverse_mass)
        self.step_size = _as_leaf(step_size)
        self.friction = friction
        self.batch_size = batch_size
        self.temperature = temperature
        self.inverse_mass = inverse_mass

    @classmethod
    def from_sgd(
        cls, learning_rate: float, momentum: float, *, num_data: int = 1, **options: Any
    ) -> SGHMC:
        """The kernel whose gradient part is SGD with a learning rate and a momentum factor.

        SGD with momentum is v <- mu v + lr g, x <- x + v. A BAOAB step multiplies the momentum by
        mu = exp(-gamma eps), and a unit gradient moves x by eps^2 (1 + mu) / (2 (1 - mu)) in the
        end, where SGD moves it by lr / (1 - mu); hence

            eps = sqrt(2 lr / (1 + mu)),   gamma = -log(mu) / eps.

        Args:
            learning_rate: lr for the loss ``-log density / num_data``.
            momentum: mu in (0, 1).
            num_data: N when the learning rate belongs to a loss that is a mean over N examples;
                1 when it belongs to the sum.
            **options: ``batch_size``, ``temperature``, ``inverse_mass``.
        """
        if not learning_rate > 0:
            raise bad_argument("learning_rate", learning_rate, "a positive number")
        if not 0 < momentum < 1:
            raise bad_argument("momentum", momentum, "a number between 0 and 1")
        if num_data < 1:
            raise bad_argument("num_data", num_data, "the number of examples, at least 1")
        eps = math.sqrt(2 * learning_rate / num_data / (1 + momentum))
        return cls(eps, friction=-math.log(momentum) / eps, **options)

    def to_sgd(self, num_data: int = 1) -> tuple[Array, Array]:
        """Learning rate and momentum factor: the inverse of `from_sgd`, for a fixed step size."""
        eps = step_size_at(self.step_size, jnp.zeros((), jnp.int32), jnp.result_type(float))
        mu = jnp.exp(-jnp.asarray(self.friction) * eps)
        return num_data * eps**2 * (1 + mu) / 2, mu

    def init(self, log_density: LogDensity, position: Position) -> SGHMCState:
        """At rest at ``position``: the O steps bring the momentum to temperature."""
        count = jnp.zeros((), jnp.int32)
        value, gradient = first_estimate(log_density, self.batch_size, position, count)
        return SGHMCState(position, jax.tree.map(jnp.zeros_like, position), value, gradient, count)

    def refresh(self, log_density: LogDensity, state: SGHMCState) -> SGHMCState:
        """Evaluate anew at the same position; momentum and schedule go on.

        In BAOAB momentum and position are independent at the end of a step, so keeping the first
        when the target changes does not disturb the second.
        """
        value, gradient = first_estimate(log_density, self.batch_size, state.position, state.count)
        return state._replace(log_density=value, gradient=gradient)

    def step(
        self, log_density: LogDensity, key: Key, state: SGHMCState
    ) -> tuple[SGHMCState, SGHMCInfo]:
        """One BAOAB step."""
        x, unravel = ravel_pytree(state.position)
        p, gradient = ravel_pytree(state.momentum)[0], ravel_pytree(state.gradient)[0]
        inverse_mass = _flat_inverse_mass(self.inverse_mass, state.position)
        eps = step_size_at(self.step_size, state.count, x.dtype)
        gamma = jnp.asarray(self.friction, x.dtype)
        temperature = jnp.asarray(self.temperature, x.dtype)
        key_noise, key_batch = jax.random.split(key)

        p = p + 0.5 * eps * gradient  # B
        x = x + 0.5 * eps * inverse_mass * p  # A
        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        # expm1: 1 - exp(-2 gamma eps) loses all digits in float32 when gamma eps is small.
        spread = jnp.sqrt(-jnp.expm1(-2 * gamma * eps) * temperature / inverse_mass)
        p = jnp.exp(-gamma * eps) * p + spread * noise  # O
        x = x + 0.5 * eps * inverse_mass * p  # A
        position = unravel(x)
        value, gradient = estimate(log_density, self.batch_size, key_batch, position)
        p = p + 0.5 * eps * ravel_pytree(gradient)[0]  # B

        is_nan, is_divergent = judge(value, gradient)
        is_accepted = ~(is_nan | is_divergent)
        count = state.count + 1
        new = SGHMCState(position, unravel(p), value, gradient, count)
        # Turned back at the edge; with the old momentum it would run into it again and again.
        back = state._replace(momentum=jax.tree.map(jnp.negative, state.momentum), count=count)
        state = select(is_accepted, new, back)
        p = ravel_pytree(state.momentum)[0]
        info = SGHMCInfo(
            is_accepted,
            is_divergent,
            is_nan,
            jnp.ones((), jnp.int32),
            eps,
            kinetic_temperature=jnp.mean(p * p * inverse_mass),
        )
        return state, info


def judge(log_density: Scalar, gradient: Position) -> tuple[Flag, Flag]:
    """(is_nan, is_divergent): a fault of the target, and a step out of the support or to infinity.

    At a log density of -inf the gradient says nothing, NaN or not.
    """
    g = ravel_pytree(gradient)[0]
    is_outside = jnp.isneginf(log_density)
    is_nan = jnp.isnan(log_density) | jnp.isposinf(log_density) | jnp.any(jnp.isnan(g))
    is_nan = is_nan & ~is_outside
    return is_nan, is_outside | (~is_nan & ~jnp.all(jnp.isfinite(g)))


def select(condition: Flag, yes: Any, no: Any) -> Any:
    """``yes`` or ``no``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def step_size_at(step_size: Any, count: Count, dtype: Any) -> Scalar:
    """The step size of step ``count``, a number or a schedule."""
    return jnp.asarray(step_size(count) if callable(step_size) else step_size, dtype)


def check_settings(step_size: Any, batch_size: int | None, temperature: ArrayLike) -> None:
    """Refuse what both kernels cannot use; traced values and schedules are taken on trust."""
    eps, heat = _number(step_size), _number(temperature)
    if eps is not None and not 0 < eps < math.inf:
        raise bad_argument("step_size", eps, "a positive number or a schedule: step index -> size")
    if heat is not None and not 0 <= heat < math.inf:
        raise bad_argument("temperature", heat, "a number >= 0", "1 samples the posterior.")
    if batch_size is not None and batch_size < 1:
        raise bad_argument("batch_size", batch_size, "at least 1, or None for all data")


def _check_friction(step_size: Any, friction: ArrayLike) -> None:
    eps, gamma = _number(step_size), _number(friction)
    if gamma is not None and not 0 <= gamma < math.inf:
        raise bad_argument("friction", gamma, "a number >= 0, per unit of time")
    if gamma is not None and eps is not None and gamma * eps > MAX_DAMPING:
        raise bad_argument(
            "friction * step_size",
            gamma * eps,
            f"at most {MAX_DAMPING:g}: a step keeps exp(-friction * step_size) of the momentum",
            "SGHMC.from_sgd(learning_rate, momentum) converts the units of SGD; without momentum "
            "use SGLD.",
        )


def _check_inverse_mass(inverse_mass: Any) -> None:
    for leaf in jax.tree.leaves(inverse_mass):
        is_traced = isinstance(leaf, Tracer)
        if not is_traced and not np.all((np.asarray(leaf) > 0) & np.isfinite(leaf)):
            raise bad_argument("inverse_mass", leaf, "positive numbers (variances)")


def _flat_inverse_mass(inverse_mass: Any, position: Position) -> Float[Array, "..."]:
    """M^-1 as one number or as a flat vector that fits the raveled position."""
    x = ravel_pytree(position)[0]
    if inverse_mass is None:
        return jnp.ones((), x.dtype)
    if not isinstance(inverse_mass, (dict, list, tuple)) and jnp.ndim(inverse_mass) == 0:
        return jnp.asarray(inverse_mass, x.dtype)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (inverse_mass, position)]
    if shapes[0] != shapes[1]:
        raise bad_argument(
            "inverse_mass", f"shapes {shapes[0]}", f"a number, or the position's {shapes[1]}"
        )
    return ravel_pytree(inverse_mass)[0].astype(x.dtype)


def _as_leaf(step_size: Any) -> Any:
    """A schedule as a pytree without leaves, so that kernels pass through jit and scan."""
    return Partial(step_size) if isinstance(step_size, Callable) else step_size


def _number(value: Any) -> float | None:
    """A concrete number, or None for what is known only at run time."""
    if value is None or callable(value) or isinstance(value, Tracer):
        return None
    return float(value) if np.ndim(value) == 0 else None

"""What every Markov kernel of the library is: ``init`` and ``step``, pure functions on pytrees.

A kernel is a frozen object that holds its configuration and nothing else. The log density is
handed to its methods, so that one kernel serves any target, and `Gibbs` can hand it a conditional:

    init(log_density, position)   -> state
    step(log_density, key, state) -> (state, info)

``kernel.bind(log_density)`` closes over the target and leaves the two functions
``init(position)`` and ``step(key, state)`` that BlackJAX calls a sampling algorithm. Its kernels
run in our runner and bound ones of ours in its loops.

What a kernel can learn in warm-up it says by `Kernel.tuner`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax

from bayleaf.types import Key, LogDensity, Position


class Tuner(eqx.Module):
    """Learns a kernel's parameters during warm-up, from all chains at once.

    All methods are pure and traceable. ``states`` and ``infos`` carry a leading chain axis. What
    the methods return has the structure, shapes and dtypes of what ``init`` returned.
    """

    def init(self, log_density: LogDensity, kernel: Any, states: Any) -> tuple[Any, Any]:
        """The kernel with its free parameters filled in, and the tuner's state."""
        raise NotImplementedError(type(self).__name__)

    def resume(
        self, log_density: LogDensity, kernel: Any, tuning: Any, states: Any
    ) -> tuple[Any, Any]:
        """Begin to learn again, under a log density that has changed a little.

        Tempering calls it: ``kernel`` and ``tuning`` are what was learnt under the old density,
        ``states`` are draws of the new one, any number of them, from which new chains will start.
        By default all is learnt anew.
        """
        del tuning
        return self.init(log_density, kernel, states)

    def observe(self, tuning: Any, states: Any, infos: Any, step: Any) -> Any:
        """The tuner's state with step ``step`` noted.

        Called at every step, outside of any branch: write large buffers here, for a branch would
        copy them each time.
        """
        del states, infos, step
        return tuning

    def update(
        self, kernel: Any, tuning: Any, states: Any, infos: Any, step: Any, num_warmup: Any
    ) -> tuple[Any, Any]:
        """The kernel and the tuner's state after warm-up step ``step`` (0-based) of ``num_warmup``.

        Called in warm-up only, after `observe`. The last update (``step == num_warmup - 1``)
        leaves the parameters that sampling will use.
        """
        raise NotImplementedError(type(self).__name__)


class Algorithm(NamedTuple):
    """A kernel bound to a target: two pure functions, the protocol of BlackJAX."""

    init: Callable[..., Any]
    step: Callable[[Key, Any], tuple[Any, Any]]


class Kernel(eqx.Module):
    """Base of all kernels: two methods to write, four that have a default."""

    def init(self, log_density: LogDensity, position: Position) -> Any:
        """The state at ``position``; it has at least the field ``position``."""
        raise NotImplementedError(type(self).__name__)

    def step(self, log_density: LogDensity, key: Key, state: Any) -> tuple[Any, Any]:
        """One transition that leaves ``exp(log_density)`` invariant, and what happened in it."""
        raise NotImplementedError(type(self).__name__)

    def refresh(self, log_density: LogDensity, state: Any) -> Any:
        """The same state under a log density that has changed (`Gibbs` calls this)."""
        return self.init(log_density, state.position)

    def tuner(self) -> Tuner | None:
        """What learns this kernel's free parameters in warm-up; None when it has none."""
        return None

    def approach(self, log_density: LogDensity, position: Position) -> tuple[Position, Any]:
        """Where a chain put at ``position`` should begin to learn; the gradients it took."""
        del log_density
        return position, 0

    @property
    def needs_gradient(self) -> bool:
        """Whether a chain must start where the gradient is finite too."""
        return False

    def bind(self, log_density: LogDensity) -> Algorithm:
        """``init(position)`` and ``step(key, state)`` for one target.

        The kernel must be fully configured: parameters left to warm-up are not filled in here.
        """

        def init(position: Position, rng_key: Key | None = None) -> Any:
            del rng_key
            return self.init(log_density, position)

        def step(key: Key, state: Any) -> tuple[Any, Any]:
            return self.step(log_density, key, state)

        return Algorithm(jax.jit(init), jax.jit(step))

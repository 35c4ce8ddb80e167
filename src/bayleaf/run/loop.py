"""The one loop: a compiled program of many equal steps, called in chunks.

Whatever takes long here (chains, optimisers, populations of particles) is a program

    call(state, num_steps) -> (state, chunk)

compiled once for the most steps that one call may take (its *capacity*). A `Loop` calls it until a
number of steps is reached, and between two calls, in plain Python, it does everything that is not
the algorithm's business: what the chunk holds goes to the host, so that device memory does not grow
with the run; the checkpoint is written; the progress display is told; an interrupt is caught. The
length of a chunk follows the clock, so that this happens about three times a second whatever a step
costs. No random stream may depend on it: the key of a step follows from the step's number.

What is kept of the chunks is a *series*, by name: ``warmup`` and ``draws`` of a run, the history of
an optimisation, the stages of a population.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bayleaf.run.checkpoint import Checkpoint, restore
from bayleaf.run.host import agreed, is_first_process, to_host

FIRST_CHUNK = 32
CHUNK_SECONDS = 0.3
"""How long a chunk should take: often enough for a display and Ctrl-C, rare enough to be free."""


def first_steps(leaf: np.ndarray, num_steps: int) -> np.ndarray:
    """The steps that were taken, of a series with one entry a step.

    A copy: a view would keep the whole chunk alive.
    """
    return leaf[:num_steps].copy()


class Loop:
    """A program, its state, the steps taken so far and what was kept of them.

    Args:
        call: ``call(state, num_steps)``, compiled; takes that many steps, at most ``capacity``, and
            returns the new state and a chunk whose arrays are ``capacity`` steps long.
        state: a pytree; its arrays are all that is needed to go on.
        capacity: the most steps of one call.
        select: ``select(series, chunk)``: what of a chunk is kept; all of it by default.
        trim: ``trim(leaf, num_steps)``: an array of the chunk without what lies beyond the steps
            that were taken.
        place: puts a restored state on its devices.

    Attributes:
        state: as after the last step.
        step: steps taken, those of a resumed part included.
        series: what was kept, a list of host trees for each name.
    """

    def __init__(
        self,
        call: Callable[[Any, Any], tuple[Any, Any]],
        state: Any,
        *,
        capacity: int,
        select: Callable[[str, Any], Any] = lambda series, chunk: chunk,
        trim: Callable[[np.ndarray, int], np.ndarray] = first_steps,
        place: Callable[[Any], Any] = lambda state: state,
    ):
        self.call = call
        self.state = state
        self.capacity = capacity
        self.step = 0
        self.series: dict[str, list[Any]] = {}
        self._select, self._trim, self._place = select, trim, place
        self._is_saved = False
        self._checkpoint: Checkpoint | None = None  # in the process that writes it
        self._size, self._is_compiled = min(FIRST_CHUNK, capacity), False

    def save_to(self, path: str | Path, identity: Mapping[str, str]) -> None:
        """Write a checkpoint from now on; take up the one that is there, if any.

        Args:
            path: a directory.
            identity: hashes of what decides the outcome, by name; see `bayleaf.run.fingerprint`.

        Raises:
            CheckpointError: what is there is damaged, or belongs to another configuration.
        """
        self._is_saved = True
        if not agreed(Checkpoint.exists(path)):
            self._checkpoint = Checkpoint.create(path, identity) if is_first_process() else None
            return
        checkpoint = Checkpoint.open(path, identity)
        self._checkpoint = checkpoint if is_first_process() else None
        self.resume(checkpoint.state(), checkpoint.counts["step"], str(path))
        _, chunk = eqx.filter_eval_shape(self.call, self.state, np.int32(0))
        for name in checkpoint.labels:
            structure = jax.tree.structure(self._select(name, chunk))
            chunks = checkpoint.chunks(name)
            self.series[name] = [jax.tree.unflatten(structure, leaves) for leaves in chunks]

    def resume(self, leaves: list[Any], step: int, source: str) -> None:
        """Go on from saved leaves of a state, ``step`` steps after the first."""
        arrays, rest = eqx.partition(self.state, eqx.is_array)
        arrays = jax.tree.map(jnp.asarray, restore(to_host(arrays), leaves, source))
        self.state, self.step = self._place(eqx.combine(arrays, rest)), step

    def release(self) -> None:
        """Write no more: another loop has taken the checkpoint over."""
        self._is_saved, self._checkpoint = False, None

    def advance_to(
        self,
        total: int,
        series: str,
        display: Any,
        *,
        notice: Callable[[Any, int], Mapping[str, Any]] = lambda kept, num_steps: {},
        is_done: Callable[[Any], bool] = lambda state: False,
    ) -> None:
        """Call the program until ``total`` steps are taken, or ``is_done`` says so of the state.

        Args:
            total: steps, counted from the first one of all.
            series: under which name the chunks are kept.
            display: is told how far it is (`bayleaf.run.progress`).
            notice: what to show beside, from what was kept of a chunk and its number of steps.
            is_done: of a state; asked after each chunk, on the host.
        """
        while self.step < total and not is_done(self.state):
            num_steps = min(self._size, total - self.step)
            began = time.monotonic()
            kept = self._advance(num_steps, series)
            per_step = (time.monotonic() - began) / num_steps
            display.update(self.step, notice(kept, num_steps))
            if self._is_compiled:  # the first chunk's time is that of the compiler
                affordable = max(1, CHUNK_SECONDS / max(per_step, 1e-9))
                self._size = agreed(min(2 * self._size, self.capacity, affordable))
            self._is_compiled = True

    def _advance(self, num_steps: int, series: str) -> Any:
        """One chunk: what is kept of it to the host, then the checkpoint."""
        state, chunk = self.call(self.state, np.int32(num_steps))
        kept = to_host(self._select(series, chunk))
        kept = jax.tree.map(lambda leaf: self._trim(leaf, num_steps), kept)
        step = self.step + num_steps
        saved = to_host(eqx.filter(state, eqx.is_array)) if self._is_saved else None
        with undisturbed():  # the loop and its checkpoint take the chunk both, or neither
            if self._checkpoint is not None:
                self._checkpoint.append(jax.tree.leaves(kept), series)
                self._checkpoint.commit(jax.tree.leaves(saved), {"step": step})
            self.state, self.step = state, step
            self.series.setdefault(series, []).append(kept)
        return kept


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits until the end of the block."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    waiting: list[Any] = []
    signal.signal(signal.SIGINT, lambda *details: waiting.append(details))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if waiting:
        handler(*waiting[0])

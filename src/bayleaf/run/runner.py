"""`sample`: the one loop that every algorithm runs in.

It advances all chains by chunks (`bayleaf.run.chunk`), and between two chunks, in plain Python, it
does everything that is not the algorithm's business: draws go to the host, so that device memory
does not grow with the run; the progress display is told; the checkpoint is written; an interrupt is
caught. The length of a chunk follows the clock, so that this happens about three times a second
whatever the model costs; since no random stream depends on it, draws do not either.

Afterwards the draws are looked over, and what makes them unreliable is warned about by name.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayleaf.errors import CheckpointError, bad_argument, warn
from bayleaf.run.arguments import as_kernel, as_target, check_settings
from bayleaf.run.checkpoint import Checkpoint, restore
from bayleaf.run.chunk import Chunk, Progression, advance, begin, capacity_for, place, to_host
from bayleaf.run.diagnostics import Monitor, diagnose
from bayleaf.run.fingerprint import fingerprint
from bayleaf.run.progress import open_progress
from bayleaf.run.results import Run
from bayleaf.targets import Target
from bayleaf.trees import leaf_names
from bayleaf.types import Key, LogDensity

FIRST_CHUNK = 32
CHUNK_SECONDS = 0.3
"""How long a chunk should take: often enough for a display and Ctrl-C, rare enough to be free."""


def sample(
    target: Target | LogDensity,
    kernel: Any = None,
    *,
    key: Key,
    num_draws: int = 1000,
    num_warmup: int = 300,
    num_chains: int = 4,
    init: Any = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    mesh: Mesh | None = None,
) -> Run:
    """Draw from a target by Markov chains.

    Args:
        target: a `Target`, or a log density of any pytree when ``init`` is given.
        kernel: one of `bayleaf.mcmc`, or any object with ``init(position)`` and ``step(key,
            state)`` such as a BlackJAX algorithm; None takes `bayleaf.mcmc.NUTS`.
        key: a typed key, ``jax.random.key(seed)``. The draws follow from it alone.
        num_draws: kept draws of each chain.
        num_warmup: steps before them, in which the kernel learns and which are not kept.
        num_chains: how many chains run side by side.
        init: where chains start, in place of the target's own: a point to start around, a function
            of a key, or one point for each chain on a leading axis.
        progress: show a progress bar.
        checkpoint: a directory. The run is saved there as it goes; the same call resumes what it
            finds there, and the draws are the same, bit for bit, as without the interruption.
        mesh: devices to spread the chains over, ``jax.make_mesh((n,), ("chain",))``.

    Returns:
        The draws, on the host, and what is known about them. Ctrl-C returns those that exist.

    Raises:
        BayleafError: an argument that cannot be used.
        NonFiniteLogDensityError: no finite starting point was found; names the parameter.
        CheckpointError: the checkpoint is damaged, or belongs to another configuration.
    """
    check_settings(num_draws, num_warmup, num_chains, key, checkpoint, mesh)
    session = Session.open(
        as_target(target, init), as_kernel(kernel), key, num_warmup, num_chains, init, mesh
    )
    if checkpoint is not None:
        session.save_to(checkpoint)
    return session.run(num_draws, progress)


class Session:
    """A run in the making: the target, the kernel and all that has been drawn so far."""

    def __init__(
        self,
        target: Target,
        tuner: Any,
        progression: Progression,
        starts: Any,
        num_warmup: int,
        mesh: Any,
    ):
        self.target = target
        self.tuner = tuner
        self.progression = progression
        self.starts = to_host(starts)
        self.num_warmup = num_warmup
        self.mesh = mesh
        self.identity: dict[str, str] = {}
        self.is_saved = False
        self.checkpoint: Checkpoint | None = None  # in the process that writes it
        self.step = 0
        self.seconds = 0.0
        self.spent: Any = 0  # gradients before the first step
        self.warmup: list[dict[str, np.ndarray]] = []
        self.chunks: list[tuple[Any, dict[str, np.ndarray]]] = []
        self.num_chains = jax.tree.leaves(progression.states)[0].shape[0]
        self.capacity = capacity_for((progression.states.position, starts))

    @classmethod
    def open(
        cls,
        target: Target,
        kernel: Any,
        key: Key,
        num_warmup: int,
        num_chains: int,
        init: Any,
        mesh: Mesh | None,
    ) -> Session:
        """Find the starts, evaluate them and place the chains."""
        needs_gradient = kernel.needs_gradient
        tuner = kernel.tuner()
        if tuner is not None and num_warmup == 0:
            raise bad_argument(
                "num_warmup",
                0,
                f"at least 1, for {type(kernel).__name__} learns in warm-up what is not given",
                "Give the kernel all its parameters, or leave num_warmup as it is.",
            )
        positions = target.initial_positions(key, num_chains, init, need_gradient=needs_gradient)
        progression, begun = begin(target, kernel, positions, key)
        session = cls(target, tuner, progression, begun.starts, num_warmup, mesh)
        session.spent = to_host(begun.num_gradients)
        session.identity = fingerprint(
            target=target,
            kernel=kernel,
            key=key,
            num_chains=num_chains,
            num_warmup=num_warmup,
            init=session.starts,
        )
        if mesh is not None:
            session.progression = place(session.progression, mesh)
        return session

    def save_to(self, path: str | Path) -> None:
        """Write a checkpoint from now on; take up the one that is there, if any."""
        self.is_saved, is_writer = True, jax.process_index() == 0
        if not agreed(Checkpoint.exists(path)):
            self.checkpoint = Checkpoint.create(path, self.identity) if is_writer else None
            return
        checkpoint = Checkpoint.open(path, self.identity)
        self.checkpoint = checkpoint if is_writer else None
        self.resume(checkpoint.state(), str(path))
        _, chunk = eqx.filter_eval_shape(self._call, np.int32(0))  # the structure of what was saved
        for leaves in checkpoint.chunks("warmup"):
            self.warmup.append(jax.tree.unflatten(jax.tree.structure(chunk.stats), leaves))
        for leaves in checkpoint.chunks("draws"):
            self.chunks.append(jax.tree.unflatten(jax.tree.structure(tuple(chunk)), leaves))

    def resume(self, leaves: list[Any], source: str) -> None:
        """Go on from saved leaves of a progression."""
        arrays, rest = eqx.partition(self.progression, eqx.is_array)
        arrays = jax.tree.map(jnp.asarray, restore(to_host(arrays), leaves, source))
        self.progression = eqx.combine(arrays, rest)
        self.step = int(self.progression.step)
        if self.mesh is not None:
            self.progression = place(self.progression, self.mesh)

    def run(self, num_draws: int, progress: bool) -> Run:
        """Advance until every chain has ``num_draws`` kept draws; look the draws over."""
        total = self.num_warmup + num_draws
        began = time.monotonic()
        display = open_progress(
            self.num_warmup, num_draws, shown=progress and jax.process_index() == 0, done=self.step
        )
        interrupted = False
        with display:
            try:
                self._advance_to(total, display)
            except KeyboardInterrupt:
                if not self.chunks:
                    raise
                interrupted = True
        self.seconds += time.monotonic() - began
        run = self.result()
        if interrupted:
            warn(
                f"Interrupted: each chain has {run.num_draws} of {num_draws} draws. "
                "run.extend(num_draws) goes on from here."
            )
        for finding in run.findings:
            warn(finding.message)
        return run

    def _advance_to(self, total: int, display: Any) -> None:
        monitor = Monitor()
        size, is_first = min(FIRST_CHUNK, self.capacity), True
        while self.step < total:
            is_warmup = self.step < self.num_warmup
            num_steps = min(size, (self.num_warmup if is_warmup else total) - self.step)
            began = time.monotonic()
            draws, stats = self._advance(num_steps)
            per_step = (time.monotonic() - began) / num_steps
            status = {} if is_warmup else monitor.add(draws, stats | self._step_sizes(num_steps))
            display.update(self.step, status)
            if not is_first:  # the first chunk's time is that of the compiler
                size = agreed(min(2 * size, self.capacity, max(1, CHUNK_SECONDS / per_step)))
            is_first = False

    def _advance(self, num_steps: int) -> tuple[Any, dict[str, np.ndarray]]:
        """One chunk: its draws to the host, then the checkpoint."""
        progression, chunk = self._call(np.int32(num_steps))
        draws, stats = jax.tree.map(lambda leaf: by_chain(leaf, num_steps), to_host(tuple(chunk)))
        is_warmup = self.step < self.num_warmup
        step = self.step + num_steps
        state = to_host(eqx.filter(progression, eqx.is_array)) if self.is_saved else None
        with undisturbed():  # the session and its checkpoint take the chunk both, or neither
            if self.checkpoint is not None:
                if is_warmup:
                    self.checkpoint.append(jax.tree.leaves(stats), "warmup")
                else:
                    self.checkpoint.append(jax.tree.leaves((draws, stats)), "draws")
                self.checkpoint.commit(jax.tree.leaves(state), {"step": step})
            self.progression, self.step = progression, step
            if is_warmup:
                self.warmup.append(stats)
            else:
                self.chunks.append((draws, stats))
        return draws, stats

    def _call(self, num_steps: Any) -> tuple[Progression, Chunk]:
        parts = self.target, self.tuner, self.progression
        num_warmup: Any = np.int32(self.num_warmup)  # as an array, so that it is not compiled in
        return advance(*parts, num_steps, num_warmup, self.capacity, self.mesh)

    def _step_sizes(self, num_draws: int) -> dict[str, np.ndarray]:
        """The step sizes that warm-up has arrived at, as series like the other statistics."""
        kernel = eqx.filter(self.progression.kernel, eqx.is_array_like)
        named = zip(leaf_names(kernel), jax.tree.leaves(kernel), strict=True)
        return {
            name: np.full((self.num_chains, num_draws), to_host(leaf))
            for name, leaf in named
            if name.rpartition(".")[2] == "step_size" and np.ndim(leaf) == 0
        }

    def result(self) -> Run:
        """The run as far as it got."""
        draws, stats = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *self.chunks)
        warmup = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *(self.warmup or [{}]))
        if "num_gradients" in warmup:  # a fresh array, which concatenate has made
            warmup["num_gradients"][:, 0] += self.spent
        num_draws = jax.tree.leaves(draws)[0].shape[1]
        stats = stats | self._step_sizes(num_draws)
        kernel = self.progression.kernel
        return Run(
            draws=draws,
            stats=stats,
            warmup_stats=warmup,
            kernel=kernel,
            sampler=to_host(eqx.filter(self.progression, eqx.is_array)),
            num_warmup=self.num_warmup,
            findings=diagnose(
                draws, stats, start=self.starts, max_depth=getattr(kernel, "max_depth", None)
            ),
            fingerprint=self.identity,
            seconds=self.seconds,
            continuation=self._extend,
        )

    def _extend(self, run: Run, num_draws: int, *, progress: bool) -> Run:
        """The continuation of a run, in a session of its own, which takes the checkpoint over.

        Extending the same run again gives the same draws and writes nothing.
        """
        session = copy.copy(self)
        self.is_saved, self.checkpoint = False, None
        session.warmup, session.seconds = [dict(run.warmup_stats)], run.seconds
        session.spent = 0  # they are counted in the run's own statistics
        known = set(run.stats) - set(self._step_sizes(1))
        session.chunks = [(run.draws, {name: run.stats[name] for name in sorted(known)})]
        return session.run(run.num_draws + num_draws, progress)


def attach(run: Run, target: Any, kernel: Any = None) -> Run:
    """A loaded run that knows its target again, and so can be extended.

    Raises:
        CheckpointError: the run was drawn from another target, or by another kernel.
    """
    kernel, leaves = as_kernel(kernel), jax.tree.leaves(run.sampler)
    # The start of a bare function belongs to its target and is not known here.
    known = {"target": target} if isinstance(target, Target) else {}
    now = fingerprint(kernel=kernel, **known)
    differing = [name for name in now if run.fingerprint.get(name) != now[name]]
    if differing:
        raise CheckpointError(
            f"the saved run differs in {', '.join(differing)} from what it is loaded with. Give "
            "the same ones to extend it, or none to look at it."
        )
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf[:, -1]), run.draws)
    target = as_target(target, jax.tree.map(lambda leaf: leaf[0], start))
    positions = jax.vmap(target.unconstrain)(start)
    progression, begun = begin(target, kernel, positions, jax.random.key(0))
    session = Session(target, kernel.tuner(), progression, begun.starts, run.num_warmup, None)
    session.identity = dict(run.fingerprint)
    session.resume(leaves, "the saved run")
    return dataclasses.replace(
        run,
        kernel=session.progression.kernel,
        sampler=to_host(eqx.filter(session.progression, eqx.is_array)),
        continuation=session._extend,
    )


def agreed(number: int | float) -> int:
    """The same whole number in every process: that of the first one, whose clock counts."""
    if jax.process_count() == 1:
        return int(number)
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


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


def by_chain(leaf: np.ndarray, num_steps: int) -> np.ndarray:
    """``[step, chain, ...]`` to ``[chain, draw, ...]``, without what lies beyond the steps taken.

    A copy: a view would keep the whole chunk alive.
    """
    return np.swapaxes(leaf[:num_steps], 0, 1).copy()

"""`sample`: chains of any kernel on any target, through the one loop.

It finds where chains start, hands the program of `bayleaf.run.chunk` to the loop of
`bayleaf.run.loop`, and makes a `Run` of what the loop has kept. Afterwards the draws are looked
over, and what makes them unreliable is warned about by name.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bayleaf.errors import CheckpointError, bad_argument, warn
from bayleaf.run.arguments import as_kernel, as_target, check_settings
from bayleaf.run.chunk import (
    Chunk,
    Progression,
    advance,
    begin,
    by_chain,
    capacity_for,
    place,
)
from bayleaf.run.diagnostics import Monitor, diagnose
from bayleaf.run.fingerprint import fingerprint
from bayleaf.run.host import is_first_process, to_host
from bayleaf.run.loop import Loop
from bayleaf.run.progress import open_progress
from bayleaf.run.results import Run
from bayleaf.targets import Target
from bayleaf.trees import leaf_names
from bayleaf.types import Key, LogDensity


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
    """A run in the making: the target, the kernel, and the loop that holds what has been drawn."""

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
        self.starts = to_host(starts)
        self.num_warmup = num_warmup
        self.mesh = mesh
        self.identity: dict[str, str] = {}
        self.seconds = 0.0
        self.spent: Any = 0  # gradients before the first step
        self.num_chains = jax.tree.leaves(progression.states)[0].shape[0]
        placed = (lambda state: state) if mesh is None else (lambda state: place(state, mesh))
        self.loop = Loop(
            self._call,
            placed(progression),
            capacity=capacity_for((progression.states.position, starts)),
            select=select,
            trim=by_chain,
            place=placed,
        )

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
        return session

    def save_to(self, path: str | Path) -> None:
        """Write a checkpoint from now on; take up the one that is there, if any."""
        self.loop.save_to(path, self.identity)

    def run(self, num_draws: int, progress: bool) -> Run:
        """Advance until every chain has ``num_draws`` kept draws; look the draws over."""
        began = time.monotonic()
        display = open_progress(
            {"warm-up": self.num_warmup, "sampling": num_draws},
            shown=progress and is_first_process(),
            done=self.loop.step,
        )
        interrupted = False
        with display:
            try:
                self._advance(num_draws, display)
            except KeyboardInterrupt:
                if not self.loop.series.get("draws"):
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

    def _advance(self, num_draws: int, display: Any) -> None:
        monitor = Monitor()

        def notice(kept: Any, num_steps: int) -> Any:
            draws, stats = kept
            return monitor.add(draws, stats | self._step_sizes(num_steps))

        self.loop.advance_to(self.num_warmup, "warmup", display)
        self.loop.advance_to(self.num_warmup + num_draws, "draws", display, notice=notice)

    def _call(self, progression: Progression, num_steps: Any) -> tuple[Progression, Chunk]:
        num_warmup: Any = np.int32(self.num_warmup)  # as an array, so that it is not compiled in
        parts = self.target, self.tuner, progression
        return advance(*parts, num_steps, num_warmup, self.loop.capacity, self.mesh)

    def _step_sizes(self, num_draws: int) -> dict[str, np.ndarray]:
        """The step sizes that warm-up has arrived at, as series like the other statistics."""
        kernel = eqx.filter(self.loop.state.kernel, eqx.is_array_like)
        named = zip(leaf_names(kernel), jax.tree.leaves(kernel), strict=True)
        return {
            name: np.full((self.num_chains, num_draws), to_host(leaf))
            for name, leaf in named
            if name.rpartition(".")[2] == "step_size" and np.ndim(leaf) == 0
        }

    def result(self) -> Run:
        """The run as far as it got."""
        series = self.loop.series
        draws, stats = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *series["draws"])
        steps = series.get("warmup") or [{}]
        warmup = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *steps)
        if "num_gradients" in warmup:  # a fresh array, which concatenate has made
            warmup["num_gradients"][:, 0] += self.spent
        num_draws = jax.tree.leaves(draws)[0].shape[1]
        stats = stats | self._step_sizes(num_draws)
        kernel = self.loop.state.kernel
        return Run(
            draws=draws,
            stats=stats,
            warmup_stats=warmup,
            kernel=kernel,
            sampler=to_host(eqx.filter(self.loop.state, eqx.is_array)),
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
        session.loop = copy.copy(self.loop)
        self.loop.release()
        session.seconds = run.seconds
        session.spent = 0  # they are counted in the run's own statistics
        known = set(run.stats) - set(self._step_sizes(1))
        kept = (run.draws, {name: run.stats[name] for name in sorted(known)})
        session.loop.series = {"warmup": [dict(run.warmup_stats)], "draws": [kept]}
        return session.run(run.num_draws + num_draws, progress)


def select(series: str, chunk: Chunk) -> Any:
    """What is kept of a chunk: in warm-up only what the kernel recorded."""
    return chunk.stats if series == "warmup" else tuple(chunk)


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
    session.loop.resume(leaves, run.num_warmup + run.num_draws, "the saved run")
    return dataclasses.replace(
        run,
        kernel=session.loop.state.kernel,
        sampler=to_host(eqx.filter(session.loop.state, eqx.is_array)),
        continuation=session._extend,
    )

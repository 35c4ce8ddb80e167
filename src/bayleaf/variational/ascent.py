"""Stochastic ascent: the program that every fit runs, and what surrounds it.

Each step estimates a bound and its gradient, and lets an Optax optimiser move the parameters. All
steps of a chunk are one compiled program, run by the same loop as chains are (`bayleaf.run.loop`):
progress, checkpoints, resume bit for bit, and Ctrl-C that returns what exists. The key of step t is
``fold_in(key, t)``.

**The average of the iterates** is what is returned: stochastic steps end where the last noise threw
them, their average does not. It forgets the way there, the weight of step i among t growing as
(i / t)^8 (Shamir & Zhang 2013, https://arxiv.org/abs/1212.1824, eq. 4 with eta = 8).

**A step that is not finite is not taken.** A bound or a gradient that is NaN or infinite leaves the
parameters as they were; such steps are counted and reported, and a hundred of them in a row end the
ascent.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayleaf.errors import warn
from bayleaf.run.fingerprint import fingerprint
from bayleaf.run.host import is_first_process, to_host
from bayleaf.run.loop import Loop
from bayleaf.run.progress import open_progress
from bayleaf.types import Count, Flag, Key, Scalar
from bayleaf.variational import convergence
from bayleaf.variational.elbo import Terms
from bayleaf.variational.guides import moved

CAPACITY = 1000
AVERAGING = 8
MOST_LOST = 100


class Program(Protocol):
    """What decides a step, besides the state; a pytree. Its ``optimizer`` is Optax's."""

    optimizer: Any

    def terms(self, guide: Any, key: Key) -> Terms:
        """Terms whose mean is the bound of the guide."""
        ...


class State(NamedTuple):
    """Where the ascent stands: all that is needed to go on."""

    guide: Any
    average: Any
    optimizer: Any
    key: Key
    step: Count
    num_lost: Count


class Chunk(NamedTuple):
    """What some steps left behind, one entry a step."""

    elbo: Any
    is_lost: Any


class Outcome(NamedTuple):
    """How far an ascent came: what a fit is made of.

    ``first_lost`` is the step from which on nothing was finite, if it came to nothing.
    """

    guide: Any
    last: Any
    key: Key
    history: Any
    findings: list[Any]
    state: Any
    seconds: float
    first_lost: int | None


class Ascent:
    """A fit in the making.

    Args:
        program: what decides a step.
        guide: where it starts.
        key: of the whole.
        judge: ``judge(outcome, continuation)``: makes the result, which has ``num_steps`` and
            ``findings``.
    """

    def __init__(self, program: Any, guide: Any, key: Key, judge: Callable[..., Any]):
        self.program = program
        self.judge = judge
        self.seconds = 0.0
        self.loop = Loop(self._call, begin(program, guide, key), capacity=CAPACITY)

    def save_to(self, path: str | Path, **parts: Any) -> None:
        """Write a checkpoint from now on; ``parts`` decide the fit beside guide and key."""
        state = self.loop.state
        identity = fingerprint(guide=state.guide, key=state.key, **parts)
        self.loop.save_to(path, identity)

    def run(self, num_steps: int, progress: bool) -> Any:
        """Take steps until there are ``num_steps``; judge the guide."""
        began = time.monotonic()
        shown = progress and is_first_process()
        interrupted = False
        with open_progress({"fitting": num_steps}, shown=shown, done=self.loop.step) as display:
            try:
                self.loop.advance_to(
                    num_steps, "fit", display, notice=_notice, is_done=_is_hopeless
                )
            except KeyboardInterrupt:
                if not self.loop.series.get("fit"):
                    raise
                interrupted = True
        self.seconds += time.monotonic() - began
        fitted = self.judge(self.outcome(), self._extend)
        if interrupted:
            warn(
                f"Interrupted: {fitted.num_steps} of {num_steps} steps are done. "
                "fit.extend(num_steps) goes on from here."
            )
        for finding in fitted.findings:
            warn(finding.message)
        return fitted

    def outcome(self) -> Outcome:
        """The ascent as far as it got."""
        state, chunks = self.loop.state, self.loop.series["fit"]
        history, is_lost = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        taken = np.flatnonzero(~is_lost)
        return Outcome(
            guide=state.average,
            last=state.guide,
            key=jax.random.fold_in(state.key, np.uint32(0xFFFFFFFF)),  # no step has this number
            history=history,
            findings=convergence.findings(history, is_lost),
            state=to_host(eqx.filter(state, eqx.is_array)),
            seconds=self.seconds,
            first_lost=(int(taken[-1]) + 1 if taken.size else 0) if _is_hopeless(state) else None,
        )

    def _call(self, state: State, num_steps: Any) -> tuple[State, Chunk]:
        return advance(self.program, state, num_steps, CAPACITY)

    def _extend(self, num_steps: int, *, progress: bool) -> Any:
        """Go on in an ascent of its own, which takes the checkpoint over."""
        ascent = copy.copy(self)
        ascent.loop = copy.copy(self.loop)
        ascent.loop.series = {"fit": list(self.loop.series["fit"])}
        self.loop.release()
        return ascent.run(self.loop.step + num_steps, progress)


@eqx.filter_jit
def begin(program: Any, guide: Any, key: Key) -> State:
    """The state before the first step."""
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)
    # Weak types would become strong in the first step, and the program be compiled twice.
    moving = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), moving)
    guide = eqx.combine(moving, rest)
    zero = jnp.zeros((), jnp.int32)
    return State(guide, guide, program.optimizer.init(moving), key, zero, zero)


@eqx.filter_jit
def advance(program: Any, state: State, num_steps: Count, capacity: int) -> tuple[State, Chunk]:
    """Take ``num_steps`` steps, at most ``capacity``."""
    arrays, rest = eqx.partition(state, eqx.is_array)
    # Made at once: a call of the cipher in each step would cost as much as the gradient.
    numbers = state.step + jnp.arange(capacity)
    keys = jax.vmap(lambda number: jax.random.fold_in(state.key, number))(numbers)

    def body(i: Count, carry: Any) -> Any:
        arrays, kept = carry
        new, info = step(program, keys[i], eqx.combine(arrays, rest))
        kept = jax.tree.map(lambda all_, one: all_.at[i].set(one), kept, info)
        return eqx.filter(new, eqx.is_array), kept

    info = jax.eval_shape(lambda: step(program, keys[0], state)[1])
    kept = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), info)
    arrays, kept = jax.lax.fori_loop(0, num_steps, body, (arrays, kept))
    return eqx.combine(arrays, rest), kept


def step(program: Any, key: Key, state: State) -> tuple[State, Chunk]:
    """One step of the optimiser, or none if it would not be finite."""
    value, gradient = bound_and_gradient(program.terms, state.guide, key)
    is_finite = jnp.all(jnp.isfinite(ravel_pytree((value, gradient))[0]))
    moving = eqx.filter(state.guide, eqx.is_inexact_array)
    descent = jax.tree.map(jnp.negative, gradient)  # Optax minimises
    updates, optimizer = program.optimizer.update(descent, state.optimizer, moving)
    guide = moved(state.guide, updates)
    average = averaged(state.average, guide, state.step)
    taken = (guide, average, optimizer)
    before = (state.guide, state.average, state.optimizer)
    guide, average, optimizer = _chosen(is_finite, taken, before)
    num_lost = jnp.where(is_finite, 0, state.num_lost + 1)
    new = State(guide, average, optimizer, state.key, state.step + 1, num_lost)
    return new, Chunk(value, ~is_finite)


def bound_and_gradient(
    terms: Callable[[Any, Key], Terms], guide: Any, key: Key
) -> tuple[Scalar, Any]:
    """The bound and its gradient with respect to a step of the guide (see `guides.moved`)."""
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)
    value, gradient = jax.value_and_grad(
        lambda moving: jnp.mean(terms(eqx.combine(moving, rest), key))
    )(moving)
    nowhere = jax.tree.map(jnp.zeros_like, moving)
    _, pull = jax.vjp(lambda s: eqx.filter(moved(guide, s), eqx.is_inexact_array), nowhere)
    (gradient,) = pull(gradient)
    return value, gradient


def averaged(average: Any, guide: Any, step: Count) -> Any:
    """The average of the iterates so far, by a weight that forgets the early ones."""

    def mix(old: Any, new: Any) -> Any:
        if not eqx.is_inexact_array(old):
            return new
        weight = (AVERAGING + 1) / (AVERAGING + 1 + step.astype(old.real.dtype))
        return old + weight * (new - old)

    return jax.tree.map(mix, average, guide)


def _chosen(flag: Flag, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b) if eqx.is_array(a) else a, new, old)


def _is_hopeless(state: State) -> bool:
    return int(state.num_lost) >= MOST_LOST


def _notice(kept: Chunk, num_steps: int) -> dict[str, Any]:
    """The ELBO of the last steps, for the display."""
    del num_steps
    good = kept.elbo[~kept.is_lost]
    return {"ELBO": float(good[-50:].mean())} if good.size else {}

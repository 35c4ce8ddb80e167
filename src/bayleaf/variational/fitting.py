"""`fit`: the guide that comes closest to a target, by stochastic ascent of the ELBO.

Each step draws from the guide, estimates the ELBO and its gradient (`bayleaf.variational.elbo`),
and lets an Optax optimiser move the guide's parameters. All steps of a chunk are one compiled
program, run by the same loop as chains are (`bayleaf.run.loop`): progress, checkpoints, resume bit
for bit, and Ctrl-C that returns what exists. The key of step t is ``fold_in(key, t)``.

**The start.** A guide that is made here, from its class, stands where a short quasi-Newton ascent
from the target's start has led (`bayleaf.mcmc.approach`). With mini-batches, whose point is that
all data are never needed at once, it stands at the start itself; a guide that is given stays as
it is.

**The default optimiser** is Adam with the step size 0.1 / sqrt(1 + t / 50). Our guides take steps
in units of their own standard deviations, so that one step size suits every target
(`bayleaf.variational.guides`). A rate that falls for ever, and not to zero at a last step known
beforehand, makes a fit that is extended the same as a longer one.

**The average of the iterates** is what is returned: stochastic steps end where the last noise threw
them, their average does not. It forgets the way there, the weight of step i among t growing as
(i / t)^8 (Shamir & Zhang 2013, https://arxiv.org/abs/1212.1824, eq. 4 with eta = 8).

**A step that is not finite is not taken.** An ELBO or a gradient that is NaN or infinite leaves the
guide as it was; such steps are counted and reported, and a hundred of them in a row end the fit
with an error that names the parameter.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bayleaf.errors import NonFiniteLogDensityError, warn
from bayleaf.run.fingerprint import fingerprint
from bayleaf.run.host import is_first_process, to_host
from bayleaf.run.loop import Loop
from bayleaf.run.progress import open_progress
from bayleaf.targets import Target
from bayleaf.types import Count, Flag, Key, LogDensity, Scalar
from bayleaf.variational import arguments, convergence, elbo
from bayleaf.variational.guides import moved
from bayleaf.variational.results import Fit, assess

CAPACITY = 1000
AVERAGING = 8
MOST_LOST = 100


class Program(eqx.Module):
    """What decides a step, besides the state: the problem and how it is solved."""

    target: Any
    optimizer: Any = eqx.field(static=True)
    objective: str = eqx.field(static=True)
    num_draws: int = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    stick_the_landing: bool = eqx.field(static=True)

    def terms(self, guide: Any, key: Key) -> elbo.Terms:
        """Terms whose mean is the ELBO of the guide, in the form that was asked for."""
        key_batch, key_draws = jax.random.split(key)
        target = self.target
        if self.batch_size is not None:
            target = target.subsample(key_batch, self.batch_size)
        options: Any = {
            "key": key_draws,
            "num_draws": self.num_draws,
            "stick_the_landing": self.stick_the_landing,
        }
        if self.objective == "joint":
            return elbo.joint(target, guide, **options)
        prior, log_likelihood = arguments.split(target, guide)
        return elbo.kl(log_likelihood, prior, guide, **options)


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


def fit(
    target: Target | LogDensity,
    guide: Any,
    *,
    key: Key,
    objective: Literal["joint", "kl"] = "joint",
    optimizer: Any = None,
    num_steps: int = 1000,
    num_draws: int = 10,
    batch_size: int | None = None,
    stick_the_landing: bool = True,
    num_check_draws: int = 1000,
    init: Any = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Fit:
    """Fit a guide to a target by maximising the ELBO.

    Args:
        target: a `Target`, or a log density of any pytree when ``init`` is given.
        guide: what makes a guide from a starting position, such as `MeanField`, `LowRank` or
            `FullRank` themselves; or a guide: any Equinox module with ``sample(key)`` and
            ``log_prob(position)`` on the target's unconstrained space, whose inexact arrays are
            fitted.
        key: a typed key, ``jax.random.key(seed)``. The fit follows from it alone.
        objective: ``"joint"``, E_q[log p(x, z) - log q(z)]; or ``"kl"``, E_q[log p(x | z)]
            - KL(q || p(z)), for a target that knows its prior and its likelihood apart. The
            divergence is exact for a Gaussian guide and a Gaussian prior.
        optimizer: an Optax gradient transformation that minimises; None takes the default above.
        num_steps: steps of the optimiser.
        num_draws: draws of the guide in each step.
        batch_size: examples in each step's random batch; None uses all data.
        stick_the_landing: leave the score out of the gradient; see `bayleaf.variational.elbo`.
        num_check_draws: fresh draws by which the fitted guide is judged.
        init: where the guide starts, in place of the target's own start; as for `bayleaf.sample`.
        progress: show a progress bar.
        checkpoint: a directory. The fit is saved there as it goes, and the same call resumes it.

    Returns:
        The fitted guide, its history, and how good it is. Ctrl-C returns what exists.

    Raises:
        BayleafError: an argument that cannot be used.
        NonFiniteLogDensityError: the log density is not finite where the fit starts, or from some
            step on; names the parameter.
        CheckpointError: the checkpoint is damaged, or belongs to another configuration.
    """
    arguments.check_settings(
        objective, optimizer, num_steps, num_draws, batch_size, num_check_draws, key, checkpoint
    )
    target = arguments.as_target(target, init, guide)
    guide = arguments.as_guide(guide, target, init, key, climbs=batch_size is None)
    arguments.check_objective(objective, batch_size, target)
    program = Program(
        target,
        default_optimizer() if optimizer is None else optimizer,
        objective,
        num_draws,
        batch_size,
        stick_the_landing,
    )
    session = Session(program, begin(program, guide, key), num_check_draws)
    if checkpoint is not None:
        session.loop.save_to(checkpoint, session.identity(optimizer is None))
    return session.run(num_steps, progress)


class Session:
    """A fit in the making."""

    def __init__(self, program: Program, state: State, num_check_draws: int):
        self.program = program
        self.num_check_draws = num_check_draws
        self.seconds = 0.0
        self.loop = Loop(self._call, state, capacity=CAPACITY)

    def identity(self, is_default: bool) -> dict[str, str]:
        """Hashes of what decides the fit."""
        program, state = self.program, self.loop.state
        optimizer = "default" if is_default else program.optimizer
        settings = (program.objective, program.num_draws, program.batch_size)
        return fingerprint(
            target=program.target,
            guide=state.guide,
            key=state.key,
            optimizer=optimizer,
            settings=(*settings, program.stick_the_landing),
        )

    def run(self, num_steps: int, progress: bool) -> Fit:
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
        fitted = self.result(began)
        if interrupted:
            warn(
                f"Interrupted: {fitted.num_steps} of {num_steps} steps are done. "
                "fit.extend(num_steps) goes on from here."
            )
        for finding in fitted.findings:
            warn(finding.message)
        return fitted

    def result(self, began: float) -> Fit:
        """The fit as far as it got."""
        state, target = self.loop.state, self.program.target
        chunks = self.loop.series["fit"]
        history, is_lost = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
        if _is_hopeless(state):
            first = int(np.flatnonzero(~is_lost)[-1]) + 1 if not is_lost.all() else 0
            raise NonFiniteLogDensityError(arguments.explain(target, state.guide, state.key, first))
        key = jax.random.fold_in(state.key, np.uint32(0xFFFFFFFF))  # no step has this number
        fitted = assess(
            target,
            state.average,
            key=key,
            num_draws=self.num_check_draws,
            history=history,
            findings=convergence.findings(history, is_lost),
            state=to_host(eqx.filter(state, eqx.is_array)),
            continuation=self._extend,
        )
        self.seconds += time.monotonic() - began
        object.__setattr__(fitted, "seconds", self.seconds)
        return fitted

    def _call(self, state: State, num_steps: Any) -> tuple[State, Chunk]:
        return advance(self.program, state, num_steps, CAPACITY)

    def _extend(self, fitted: Fit, num_steps: int, *, progress: bool) -> Fit:
        """Go on in a session of its own, which takes the checkpoint over."""
        session = copy.copy(self)
        session.loop = copy.copy(self.loop)
        session.loop.call = session._call
        session.loop.series = {"fit": list(self.loop.series["fit"])}
        self.loop.release()
        return session.run(fitted.num_steps + num_steps, progress)


@cache
def default_optimizer() -> Any:
    """Adam with the step size 0.1 / sqrt(1 + t / 50)."""
    import optax

    return optax.adam(lambda count: 0.1 / jnp.sqrt(1 + count / 50))


@eqx.filter_jit
def begin(program: Program, guide: Any, key: Key) -> State:
    """The state before the first step."""
    moving, rest = eqx.partition(guide, eqx.is_inexact_array)
    # Weak types would become strong in the first step, and the program be compiled twice.
    moving = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), moving)
    guide = eqx.combine(moving, rest)
    zero = jnp.zeros((), jnp.int32)
    return State(guide, guide, program.optimizer.init(moving), key, zero, zero)


@eqx.filter_jit
def advance(program: Program, state: State, num_steps: Count, capacity: int) -> tuple[State, Chunk]:
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


def step(program: Program, key: Key, state: State) -> tuple[State, Chunk]:
    """One step of the optimiser, or none if it would not be finite."""
    value, gradient = ascent(program.terms, state.guide, key)
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


def ascent(terms: Callable[[Any, Key], elbo.Terms], guide: Any, key: Key) -> tuple[Scalar, Any]:
    """The ELBO and its gradient with respect to a step of the guide (see `guides.moved`)."""
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

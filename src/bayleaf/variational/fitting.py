"""`fit`: the guide that comes closest to a target, by stochastic ascent of the ELBO.

Each step draws from the guide, estimates the ELBO and its gradient (`bayleaf.variational.elbo`),
and lets an Optax optimiser move the guide's parameters (`bayleaf.variational.ascent`).

**The default optimiser** is Adam with the step size 0.1 / sqrt(1 + t / 50). Our guides take steps
in units of their own standard deviations, so that one step size suits every target
(`bayleaf.variational.guides`). A rate that falls for ever, and not to zero at a last step known
beforehand, makes a fit that is extended the same as a longer one.

**The start.** A guide that is made here, from its class, stands where a short quasi-Newton ascent
from the target's start has led (`bayleaf.mcmc.approach`), as wide in each coordinate as the
curvature there says. With mini-batches, whose point is that all data are never needed at once, it
stands at the start itself; a guide that is given stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bayleaf.errors import NonFiniteLogDensityError
from bayleaf.types import Key
from bayleaf.variational import arguments, elbo
from bayleaf.variational.ascent import Ascent, Outcome
from bayleaf.variational.results import Fit, assess


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


def fit(
    target: Any,
    guide: Any,
    *,
    key: Any,
    objective: str = "joint",
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

    def judge(outcome: Outcome, continuation: Callable[..., Fit]) -> Fit:
        if outcome.first_lost is not None:
            where = outcome.last, outcome.key, outcome.first_lost
            raise NonFiniteLogDensityError(arguments.explain(target, *where))
        return assess(
            target,
            outcome.guide,
            key=outcome.key,
            num_draws=num_check_draws,
            history=outcome.history,
            findings=outcome.findings,
            seconds=outcome.seconds,
            state=outcome.state,
            continuation=continuation,
        )

    ascent = Ascent(program, guide, key, judge)
    if checkpoint is not None:
        ascent.save_to(
            checkpoint,
            target=target,
            optimizer="default" if optimizer is None else optimizer,
            settings=(objective, num_draws, batch_size, stick_the_landing),
        )
    return ascent.run(num_steps, progress)


@cache
def default_optimizer() -> Any:
    """Adam with the step size 0.1 / sqrt(1 + t / 50)."""
    import optax

    return optax.adam(lambda count: 0.1 / jnp.sqrt(1 + count / 50))

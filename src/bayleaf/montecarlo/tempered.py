r"""`tempered`: draws and evidence by adaptive tempered sequential Monte Carlo.

Particles start as independent draws of the prior and follow the path

    log p_t(u) = log prior(u) + t log r(u),   r = target / prior,   t from 0 to 1

in stages (`bayleaf.montecarlo.stages`), each as long as the particles can bear
(`bayleaf.montecarlo.temperature`). On the way the evidence is multiplied up,

$$\hat Z = \prod_s \frac1N \sum_n r(x_n^{(s)})^{t_{s+1} - t_s} \approx \int \mathrm{target},$$

with a standard error from the same run (`bayleaf.montecarlo.genealogy`). It is the evidence of the
model if the target is the normalised prior times the likelihood.

Use it for the evidence, and for targets with several modes, each of which keeps its share of the
particles from the moment it splits off. For one well-behaved mode and no evidence, `bayleaf.sample`
is cheaper.

A run follows from its key alone: interrupted, and resumed from its checkpoint, it ends in the same
particles, bit for bit. Half of a path is not a posterior, so
Ctrl-C raises; the same call goes on from the last finished stage.

Sources: Del Moral, Doucet & Jasra, Sequential Monte Carlo samplers, JRSS B 68 (2006); Dau & Chopin,
Waste-free sequential Monte Carlo, JRSS B 84 (2022).
"""

from __future__ import annotations

import time
from pathlib import Path as FilePath
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bayleaf.errors import BayleafError, bad_argument, warn
from bayleaf.mcmc.foreign import Foreign
from bayleaf.mcmc.gibbs import Conditional, Gibbs
from bayleaf.mcmc.hmc import HMC
from bayleaf.mcmc.langevin import SGHMC, SGLD
from bayleaf.montecarlo.path import Path, as_path
from bayleaf.montecarlo.population import TemperedDraws
from bayleaf.montecarlo.prior_check import check_particles, normalisation_finding
from bayleaf.montecarlo.stages import Population, advance, begin, prior_particles
from bayleaf.run.arguments import as_kernel, check_settings
from bayleaf.run.fingerprint import fingerprint
from bayleaf.run.host import is_first_process, to_host
from bayleaf.run.loop import Loop
from bayleaf.run.progress import open_progress
from bayleaf.targets import Target
from bayleaf.types import Distribution, Key, LogDensity

MAX_STAGES = 2000
"""A healthy path has tens; each costs ``num_particles`` steps."""

FEWEST_PARTICLES = 32
STEPS_OF_A_CHAIN = 16


def tempered(
    target: Target | LogDensity,
    prior: Distribution | Any = None,
    kernel: Any = None,
    *,
    key: Key,
    num_particles: int = 2048,
    num_steps: int | None = None,
    num_warmup: int = 4,
    ess_share: float = 0.5,
    progress: bool = True,
    checkpoint: str | FilePath | None = None,
) -> TemperedDraws:
    """Draws of a target and its evidence, along a path that starts at the prior.

    Args:
        target: a `Target`, or a log density of real parameters.
        prior: where the path starts, on the space of the parameters: anything with ``sample(key)``
            and a normalised ``log_prob(x)`` (`bayleaf.Gaussian`, a distribution of NumPyro), or a
            tree of such shaped like the parameters. Any normalised reference will do, the better
            the closer to the target. None takes the prior of `Target.from_gaussian_prior` or of the
            NumPyro model. For a
            target made of a prior and a likelihood whose log prior is that of ``prior`` up to a
            constant, the path is prior times likelihood^t, and the evidence that of the normalised
            prior.
        kernel: moves the particles; one of `bayleaf.mcmc` that leaves its log density exactly
            invariant. What it leaves open it learns from the particles. None takes
            `bayleaf.mcmc.HMC` with up to three steps.
        key: a typed key, ``jax.random.key(seed)``. Everything follows from it alone.
        num_particles: N, draws at each temperature.
        num_steps: P, of which N must be a multiple: N / P chains are moved by P steps each, whose
            states are all kept. None takes the divisor of N nearest to 16.
        num_warmup: steps of each stage in which the kernel learns and which are not kept.
        ess_share: rho, the share of the particles that a rise of the temperature leaves effective.
            Nearer to 1 means more stages, each with less noise.
        progress: show a progress bar.
        checkpoint: a directory. Each stage is saved there; the same call resumes what it finds.

    Returns:
        Equally weighted draws of the target, its log evidence with standard error, and the stages.

    Raises:
        BayleafError: an argument that cannot be used.
        NonFiniteLogDensityError: the target is NaN at draws of the prior, or -inf at all.
        CheckpointError: the checkpoint is damaged, or belongs to another configuration.
        KeyboardInterrupt: Ctrl-C, with a message that says what is kept.
    """
    check_settings(1, 0, 1, key, checkpoint, None)
    num_chains, num_steps = check_sizes(num_particles, num_steps, num_warmup, ess_share)
    kernel = HMC(3, target_acceptance=0.8) if kernel is None else as_kernel(kernel)
    check_kernel(kernel)
    path = as_path(target, prior)

    positions, log_prior, log_ratio = prior_particles(path, key, num_particles)
    check_particles(path, *to_host((positions, log_prior, log_ratio)))
    findings = normalisation_finding(*to_host((positions, log_prior)))
    if path.likelihood_only:  # the prior's constant does not enter
        findings = ()
    population = begin(path, kernel, positions, log_ratio, key, num_chains)

    tuner, share = kernel.tuner(), jnp.asarray(ess_share, log_ratio.dtype)

    def call(population: Population, _: Any) -> Any:
        population, stage = advance(
            path, tuner, population, share, num_chains, num_warmup, num_steps
        )
        return population, jax.tree.map(lambda leaf: leaf[None], stage)

    loop = Loop(call, population, capacity=1)
    if checkpoint is not None:
        settings = (num_particles, num_steps, num_warmup, float(ess_share))
        parts = {"target": path.target, "prior": path.prior, "kernel": kernel, "key": key}
        loop.save_to(checkpoint, fingerprint(**parts, settings=settings))
    began = time.monotonic()
    run_stages(loop, progress, checkpoint)
    draws = constrained(path, loop.state.positions)
    stages = jax.tree.map(lambda *parts: np.concatenate(parts), *loop.series["stages"])
    result = TemperedDraws.of(
        to_host(draws),
        stages,
        num_chains=num_chains,
        kernel=type(kernel).__name__,
        findings=findings,
        seconds=time.monotonic() - began,
    )
    for finding in result.findings:
        warn(finding.message)
    return result


def run_stages(loop: Loop, progress: bool, checkpoint: Any) -> None:
    """Stage after stage until the temperature is 1."""
    done = [np.asarray(stage.temperature) for stage in loop.series.get("stages", [])]
    shown = open_progress({"tempering": 100}, shown=progress and is_first_process())
    display = Thermometer(shown, float(done[0][0]) if done else None)
    with shown:
        try:
            loop.advance_to(
                MAX_STAGES,
                "stages",
                display,
                notice=lambda stage, _: display.read(stage),
                is_done=lambda population: float(population.temperature) >= 1,
            )
        except KeyboardInterrupt as e:
            kept = (
                "Nothing is kept without checkpoint=."
                if checkpoint is None
                else "The same call goes on from its checkpoint."
            )
            raise KeyboardInterrupt(
                f"tempered: interrupted at temperature {float(loop.state.temperature):.3g} after "
                f"{loop.step} stages. Only at temperature 1 are particles draws of the target. "
                f"{kept}"
            ) from e
    if float(loop.state.temperature) < 1:
        raise bad_argument(
            "target",
            f"temperature {float(loop.state.temperature):.3g} after {loop.step} stages",
            "a path that ends",
            "The target is too far from the prior: give a prior= that is closer to it.",
        )


class Thermometer:
    """Tells a progress display the temperature, on a scale on which it rises evenly."""

    def __init__(self, display: Any, first: float | None):
        self.display = display
        self.first = first
        self.last = 0.0
        self.percent = 0

    def read(self, stage: Any) -> dict[str, Any]:
        """What to show beside; a temperature that stands still is an error."""
        temperature = float(stage.temperature[0])
        if temperature <= self.last:
            raise BayleafError(
                f"target: the temperature stands still at {temperature:.3g}: the next rise is lost "
                "in rounding, for the log density differs by too much between the particles. Look "
                "for infinite or huge values; use float64, or a prior= closer to the target."
            )
        self.last = temperature
        self.first = temperature if self.first is None else self.first
        # Stages multiply the temperature by about the same factor.
        share = 1.0 if self.first >= 1 else 1 - np.log(temperature) / np.log(self.first)
        self.percent = max(self.percent, int(100 * share))
        rates = [v for k, v in stage.stats.items() if k.endswith("acceptance_rate")]
        acceptance = {"acceptance": float(rates[0][0])} if rates else {}
        return {"temperature": temperature, "ess": float(stage.ess[0]), **acceptance}

    def update(self, done: int, status: Any = None) -> None:
        """Pass it on."""
        self.display.update(self.percent, {"stage": done, **(status or {})})


@eqx.filter_jit
def constrained(path: Path, positions: Any) -> Any:
    """The particles in the space of the parameters."""
    return jax.vmap(path.target.constrain)(positions)


def check_sizes(
    num_particles: Any, num_steps: Any, num_warmup: Any, ess_share: Any
) -> tuple[int, int]:
    """The numbers of chains and of their steps, or the error that says which number is wrong."""
    counts = [
        ("num_particles", num_particles, FEWEST_PARTICLES),
        ("num_warmup", num_warmup, 0),
        ("num_steps", 1 if num_steps is None else num_steps, 1),
    ]
    for name, value, least in counts:
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_whole or value < least:
            raise bad_argument(name, repr(value), f"a whole number, at least {least}")
    is_number = isinstance(ess_share, int | float | np.floating | np.integer)
    if not is_number or not 0 < ess_share < 1:
        raise bad_argument("ess_share", repr(ess_share), "a number between 0 and 1", "Try 0.5.")
    most = num_particles // 16
    divisors = [p for p in range(1, most + 1) if num_particles % p == 0]
    if num_steps is None:
        num_steps = min(divisors, key=lambda p: abs(np.log(p / STEPS_OF_A_CHAIN)))
    elif num_steps not in divisors:
        raise bad_argument(
            "num_steps",
            num_steps,
            f"a divisor of num_particles = {num_particles} that leaves at least 16 chains",
            f"Try one of {', '.join(map(str, divisors[:8]))}.",
        )
    return int(num_particles) // int(num_steps), int(num_steps)


def check_kernel(kernel: Any) -> None:
    """Refuse kernels that cannot follow a density which changes."""
    if isinstance(kernel, Foreign):
        raise bad_argument(
            "kernel",
            "a bound algorithm, which carries a log density of its own",
            "a kernel that takes the tempered one",
            "Use one of bl.mcmc.",
        )
    if isinstance(kernel, SGLD | SGHMC):
        raise bad_argument(
            "kernel",
            type(kernel).__name__,
            "one that leaves its log density exactly invariant",
            "Use bl.mcmc.HMC(), or leave it out.",
        )
    exact = isinstance(kernel, Gibbs) and any(isinstance(k, Conditional) for k in kernel.kernels)
    if exact:
        raise bad_argument(
            "kernel",
            "a Gibbs kernel with a Conditional, which draws from the full posterior",
            "kernels that take the tempered log density of their block",
            "Replace the Conditional by bl.mcmc.Slice() or another kernel.",
        )

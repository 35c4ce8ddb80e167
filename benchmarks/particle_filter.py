"""The bootstrap filter against the package `particles`, on a stochastic volatility model.

    x_t = mu + phi (x_t-1 - mu) + s e_t,   y_t = exp(x_t / 2) n_t,   1000 times,

systematic resampling when the effective number of particles falls below N/2. Both do all that their
ordinary call does: `particles.SMC(...).run()`, and `bayleaf.montecarlo.sequential`, which computes
filtered means and sds on top. Each has a process of its own and the same one core, which is all
that `particles` uses; their runs alternate, and medians are compared. bayleaf runs in float32, as
JAX does unless told otherwise, and its log-likelihoods must agree with those of `particles` in
float64.

A second table looks at float32 alone: mean log-likelihoods of 10^5 particles in both precisions, on
a linear Gaussian model whose exact value is known.

    python benchmarks/particle_filter.py --out benchmarks/results/particle_filter.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bayleaf as bl
from bayleaf.montecarlo.particle_filter import Scheme, run_filter

NUM_STEPS = 1000
PHI, SD, MEAN = 0.97, 0.2, -1.0
SIZES = {100: 15, 1000: 11, 10_000: 7, 100_000: 3}  # particles, and how often each is run
SHORTEST = 0.1
"""Seconds that one timing of ours must last: calls are repeated in it until it does."""


def observations() -> np.ndarray:
    """A simulated series."""
    rng = np.random.default_rng(1)
    x = np.zeros(NUM_STEPS)
    for t in range(1, NUM_STEPS):
        x[t] = MEAN + PHI * (x[t - 1] - MEAN) + SD * rng.standard_normal()
    return np.exp(x / 2) * rng.standard_normal(NUM_STEPS)


def volatility(y: np.ndarray) -> Any:
    """The model in the words of `particles`."""
    from particles import distributions, state_space_models

    class Volatility(state_space_models.StateSpaceModel):
        """Law of the first state, of the next, and of an observation."""

        def PX0(self):
            return distributions.Normal(loc=MEAN, scale=SD / np.sqrt(1 - PHI**2))

        def PX(self, t, xp):
            return distributions.Normal(loc=MEAN + PHI * (xp - MEAN), scale=SD)

        def PY(self, t, xp, x):
            return distributions.Normal(loc=0.0, scale=np.exp(0.5 * x))

    return state_space_models.Bootstrap(ssm=Volatility(), data=y)


def initial(key):
    return MEAN + SD / (1 - PHI**2) ** 0.5 * jax.random.normal(key)


def transition(key, x, t):
    return MEAN + PHI * (x - MEAN) + SD * jax.random.normal(key)


def log_likelihood(x, y, t):
    return jax.scipy.stats.norm.logpdf(y, 0.0, jnp.exp(0.5 * x))


def run_theirs(y: np.ndarray, num_particles: int, seed: int) -> float:
    import particles

    np.random.seed(seed)  # noqa: NPY002 (the only way to seed it)
    smc = particles.SMC(fk=volatility(y), N=num_particles, resampling="systematic", ESSrmin=0.5)
    smc.run()
    return float(smc.logLt)


def run_ours(y: Any, num_particles: int, seed: int) -> float:
    model = bl.montecarlo.StateSpaceModel(initial, transition, log_likelihood)
    found = bl.montecarlo.sequential(
        model, y, key=jax.random.key(seed), num_particles=num_particles
    )
    return found.log_likelihood


@eqx.filter_jit
def likelihood_alone(model: Any, y: Any, key: Any, num_particles: int) -> Any:
    return bl.montecarlo.log_likelihood(model, y, key=key, num_particles=num_particles)


MODEL = bl.montecarlo.StateSpaceModel(initial, transition, log_likelihood)


def run_alone(y: Any, num_particles: int, seed: int) -> float:
    return float(likelihood_alone(MODEL, y, jax.random.key(seed), num_particles))


def serve(connection: Any) -> None:
    """One side: whatever it is asked to run, it runs as often as it is told and times the mean."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    numbers = observations()
    single = None
    while (task := connection.recv()) is not None:
        run, num_particles, seed, calls = task
        if run is not run_theirs and single is None:
            single = jnp.asarray(numbers, jnp.float32)
        y = numbers if run is run_theirs else single
        begin = time.perf_counter()
        for i in range(calls):
            value = run(y, num_particles, seed + 1000 * i)
        connection.send(((time.perf_counter() - begin) / calls, value))


class Side:
    """A process that runs one library and no other."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other,), daemon=True)
        self.process.start()

    def timed(
        self, run: Callable[..., float], num_particles: int, seed: int, calls: int = 1
    ) -> tuple[float, float]:
        """Seconds of a call, as the mean over ``calls``, and the value of the last."""
        self.connection.send((run, num_particles, seed, calls))
        return self.connection.recv()

    def stop(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()


def compare(theirs: Side, ours: Side, num_particles: int, repeats: int) -> dict[str, Any]:
    """Alternating runs of both."""
    theirs.timed(run_theirs, num_particles, 0)  # Numba compiles on its first call
    first, _ = ours.timed(run_ours, num_particles, 0)
    ours.timed(run_alone, num_particles, 0)
    calls, calls_alone = (
        math.ceil(SHORTEST / ours.timed(run, num_particles, 1)[0]) for run in (run_ours, run_alone)
    )
    rounds = [
        (
            theirs.timed(run_theirs, num_particles, i),
            ours.timed(run_ours, num_particles, i, calls),
            ours.timed(run_alone, num_particles, i, calls_alone),
        )
        for i in range(repeats)
    ]
    seconds = [statistics.median(one[side][0] for one in rounds) for side in range(3)]
    values = [[one[side][1] for one in rounds] for side in range(3)]
    return {
        "num_particles": num_particles,
        "particles_us": 1e6 * seconds[0] / NUM_STEPS,
        "bayleaf_us": 1e6 * seconds[1] / NUM_STEPS,
        "bayleaf_likelihood_us": 1e6 * seconds[2] / NUM_STEPS,
        "ratio": seconds[0] / seconds[1],
        "ratio_likelihood": seconds[0] / seconds[2],
        "compile_seconds": first - seconds[1],
        "particles_log_likelihood": [np.mean(values[0]), np.std(values[0])],
        "bayleaf_log_likelihood": [np.mean(values[1]), np.std(values[1])],
    }


def exact_linear(y: np.ndarray) -> float:
    """Kalman's log-likelihood of x_t = 0.9 x_t-1 + e_t / 2, y_t = x_t + n_t, x_0 ~ N(0, 1)."""
    mean, variance, value = 0.0, 1.0, 0.0
    for t, seen in enumerate(y):
        if t:
            mean, variance = 0.9 * mean, 0.81 * variance + 0.25
        total, gap = variance + 1.0, seen - mean
        value -= 0.5 * (np.log(2 * np.pi * total) + gap**2 / total)
        mean, variance = mean + variance / total * gap, variance / total
    return value


def precision(repeats: int = 8, num_particles: int = 100_000) -> dict[str, Any]:
    """Mean log-likelihoods in both precisions, with their standard errors."""
    rng = np.random.default_rng(2)
    x = np.zeros(NUM_STEPS)
    for t in range(1, NUM_STEPS):
        x[t] = 0.9 * x[t - 1] + 0.5 * rng.standard_normal()
    y = x + rng.standard_normal(NUM_STEPS)
    found: dict[str, Any] = {"num_particles": num_particles, "exact": exact_linear(y)}
    for name, dtype in (("float32", jnp.float32), ("float64", jnp.float64)):
        model = bl.montecarlo.StateSpaceModel(
            lambda key, kind=dtype: jax.random.normal(key, dtype=kind),
            lambda key, x, t: 0.9 * x + 0.5 * jax.random.normal(key, dtype=x.dtype),
            lambda x, y, t: jax.scipy.stats.norm.logpdf(y, x),
        )
        run = eqx.filter_jit(run_filter)
        scheme = Scheme(num_particles=num_particles, has_moments=False)
        values = []
        for seed in range(repeats):
            _, records = run(model, jnp.asarray(y, dtype), jax.random.key(seed), scheme)
            values.append(np.sum(np.asarray(records.increment), dtype=np.float64))
        found[name] = float(np.mean(values))
        found[f"{name}_error"] = float(np.std(values, ddof=1) / repeats**0.5)
    error = np.hypot(found["float32_error"], found["float64_error"])
    found["standard_errors_apart"] = abs(found["float32"] - found["float64"]) / error
    return found


def report(speed: list[dict[str, Any]], single: dict[str, Any]) -> dict[str, Any]:
    """The results, with the tables that ``tables.py`` puts into the README."""
    rows = [
        [
            r["num_particles"],
            r["particles_us"],
            r["bayleaf_likelihood_us"],
            r["bayleaf_us"],
            r["ratio_likelihood"],
            r["ratio"],
            r["compile_seconds"],
        ]
        for r in speed
    ]
    first = {
        "caption": "Bootstrap particle filter, stochastic volatility, 1000 times; µs a step. "
        "`particles` and `log_likelihood` give the likelihood, `sequential` all moments too",
        "columns": [
            "particles", "`particles`", "`log_likelihood`", "`sequential`", "ratio, likelihood",
            "ratio, all", "compile (s)",
        ],
        "rows": rows,
    }  # fmt: skip
    second = {
        "caption": "Log-likelihood of 1000 times by 10^5 particles, 8 runs; exact "
        f"{single['exact']:.4f}",
        "columns": ["precision", "mean error", "standard error"],
        "rows": [
            [name, f"{single[name] - single['exact']:+.4f}", f"{single[f'{name}_error']:.4f}"]
            for name in ("float32", "float64")
        ],
    }
    versions = {"jax": jax.__version__, "particles": metadata.version("particles")}
    machine = f"1 of {os.cpu_count()} CPU cores ({platform.machine()}), bayleaf in float32"
    return {
        "machine": machine,
        "versions": versions,
        "results": speed,
        "float32": single,
        "tables": [first, second],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The bootstrap filter against `particles`.")
    parser.add_argument("--out", type=Path, help="write the results and the README's tables here")
    parser.add_argument("--skip-precision", action="store_true", help="only the speed")
    options = parser.parse_args()
    theirs, ours = Side(), Side()
    speed = []
    for num_particles, repeats in SIZES.items():
        speed.append(compare(theirs, ours, num_particles, repeats))
        print(json.dumps(speed[-1]), flush=True)
    theirs.stop()
    ours.stop()
    if options.skip_precision:
        return
    jax.config.update("jax_enable_x64", True)
    single = precision()
    print(json.dumps(single), flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report(speed, single), indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Evidence by tempered sequential Monte Carlo against BlackJAX: seconds times variance of log Z.

    python benchmarks/tempered.py [--repeats 16] [--out benchmarks/results/tempered.json]

The target is the logistic regression of 25 coefficients (`models.py`) with N(0, 1) priors, float64.
bayleaf runs as ``bl.montecarlo.tempered(target, key=key)`` does, progress and all of the way to the
host included. BlackJAX's adaptive tempered SMC is one jitted loop over 512 particles, each moved by
five trajectories of ten leapfrog steps of size 0.12 with a unit metric: the setting that was found
for it by hand on this target; bayleaf's kernel finds its own. Both let the effective sample size
fall to a half.

The libraries take turns, one run each per repeat and key, so that a slow moment hits both. Cost is
median seconds times the variance of log Z over the repeats; a sampler with twice the particles
takes twice the time for half the variance, so the product does not depend on their number. The
variance of a few repeats is rough: its own relative error is printed beside, and that of bayleaf is
also known from the errors that its runs state.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc import extend_params, resampling
from jax.scipy.stats import norm
from models import logistic_regression

import bayleaf as bl

NUM_PARTICLES, STEP_SIZE, NUM_LEAPFROGS, NUM_MOVES = 512, 0.12, 10, 5


def run_bayleaf(log_density: Callable[[Any], Any], dim: int) -> Callable[[int], dict[str, Any]]:
    """One run of ours by its seed."""
    prior = bl.Gaussian.from_scale(jnp.zeros(dim), 1.0)

    def log_likelihood(q):
        return log_density(q) - norm.logpdf(q).sum()

    target = bl.Target.from_gaussian_prior(prior, log_likelihood)

    def run(seed: int) -> dict[str, Any]:
        run = bl.montecarlo.tempered(target, key=jax.random.key(seed), progress=False)
        return {
            "log_evidence": run.log_evidence,
            "stated_error": run.log_evidence_error,
            "temperatures": len(run.temperatures),
            # Kept steps; those of the warm-up cost as much each.
            "gradients": int(1.25 * run.stages["num_gradients"].sum()),
        }

    return run


def run_blackjax(log_density: Callable[[Any], Any], dim: int) -> Callable[[int], dict[str, Any]]:
    """One run of BlackJAX by its seed."""

    def log_prior(q):
        return norm.logpdf(q).sum()

    algorithm = blackjax.adaptive_tempered_smc(
        log_prior,
        lambda q: log_density(q) - log_prior(q),
        blackjax.hmc.build_kernel(),
        blackjax.hmc.init,
        extend_params(
            {
                "step_size": STEP_SIZE,
                "inverse_mass_matrix": jnp.ones(dim),
                "num_integration_steps": NUM_LEAPFROGS,
            }
        ),
        resampling.systematic,
        0.5,
        num_mcmc_steps=NUM_MOVES,
    )

    @jax.jit
    def whole(key):
        key_start, key = jax.random.split(key)
        start = algorithm.init(jax.random.normal(key_start, (NUM_PARTICLES, dim)))

        def is_going(carry):
            return carry[1].tempering_param < 1

        def body(carry):
            key, state, count, log_evidence = carry
            key, key_step = jax.random.split(key)
            state, info = algorithm.step(key_step, state)
            return key, state, count + 1, log_evidence + info.log_likelihood_increment

        _, state, count, log_evidence = jax.lax.while_loop(is_going, body, (key, start, 0, 0.0))
        return state.particles, count, log_evidence

    def run(seed: int) -> dict[str, Any]:
        _, count, log_evidence = jax.device_get(whole(jax.random.key(seed)))
        gradients = NUM_PARTICLES * NUM_MOVES * NUM_LEAPFROGS * int(count)
        return {
            "log_evidence": float(log_evidence),
            "temperatures": int(count),
            "gradients": gradients,
        }

    return run


def timed(run: Callable[[int], dict[str, Any]], seed: int) -> dict[str, Any]:
    """A run with its seconds."""
    begin = time.perf_counter()
    outcome = run(seed)
    return {"seconds": time.perf_counter() - begin, **outcome}


def summarised(runs: list[dict[str, Any]], first_seconds: float) -> dict[str, Any]:
    """What the runs of one library cost and know."""
    log_evidence = np.array([run["log_evidence"] for run in runs])
    variance = float(log_evidence.var(ddof=1))
    seconds = statistics.median(run["seconds"] for run in runs)
    stated = [run["stated_error"] ** 2 for run in runs if "stated_error" in run]
    return {
        "seconds": seconds,
        "first_run_seconds": first_seconds,
        "temperatures": statistics.median(run["temperatures"] for run in runs),
        "gradients": statistics.median(run["gradients"] for run in runs),
        "log_evidence": float(log_evidence.mean()),
        "sd": variance**0.5,
        "relative_error_of_variance": float(np.sqrt(2 / (len(runs) - 1))),
        "stated_sd": float(np.sqrt(np.mean(stated))) if stated else None,
        "seconds_times_variance": seconds * variance,
        "seconds_times_stated_variance": seconds * float(np.mean(stated)) if stated else None,
    }


def report(results: dict[str, dict[str, Any]], num_repeats: int) -> dict[str, Any]:
    """The results, with the table that ``tables.py`` puts into the README."""
    rows = [
        [
            name,
            r["seconds"],
            r["temperatures"],
            r["gradients"],
            r["sd"],
            1e3 * r["seconds_times_variance"],
            r["first_run_seconds"],
        ]
        for name, r in results.items()
    ]
    table = {
        "caption": f"Log evidence of a logistic regression (25), {num_repeats} runs each",
        "columns": [
            "library",
            "run (s)",
            "temperatures",
            "gradients",
            "sd of log Z",
            "time x variance (ms)",
            "first run (s)",
        ],
        "rows": rows,
    }
    versions = {name: version(name) for name in ("jax", "blackjax")}
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), float64"
    return {"machine": machine, "versions": versions, "results": results, "tables": [table]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write the results and the README's table here")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    model = logistic_regression()
    libraries = {
        "bayleaf": run_bayleaf(model.log_density, model.dim),
        "BlackJAX": run_blackjax(model.log_density, model.dim),
    }
    first = {name: timed(run, 0)["seconds"] for name, run in libraries.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in libraries}
    for seed in range(1, arguments.repeats + 1):
        for name, run in libraries.items():
            runs[name].append(timed(run, seed))
            print(json.dumps({"library": name, "seed": seed, **runs[name][-1]}), flush=True)
    results = {name: summarised(runs[name], first[name]) for name in libraries}
    ours, theirs = results["bayleaf"], results["BlackJAX"]
    ours["ratio"] = theirs["seconds_times_variance"] / ours["seconds_times_variance"]
    print(json.dumps(results, indent=2))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report(results, arguments.repeats), indent=2) + "\n"
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

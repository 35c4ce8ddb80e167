"""Elliptical slice sampling against BlackJAX's, on a Gaussian process of 200 points.

Both run as bare kernels in the same vmapped scan: 4 chains, float64, the same data, started at the
prior mean. BlackJAX's is plain (the prior is its ellipse); ours has the Laplace reference. Seconds
count the Newton search for that reference and the warm-up steps; compile time is reported beside.
Prints one JSON object per likelihood; ``ratio`` is ours / theirs in least bulk-ESS per second.

    python benchmarks/elliptical_slice.py --out benchmarks/results/elliptical_slice.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats

import bayleaf as bl
from bayleaf.mcmc.reference import laplace_reference

SIZE, NUM_CHAINS, NUM_STEPS, NUM_WARMUP, REPEATS = 200, 4, 6000, 1000, 3
NOISE_VARIANCE = 0.09


def problem() -> tuple[np.ndarray, dict[str, Callable[[Any], Any]]]:
    """Prior covariance and log likelihoods; the data are those of the published comparison."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 10, SIZE))
    covariance = np.exp(-0.5 * (x[:, None] - x[None]) ** 2) + 1e-6 * np.eye(SIZE)
    latent = np.linalg.cholesky(covariance) @ rng.standard_normal(SIZE)
    noisy = latent + NOISE_VARIANCE**0.5 * rng.standard_normal(SIZE)
    counts = rng.poisson(np.exp(latent))
    return covariance, {
        "gaussian": lambda f: -0.5 * jnp.sum((noisy - f) ** 2) / NOISE_VARIANCE,
        "poisson": lambda f: jnp.sum(counts * f - jnp.exp(f)),
    }


def program(algorithm: Any, evaluations: str) -> Callable[[Any, Any], Any]:
    """All chains of one library: (keys, starts) -> draws, evaluations per step."""

    def chain(key, start):
        def body(state, key):
            state, info = algorithm.step(key, state)
            return state, (state.position, getattr(info, evaluations))

        return jax.lax.scan(body, algorithm.init(start), jax.random.split(key, NUM_STEPS))[1]

    return jax.vmap(chain)


def measure(run: Callable[[Any, Any], Any], extra: float, extra_compile: float) -> dict[str, Any]:
    """Compile once, run ``REPEATS`` times, and take the median."""
    keys = jax.random.split(jax.random.key(0), NUM_CHAINS)
    starts = jnp.zeros((NUM_CHAINS, SIZE))
    begin = time.perf_counter()
    compiled = jax.jit(run).lower(keys, starts).compile()
    compile_seconds = time.perf_counter() - begin + extra_compile
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        draws, evaluations = jax.block_until_ready(compiled(keys, starts))
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times) + extra
    kept = np.asarray(draws)[:, NUM_WARMUP:]
    sizes = array_stats.ess(kept, chain_axis=0, draw_axis=1, method="bulk")
    ess = float(np.min(sizes))
    return {
        "compile_seconds": round(compile_seconds, 3),
        "seconds": round(seconds, 4),
        "evaluations_per_step": round(float(np.mean(evaluations)), 3),
        "min_bulk_ess": round(ess, 1),
        "ess_per_second": round(ess / seconds, 1),
    }


def timed_reference(target: bl.Target) -> tuple[Any, float, float]:
    """The Laplace reference, its seconds when compiled, and what compiling added."""
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        reference = jax.block_until_ready(laplace_reference(target))
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times[1:])
    return reference, seconds, times[0] - seconds


def report(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results, with the table that ``tables.py`` puts into the README."""
    libraries = {
        "bayleaf": "bayleaf, Laplace reference",
        "bayleaf_plain": "bayleaf, plain",
        "blackjax": "BlackJAX, plain",
    }
    columns = ["seconds", "min_bulk_ess", "ess_per_second", "compile_seconds"]
    rows = [
        [result["likelihood"], shown, *(result[library][column] for column in columns)]
        for result in results
        for library, shown in libraries.items()
    ]
    table = {
        "caption": "Elliptical slice sampling of a Gaussian process of 200 points, 4 chains",
        "columns": ["likelihood", "library", "run (s)", "min ESS", "ESS/s", "compile (s)"],
        "rows": rows,
    }
    versions = {"jax": jax.__version__, "blackjax": blackjax.__version__}
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), float64"
    return {"machine": machine, "versions": versions, "results": results, "tables": [table]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results and the README's table here")
    out = parser.parse_args().out
    jax.config.update("jax_enable_x64", True)
    covariance, likelihoods = problem()
    results = []
    for name, log_likelihood in likelihoods.items():
        theirs = measure(
            program(
                blackjax.elliptical_slice(
                    log_likelihood, mean=jnp.zeros(SIZE), cov=jnp.asarray(covariance)
                ),
                "subiter",
            ),
            0.0,
            0.0,
        )
        prior = bl.Gaussian(np.zeros(SIZE), covariance)
        target = bl.Target.from_gaussian_prior(prior, log_likelihood)
        reference, seconds, compiling = timed_reference(target)
        kernel = bl.mcmc.EllipticalSlice(reference)
        ours = measure(program(kernel.bind(target), "num_evaluations"), seconds, compiling)
        plain = measure(program(bl.mcmc.EllipticalSlice().bind(target), "num_evaluations"), 0, 0)
        result = {
            "likelihood": name,
            "blackjax": theirs,
            "bayleaf": {**ours, "laplace_seconds": round(seconds, 4)},
            "bayleaf_plain": plain,
            "ratio": round(ours["ess_per_second"] / theirs["ess_per_second"], 1),
        }
        results.append(result)
        print(json.dumps(result), flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report(results), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

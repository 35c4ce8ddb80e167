"""Laplace and Pathfinder on the benchmark's models: seconds, and how far from the posterior.

BlackJAX's Pathfinder (one path, its defaults and jitted) is the peer; it has no Laplace
approximation of its own. Errors are against a long run of NUTS: the worst mean in posterior
standard deviations, and the smallest and the largest ratio of standard deviations. Calls take
turns; medians of the repeats. ``compile`` is the first call's time less the median's.

    python benchmarks/laplace.py --out benchmarks/results/laplace.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from models import MODELS, Model

import bayleaf as bl

NUM_DRAWS = 4000


def reference(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of a long run."""
    target = bl.Target(model.log_density, init=jnp.zeros(model.dim))
    run = bl.sample(target, key=jax.random.key(0), num_draws=5000, progress=False)
    pooled = run.draws.reshape(-1, model.dim)
    return pooled.mean(0), pooled.std(0)


def laplace(model: Model) -> Callable[[int], tuple[Any, float]]:
    target = bl.Target(model.log_density, init=jnp.zeros(model.dim))

    def run(seed: int) -> tuple[Any, float]:
        fit = bl.variational.laplace(target, key=jax.random.key(seed))
        return fit, fit.elbo

    return run


def pathfinder(**settings: Any) -> Callable[[Model], Callable[[int], tuple[Any, float]]]:
    def of(model: Model) -> Callable[[int], tuple[Any, float]]:
        target = bl.Target(model.log_density, init=jnp.zeros(model.dim))

        def run(seed: int) -> tuple[Any, float]:
            fit = bl.variational.pathfinder(target, key=jax.random.key(seed), **settings)
            return fit, fit.elbo

        return run

    return of


def blackjax_pathfinder(model: Model) -> Callable[[int], tuple[Any, float]]:
    from blackjax.vi import pathfinder as theirs

    @jax.jit
    def fit(key: Any) -> Any:
        key_start, key_fit, key_draws = jax.random.split(key, 3)
        start = jax.random.uniform(key_start, (model.dim,), minval=-1.0, maxval=1.0)
        state, _ = theirs.approximate(key_fit, model.log_density, start)
        draws, log_q = theirs.sample(key_draws, state, NUM_DRAWS)
        return draws, jnp.mean(jax.vmap(model.log_density)(draws) - log_q)

    def run(seed: int) -> tuple[Any, float]:
        draws, elbo = jax.block_until_ready(fit(jax.random.key(seed)))
        return draws, float(elbo)

    return run


METHODS = {
    "bayleaf, Laplace": laplace,
    "bayleaf, Pathfinder, 4 paths": pathfinder(),
    "bayleaf, Pathfinder, 1 path": pathfinder(num_paths=1),
    "BlackJAX, Pathfinder, 1 path": blackjax_pathfinder,
}


def measure(name: str, repeats: int) -> list[dict[str, Any]]:
    """One record for each method on one model."""
    model = MODELS[name]()
    mean, sd = reference(model)
    methods = {who: make(model) for who, make in METHODS.items()}
    first = {who: timed(run, 0)[1] for who, run in methods.items()}
    seconds: dict[str, list[float]] = {who: [] for who in methods}
    quality: dict[str, list[Any]] = {who: [] for who in methods}
    for seed in range(1, repeats + 1):
        for who, run in methods.items():
            (result, elbo), took = timed(run, seed)
            seconds[who].append(took)
            draws = result
            if isinstance(result, bl.variational.Fit):
                draws = result.sample(NUM_DRAWS, key=jax.random.key(seed))
            draws = np.asarray(draws)
            ratios = draws.std(0) / sd
            worst = np.max(np.abs(draws.mean(0) - mean) / sd)
            quality[who].append([elbo, worst, ratios.min(), ratios.max()])
    records = []
    for who in methods:
        median = float(np.median(seconds[who]))
        marks = np.median(quality[who], axis=0)
        keys = ("elbo", "worst_mean_error", "smallest_sd_ratio", "largest_sd_ratio")
        records.append(
            {"target": model.name, "dim": model.dim, "method": who, "seconds": median}
            | {"compile_seconds": first[who] - median}
            | dict(zip(keys, map(float, marks), strict=True))
        )
        print(json.dumps(records[-1]), flush=True)
    return records


def timed(run: Callable[[int], Any], seed: int) -> tuple[Any, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat above 0.7: the table shows what it is about
        start = time.perf_counter()
        result = run(seed)
        return result, time.perf_counter() - start


def tables(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the README shows."""
    shown = {
        "run (ms)": lambda r: 1000 * r["seconds"],
        "compile (s)": lambda r: r["compile_seconds"],
        "ELBO": lambda r: r["elbo"],
        "worst mean (sd)": lambda r: r["worst_mean_error"],
        "smallest sd ratio": lambda r: r["smallest_sd_ratio"],
        "largest sd ratio": lambda r: r["largest_sd_ratio"],
    }
    rows = [
        [f"{r['target']} ({r['dim']})", r["method"], *(value(r) for value in shown.values())]
        for r in records
    ]
    caption = (
        "Laplace and Pathfinder against a long run of NUTS; medians; the larger ELBO is better"
    )
    return [{"caption": caption, "columns": ["target", "method", *shown], "rows": rows}]


def main() -> None:
    parser = argparse.ArgumentParser(description="Laplace and Pathfinder against BlackJAX's.")
    parser.add_argument("--targets", nargs="+", choices=MODELS, default=["logistic", "gaussian"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    records = [r for target in options.targets for r in measure(target, options.repeats)]
    results = {
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()}), float64",
        "versions": {"Python": platform.python_version()}
        | {name: version(name) for name in ("jax", "blackjax")},
        "results": records,
        "tables": tables(records),
    }
    print(json.dumps(results))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

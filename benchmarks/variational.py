"""Full-rank variational inference against BlackJAX's, on the 25-column logistic regression.

Both take 3000 steps of 10 draws with sticking the landing, in float64; BlackJAX's guide moves by
Adam(1e-2), ours by its default. Ours is timed through `bayleaf.variational.fit` from the call to
the result, the check of the guide by 1000 fresh draws included, once with BlackJAX's 3000 steps and
once with the default 1000; BlackJAX's loop is one compiled scan. Repeats are interleaved and each
has its own key. The error of a fit is the worst error of a posterior mean, in posterior standard
deviations, against 80,000 draws of NUTS.

    python benchmarks/variational.py --out benchmarks/results/variational.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from models import Model, logistic_regression

import bayleaf as bl

NUM_STEPS, NUM_DRAWS, REPEATS = 3000, 10, 5


@cache
def model() -> Model:
    """Made after float64 is switched on."""
    return logistic_regression()


def reference() -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations, with a standard error below 0.005 sd."""
    run = bl.sample(
        target(), key=jax.random.key(9), num_draws=20_000, num_warmup=1000, progress=False
    )
    draws = run.draws.reshape(-1, model().dim)
    return draws.mean(axis=0), draws.std(axis=0)


def target() -> bl.Target:
    return bl.Target(model().log_density, init=np.zeros(model().dim))


def blackjax_fit(kind: Any) -> Callable[[Any], tuple[np.ndarray, np.ndarray, float]]:
    """A function of a key: draws of the fitted guide by their mean and sd, and the ELBO."""
    algorithm = kind(model().log_density, optax.adam(1e-2), num_samples=NUM_DRAWS)

    @jax.jit
    def run(key):
        def step(state, key):
            state, info = algorithm.step(key, state)
            return state, info.elbo

        start = algorithm.init(jnp.zeros(model().dim))
        return jax.lax.scan(step, start, jax.random.split(key, NUM_STEPS))

    def fit(key):
        state, losses = jax.block_until_ready(run(key))
        return state, -float(losses[-200:].mean())  # what it calls elbo is minus the ELBO

    def moments(state):
        draws = np.asarray(algorithm.sample(jax.random.key(5), state, 100_000))
        return draws.mean(axis=0), draws.std(axis=0)

    return lambda key: (*fit(key), moments)


def bayleaf_fit(guide: Any, num_steps: int) -> Callable[[Any], tuple[Any, float, Any]]:
    """The same through `fit`."""

    def fit(key):
        settings = {"key": key, "num_steps": num_steps, "num_draws": NUM_DRAWS, "progress": False}
        fitted = bl.variational.fit(target(), guide, **settings)
        return fitted.guide, fitted.elbo, moments

    def moments(guide):
        return np.asarray(guide.loc), np.sqrt(np.asarray(guide.variance()))

    return fit


def backend_compilations(run: Callable[[], Any]) -> int:
    """How many programs the backend compiles while ``run`` runs."""
    count = 0

    def listen(event, duration, **details):
        nonlocal count
        count += "backend_compile" in event

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count


def measure() -> list[dict[str, Any]]:
    mean, sd = reference()
    methods = {
        "BlackJAX full rank": blackjax_fit(blackjax.fullrank_vi),
        "bayleaf full rank, 3000 steps": bayleaf_fit(bl.variational.FullRank, NUM_STEPS),
        "bayleaf full rank, 1000 steps": bayleaf_fit(bl.variational.FullRank, 1000),
        "BlackJAX mean field": blackjax_fit(blackjax.meanfield_vi),
        "bayleaf mean field, 1000 steps": bayleaf_fit(bl.variational.MeanField, 1000),
    }
    first, seconds, fits = {}, {name: [] for name in methods}, {name: [] for name in methods}
    for name, fit in methods.items():
        begin = time.perf_counter()
        fit(jax.random.key(100))
        first[name] = time.perf_counter() - begin
    for repeat in range(REPEATS):
        for name, fit in methods.items():
            begin = time.perf_counter()
            fits[name].append(fit(jax.random.key(repeat)))
            seconds[name].append(time.perf_counter() - begin)
    results = []
    for name, fit in methods.items():
        moments = [how(state) for state, _, how in fits[name]]
        errors = [float(np.max(np.abs(m - mean) / sd)) for m, _ in moments]
        ratios = np.array([s / sd for _, s in moments])
        results.append(
            {
                "method": name,
                "first_seconds": round(first[name], 2),
                "seconds": round(statistics.median(seconds[name]), 3),
                "worst_mean_error": round(statistics.median(errors), 4),
                "largest_error_of_all_repeats": round(max(errors), 4),
                "sd_ratio_min": round(float(ratios.min()), 3),
                "sd_ratio_max": round(float(ratios.max()), 3),
                "elbo": round(statistics.median(elbo for _, elbo, _ in fits[name]), 2),
                "compilations_of_a_second_fit": backend_compilations(
                    lambda fit=fit: fit(jax.random.key(77))
                ),
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def report(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results, with the table that ``tables.py`` puts into the README."""
    headings = {
        "seconds": "run (s)",
        "worst_mean_error": "worst mean error (sd)",
        "sd_ratio_min": "sd ratio, least",
        "sd_ratio_max": "most",
        "elbo": "ELBO",
        "compilations_of_a_second_fit": "compiled by a second fit",
    }
    table = {
        "caption": "Variational inference, logistic regression with 25 columns, 10 draws a step",
        "columns": ["method", *headings.values()],
        "rows": [[result["method"], *(result[name] for name in headings)] for result in results],
    }
    versions = {"jax": jax.__version__, "blackjax": blackjax.__version__}
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), float64"
    return {"machine": machine, "versions": versions, "results": results, "tables": [table]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", bl.errors.SamplingWarning)  # mean field has a large k-hat
    results = measure()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report(results), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Exact Gaussian-process regression against tinygp and scikit-learn, 2000 points of 10 features.

Squared-exponential kernel with fixed hyper-parameters: conditioning on the data and mean and
variance at 500 points, and the log marginal likelihood with its gradient. The libraries run in
turns, so that what else the machine does hits all alike; medians are reported. scikit-learn gives
one of its two outputs by another road: its gradient holds an array of points x points for each
hyper-parameter. Prints one JSON object; ``ratio`` is ours over that library's time.

    python benchmarks/gp.py --out benchmarks/results/gp.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import sklearn
import tinygp
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

import bayleaf as bl

NUM, FEATURES, NUM_TEST, REPEATS = 2000, 10, 500, 12
LENGTH_SCALE, NOISE_STD = 2.0, 0.1
MINE = "bayleaf"


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, noisy outputs and test points."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((NUM, FEATURES))
    y = np.sin(x.sum(1)) + NOISE_STD * rng.standard_normal(NUM)
    return x, y, rng.standard_normal((NUM_TEST, FEATURES))


def with_bayleaf(dtype: Any) -> dict[str, Callable[[], Any]]:
    """Our predictions, and the log marginal likelihood with its gradient."""
    x, y, test = (jnp.asarray(a, dtype) for a in problem())

    def process(p):
        kernel = bl.gp.SquaredExponential(jnp.exp(p[0]))
        return bl.gp.GaussianProcess(kernel, noise_std=jnp.exp(p[1]))

    predict = eqx.filter_jit(lambda g, x, y, test: g.condition(x, y).predict(test))
    gradient = jax.jit(jax.value_and_grad(lambda p, x, y: process(p).log_marginal_likelihood(x, y)))
    start = jnp.log(jnp.asarray([LENGTH_SCALE, NOISE_STD], dtype))
    prior = process(start)
    return {"predict": lambda: predict(prior, x, y, test), "lml": lambda: gradient(start, x, y)}


def with_tinygp(dtype: Any) -> dict[str, Callable[[], Any]]:
    """The same by tinygp."""
    x, y, test = (jnp.asarray(a, dtype) for a in problem())

    def process(p, x):
        distance = tinygp.kernels.distance.L2Distance()
        kernel = tinygp.kernels.ExpSquared(scale=jnp.exp(p[0]), distance=distance)
        return tinygp.GaussianProcess(kernel, x, diag=jnp.exp(2 * p[1]))

    @jax.jit
    def predict(p, x, y, test):
        conditioned = process(p, x).condition(y, test).gp
        return conditioned.loc, conditioned.variance

    gradient = jax.jit(jax.value_and_grad(lambda p, x, y: process(p, x).log_probability(y)))
    start = jnp.log(jnp.asarray([LENGTH_SCALE, NOISE_STD], dtype))
    return {"predict": lambda: predict(start, x, y, test), "lml": lambda: gradient(start, x, y)}


def with_sklearn() -> dict[str, Callable[[], Any]]:
    """The same by scikit-learn, which computes in float64."""
    x, y, test = problem()
    fixed = GaussianProcessRegressor(RBF(LENGTH_SCALE), alpha=NOISE_STD**2, optimizer=None)
    kernel = RBF(LENGTH_SCALE) + WhiteKernel(NOISE_STD**2)
    free = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x, y)
    theta = free.kernel_.theta

    def predict():
        mean, std = fixed.fit(x, y).predict(test, return_std=True)
        return mean, std**2

    return {
        "predict": predict,
        "lml": lambda: free.log_marginal_likelihood(theta, eval_gradient=True),
    }


def measure(programs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each, after one run that compiles.

    They take turns, and each comes after each other one equally often: a library whose threads wait
    busily for more work slows down what runs next.
    """
    for program in programs.values():
        jax.block_until_ready(program())
    times: dict[str, list[float]] = {name: [] for name in programs}
    orders = list(itertools.permutations(programs))
    for turn in range(REPEATS):
        for name in orders[turn % len(orders)]:
            begin = time.perf_counter()
            jax.block_until_ready(programs[name]())
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def agree(mine: Any, theirs: Any, dtype: Any) -> float:
    """The largest difference in means and variances; they must solve the same problem."""
    gap = max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))))
        for a, b in zip(mine, theirs, strict=True)
    )
    if gap > (1e-7 if dtype == "float64" else 1e-2):
        raise AssertionError(f"the libraries differ by {gap:.2g} in {dtype}")
    return gap


def compare(dtype: str) -> list[dict[str, Any]]:
    """All libraries in one precision."""
    libraries = {MINE: with_bayleaf(dtype), "tinygp": with_tinygp(dtype)}
    if dtype == "float64":
        libraries["scikit-learn"] = with_sklearn()
    for library in libraries.values():
        agree(libraries[MINE]["predict"](), library["predict"](), dtype)
    results = []
    for task in ("predict", "lml"):
        seconds = measure({name: library[task] for name, library in libraries.items()})
        for name, value in seconds.items():
            ratio = seconds[MINE] / value
            results.append(
                {"task": task, "dtype": dtype, "library": name, "seconds": value, "ratio": ratio}
            )
    return results


def report(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The results, with the table that ``tables.py`` puts into the README."""
    shown = {"predict": "condition and predict", "lml": "marginal likelihood and gradient"}
    table = {
        "caption": f"Exact Gaussian process of {NUM} points of {FEATURES} features, predicting "
        f"{NUM_TEST}; medians of {REPEATS}",
        "columns": ["task", "precision", "library", "seconds", "bayleaf takes, relative"],
        "rows": [
            [shown[r["task"]], r["dtype"], r["library"], r["seconds"], r["ratio"]] for r in results
        ],
    }
    versions = {
        "jax": jax.__version__,
        "tinygp": tinygp.__version__,
        "scikit-learn": sklearn.__version__,
    }
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return {"machine": machine, "versions": versions, "results": results, "tables": [table]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results and the README's table here")
    out = parser.parse_args().out
    jax.config.update("jax_enable_x64", True)
    results = [*compare("float64"), *compare("float32")]
    print(json.dumps(results, indent=1))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report(results), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

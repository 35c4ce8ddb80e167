"""Adaptive rejection against scipy's TDR (UNU.RAN, in C), one target and ten thousand.

Repeats of both are interleaved; medians are reported, with the Kolmogorov-Smirnov p-values of 10^5
draws of each. ``one`` draws four million times from a single target after set-up; ``many`` draws a
few times from each of 10^4 Gamma densities whose shapes all differ, set-up included, for which
scipy needs a generator each. arspy joins where it is installed. float64 unless said otherwise.

    python benchmarks/adaptive_rejection.py --out benchmarks/results/adaptive_rejection.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from scipy import stats
from scipy.stats import sampling

from bayleaf.montecarlo import adaptive_rejection

NUM_DRAWS, NUM_TARGETS, REPEATS = 4_000_000, 10_000, 5


class Gamma:
    """What scipy wants of a density: x^(shape - 1) exp(-x)."""

    def __init__(self, shape: float) -> None:
        self.shape = shape

    def pdf(self, x: float) -> float:
        """The density."""
        return x ** (self.shape - 1) * np.exp(-x)

    def dpdf(self, x: float) -> float:
        """Its derivative."""
        return ((self.shape - 1) / x - 1) * self.pdf(x)


class Normal:
    """exp(-x^2 / 2)."""

    def pdf(self, x: float) -> float:
        """The density."""
        return np.exp(-0.5 * x * x)

    def dpdf(self, x: float) -> float:
        """Its derivative."""
        return -x * self.pdf(x)


TARGETS: dict[str, tuple[Callable[[Any], Any], Any, tuple[float, float], Any, float]] = {
    "Gamma(2.5)": (
        lambda x: 1.5 * jnp.log(x) - x,
        Gamma(2.5),
        (0.0, np.inf),
        stats.gamma(2.5),
        1.5,
    ),
    "N(0, 1) beyond 4": (
        lambda x: -0.5 * x * x,
        Normal(),
        (4.0, np.inf),
        stats.truncnorm(4, np.inf),
        4.0,
    ),
}


def gamma_of(x: Any, shape: Any) -> Any:
    return (shape - 1) * jnp.log(x) - x


def medians(programs: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each program, its repeats interleaved with those of the others; last results."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    results = {name: program() for name, program in programs.items()}  # compiles, fills caches
    for _ in range(REPEATS):
        for name, program in programs.items():
            begin = time.perf_counter()
            results[name] = program()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}, results


def one(name: str) -> dict[str, Any]:
    """Draws a second of one target, after set-up."""
    log_density, density, support, exact, mode = TARGETS[name]
    tdr = sampling.TransformedDensityRejection(
        density, domain=support, mode=mode, random_state=np.random.default_rng(0)
    )
    single = tuple(np.array([end], np.float32) for end in support)

    def ours(ends: Any) -> Callable[[], np.ndarray]:
        return lambda: (
            adaptive_rejection(
                log_density, key=jax.random.key(0), num_draws=NUM_DRAWS, support=ends
            ).draws
        )

    programs = {
        "bayleaf": ours(support),
        "bayleaf, float32": ours(single),
        "scipy TDR": lambda: tdr.rvs(NUM_DRAWS),
    }
    seconds, draws = medians(programs)
    return {
        "target": name,
        "draws_per_second": {k: NUM_DRAWS / s for k, s in seconds.items()},
        "ks_p": {
            k: float(stats.kstest(np.float64(x[:100_000]), exact.cdf).pvalue)
            for k, x in draws.items()
        },
    }


def many(num_draws: int) -> dict[str, Any]:
    """Draws a second of 10^4 targets, set-up of all of them included."""
    shapes = 1 + 10 * np.arange(1, NUM_TARGETS + 1) / NUM_TARGETS
    few = shapes[:: NUM_TARGETS // 200]  # scipy's time is proportional to the number of targets

    def ours(dtype: Any) -> Callable[[], np.ndarray]:
        return lambda: (
            adaptive_rejection(
                gamma_of,
                args=shapes.astype(dtype),
                support=(0.0, np.inf),
                key=jax.random.key(0),
                num_draws=num_draws,
            ).draws
        )

    def theirs() -> np.ndarray:
        rng = np.random.default_rng(0)
        return np.stack(
            [
                sampling.TransformedDensityRejection(
                    Gamma(shape), domain=(0, np.inf), mode=shape - 1, random_state=rng
                ).rvs(num_draws)
                for shape in few
            ],
            axis=1,
        )

    programs = {"bayleaf": ours(np.float64), "bayleaf, float32": ours(np.float32)}
    seconds, draws = medians({**programs, "scipy TDR": theirs})
    targets = {"bayleaf": shapes, "bayleaf, float32": shapes, "scipy TDR": few}
    uniform = {k: stats.gamma.cdf(np.float64(x), targets[k]) for k, x in draws.items()}
    return {
        "num_draws": num_draws,
        "draws_per_second": {k: draws[k].size / s for k, s in seconds.items()},
        "ks_p": {
            k: float(stats.kstest(u.ravel()[:100_000], "uniform").pvalue)
            for k, u in uniform.items()
        },
    }


def arspy() -> dict[str, Any] | None:
    """Gamma(2.5) by arspy, for those who have it."""
    if importlib.util.find_spec("arspy") is None:
        return None
    from arspy.ars import adaptive_rejection_sampling

    setattr(np, "int", int)  # noqa: B010  what arspy still asks of NumPy
    begin = time.perf_counter()
    draws = adaptive_rejection_sampling(
        logpdf=lambda x: 1.5 * np.log(x) - x, a=1.0, b=3.0, domain=(0, np.inf), n_samples=20_000
    )
    seconds = time.perf_counter() - begin
    p_value = stats.kstest(np.ravel(draws), stats.gamma(2.5).cdf).pvalue
    return {"draws_per_second": 20_000 / seconds, "ks_p": float(p_value)}


def report(singles: list[Any], batches: list[Any], other: Any) -> dict[str, Any]:
    """The results, with the tables that ``tables.py`` puts into the README."""
    columns = ["library", "draws/s", "KS p"]
    rows = [
        [result["target"], library, rate, result["ks_p"][library]]
        for result in singles
        for library, rate in result["draws_per_second"].items()
    ]
    if other is not None:
        rows.append(["Gamma(2.5)", "arspy", other["draws_per_second"], other["ks_p"]])
    of_many = [
        [result["num_draws"], library, rate, result["ks_p"][library]]
        for result in batches
        for library, rate in result["draws_per_second"].items()
    ]
    tables = [
        {
            "caption": "Adaptive rejection of one target, after set-up",
            "columns": ["target", *columns],
            "rows": rows,
        },
        {
            "caption": "Adaptive rejection of 10,000 Gamma densities in one call, with set-up",
            "columns": ["draws of each", *columns],
            "rows": of_many,
        },
    ]
    return {
        "machine": f"{os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": {"jax": jax.__version__, "scipy": scipy.__version__},
        "results": {"one": singles, "many": batches, "arspy": other},
        "tables": tables,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results and the README's tables here")
    out = parser.parse_args().out
    jax.config.update("jax_enable_x64", True)
    singles, batches = [], []
    for name in TARGETS:
        singles.append(one(name))
        print(json.dumps(singles[-1]), flush=True)
    for num_draws in (1, 100, 1000):
        batches.append(many(num_draws))
        print(json.dumps(batches[-1]), flush=True)
    other = arspy()
    print(json.dumps({"arspy": other}), flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report(singles, batches, other), indent=2)
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

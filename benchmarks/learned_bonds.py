"""Do learned bonds mix better? Effective draws per second of eight rules for bonds.

Each picture is a lattice of 16 x 16 sites with three channels, five regions, noise of unit variance
and a Dirichlet process on the partition. The regimes differ in the coupling and in how far the
regions' means are apart: in "data" (0.7, apart) and "couplings" (1.4, apart) there are about three
clusters and many sites in doubt; in "weak data" (1.0, means nearly equal) all is one cluster, which
is easy: there large pieces are cheaper, not better. Data sets of a regime differ in their noise.

The figure is fixed beforehand: effective draws per second of CPU, the least of the log density, the
number of edges within clusters, the entropy of the sizes, and the worst tenth of the pairs of sites
that are in doubt (together with probability 0.02 to 0.98). Time is that of recorded sweeps with the
frozen kernel; a network is evaluated in warm-up only, whose own CPU time stands beside it.

Gibbs, Swendsen-Wang and "auto" are recorded three times as long as the rest. Standard errors are
those of the log of the rate, by leaving out one of 16 stretches of the slowest statistic at a time;
they do not know of a valley that no chain has found. Swendsen-Wang under strong couplings would
need a minute for 200 effective draws; it is so far behind there that its rate need not be known.

    taskset -c 0 python benchmarks/learned_bonds.py --out benchmarks/results/learned_bonds.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats

import bayleaf as bl
from bayleaf.mcmc import Contrast, Decoupled, GeneralisedSwendsenWang, LearnedBonds
from bayleaf.partitions import DirichletProcess, Graph, NormalMean, PartitionModel

SIDE, NUM_SETS, NUM_CHAINS, NUM_SWEEPS, NUM_PAIRS, NUM_PARTS = 16, 5, 4, 200, 50, 4
REGIMES = {"data": (0.7, 1.2, 1.5), "couplings": (1.4, 1.2, 1.5), "weak data": (1.0, 0.3, 0.3)}
"""Coupling, sd of the regions' means, prior variance of a cluster's mean."""

SECONDS = {"data": 6.0, "couplings": 2.0, "weak data": 0.5}
"""Of recorded sweeps, on each data set."""

RULES = {
    "Gibbs, strength 0": (Decoupled(0.0), 200),
    "strength 0.25": (Decoupled(0.25), 200),
    "strength 0.5": (Decoupled(0.5), 200),
    "Swendsen-Wang, strength 1": (Decoupled(1.0), 200),
    "one of the four for each sweep": (Decoupled([0.0, 0.25, 0.5, 1.0]), 200),
    "contrast of the data": (Contrast(), 200),
    "learned, from the contrast": (LearnedBonds(), 1500),
    'bonds="auto"': ("auto", 1000),
}
"""Rules, and steps of warm-up."""

LEARNING = list(RULES)[-2:]
CHANGING = [list(RULES)[4], *LEARNING]
GRID = list(RULES)[:4]
ENDS = [GRID[0], GRID[3]]
AUTO = list(RULES)[-1]


def picture(regime: str, seed: int) -> PartitionModel:
    """A data set."""
    coupling, spread, prior_variance = REGIMES[regime]
    y, x = np.mgrid[:SIDE, :SIDE]
    regions = 2 * (y >= SIDE // 2) + (x >= SIDE // 2)
    regions[(y - SIDE / 2) ** 2 + (x - SIDE / 2) ** 2 < (SIDE / 5) ** 2] = 4
    means = np.random.default_rng(0).normal(0, spread, (5, 3))
    noise = np.random.default_rng(100 + seed).normal(size=(SIDE, SIDE, 3))
    data = (means[regions] + noise).reshape(-1, 3)
    likelihood = NormalMean(data, variance=1.0, prior_variance=prior_variance)
    graph = Graph.lattice((SIDE, SIDE))
    return PartitionModel(graph, DirichletProcess(1.0), likelihood, coupling=coupling)


@eqx.filter_jit
def recorded(model: Any, kernel: Any, states: Any, key: Any) -> Any:
    """Sweeps of all chains: their states; statistics, pairs, components [chain, sweep, ...]."""
    ends = np.random.default_rng(0).integers(0, SIDE**2, (2, NUM_PAIRS))

    def chain(state: Any, key: Any) -> Any:
        def sweep(state: Any, key: Any) -> Any:
            state, info = kernel.step(model, key, state)
            z = state.position
            own = jnp.stack([info.log_density, info.num_like, info.size_entropy])
            return state, (own, z[ends[0]] == z[ends[1]], info.num_components)

        return jax.lax.scan(sweep, state, jax.random.split(key, NUM_SWEEPS))

    return jax.vmap(chain)(states, jax.random.split(key, NUM_CHAINS))


def ess(draws: np.ndarray) -> float:
    """Effective draws of the mean; of a constant there is nothing to know."""
    draws = np.asarray(draws, float)
    return np.inf if np.ptp(draws) == 0 else float(array_stats.ess(draws, method="mean"))  # type: ignore


def fewest(own: np.ndarray, pairs: np.ndarray) -> tuple[float, float]:
    """Effective draws of the slowest statistic or the worst tenth of pairs, and the log's error."""
    share = pairs.mean(axis=(0, 1))
    doubtful = pairs[..., (share > 0.02) & (share < 0.98)]
    columns = [own[..., s] for s in range(3)]
    if doubtful.shape[-1]:
        each = [ess(doubtful[..., p]) for p in range(doubtful.shape[-1])]
        columns.append(doubtful[..., np.argsort(each)[(len(each) - 1) // 10]])
    values = [ess(column) for column in columns]
    slowest = columns[int(np.argmin(values))]
    length = slowest.shape[1] // NUM_PARTS
    parts = slowest[:, : NUM_PARTS * length].reshape(-1, length)
    without = np.log([ess(np.delete(parts, i, axis=0)) for i in range(len(parts))])
    return min(values), float(np.sqrt((len(parts) - 1) * np.var(without)))


def first_label(labels: Any) -> Any:
    """All that is kept of warm-up."""
    return labels[:1]


def measure(model: PartitionModel, rule: str, seed: int, limit: float) -> dict[str, float]:
    """One rule on one data set."""
    bonds, num_warmup = RULES[rule]
    if rule not in CHANGING:
        bonds = bonds(jax.random.key(0), model)
    begin = time.process_time()
    run = bl.sample(
        model.target(keep=first_label),
        GeneralisedSwendsenWang(bonds),
        key=jax.random.key(seed),
        num_draws=8,
        num_warmup=num_warmup,
        num_chains=NUM_CHAINS,
        progress=False,
    )
    warm = time.process_time() - begin
    states, kernel = jax.tree.map(jnp.asarray, run.sampler.states), run.kernel
    if rule in LEARNING:  # frozen, and probabilities as they are
        kernel = GeneralisedSwendsenWang(kernel.bonds(jax.random.key(0), model))
    parts, seconds = [], 0.0
    while seconds < limit:
        key = jax.random.fold_in(jax.random.key(seed), len(parts))
        begin = time.process_time()
        states, out = jax.block_until_ready(recorded(model, kernel, states, key))
        seconds += time.process_time() - begin
        parts.append(jax.tree.map(np.asarray, out))
    own, pairs, components = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    effective, error = fewest(own, pairs)
    return {
        "per second": effective / seconds,
        "effective": effective,
        "standard error of the log": error,
        "microseconds": 1e6 * seconds / components.size,
        "components": float(components.mean()),
        "warm-up seconds": warm,
    }


def rows_of(results: dict[str, list[dict[str, float]]]) -> list[list[Any]]:
    """A regime's table: medians over data sets, and ratios set by set."""
    rate = {rule: np.array([r["per second"] for r in each]) for rule, each in results.items()}
    best = np.max([rate[rule] for rule in GRID], axis=0)
    ends = np.max([rate[rule] for rule in ENDS], axis=0)
    rows = []
    for rule, each in results.items():
        ratio = rate[rule] / best
        rows.append(
            [
                rule,
                round(float(np.median(rate[rule]))),
                round(float(np.median(ratio)), 2),
                round(float(ratio.min()), 2),
                round(float((rate[rule] / ends).min()), 2),
                round(min(r["effective"] for r in each)),
                round(float(np.median([r["microseconds"] for r in each]))),
                round(float(np.median([r["components"] for r in each]))),
                round(float(np.median([r["warm-up seconds"] for r in each])), 2),
            ]
        )
    return rows


def against_ends(results: dict[str, dict[str, list[dict[str, float]]]]) -> list[list[Any]]:
    """The ratio of "auto" to the better of Gibbs and Swendsen-Wang, set by set and overall."""
    rows = []
    for regime, rules in results.items():
        ratios, errors = [], []
        for number, own in enumerate(rules[AUTO]):
            end = max((rules[rule][number] for rule in ENDS), key=lambda r: r["per second"])
            ratios.append(own["per second"] / end["per second"])
            name = "standard error of the log"
            errors.append(float(np.hypot(own[name], end[name])))
        mean = float(np.exp(np.mean(np.log(ratios))))
        error = mean * float(np.linalg.norm(errors)) / len(errors)
        each = [f"{r:.2f} ± {r * e:.2f}" for r, e in zip(ratios, errors, strict=True)]
        rows.append([regime, *each, f"{mean:.2f} ± {error:.2f}"])
    return rows


def report(results: dict[str, dict[str, list[dict[str, float]]]], load: list[float]) -> Any:
    """The results and their tables."""
    columns = [
        "bonds",
        "effective draws / s",
        "of the best strength",
        "worst data set",
        "of the better of Gibbs and SW, worst",
        "fewest effective draws",
        "µs per sweep",
        "pieces per sweep",
        "warm-up, s",
    ]
    tables = [
        {
            "caption": f"Bonds, regime “{regime}”: least effective draws per CPU second, "
            f"medians of {NUM_SETS} data sets",
            "columns": columns,
            "rows": rows_of(results[regime]),
        }
        for regime in results
    ]
    tables.append(
        {
            "caption": 'bonds="auto": its rate over the better one of Gibbs and Swendsen-Wang, '
            "with standard errors; geometric means",
            "columns": ["regime", *(f"set {i}" for i in range(NUM_SETS)), "mean"],
            "rows": against_ends(results),
        }
    )
    return {
        "machine": f"1 of {os.cpu_count()} CPU cores ({platform.machine()})",
        "load": load,
        "versions": {name: version(name) for name in ("jax", "numba", "equinox")},
        "results": results,
        "tables": tables,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Do learned bonds mix better?")
    parser.add_argument("--out", type=Path, help="write the results and the tables here")
    out = parser.parse_args().out
    warnings.simplefilter("ignore", bl.errors.SamplingWarning)
    load = [os.getloadavg()[0]]
    for rule in [GRID[0], *CHANGING]:  # all is compiled
        measure(picture("data", -1), rule, 0, 0.1)
    results: dict[str, Any] = {regime: {rule: [] for rule in RULES} for regime in REGIMES}
    for seed in range(NUM_SETS):
        for regime in REGIMES:
            for rule in RULES:
                limit = SECONDS[regime] * (1 if rule in (*ENDS, AUTO) else 1 / 3)
                results[regime][rule].append(measure(picture(regime, seed), rule, seed, limit))
        print(f"data set {seed + 1} of {NUM_SETS}", flush=True)
    load.append(os.getloadavg()[0])
    results = report(results, load)
    for table in results["tables"]:
        print(json.dumps(table, ensure_ascii=False))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

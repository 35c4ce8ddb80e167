"""Swendsen-Wang sweeps of the critical Ising model against mcising and peapods, on one thread.

All start from the same equilibrated states of periodic L x L lattices, L = 64, 256 and 1024
(peapods cannot be given a state and equilibrates itself), and take turns; figures are medians of
the times per site and sweep. Peapods sweeps by Metropolis too, always; the row of its cluster part
is its time less that of the same call without clusters. bayleaf is timed as a bare kernel in a
compiled loop, and through `bayleaf.sample` with only the statistics kept, all of its own work for
so short a run included. The energy at L = 64 is compared with Kaufman's, in Monte Carlo standard
errors, so that nobody is fast by being wrong.

Time is CPU time of the process, all of whose threads count: every library runs on one.

    pip install mcising peapods
    taskset -c 0 python benchmarks/swendsen_wang.py --out benchmarks/results/swendsen_wang.json
"""

from __future__ import annotations

import os

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base import array_stats
from mcising import _core
from peapods import Ising

import bayleaf as bl
from bayleaf.partitions import Graph, Potts

COUPLING = np.log1p(np.sqrt(2)) / 2
TEMPERATURE = 1 / COUPLING
SIZES = {64: 3000, 256: 250, 1024: 20}
"""Sizes, and sweeps of each of the repeats."""

REPEATS, NUM_ENERGIES = 5, 20_000
KAUFMAN = -1.4239380
"""The exact energy per site at L = 64."""


def critical(size: int) -> Potts:
    return Potts.ising(Graph.lattice((size, size), periodic=True), COUPLING)


def equilibrated(size: int) -> np.ndarray:
    """A state after 400 sweeps from random labels, some fifty autocorrelation times."""
    potts = critical(size)
    start = potts.random_labels(jax.random.key(1))
    return np.asarray(ours(size, 400, "numba")(jax.random.key(2), start)[0])


def ours(size: int, num_sweeps: int, engine: str) -> Callable[[Any, Any], Any]:
    """(key, labels) -> labels and the energies per site of all sweeps."""
    potts, kernel = critical(size), bl.mcmc.SwendsenWang(engine=engine)

    def loop(key: Any, labels: Any) -> Any:
        def body(state: Any, key: Any) -> Any:
            state, info = kernel.step(potts, key, state)
            return state, 2 - 2 * info.num_like / potts.graph.num_sites

        keys = jax.random.split(key, num_sweeps)
        state, energies = jax.lax.scan(body, kernel.init(potts, labels), keys)
        return state.position, energies

    return jax.jit(loop)


def our_call(size: int, num_sweeps: int, state: np.ndarray, engine: str) -> Callable[[], Any]:
    run, labels = ours(size, num_sweeps, engine), jnp.asarray(state)
    return lambda: jax.block_until_ready(run(jax.random.key(0), labels))


def our_runner(size: int, num_sweeps: int, state: np.ndarray) -> Callable[[], Any]:
    target = critical(size).target(keep=lambda labels: labels[:1])
    options = {"num_chains": 1, "num_warmup": 0, "init": jnp.asarray(state)[None]}
    return lambda: bl.sample(
        target,
        bl.mcmc.SwendsenWang(engine="numba"),
        key=jax.random.key(0),
        num_draws=num_sweeps,
        progress=False,
        **options,
    )


def mcising(size: int, state: np.ndarray) -> Any:
    spins = (2 * state.reshape(size, size) - 1).astype(np.int8)
    simulation = _core.IsingSimulation(size, 1.0, 0.0, 0.0, 0.0, 1, algorithm="swendsen_wang")
    simulation.set_spins(spins)
    return simulation


def peapods(size: int, num_sweeps: int, clusters: bool) -> Callable[[], Any]:
    model = Ising((size, size), temperatures=np.array([TEMPERATURE]))
    options: dict[str, Any] = {"sequential": True, "warmup_ratio": 0.0}
    if clusters:
        options |= {"cluster_update_interval": 1, "cluster_mode": "sw"}
    model.sample(200, **options)
    return lambda: model.sample(num_sweeps, **options)


def seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def measure(size: int, num_sweeps: int) -> dict[str, float]:
    """Nanoseconds per site and sweep of each library."""
    state = equilibrated(size)
    theirs = mcising(size, state)
    calls = {
        "bayleaf": our_call(size, num_sweeps, state, "numba"),
        "bayleaf, bl.sample": our_runner(size, num_sweeps, state),
        "bayleaf, JAX engine": our_call(size, max(2, num_sweeps // 20), state, "jax"),
        "mcising": lambda: theirs.sweep(num_sweeps, temperature=TEMPERATURE),
        "peapods": peapods(size, num_sweeps, clusters=True),
        "peapods, no clusters": peapods(size, num_sweeps, clusters=False),
    }
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            sweeps = max(2, num_sweeps // 20) if "JAX" in name else num_sweeps
            times[name].append(1e9 * seconds(call) / sweeps / size**2)
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["peapods, cluster part"] = medians["peapods"] - medians.pop("peapods, no clusters")
    return medians


def errors_of_energy() -> dict[str, float]:
    """How far the mean energies at L = 64 are from Kaufman's, in standard errors."""
    state = equilibrated(64)
    simulation, theirs = mcising(64, state), []
    for _ in range(NUM_ENERGIES):
        simulation.sweep(1, temperature=TEMPERATURE)
        s = simulation.get_spins().astype(np.int64)
        theirs.append(-(s * (np.roll(s, 1, 0) + np.roll(s, 1, 1))).mean())
    energies = {"mcising": np.array(theirs)}
    for name, engine in (("bayleaf", "numba"), ("bayleaf, JAX engine", "jax")):
        num = NUM_ENERGIES if engine == "numba" else NUM_ENERGIES // 5
        energies[name] = np.asarray(ours(64, num, engine)(jax.random.key(3), state)[1], np.float64)
    return {name: standard_errors(values) for name, values in energies.items()}


def standard_errors(energies: np.ndarray) -> float:
    ess: Any = array_stats.ess(energies[None], method="mean")
    return float((energies.mean() - KAUFMAN) / (energies.std() / np.sqrt(ess)))


def report(times: dict[int, dict[str, float]], errors: dict[str, float]) -> dict[str, Any]:
    """The results, with the table that ``tables.py`` puts into the README."""
    rows = [
        [name, *(times[size][name] for size in SIZES), errors.get(name)]
        for name in next(iter(times.values()))
    ]
    ratio = [times[size]["mcising"] / times[size]["bayleaf"] for size in SIZES]
    rows.append(["mcising / bayleaf", *ratio, None])
    table = {
        "caption": "Swendsen-Wang, critical Ising model: ns per site and sweep, one thread",
        "columns": ["library", *(f"L = {size}" for size in SIZES), "energy error (s.e.)"],
        "rows": rows,
    }
    names = ("jax", "numba", "mcising", "peapods")
    return {
        "machine": f"1 of {os.cpu_count()} CPU cores ({platform.machine()})",
        "versions": {name: version(name) for name in names},
        "nanoseconds": times,
        "standard_errors": errors,
        "tables": [table],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results and the README's table here")
    out = parser.parse_args().out
    times = {}
    for size, num_sweeps in SIZES.items():
        times[size] = measure(size, num_sweeps)
        print(json.dumps({"L": size, **{k: round(v, 1) for k, v in times[size].items()}}))
    errors = errors_of_energy()
    print(json.dumps({"standard errors of the energy": errors}))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        results = report(times, errors)
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Milliseconds per sweep of 800 super-pixels with three channels, unknown means and covariances.

The super-pixels are the cells around 800 random points of a picture of 240 x 320 pixels with six
colours; couplings grow with the length of the boundary. There is no peer: the goal is 1 ms. Time is
CPU time of the process, four chains in a compiled loop, medians of repeats that take turns.

    taskset -c 0 python benchmarks/partitions.py --out benchmarks/results/partitions.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from bayleaf.mcmc import Decoupled, GeneralisedSwendsenWang
from bayleaf.partitions import DirichletProcess, Graph, NormalInverseWishart, PartitionModel

NUM_SITES, NUM_CHAINS, NUM_SWEEPS, REPEATS = 800, 4, 200, 5
KERNELS = {
    "default: strengths 0, 0.25, 0.5 and 1 by chance": GeneralisedSwendsenWang(),
    "Gibbs, strength 0": GeneralisedSwendsenWang(0.0),
    "strength 0.5": GeneralisedSwendsenWang(Decoupled(0.5)),
    "Swendsen-Wang, strength 1": GeneralisedSwendsenWang(Decoupled(1.0)),
    "Gibbs, no splits and merges": GeneralisedSwendsenWang(0.0, split_merges=0),
}


def superpixels() -> PartitionModel:
    """The model of the picture."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :320]
    pixels = np.stack([y.ravel(), x.ravel()], axis=1)
    cells = KDTree(rng.uniform(0, (240, 320), (NUM_SITES, 2))).query(pixels)[1].reshape(240, 320)
    colours = rng.uniform(0, 1, (6, 3))[KDTree(rng.uniform(0, (240, 320), (6, 2))).query(pixels)[1]]
    noisy = colours + 0.2 * rng.normal(size=colours.shape)
    count = np.bincount(cells.ravel())
    means = [np.bincount(cells.ravel(), noisy[:, c]) / count for c in range(3)]
    data = np.stack(means, axis=1) + 0.05 * rng.normal(size=(NUM_SITES, 3))
    graph = Graph.region_adjacency(cells)
    assert graph.lengths is not None
    coupling = graph.lengths / graph.lengths.mean()
    likelihood = NormalInverseWishart(data, scale=0.01)
    return PartitionModel(graph, DirichletProcess(1.0), likelihood, coupling=coupling)


def sweeps_of(model: PartitionModel, kernel: GeneralisedSwendsenWang) -> Any:
    """Advance all chains by some sweeps."""

    def chain(state: Any, key: Any) -> Any:
        def sweep(state: Any, key: Any) -> Any:
            state, info = kernel.step(model, key, state)
            return state, (info.num_components, info.num_clusters)

        return jax.lax.scan(sweep, state, jax.random.split(key, NUM_SWEEPS))

    return jax.jit(jax.vmap(chain))


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds per sweep of 800 super-pixels.")
    parser.add_argument("--out", type=Path, help="write the results and the table here")
    out = parser.parse_args().out
    model, load = superpixels(), os.getloadavg()[0]
    labels = jax.vmap(model.random_labels)(jax.random.split(jax.random.key(0), NUM_CHAINS))
    runs, states = {}, {}
    for name, kernel in KERNELS.items():
        runs[name] = sweeps_of(model, kernel)
        start = jax.vmap(lambda z, kernel=kernel: kernel.init(model, z))(labels)
        states[name] = runs[name](start, jax.random.split(jax.random.key(1), NUM_CHAINS))[0]
    times: dict[str, list[float]] = {name: [] for name in KERNELS}
    seen: dict[str, tuple[float, float]] = {}
    for repeat in range(REPEATS):
        for name, run in runs.items():
            keys = jax.random.split(jax.random.key(2 + repeat), NUM_CHAINS)
            begin = time.process_time()
            states[name], counts = jax.block_until_ready(run(states[name], keys))
            times[name].append(1e3 * (time.process_time() - begin) / NUM_SWEEPS / NUM_CHAINS)
            seen[name] = float(jnp.mean(counts[0])), float(jnp.mean(counts[1]))
    rows = [
        [
            name,
            round(statistics.median(times[name]), 3),
            round(seen[name][0]),
            round(seen[name][1], 1),
        ]
        for name in KERNELS
    ]
    table = {
        "caption": f"Partitions: {NUM_SITES} super-pixels, three channels, ms per sweep",
        "columns": ["bonds", "ms per sweep", "pieces per sweep", "clusters"],
        "rows": rows,
    }
    print(json.dumps(table))
    if out is not None:
        results = {
            "machine": f"1 of {os.cpu_count()} CPU cores ({platform.machine()})",
            "load": load,
            "versions": {name: version(name) for name in ("jax", "numba")},
            "milliseconds": times,
            "tables": [table],
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Tangent kernels of convolutional networks, against neural-tangents and against bare arithmetic.

    python benchmarks/infinite_conv.py --peer-python PATH --out RESULTS.json

PATH is the Python of an environment of the peer's own (`neural_tangents_peer.py`); without it the
peer's cells are empty.

Two networks of three convolutions of 3 x 3 with ReLU, in float32: one that is flattened (100 images
of 32 x 32, equal positions only) and one that is averaged over all positions (10 images of 16 x 16,
all pairs of positions). Both are timed in turn with a bare ``jnp.arccos`` over as many entries as a
direct recursion passes through it (each pair of inputs and positions, three layers), and with the
Gram matrix of 2000 vectors of 784, a measure of the machine. Times are medians, after compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from neural_tangents_peer import measured

from bayleaf.infinite import Conv, Dense, Flatten, GlobalAvgPool, Relu, serial

REPEATS = 5


def network(end):
    hidden = [Conv(64, (3, 3), weight_std=1.4, bias_std=0.1), Relu()] * 3
    return serial(*hidden, end, Dense(1))


def images(number, size):
    return jax.random.normal(jax.random.key(number), (number, size, size, 3))


@jax.jit
def angles(rho):
    """What a direct recursion computes for each entry and each layer, and nothing else."""
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.arccos(x) / jnp.pi, rho)


@jax.jit
def gram(x):
    return x @ x.T


def timed(function):
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Tangent kernels of convolutional networks.")
    parser.add_argument("--peer-python", default=os.environ.get("NEURAL_TANGENTS_PYTHON"))
    parser.add_argument("--out", type=Path, help="write the results and the README's table here")
    options = parser.parse_args()
    flat, pooled = network(Flatten()), network(GlobalAvgPool())
    large, small = images(100, 32), images(10, 16)
    vectors = jax.random.normal(jax.random.key(0), (2000, 784))
    rho_flat = jax.random.uniform(jax.random.key(1), (100 * 100, 32 * 32))
    rho_pooled = jax.random.uniform(jax.random.key(2), (10 * 10, 256 * 256))
    runs = {
        "flatten": lambda: flat.kernel(large, get="ntk"),
        "arccos_flatten": lambda: angles(rho_flat),
        "global_average": lambda: pooled.kernel(small, get="ntk"),
        "arccos_global_average": lambda: angles(rho_pooled),
        "gram": lambda: gram(vectors),
    }
    compile_seconds = {name: timed(run) for name, run in runs.items()}
    times = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            times[name].append(timed(run))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    peer = measured(options.peer_python, "convolutions") if options.peer_python else {}
    pairs = [
        ("flatten, 100 images of 32 x 32", "flatten", "arccos_flatten"),
        ("global average, 10 images of 16 x 16", "global_average", "arccos_global_average"),
    ]
    rows = [
        [
            label,
            seconds[name],
            peer.get(name),
            peer[name] / seconds[name] if peer else None,
            seconds[name] / seconds[bare],
        ]
        for label, name, bare in pairs
    ]
    table = {
        "caption": "Tangent kernels of three convolutions of 3 x 3 with ReLU, float32; medians",
        "columns": ["network", "s", "neural-tangents, s", "times faster", "over bare arccos"],
        "rows": rows,
    }
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"jax": jax.__version__, "neural-tangents": "0.6.5" if peer else "absent"},
        "seconds": seconds,
        "peer_seconds": peer,
        "fastest": {name: min(values) for name, values in times.items()},
        "first_call": compile_seconds,
        "tables": [table],
    }
    print(json.dumps(result, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Tangent kernels of a finite network, by layers and without, against the Jacobian by hand.

A ReLU network 784-512-512-10, 128 inputs, float32. ``by hand`` is what is written where no library
is at hand: `jax.jacrev` and `einsum`, jitted, traced over the outputs. neural-tangents runs by the
fastest of its methods, in an environment of its own (`neural_tangents_peer.py`); without
``--peer-python`` it has no rows. The same network inside of a loop, where no layers can be found,
shows the general case. Repeats are interleaved; the table holds medians. A phase diagram of 50 x 50
tanh networks with dropout is timed with its compilation.

    python benchmarks/empirical_ntk.py --peer-python PATH --out RESULTS.json
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

import jax
import jax.numpy as jnp
import numpy as np
from neural_tangents_peer import measured

import bayleaf as bl

SIZES, NUM_INPUTS = (784, 512, 512, 10), 128


def network(params: Any, x: jax.Array) -> jax.Array:
    """Three dense layers."""
    for number, (weight, bias) in enumerate(params):
        x = jax.nn.relu(x) if number else x
        x = x @ weight + bias
    return x


def in_a_loop(params: Any, x: jax.Array) -> jax.Array:
    """The same function, whose layers are inside of a loop of one turn."""
    start = jnp.zeros((x.shape[0], SIZES[-1]), x.dtype)
    return jax.lax.fori_loop(0, 1, lambda _, out: out + network(params, x), start)


def problem() -> tuple[Any, jax.Array]:
    """He weights, zero biases, normal inputs."""
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    pairs = zip(SIZES[:-1], SIZES[1:], keys[1:], strict=True)
    params = [
        (jax.random.normal(key, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b)) for a, b, key in pairs
    ]
    return params, jax.random.normal(keys[0], (NUM_INPUTS, SIZES[0]))


@jax.jit
def by_hand(params: Any, x: jax.Array) -> jax.Array:
    """The definition."""
    jacobian = jax.jacrev(network)(params, x)
    shares = [
        jnp.einsum("iap,jap->ij", leaf, leaf)
        for leaf in (part.reshape(*part.shape[:2], -1) for part in jax.tree.leaves(jacobian))
    ]
    return sum(shares[1:], shares[0]) / SIZES[-1]


def interleaved(
    calls: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each, one after the other in every round, compiled before; outputs."""
    outputs = {name: jax.block_until_ready(call()) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}, outputs


def measure(peer_python: str | None) -> dict[str, Any]:
    """All rows."""
    params, x = problem()
    ntk = bl.infinite.empirical_ntk
    fast, ours = interleaved(
        {
            "layers, traced": lambda: ntk(network, params, x),
            "layers, all 10 x 10 outputs": lambda: ntk(network, params, x, trace=False),
        },
        30,
    )
    slow, theirs = interleaved(
        {
            "jacobian, in blocks of 256 MB": lambda: ntk(in_a_loop, params, x),
            "by hand": lambda: by_hand(params, x),
        },
        1,
    )
    ours, theirs = np.asarray(ours["layers, traced"]), np.asarray(theirs["by hand"])
    gap = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    peer = measured(peer_python, "empirical") if peer_python else {}
    begin = time.perf_counter()
    grid = bl.infinite.phase_diagram(
        jnp.tanh,
        weight_std=np.sqrt(np.linspace(0.5, 4, 50))[:, None],
        bias_std=np.sqrt(np.linspace(0.01, 0.5, 50))[None],
        keep_probability=0.95,
    )
    jax.block_until_ready(grid.q)
    return {
        "seconds": {name: round(value, 4) for name, value in {**fast, **slow}.items()},
        "neural_tangents_seconds": {name: round(value, 4) for name, value in peer.items()},
        "ratio_to_by_hand": round(slow["by hand"] / fast["layers, traced"], 1),
        "largest_relative_gap": float(gap),
        "method_in_a_loop": bl.infinite.ntk_plan(in_a_loop, params, x).method,
        "phase_diagram_seconds": round(time.perf_counter() - begin, 2),
    }


def report(result: dict[str, Any]) -> dict[str, Any]:
    """The form of `benchmarks/tables.py`."""
    base = result["seconds"]["by hand"]
    theirs = result["neural_tangents_seconds"]
    seconds = {
        **result["seconds"],
        **{f"neural-tangents, {name}": value for name, value in theirs.items()},
    }
    rows = [
        [name, f"{1000 * value:.0f} ms", f"{base / value:.1f}"] for name, value in seconds.items()
    ]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {
            "jax": jax.__version__,
            "bayleaf": bl.__version__,
            "neural-tangents": "0.6.5" if theirs else "absent",
        },
        "result": result,
        "tables": [
            {
                "caption": "Tangent kernel of a ReLU network 784-512-512-10, 128 inputs, float32",
                "columns": ["method", "time", "by hand / this"],
                "rows": rows,
            }
        ],
    }


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the results and the README's table here")
    parser.add_argument("--peer-python", default=os.environ.get("NEURAL_TANGENTS_PYTHON"))
    options = parser.parse_args()
    out = options.out
    result = measure(options.peer_python)
    print(json.dumps(result), flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report(result), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Kernels of infinitely wide networks against neural-tangents, on CPU in float32.

Five hidden layers, 2000 inputs of 784 features, weight_std 1.5, bias_std 0.1, symmetric kernels.
neural-tangents 0.6.5 does not import with today's JAX; give the Python of an environment where it
does (jax 0.4.30, jaxlib 0.4.30, numpy < 2):

    python benchmarks/infinite.py --peer-python PATH --out benchmarks/results/infinite.json

Each side runs in a process of its own, the two in turn. Without the peer its cells are empty.
The Gram matrix of the inputs is timed beside: no kernel can be faster.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from neural_tangents_peer import DEPTH, FEATURES, SIZE, measured, printed, seconds

ROUNDS = 2


def ours() -> dict[str, float]:
    """All cases, the Gram matrix, and tanh by its Hermite series."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from bayleaf.infinite import Dense, Elementwise, Erf, Relu, serial

    x = jnp.asarray(np.random.default_rng(0).standard_normal((SIZE, FEATURES)), "float32")
    gram = jax.jit(lambda x: x @ x.T)
    out = {"gram": seconds(lambda: gram(x))}
    for name, act in (("relu", Relu()), ("erf", Erf()), ("tanh", Elementwise(jnp.tanh))):
        pairs = [(Dense(512, weight_std=1.5, bias_std=0.1), act) for _ in range(DEPTH)]
        last = Dense(1, weight_std=1.5, bias_std=0.1)
        net = serial(*[layer for pair in pairs for layer in pair], last)
        for get in ("nngp", "ntk"):
            out[f"{name} {get}"] = seconds(lambda net=net, get=get: net.kernel(x, get=get))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=os.environ.get("NEURAL_TANGENTS_PYTHON"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ours", action="store_true", help="one round, printed as JSON")
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(ours()))
        return
    if not options.peer_python:
        print("no --peer-python: neural-tangents is not measured", file=sys.stderr)
    mine, theirs = [], []
    for _ in range(ROUNDS):
        mine.append(printed([sys.executable, __file__, "--ours"]))
        if options.peer_python:
            theirs.append(measured(options.peer_python, "dense"))
    best = {name: min(r[name] for r in mine) for name in mine[0]}
    peer = {name: min(r[name] for r in theirs) for name in theirs[0]} if theirs else {}
    rows = []
    for name, value in best.items():
        other = peer.get(name)
        rows.append([name, value, SIZE**2 / value / 1e6, other, other and other / value])
    import jax

    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"jax": jax.__version__, "neural-tangents": "0.6.5" if peer else "absent"},
        "tables": [
            {
                "caption": "Infinite-width kernels, 2000 inputs, five hidden layers, float32",
                "columns": ["kernel", "s", "M entries/s", "neural-tangents, s", "times faster"],
                "rows": rows,
            }
        ],
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

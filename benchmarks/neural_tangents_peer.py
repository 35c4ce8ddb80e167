"""neural-tangents 0.6.5, measured by its own Python: what ``--peer-python`` of other scripts runs.

It does not import with today's JAX and needs an environment of its own: Python 3.11 with jax and
jaxlib 0.4.23, numpy < 2, scipy < 1.12, tensorflow-cpu 2.15.1, tf2jax 0.3.5 and neural-tangents
0.6.5 (its structured derivatives fail on jax 0.4.30, the newest that imports it).

    PYTHON_OF_THAT_ENVIRONMENT benchmarks/neural_tangents_peer.py {dense,convolutions,empirical}

Prints one JSON object: for each case the median seconds of a call, after one that compiles.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

REPEATS = 5
SIZE, FEATURES, DEPTH = 2000, 784, 5
"""Inputs, their features, and hidden layers of `infinite.py`."""


def measured(peer_python: str, cases: str) -> dict[str, float]:
    """What this script finds when it is run by another Python."""
    return printed([peer_python, __file__, cases])


def printed(command: list[str]) -> dict[str, float]:
    """The JSON object on the last line that a command prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def seconds(call: Callable[[], Any]) -> float:
    """Median after one call that compiles."""
    import jax

    jax.block_until_ready(call())
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def dense() -> dict[str, float]:
    """The networks of `infinite.py` that have closed forms."""
    import jax
    import numpy as np
    from neural_tangents import stax  # pyright: ignore[reportMissingImports]

    x = np.random.default_rng(0).standard_normal((SIZE, FEATURES)).astype("float32")
    x = jax.device_put(x)
    out = {}
    for name, act in (("relu", stax.Relu()), ("erf", stax.Erf())):
        hidden = [stax.Dense(512, W_std=1.5, b_std=0.1), act] * DEPTH
        kernel = stax.serial(*hidden, stax.Dense(1, W_std=1.5, b_std=0.1))[2]
        for get in ("nngp", "ntk"):
            run = jax.jit(lambda x, kernel=kernel, get=get: kernel(x, None, get))
            out[f"{name} {get}"] = seconds(lambda run=run: run(x))
    return out


def convolutions() -> dict[str, float]:
    """The two networks of `infinite_conv.py`."""
    import jax
    from neural_tangents import stax  # pyright: ignore[reportMissingImports]

    def case(end: Any, number: int, size: int) -> float:
        hidden = [stax.Conv(64, (3, 3), padding="SAME", W_std=1.4, b_std=0.1), stax.Relu()] * 3
        kernel = stax.serial(*hidden, end, stax.Dense(1))[2]
        x = jax.random.normal(jax.random.PRNGKey(number), (number, size, size, 3))
        run = jax.jit(lambda x: kernel(x, None, "ntk"))
        return seconds(lambda: run(x))

    return {
        "flatten": case(stax.Flatten(), 100, 32),
        "global_average": case(stax.GlobalAvgPool(), 10, 16),
    }


def empirical() -> dict[str, float]:
    """The network of `empirical_ntk.py`, by the way that is the fastest of its three."""
    import jax
    import neural_tangents as nt  # pyright: ignore[reportMissingImports]
    from neural_tangents import stax  # pyright: ignore[reportMissingImports]

    hidden = [stax.Dense(512), stax.Relu()] * 2
    init, apply, _ = stax.serial(*hidden, stax.Dense(10))
    x = jax.random.normal(jax.random.PRNGKey(1), (128, 784))
    _, params = init(jax.random.PRNGKey(0), x.shape)
    way = nt.NtkImplementation.STRUCTURED_DERIVATIVES

    def case(trace_axes: tuple[int, ...]) -> float:
        kernel = nt.empirical_ntk_fn(apply, trace_axes=trace_axes, vmap_axes=0, implementation=way)
        run = jax.jit(lambda x, params: kernel(x, None, params))
        return seconds(lambda: run(x, params))

    return {"traced": case((-1,)), "full": case(())}


if __name__ == "__main__":
    known = {"dense": dense, "convolutions": convolutions, "empirical": empirical}
    print(json.dumps(known[sys.argv[1]]()))

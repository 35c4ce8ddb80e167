"""Chains spread over devices and over processes: the same streams wherever a chain runs.

XLA may order the sums of a program differently when it is compiled for another number of chains a
device, so the draws of a chain that amplifies rounding (NUTS) agree closely at first and in law
later on. Kernels whose arithmetic is element by element agree bit for bit.
"""

import json
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayleaf as bl
from bayleaf.run import chunk
from tests.tools.statistics import assert_same

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np

settings = json.loads(sys.argv[1])
jax.config.update("jax_enable_x64", True)
if "process" in settings:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        settings["coordinator"], num_processes=2, process_id=settings["process"]
    )
import bayleaf as bl

def log_density(p, data):
    mean, scale = p["mean"], p["scale"]
    prior = -0.5 * jnp.sum(mean**2) - scale + 2 * jnp.log(scale)
    return prior - 0.5 * jnp.sum(((data - mean) / scale) ** 2) - data.size * jnp.log(scale)

target = bl.Target(
    log_density,
    init={"mean": np.zeros(3), "scale": 1.0},
    constrain={"scale": bl.constraints.positive},
    data=np.random.default_rng(0).normal(size=(20, 3)),
)
kernels = {
    "nuts": bl.mcmc.NUTS(),
    "walk": bl.mcmc.MetropolisHastings(bl.mcmc.RandomWalk()),
}
mesh = jax.make_mesh((len(jax.devices()),), ("chain",))
for name, kernel in kernels.items():
    for layout, over in (("mesh", mesh), ("alone", None)):
        if layout not in settings["layouts"]:
            continue
        arguments = {"key": jax.random.key(0), "num_warmup": 100, "mesh": over, "progress": False}
        path = f"{settings['out']}-{name}-{layout}"
        if "shared" in settings:  # one checkpoint directory for all processes, taken up once
            arguments["checkpoint"] = f"{settings['shared']}-{name}"
            bl.sample(target, kernel, num_draws=200, **arguments)
        run = bl.sample(target, kernel, num_draws=400, **arguments).extend(100, progress=False)
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(run.draws))
        run.save(path + ".npz")
if "layouts" in settings and len(jax.devices()) == 2 and "process" not in settings:
    try:
        bl.sample(target, key=jax.random.key(0), num_chains=5, mesh=mesh)
    except bl.errors.BayleafError as error:
        print(error)
"""


def start(**settings):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if settings.pop("num_devices", 1) == 2:
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(settings)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*processes):
    """What each wrote; all are ended, and none may fail."""
    try:
        results = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, results, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in results]


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 1), (4, 0)])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint32, np.int64, np.float16, np.float64])
def test_states_travel_as_bytes_and_arrive_bit_for_bit(dtype, shape):
    leaf = jnp.asarray(np.random.default_rng(0).integers(0, 200, shape)).astype(dtype)
    leaf = -leaf if np.dtype(dtype).kind in "if" else leaf
    row = chunk._as_bytes(leaf)
    assert row.shape[0] == 4
    arrived = chunk._from_bytes(row, leaf[:2])  # of other chains more, but of the same kind
    assert arrived.dtype == leaf.dtype
    np.testing.assert_array_equal(arrived, leaf)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharding")


@pytest.fixture(scope="module")
def on_two_devices(folder):
    out = str(folder / "devices")
    (output,) = finish(start(out=out, layouts=["mesh", "alone"], num_devices=2))
    return out, output


def load(out, name, layout):
    return bl.Run.load(f"{out}-{name}-{layout}.npz")


def assert_agree(run, other, name):
    """Bit for bit for the walk; for NUTS closely in the first steps and in law in the end."""
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), run.draws, other.draws)
    assert run.warmup_stats.keys() == other.warmup_stats.keys()
    for field, values in run.warmup_stats.items():
        np.testing.assert_allclose(values[:, :5], other.warmup_stats[field][:, :5], rtol=1e-9)
    if name == "walk":
        jax.tree.map(np.testing.assert_array_equal, run.draws, other.draws)
        jax.tree.map(np.testing.assert_array_equal, run.stats, other.stats)
    assert_same(run.draws, other.draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["walk", "nuts"])
def test_two_devices_agree_with_one(on_two_devices, name):
    out, _ = on_two_devices
    assert_agree(load(out, name, "mesh"), load(out, name, "alone"), name)


@pytest.mark.slow
def test_chains_that_do_not_divide_among_the_devices_are_refused(on_two_devices):
    _, output = on_two_devices
    assert "num_chains: got 5, expected a multiple of the 2 devices of the mesh" in output
    assert "Try num_chains=6." in output


@pytest.mark.slow
def test_two_processes_share_the_chains_and_agree_with_one(folder, on_two_devices):
    """Each has one device and half of the chains; each gets the whole run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    outs = [str(folder / f"process{i}") for i in range(2)]
    common = {"coordinator": coordinator, "layouts": ["mesh"], "shared": str(folder / "shared")}
    finish(*(start(out=outs[i], process=i, **common) for i in range(2)))
    for name in ("walk", "nuts"):
        runs = [load(out, name, "mesh") for out in outs]
        assert runs[0].num_draws == 500
        jax.tree.map(np.testing.assert_array_equal, runs[0].draws, runs[1].draws)
        jax.tree.map(np.testing.assert_array_equal, runs[0].stats, runs[1].stats)
        assert_agree(runs[0], load(on_two_devices[0], name, "alone"), name)

"""Kernels in tiles: any number of inputs, any budget, files, several devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayleaf.errors import BayleafError
from bayleaf.infinite import Dense, Dropout, Relu, kernel_matrix, serial

NET = serial(Dense(8, bias_std=0.3), Relu(), Dropout(0.7), Dense(1))
X = np.random.default_rng(0).standard_normal((7, 5))
Y = np.random.default_rng(1).standard_normal((4, 5))
SMALL = 12 * 8 * 9.5  # a tile of 3 x 3 in float64
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def whole():
    return NET.kernel(X), NET.kernel(X, Y)


def test_tiles_give_the_whole_matrix(whole):
    got = kernel_matrix(NET, X, get=("nngp", "ntk"), memory=SMALL, **QUIET)
    np.testing.assert_allclose(got.nngp, whole[0].nngp, rtol=1e-14)
    np.testing.assert_allclose(got.ntk, whole[0].ntk, rtol=1e-14)
    np.testing.assert_array_equal(got.ntk, got.ntk.T)


def test_tiles_between_two_batches_go_to_a_file(whole, tmp_path):
    path = tmp_path / "kernel.npy"
    got = kernel_matrix(NET, X, Y, get="ntk", memory=SMALL, out=path, **QUIET)
    assert isinstance(got, np.memmap)
    np.testing.assert_allclose(np.load(path), whole[1].ntk, rtol=1e-14)


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(BayleafError, match="one pair"):
        kernel_matrix(NET, X, memory=10, **QUIET)
    with pytest.raises(BayleafError, match="npy"):
        kernel_matrix(NET, X, out=tmp_path / "kernel.txt", **QUIET)
    with pytest.raises(BayleafError, match="out="):
        kernel_matrix(NET, np.broadcast_to(np.float32(1), (10_000_000, 1)), **QUIET)
    with pytest.raises(BayleafError, match="NaN"):
        kernel_matrix(NET, np.where(np.arange(7)[:, None] == 5, np.nan, X), memory=SMALL, **QUIET)


SHARDED = """
import jax, numpy as np
from jax.sharding import Mesh
from bayleaf.infinite import Dense, Relu, kernel_matrix, serial
net = serial(Dense(8, bias_std=0.3), Relu(), Dense(1))
x = np.random.default_rng(0).standard_normal((7, 30)).astype(np.float32)
mesh = Mesh(np.array(jax.devices()), ("row",))
assert mesh.devices.size == 2
got = kernel_matrix(net, x, get="ntk", memory=12 * 4 * 8, mesh=mesh, progress=False)
np.testing.assert_allclose(got, net.kernel(x, get="ntk"), rtol=1e-6)
"""


@pytest.mark.slow
def test_rows_are_shared_by_two_devices():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", SHARDED], check=True, env={**os.environ, **environment}, timeout=300
    )


@pytest.mark.slow
def test_finite_networks_approach_the_kernel_at_rate_one_over_width():
    """The variance over networks of the product of outputs falls like 1 / width."""
    x = jnp.asarray(X[:3])
    net = serial(Dense(1, bias_std=0.3), Relu(), Dense(1))
    exact = np.asarray(net.kernel(x, get="nngp"))
    widths = np.array([16, 64, 256])
    errors = []
    for width in widths:
        finite = serial(Dense(int(width), bias_std=0.3), Relu())

        def hidden(key, finite=finite, width=width):
            h = finite.apply(finite.init(key, (5,)), x)
            return h @ h.T / width

        draws = jax.jit(jax.vmap(hidden))(jax.random.split(jax.random.key(0), 20_000))
        mean, sd = np.mean(draws, axis=0), np.std(draws, axis=0)
        # Six standard errors: a false alarm in 1e-8 for each of 9 numbers and 3 widths.
        assert np.all(np.abs(mean - exact) < 6 * sd / 20_000**0.5)
        errors.append(np.mean(sd**2))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.05
